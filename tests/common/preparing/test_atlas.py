"""The atlas: a brain that was stretched is found in it, and its grids are what they say."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from scipy.spatial.transform import Rotation

from common.preparing.atlas import atlas_grid, template, to_atlas
from common.preparing.grids import resampled
from common.preparing.prepare import prepare


def test_grids():
    image, brain = template()
    inside = apply_affine(image.affine, np.argwhere(brain))
    for name, shape in (("mni", (197, 233, 189)), ("brats", (240, 240, 155))):
        grid = atlas_grid(name)
        assert grid.shape == shape and np.allclose(nib.affines.voxel_sizes(grid.affine), 1)
        voxels = apply_affine(np.linalg.inv(grid.affine), inside)
        assert (voxels.min(0) >= -0.5).all() and (voxels.max(0) <= np.array(shape) - 0.5).all()
    assert nib.aff2axcodes(atlas_grid("brats").affine) == ("L", "P", "S")


@pytest.mark.full
def test_a_stretched_brain():
    """The template itself, smaller, turned and on thick slices, is found to a millimetre."""
    image, brain = template()
    stretch = np.eye(4)
    turned = Rotation.from_euler("xyz", [6, -4, 5], degrees=True).as_matrix()
    stretch[:3, :3] = turned @ np.diag([0.9, 0.87, 0.92])
    stretch[:3, 3] = [4, -20, 12]
    grid = nib.Nifti1Image(np.zeros((90, 110, 50), np.uint8), np.diag([-2.0, -2.0, 3.5, 1]))
    grid.affine[:3, 3] = [90, 95, -75]
    back = np.linalg.inv(stretch)
    small = nib.Nifti1Image(resampled(image, grid, back), grid.affine)
    mask = resampled(nib.Nifti1Image(brain.astype(np.uint8), image.affine), grid, back) > 0.5
    found, dice = to_atlas(small, mask)
    places = apply_affine(image.affine, np.argwhere(brain)[::501])
    error = np.linalg.norm(apply_affine(found, places) - apply_affine(stretch, places), axis=1)
    assert error.mean() < 1 and dice > 0.95


def test_what_is_refused(tmp_path: Path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="--atlas is talairach; it must be mni or brats"):
        prepare(tmp_path / "in", tmp_path / "out", atlas="talairach")
    with pytest.raises(ValueError, match="leave out --spacing"):
        prepare(tmp_path / "in", tmp_path / "out", atlas="mni", spacing=2)
