"""Images between grids: one resampling, rigid transforms in mm, and the file in which ITK's programs read them.

A transform is a 4 x 4 matrix that takes a place in the reference, in mm and RAS as nibabel has it, to the same place in
another image.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.processing import resample_from_to

from ..files import write_text

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes


def resampled(image: nib.Nifti1Image, grid: nib.Nifti1Image, transform: np.ndarray, order: int = 1) -> np.ndarray:
    """float32 [X, Y, Z] of the image on a grid, 0 where the image does not reach.

    Args:
        image: on its own grid.
        grid: any image on the wanted one.
        transform: from the grid's mm to the image's.
        order: 1 is linear, 0 the nearest voxel.
    """
    data, placed = np.asarray(image.dataobj, dtype=np.float32), np.linalg.inv(transform) @ image.affine
    if np.allclose(np.linalg.inv(placed) @ grid.affine, np.eye(4), atol=1e-5) and image.shape == grid.shape:
        return data
    found = resample_from_to(nib.Nifti1Image(data, placed), (grid.shape[:3], grid.affine), order=order)
    return np.asarray(found.dataobj, dtype=np.float32)


def regridded(grid: nib.Nifti1Image, spacing: Sequence[float]) -> nib.Nifti1Image:
    """A grid of another spacing, one or three numbers in mm, along the same axes from the same outer corner."""
    sizes = np.broadcast_to(np.asarray(spacing, float), 3)
    factors = sizes / voxel_sizes(grid.affine)
    shape = np.ceil(np.array(grid.shape[:3]) / factors - 1e-3).astype(int)
    affine = grid.affine @ np.diag([*factors, 1])
    affine[:3, 3] += (affine[:3, :3] - grid.affine[:3, :3]) @ np.full(3, 0.5)
    return nib.Nifti1Image(np.zeros(shape, np.uint8), affine)


def covered(image: nib.Nifti1Image, grid: nib.Nifti1Image, transform: np.ndarray) -> np.ndarray:
    """bool [X, Y, Z]: where on the grid the image has voxels."""
    there = nib.Nifti1Image(np.ones(image.shape[:3], np.float32), image.affine)
    return resampled(there, grid, transform) > 0.99


def write_itk(path: Path, transform: np.ndarray) -> None:
    """A transform as ITK's text, as SimpleITK, ANTs and 3D Slicer read it."""
    matrix = LPS @ transform @ LPS
    numbers = " ".join(f"{value:.10g}" for value in [*matrix[:3, :3].ravel(), *matrix[:3, 3]])
    head = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
    write_text(path, f"{head}Parameters: {numbers}\nFixedParameters: 0 0 0\n")


def read_itk(path: Path) -> np.ndarray:
    """A rigid or affine transform from ITK's text, about whatever centre.

    Raises:
        ValueError: it holds another kind of transform.
    """
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    numbers, centre = (np.array(lines.get(name, "").split(), float) for name in ("Parameters", "FixedParameters"))
    if len(numbers) != 12 or len(centre) != 3:
        raise ValueError(f"{path}: not one affine transform in ITK's text form.")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = numbers[:9].reshape(3, 3), numbers[9:]
    matrix[:3, 3] += centre - matrix[:3, :3] @ centre
    return LPS @ matrix @ LPS
