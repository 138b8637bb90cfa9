"""Which subjects' volumes are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import MetaTensor

from common.evaluation.volumes import KeptVolumes

SCORES = {"a": 20.0, "b": 10.0, "c": 30.0, "d": 15.0}


@pytest.mark.parametrize(
    ("keep", "kept"), [(0, ""), (2, "bd"), (9, "abcd"), ("c", "c"), ("a, c", "ac"), (["c", "d"], "cd"), ("nobody", "")]
)
def test_the_worst_or_the_named(keep: int | str | list[str], kept: str, tmp_path: Path):
    volumes = KeptVolumes(tmp_path, ["T1", "T2"], keep)
    for subject, score in SCORES.items():
        label = MetaTensor(torch.rand(2, 2, 3, 4))
        volumes.offer(subject, score, torch.rand(4, 2, 3, 4), label, label, [True, True], list(label > 0))
    assert sorted(path.stem for path in tmp_path.glob("*.npz")) == list(kept)
