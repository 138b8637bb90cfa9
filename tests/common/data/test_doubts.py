"""Images that can be read, and yet are not what they should be beside each other; registered ones give no doubt."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.data.doubts import hot_voxels, misplaced, remaining_skull, uncovered

RAS = np.eye(4)


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    """Two contrasts of one head, 40 x 44 x 36, which is not the same left and right."""
    axes = np.meshgrid(*(np.linspace(-1.2, 1.2, size) for size in (40, 44, 36)), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 1
    tissue = gaussian_filter(np.random.default_rng(0).normal(size=inside.shape), 2)
    tissue = 0.2 + (tissue - tissue.min()) / np.ptp(tissue)
    return {"T1": np.where(inside, 1000 * tissue, 0), "T2": np.where(inside, 300 * (1.4 - tissue), 0)}


def test_registered_images_give_no_doubt(images: dict[str, np.ndarray]):
    assert misplaced(images, RAS) == uncovered(images) == {}
    assert [hot_voxels(image) for image in images.values()] == ["", ""]
    assert misplaced({"T1": images["T1"]}, RAS) == {}


def test_a_mirrored_image(images: dict[str, np.ndarray]):
    for axis, affine in ((0, RAS), (1, RAS[[1, 0, 2, 3]]), (2, RAS[[2, 1, 0, 3]])):
        found = misplaced({"T1": images["T1"], "T2": np.flip(images["T2"], axis)}, affine)
        assert list(found) == ["T2"] and "tells more of T1 when it is mirrored left to right" in found["T2"]


def test_a_shifted_image_and_a_smaller_field_of_view(images: dict[str, np.ndarray]):
    found = misplaced({"T1": images["T1"], "T2": np.roll(images["T2"], 5, 1)}, RAS)
    assert list(found) == ["T2"] and "are they registered?" in found["T2"]
    slab = images["T2"].copy()
    slab[..., 12:] = 0
    assert misplaced({"T1": images["T1"], "T2": slab}, RAS) == {}
    assert list(uncovered({"T1": images["T1"], "T2": slab})) == ["T2"]


def test_hot_voxels(images: dict[str, np.ndarray]):
    images["T1"][20, 20, 18] = 1e6
    assert hot_voxels(images["T1"]).startswith("1 voxels of up to 1e+06")


def head(spacing: tuple[float, float, float], scalp: float, brain: float = 600, centre: float = 0) -> np.ndarray:
    """A brain of 134 x 160 x 134 mm in 9 mm of bone and, with `scalp` above 0, 6 mm of that."""
    axes = np.meshgrid(*(np.arange(-110, 110, size) - centre for size in spacing), indexing="ij")
    inside = np.sqrt(sum((axis / radius) ** 2 for axis, radius in zip(axes, (82, 95, 82), strict=True)))
    tissue = np.random.default_rng(0).uniform(0.7, 1.3, inside.shape)
    tissue[(np.abs(axes[0]) < 12) & (np.abs(axes[1]) < 30) & (np.abs(axes[2]) < 15)] = 0.02  # ventricles
    return tissue * np.select([inside < 0.82, inside < 0.93, inside < 1], [brain, 10, scalp], 0)


@pytest.mark.parametrize("spacing", [(2, 2, 2), (1, 2, 5), (4, 4, 4)])
@pytest.mark.parametrize("scalp", [300, 1500])
def test_a_skull_is_seen_and_its_absence(spacing: tuple[float, float, float], scalp: float):
    affine = np.diag([*spacing, 1])
    assert "dark 8 to 16 mm below its surface" in remaining_skull(head(spacing, scalp), affine)
    assert remaining_skull(head(spacing, 0), affine) == ""


def test_a_skull_at_the_edge_of_the_field_of_view():
    cut = head((2, 2, 2), 900)[:, :, 30:]
    assert remaining_skull(cut, np.diag([2.0, 2, 2, 1]))


def test_too_little_to_see_a_skull(images: dict[str, np.ndarray]):
    assert remaining_skull(images["T1"][..., :2], RAS) == remaining_skull(np.zeros((20, 20, 20)), RAS) == ""


@pytest.mark.skipif(not os.environ.get("MRI_DATA"), reason="set MRI_DATA to the folder with real MRI")
@pytest.mark.parametrize("subject", ["ms_oms-cs-p07", "ms_tcga-du-7294-atlas"])
def test_real_images(subject: str):
    files = [Path(os.environ["MRI_DATA"]) / subject / f"{name}.nii.gz" for name in ("T1", "T1Gd", "T2", "FLAIR")]
    real = {file.name: np.asarray(nib.load(file).dataobj) for file in files}
    affine = nib.load(files[0]).affine
    assert misplaced(real, affine) == {} and not any(map(hot_voxels, real.values()))
    left_right = int(np.flatnonzero(nib.io_orientation(affine)[:, 0] == 0)[0])
    wrong = {name: image if k == 0 else np.flip(image, left_right) for k, (name, image) in enumerate(real.items())}
    assert all("mirrored" in text for text in misplaced(wrong, affine).values()) and len(misplaced(wrong, affine)) == 3
    moved = {name: image if k == 0 else np.roll(image, 6, 1) for k, (name, image) in enumerate(real.items())}
    assert (
        all("registered?" in text for text in misplaced(moved, affine).values()) and len(misplaced(moved, affine)) == 3
    )


@pytest.mark.skipif(not os.environ.get("MRI_DATA"), reason="set MRI_DATA to the folder with real MRI")
def test_skulls_of_real_images():
    wrong = []
    for file in sorted(Path(os.environ["MRI_DATA"]).glob("ms_*/*.nii.gz")):
        image = nib.load(file)
        if "mask" not in file.name and image.ndim == 3:
            whole = "ms_oms-long" in file.parent.name
            wrong += [file] if bool(remaining_skull(np.asarray(image.dataobj), image.affine)) != whole else []
    assert wrong == []
