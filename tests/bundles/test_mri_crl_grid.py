"""The exact truth of a phantom at any parameters, and the map of errors."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.anatomy import make_anatomy, simulate
from common.data.mr_signal import FSE9, Acquisition
from common.scales import Scales
from mri_crl.grid import ScoreGrid, draw, points

SETTINGS = torch.tensor([(each.tr, each.te, each.ti) for each in FSE9.values()])
RANGE = torch.stack([SETTINGS.amin(0), SETTINGS.amax(0)])


def test_points_leave_out_what_is_no_acquisition():
    assert points([500, 3000], [10], [0, 1000]) == [(500, 10, 0), (3000, 10, 0), (3000, 10, 1000)]
    with pytest.raises(ValueError, match="No TE and TI below TR"):
        points([500], [10], [1000])
    with pytest.raises(ValueError, match=r"grid: TE is 0.1 ms.*looks like seconds"):
        points([500], [0.1], [0])


def test_errors_by_hand(fse_dir: Path, tmp_path: Path):
    subject, wanted, scale = "phantom_003", [[5000, 50, 0], [5000, 50, 900]], 1500.0
    files = {name: str(fse_dir / subject / f"{subject}_{name}.nii.gz") for name in FSE9}
    anatomy = make_anatomy(np.random.default_rng([0, 3]), spacing=(8, 8, 16))
    first = simulate(anatomy, FSE9["FSE1"])
    gain = nib.load(files["FSE1"].replace(".nii", "_reference.nii")).get_fdata().sum() / first.sum()
    truth = np.stack([simulate(anatomy, Acquisition(*each)) for each in wanted]) * gain / scale
    score = ScoreGrid(
        output_dir=str(tmp_path), sequences=list(FSE9), targets=wanted, scale_per="subject",
        scales=Scales(torch.ones(9, 2), torch.zeros(9, 9)), weights="", metadata_file="", trained_range=RANGE,
    )  # fmt: skip
    data = {"subject": subject, "images": files, "parameters": SETTINGS, "scale": torch.full((9,), scale)}
    data["available"] = torch.tensor([True] + [False] * 8)
    score({**data, "pred": torch.from_numpy(truth + np.array([0, 0.1]).reshape(2, 1, 1, 1))})
    with open(tmp_path / "grid.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mae"]) for row in rows] == pytest.approx([0, 0.1], abs=1e-4)
    copied = np.abs(first * gain / scale - truth[0])[anatomy.brain].mean() / truth[0][anatomy.brain].mean()
    assert float(rows[0]["copy"]) == pytest.approx(copied, rel=1e-3)
    assert float(rows[1]["relative"]) == pytest.approx(0.1 / truth[1][anatomy.brain].mean(), rel=1e-3)


def test_images_of_their_own_scale_have_no_exact_truth():
    with pytest.raises(ValueError, match="scale_per is 'image'"):
        ScoreGrid(
            output_dir="", sequences=[], targets=[], scale_per="image",
            scales=Scales(torch.ones(0, 2), torch.zeros(0, 0)), weights="", metadata_file="", trained_range=RANGE,
        )  # fmt: skip


def test_a_map_with_gaps(tmp_path: Path):
    rows = [{"tr": tr, "te": 10.0, "ti": ti, "relative": 0.1} for tr, ti in ((500, 0), (3000, 0), (3000, 1000))]
    draw(rows, tmp_path / "grid.png", RANGE.tolist())
    assert (tmp_path / "grid.png").stat().st_size > 1000
