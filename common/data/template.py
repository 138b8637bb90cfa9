"""The template that the phantom's subjects are made from, and the random ways in which they differ from it.

Its maps are those of ICBM 152 nonlinear 2009a (Fonov et al., NeuroImage 2011), which nilearn ships.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

# Field of view of the template: the first voxel's centre and the last one's offset from it, in mm.
ORIGIN = np.array([-98.0, -134.0, -72.0], dtype=np.float32)
EXTENT = np.array([196, 232, 188])
GRID = 4  # mm, of the random fields
CENTRE = np.array([0.0, -18.0, 8.0], dtype=np.float32)  # of the brain, about which it turns and scales


@lru_cache(maxsize=1)
def template() -> NDArray:
    """Fractions [CSF, grey, white; X, Y, Z] at 1 mm, 0 outside the brain."""
    from nilearn import datasets  # takes seconds to import, and only the phantom needs it

    brain = datasets.load_mni152_template(resolution=1).get_fdata(dtype=np.float32) > 0
    grey = datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    maps = np.stack([1 - grey - white, grey, white]).clip(0, 1) * brain
    maps **= 2.5  # the average of 152 people is blurred, one person's tissue borders are sharp
    return maps / np.maximum(maps.sum(axis=0), 1e-6)


@lru_cache(maxsize=2)
def tissue_maps(spacing: tuple[float, float, float]) -> NDArray:
    """Template fractions [CSF, grey, white; X, Y, Z] at 1 mm, blurred to the resolution (FWHM) of ``spacing`` in mm."""
    sigma = [np.sqrt(max(size**2 - 1, 0)) / 2.355 for size in spacing]
    return np.stack([gaussian_filter(tissue, sigma, truncate=3) for tissue in template()])


def smooth_noise(rng: Generator, sigma: float) -> NDArray:
    """Gaussian random field on the 4 mm grid, smooth over ``sigma`` mm, of unit variance."""
    field = gaussian_filter(rng.standard_normal(EXTENT // GRID + 1, dtype=np.float32), sigma / GRID)
    return field / field.std()


def sample(field: NDArray, points: NDArray, order: int = 1) -> NDArray:
    """Values of a field on the 4 mm grid at ``points`` [3, ...], in mm."""
    origin = ORIGIN.reshape(3, *[1] * (points.ndim - 1))
    return map_coordinates(field, (points - origin) / GRID, order=order, mode="nearest")


def voxel_centres(spacing: Sequence[float]) -> NDArray:
    """Voxel centres [3, X, Y, Z] in mm that fill the field of view."""
    steps = [size * np.arange(extent // size + 1) for extent, size in zip(EXTENT, spacing, strict=True)]
    axes = [start + step for start, step in zip(ORIGIN, steps, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


@lru_cache(maxsize=1)
def ventricle_map() -> NDArray:
    """Soft map of the ventricles on the 4 mm grid: the CSF around the middle of the brain."""
    points = voxel_centres((GRID,) * 3)
    middle, width = np.reshape([0, -10, 14], (3, 1, 1, 1)), np.reshape([26, 34, 15], (3, 1, 1, 1))
    near = np.exp(-(((points - middle) / width) ** 2).sum(axis=0) / 2)
    return gaussian_filter(template()[0, ::GRID, ::GRID, ::GRID] * near, 1.5)


def random_deformation(rng: Generator, *, ventricles: float = 0.0) -> NDArray:
    """Displacement of a random diffeomorphism, the exponential of a smooth stationary velocity field.

    Integrated by scaling and squaring (Arsigny et al., MICCAI 2006), which keeps the Jacobian positive.

    Args:
        rng: source of randomness.
        ventricles: by how many mm, at most, the ventricles' walls move outwards.

    Returns:
        [3, X, Y, Z] in mm on the 4 mm grid: the template's point at x is x + displacement(x).
    """
    velocity = np.stack([2.5 * smooth_noise(rng, 24) + 1.1 * smooth_noise(rng, 11) for _ in range(3)])
    inwards = np.stack(np.gradient(ventricle_map()))
    velocity += ventricles * inwards / np.linalg.norm(inwards, axis=0).max()
    steps = 6
    displacement = velocity / 2**steps
    points = voxel_centres((GRID,) * 3)
    for _ in range(steps):
        displacement = displacement + np.stack([sample(axis, points + displacement) for axis in displacement])
    return displacement


def random_affine(rng: Generator) -> NDArray:
    """[3, 3]: head size and proportions within 7 %, tilt within 5 degrees."""
    scale = rng.uniform(0.96, 1.04) * rng.uniform(0.97, 1.03, 3)
    x, y, z = np.deg2rad(rng.uniform(-5, 5, 3))
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.linalg.solve(np.eye(3) - skew / 2, np.eye(3) + skew / 2)  # Cayley transform: exactly orthogonal
    return (rotation / scale).astype(np.float32)
