"""Result folders as `run evaluating` writes them, without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.evaluation.scores import ScoreTable

INFO = {
    "truth": "images",
    "brain_mask": "the subject list's",
    "disturbance": "none",
    "level": 1,
    "seed": 0,
    "weights_sha256": "ab" * 32,
    "sequences": ["T1", "T2"],
}


def numbers(psnr: float) -> dict[str, float]:
    return {"psnr": psnr, "ssim": 0.5 + psnr / 100, "nmse": 0.1 - psnr / 1000}


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder with two sequences' scores.

    A subject's PSNR is its value in `psnr` + 1 from T1 to T2 and - 1 back, so that its mean is the value; the copy's
    is 10 and the map's 20 on average. LPIPS is there where its backbone's sha256 is. Keywords go into the JSON.
    """

    def write(
        name: str,
        psnr: Sequence[float],
        *,
        subjects: Sequence[str] = "abcdefgh",
        lpips: str = "missing",
        map_psnr: float = 20,
        **info: Any,
    ) -> Path:
        table = ScoreTable("declared", region="in the brain")
        for subject, value in zip(subjects, psnr, strict=False):
            for method, mean in {"network": value, "copy": 10, "map": map_psnr}.items():
                for source, target, offset in (("T1", "T2", 1), ("T2", "T1", -1)):
                    row = numbers(mean + offset) | ({} if lpips == "missing" else {"lpips": 0.3 - mean / 100})
                    table.add(subject, method, source, target, row)
            for source in ("T1", "others", "T1>T2"):  # none of them a pair of two sequences
                table.add(subject, "network", source, "T1", numbers(99))
        table.write(tmp_path / name, info=INFO | info | {"lpips": lpips})
        return tmp_path / name

    return write
