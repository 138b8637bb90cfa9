"""The bound of an image's error, of subjects whose errors are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from common.description import error_bound
from common.evaluation.calibration import calibration

SHAPE = (24, 24, 24)


@pytest.fixture
def kept(tmp_path: Path) -> list[Path]:
    """Three subjects; what all sources are off by alike has deviation 0.03, what each is off by alone 0 to 0.2."""
    files = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        label = rng.uniform(0.2, 0.8, (4, *SHAPE))
        alone = rng.uniform(0, 0.2, SHAPE) * rng.standard_normal((4, 4, *SHAPE))
        pred = label + 0.03 * rng.standard_normal(SHAPE) + alone
        available = np.array([True, True, True, True])
        volumes = {"label": label.astype(np.float16), "pred": pred.astype(np.float16), "available": available}
        files.append(tmp_path / f"{seed}.npz")
        names = np.array(["T1", "T1Gd", "T2", "FLAIR"])
        np.savez(files[-1], sequences=names, brain=np.ones(SHAPE, bool), **volumes)
    return files


def test_of_subjects_left_out_the_share_is_within(kept: list[Path]):
    found = calibration(kept)
    assert found["bounds"].keys() == found["kept"].keys() == {"T1", "T1Gd", "T2", "FLAIR"}
    for target, kept_share in found["kept"].items():
        assert kept_share["within"] == pytest.approx([0.68, 0.68], abs=0.02), target
        assert 0.9 < kept_share["within_twice"][0] < 0.96, "of normal errors 0.95; three sources tell a deviation badly"
    constant, slope = found["bounds"]["T1"]["several"]
    assert constant == pytest.approx(0.03, abs=0.015) and 0.4 < slope < 0.9
    # of one source: 0.03 and uniform 0 to 0.2 together, whose 68 % quantile a simulation gives
    draws = np.random.default_rng(9).standard_normal((2, 100_000))
    off = np.abs(0.03 * draws[0] + np.random.default_rng(8).uniform(0, 0.2, 100_000) * draws[1])
    assert found["bounds"]["T1"]["one"] == pytest.approx(np.quantile(off, 0.68), rel=0.03)


def test_one_subject_has_nobody_to_be_tried_on(kept: list[Path]):
    with np.load(kept[0]) as whole:
        np.savez(kept[0], **{**whole, "available": np.array([True, True, False, False])})
    found = calibration(kept[:1])
    assert "kept" not in found and found["bounds"].keys() == {"T1", "T1Gd"}, "it lacks the others"
    assert found["bounds"]["T1"].keys() == {"one"}, "and has no two sources of these"


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_the_bound_by_hand(kind):
    spread = kind([0.0, 2.0])
    assert error_bound(spread, {"one": 7.0, "several": [3.0, 2.0]}).tolist() == [3, 5]
    assert error_bound(kind([np.nan, np.nan]), {"one": 7.0, "several": [3.0, 2.0]}).tolist() == [7, 7]
    assert error_bound(spread, {"one": 7.0}).tolist() == [7, 7]
