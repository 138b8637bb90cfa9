"""Grids of voxels: whether two are one, and whether an affine gives voxels a place at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import nibabel as nib
import numpy as np

# How far apart, in mm, two grids may place the same voxel and still be one grid: far above the rounding of a float32
# header, far below a voxel. Measured at the corners, where a small rotation shows most.
GRID_TOLERANCE_MM = 0.1

Grid = tuple[tuple[int, ...], np.ndarray]  # shape, affine to mm


def same_grid(shape_a: Sequence[int], affine_a: np.ndarray, shape_b: Sequence[int], affine_b: np.ndarray) -> str:
    """Compares two voxel grids.

    Args:
        shape_a: number of voxels along each axis, as `shape_b`.
        affine_a: 4 x 4 matrix from voxel to mm, as `affine_b`.

    Returns:
        "" if they are one grid within GRID_TOLERANCE_MM, else what differs, naming both sides:
        "shape (240, 240, 155) against (256, 256, 68); spacing (1, 1, 1) against (0.94, 0.94, 2.5) mm".
    """
    return "; ".join(text for _, text in grid_differences((tuple(shape_a), affine_a), (tuple(shape_b), affine_b)))


def grid_differences(a: Grid, b: Grid) -> Iterator[tuple[str, str]]:
    """Finding code and explanation for each way in which two grids differ."""
    (shape_a, affine_a), (shape_b, affine_b) = a, b
    affine_a, affine_b = np.asarray(affine_a, float), np.asarray(affine_b, float)
    if not (is_invertible(affine_a) and is_invertible(affine_b)):
        yield "NO_AFFINE", "an affine that cannot be inverted, so voxels have no place"
        return
    common = np.minimum(shape_a[:3], shape_b[:3])
    if shape_a != shape_b:
        yield "SHAPE_DIFFERS", f"shape {as_text(shape_a)} against {as_text(shape_b)}"
    spacing_a, spacing_b = (np.linalg.norm(affine[:3, :3], axis=0) for affine in (affine_a, affine_b))
    if np.any(np.abs(spacing_a - spacing_b) * (common - 1) > GRID_TOLERANCE_MM):
        yield "SPACING_DIFFERS", f"spacing {as_text(spacing_a)} against {as_text(spacing_b)} mm"
    # With the same spacing on both sides, what is left is direction and origin.
    rescaled = affine_b.copy()
    rescaled[:3, :3] *= spacing_a / spacing_b
    shift = largest_shift(affine_a, rescaled, common)
    if shift > GRID_TOLERANCE_MM:
        axes_a, axes_b = ("".join(nib.aff2axcodes(affine)) for affine in (affine_a, affine_b))
        yield (
            "AXES_DIFFER",
            (
                f"axes {axes_a} from {as_text(affine_a[:3, 3])} against {axes_b} from "
                f"{as_text(affine_b[:3, 3])} mm, up to {shift:.3g} mm apart"
            ),
        )


def is_invertible(affine: np.ndarray) -> bool:
    """Whether an affine gives every voxel a place of its own."""
    return bool(np.isfinite(affine).all()) and abs(np.linalg.det(affine)) >= 1e-9


def largest_shift(affine_a: np.ndarray, affine_b: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance in mm between where two affines place a corner of the volume."""
    corners = np.array([[*corner, 1] for corner in product(*((0, size - 1) for size in shape))])
    return float(np.linalg.norm(corners @ (affine_a - affine_b)[:3].T, axis=1).max())


def as_text(values: Sequence[float]) -> str:
    """Numbers as "(240, 240, 155)"."""
    return f"({', '.join(f'{value:.5g}' for value in values)})"


def coarser_affine(affine: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """The affine [4, 4] of a grid whose voxels are `factors` times as large, with the same outer corner.

    The centre of its first voxel is that of the first block, not of the first voxel. So the decoder's upsampling lays
    it; the window of the encoder's strided convolutions reaches half a step further to the first voxel's side.
    """
    step = np.diag([*factors, 1.0])
    step[:3, 3] = [(factor - 1) / 2 for factor in factors]
    return affine @ step
