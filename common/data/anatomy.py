"""One random subject of the phantom: the MNI152 tissue maps deformed, with lesions, vessels and times of its own.

All randomness lives on a fixed 4 mm grid, so a subject is the same person at every spacing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from .mr_signal import TISSUES, Setting, enhanced_t1, resolve, signal
from .template import (
    CENTRE,
    GRID,
    ORIGIN,
    random_affine,
    random_deformation,
    sample,
    smooth_noise,
    template,
    tissue_maps,
    ventricle_map,
    voxel_centres,
)

INDEX = {name: row for row, name in enumerate(TISSUES)}
LESIONS = [INDEX[name] for name in ("lesion", "oedema", "necrosis", "rim")]
TUMOUR = [INDEX[name] for name in ("necrosis", "oedema", "rim")]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One subject, before any image is taken.

    Attributes:
        fractions: [tissue, X, Y, Z], volume fractions in the order of ``TISSUES``; they add up to 1 in the brain.
        t1, t2, pd: [tissue], ms, ms and relative to water.
        texture: [X, Y, Z], relative change of the water content within tissues, the same for every sequence.
        brain, lesion: [X, Y, Z], bool.
        affine: [4, 4], voxel to RAS mm.
    """

    fractions: NDArray
    t1: NDArray
    t2: NDArray
    pd: NDArray
    texture: NDArray
    brain: NDArray
    lesion: NDArray
    affine: NDArray

    @property
    def tissue(self) -> NDArray:
        """[X, Y, Z], uint8: 0 background, 1 CSF, 2 grey matter, 3 white matter, 4 lesion."""
        labels = np.where(self.brain, 1 + self.fractions[:3].argmax(axis=0), 0)
        return np.where(self.lesion, 4, labels).astype(np.uint8)

    @property
    def tumour(self) -> NDArray:
        """[X, Y, Z], uint8, as BraTS has it since 2023: 1 necrosis, 2 oedema, 3 enhancing rim."""
        parts = self.fractions[TUMOUR]
        return np.where(parts.sum(axis=0) > 0.5, 1 + parts.argmax(axis=0), 0).astype(np.uint8)

    def relaxation(self, tissue: int, water: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """PD, T1 and T2 (ms) of a tissue, each [N]: more ``water`` [N] is longer T1 and T2, and a little more PD."""
        return self.pd[tissue] * water ** (1 / 3), self.t1[tissue] * water, self.t2[tissue] * water

    def mixture(self, values: Callable[[int, NDArray], NDArray]) -> NDArray:
        """Per voxel, what ``values`` gives of its tissues, weighted by their fractions.

        Args:
            values: of a tissue's number and of the relative ``water`` [N] in N voxels: [N] or, of a series, [N, T].

        Returns:
            [X, Y, Z] or [X, Y, Z, T], float32; exactly 0 outside the brain.
        """
        water = 1 + self.texture[self.brain]
        total = 0
        for tissue, fraction in enumerate(self.fractions[:, self.brain]):
            there = fraction > 0
            given = (fraction[there] * values(tissue, water[there]).T).T
            total = np.zeros((len(water), *given.shape[1:]), dtype=np.float32) if tissue == 0 else total
            total[there] += given
        image = np.zeros((*self.brain.shape, *total.shape[1:]), dtype=np.float32)
        image[self.brain] = total
        return image


def _mix_in(fractions: NDArray, tissue: str, amount: NDArray) -> None:
    """Lets ``tissue`` take the place of ``amount`` (0 to 1, per voxel) of everything in ``fractions`` [tissue, N]."""
    fractions *= 1 - amount
    fractions[INDEX[tissue]] += amount


def _radius(points: NDArray, centre: NDArray, radii: NDArray, wobble: NDArray) -> NDArray:
    """Distance of ``points`` [3, N] from an ellipsoid's centre: 1 on its surface, which ``wobble`` [N] makes uneven."""
    return np.linalg.norm((points - centre[:, None]) / radii[:, None], axis=0) + wobble


def _add_lesions(fractions: NDArray, points: NDArray, rng: Generator, edge: float, tumours: float) -> None:
    """Puts MS-like plaques, and by the chance ``tumours`` a tumour, into ``fractions`` [tissue, N] at ``points`` [3, N]
    mm.

    ``edge`` is the width in mm over which a lesion fades, about a voxel.
    """
    white = np.argwhere(template()[INDEX["white_matter"], ::GRID, ::GRID, ::GRID] > 0.9)
    near = 0.02 + ventricle_map()[tuple(white.T)]  # plaques prefer the surroundings of the ventricles
    plaques, tumour = rng.integers(3, 15), rng.random() < tumours
    centres = rng.choice(white, plaques, p=near / near.sum()) * GRID + rng.uniform(-2, 2, (plaques, 3)) + ORIGIN
    wobble = 0.25 * sample(smooth_noise(rng, 4), points, order=3)
    for centre in centres:
        radii = rng.uniform(2.2, 6.0) * rng.uniform(0.7, 1.4, 3)
        radius = _radius(points, centre, radii, wobble)
        amount = np.clip(0.5 + (1 - radius) * radii.mean() / (edge + 1), 0, 1)
        _mix_in(fractions, "lesion", amount * fractions[INDEX["white_matter"]] ** 0.5)
    if tumour:
        far = white[near < np.median(near)]
        centre, radii = rng.choice(far) * GRID + ORIGIN, rng.uniform(9, 17) * rng.uniform(0.8, 1.2, 3)
        uneven = sample(smooth_noise(rng, 7), points, order=3)
        radius = _radius(points, centre, radii, 0.2 * uneven + wobble / 3)
        inside = {shell: np.clip(0.5 + (shell - radius) * radii.mean() / edge, 0, 1) for shell in (1.0, 0.7)}
        spread = np.clip(0.5 + (rng.uniform(1.5, 2.1) + 0.3 * uneven - radius) * radii.mean() / (3 * edge), 0, 1)
        _mix_in(fractions, "oedema", spread * fractions[INDEX["white_matter"]])  # oedema follows the white matter
        _mix_in(fractions, "rim", inside[1.0])
        _mix_in(fractions, "necrosis", inside[0.7])


def _add_vessels(fractions: NDArray, points: NDArray, rng: Generator, edge: float) -> None:
    """Adds thin vessels, mostly in the sulci: the curves where two random fields are both zero."""
    length = 10.0
    distance = length * np.hypot(*(sample(smooth_noise(rng, length), points, order=3) for _ in range(2)))
    tube = np.clip(0.5 + (1.2 - distance) / edge, 0, 1) * min(1.0, 2.4 / edge)
    csf, grey, white = fractions[:3]
    _mix_in(fractions, "vessel", tube * np.clip(csf + 0.4 * grey + 0.1 * white, 0, 1))


def _water(rng: Generator, points: NDArray) -> NDArray:
    """The relative change of the water content at ``points`` [3, N] mm, fine and coarse."""
    return 0.03 * sample(smooth_noise(rng, 3), points, order=3) + 0.03 * sample(smooth_noise(rng, 12), points)


def other_texture(anatomy: Anatomy, rng: Generator) -> Anatomy:
    """The same subject with another texture, of the same kind: an image of it differs in nothing but the pattern."""
    points = voxel_centres(tuple(np.diag(anatomy.affine)[:3]))[:, anatomy.brain]
    texture = np.zeros_like(anatomy.texture)
    texture[anatomy.brain] = _water(rng, points) * (1 - anatomy.fractions[INDEX["csf"], anatomy.brain])
    return replace(anatomy, texture=texture)


def three_sizes(spacing: float | Sequence[float]) -> tuple[float, float, float]:
    sizes = tuple(float(size) for size in np.ravel(spacing))
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3 or not all(0.5 <= size <= 20 for size in sizes):
        raise ValueError(f"spacing must be one or three numbers from 0.5 to 20 mm, got {spacing!r}")
    return sizes


def _template_points(rng: Generator, spacing: tuple, age: float) -> NDArray:
    """Where in the template each voxel of a subject comes from, [3, X, Y, Z] in mm; ``age`` (0 to 1) adds ventricle."""
    matrix, shift = random_affine(rng), rng.uniform(-3, 3, 3).astype(np.float32)
    displacement = random_deformation(rng, ventricles=-2 + 6.5 * age + rng.normal(0, 0.5))
    centre = CENTRE.reshape(3, 1, 1, 1)
    points = np.tensordot(matrix, voxel_centres(spacing) - centre, 1) + centre + shift.reshape(3, 1, 1, 1)
    return points + np.stack([sample(axis, points) for axis in displacement])


def make_anatomy(rng: Generator, *, spacing: float | Sequence[float] = 2.0, tumours: float = 0.5) -> Anatomy:
    """Draws a random subject.

    Args:
        rng: source of randomness; the same state gives the same person at every spacing.
        spacing: voxel size in mm, one number or three.
        tumours: the chance of one.

    Returns:
        The subject on a RAS grid that covers the field of view of MNI152.

    Raises:
        ValueError: for a spacing that is not one or three numbers from 0.5 to 20 mm.
    """
    spacing = three_sizes(spacing)
    age = rng.random()  # widens ventricles and sulci together
    points = _template_points(rng, spacing, age)
    voxels = points - ORIGIN.reshape(3, 1, 1, 1)
    maps = np.stack([map_coordinates(tissue, voxels, order=1) for tissue in tissue_maps(spacing)])
    brain = maps.sum(axis=0) > 0.5

    points, edge = points[:, brain], max(1.0, float(np.mean(spacing)))
    inside = np.zeros((len(TISSUES), points.shape[1]), dtype=np.float32)
    inside[:3] = maps[:, brain] * np.exp([[1.2 * age - 0.8], [rng.normal(0, 0.25)], [0]])  # thicker or thinner cortex
    inside /= inside.sum(axis=0)
    _add_vessels(inside, points, rng, edge)
    _add_lesions(inside, points, rng, edge, tumours)
    water = _water(rng, points)

    fractions = np.zeros((len(TISSUES), *brain.shape), dtype=np.float32)
    fractions[:, brain] = inside
    texture, lesion = np.zeros(brain.shape, dtype=np.float32), np.zeros(brain.shape, dtype=bool)
    texture[brain] = water * (1 - inside[INDEX["csf"]])  # fluid has none
    lesion[brain] = inside[LESIONS].sum(axis=0) > 0.5
    table = np.array([tissue[:3] for tissue in TISSUES.values()]).T
    t1, t2, pd = table * rng.normal(1, [[0.015], [0.03], [0.008]], table.shape).clip(0.94, 1.06)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = ORIGIN
    return Anatomy(fractions, t1, t2, pd, texture, brain, lesion, affine)


def simulate(anatomy: Anatomy, acquisition: str | Setting) -> NDArray:
    """Noise-free magnitude image: per voxel, the tissues' signals weighted by their fractions.

    Args:
        anatomy: the subject.
        acquisition: a preset's name or any timing.

    Returns:
        [X, Y, Z], float32, in units of PD; exactly 0 outside the brain.
    """
    acquisition = resolve(acquisition)
    if acquisition.gadolinium:
        doses = [tissue.gadolinium for tissue in TISSUES.values()]
        anatomy = replace(anatomy, t1=enhanced_t1(anatomy.t1, doses))
    return anatomy.mixture(lambda tissue, water: signal(*anatomy.relaxation(tissue, water), acquisition))
