"""Brain phantom: random anatomies made from the MNI152 tissue maps, imaged by the spin-echo equation.

Each subject is the template under a random invertible deformation, with its own ventricles, cortex, lesions, vessels
and relaxation times. Any sequence of it can be computed, with the noise-free truth beside the degraded image:

    mri-contrast phantom data/phantom 20 --sequences T1,T1Gd,T2,FLAIR

All randomness lives on a fixed 4 mm grid, so a subject is the same person at every spacing.
The maps are those of ICBM 152 nonlinear 2009a (Fonov et al., NeuroImage 2011), which nilearn ships.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from zlib import crc32

import nibabel as nib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from ..files import replacing, write_text
from ..options import words
from ..progress import bar
from .mr_signal import FSE9, TISSUES, Acquisition, corrupt, enhanced_t1, resolve, spin_echo

# Field of view of the template: the first voxel's centre and the last one's offset from it, in mm.
ORIGIN = np.array([-98.0, -134.0, -72.0], dtype=np.float32)
EXTENT = np.array([196, 232, 188])
GRID = 4  # mm, of the random fields
CENTRE = np.array([0.0, -18.0, 8.0], dtype=np.float32)  # of the brain, about which it turns and scales
MASKS = ("brain", "lesion", "tissue")
INDEX = {name: row for row, name in enumerate(TISSUES)}
LESIONS = [INDEX[name] for name in ("lesion", "oedema", "necrosis", "rim")]


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


@lru_cache(maxsize=1)
def _template() -> NDArray:
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
    return np.stack([gaussian_filter(tissue, sigma, truncate=3) for tissue in _template()])


def _noise(rng: Generator, sigma: float) -> NDArray:
    """Gaussian random field on the 4 mm grid, smooth over ``sigma`` mm, of unit variance."""
    field = gaussian_filter(rng.standard_normal(EXTENT // GRID + 1, dtype=np.float32), sigma / GRID)
    return field / field.std()


def _sample(field: NDArray, points: NDArray, order: int = 1) -> NDArray:
    """Values of a field on the 4 mm grid at ``points`` [3, ...], in mm."""
    origin = ORIGIN.reshape(3, *[1] * (points.ndim - 1))
    return map_coordinates(field, (points - origin) / GRID, order=order, mode="nearest")


def _grid(spacing: Sequence[float]) -> NDArray:
    """Voxel centres [3, X, Y, Z] in mm that fill the field of view."""
    steps = [size * np.arange(extent // size + 1) for extent, size in zip(EXTENT, spacing, strict=True)]
    axes = [start + step for start, step in zip(ORIGIN, steps, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)


@lru_cache(maxsize=1)
def _ventricles() -> NDArray:
    """Soft map of the ventricles on the 4 mm grid: the CSF around the middle of the brain."""
    points = _grid((GRID,) * 3)
    middle, width = np.reshape([0, -10, 14], (3, 1, 1, 1)), np.reshape([26, 34, 15], (3, 1, 1, 1))
    near = np.exp(-(((points - middle) / width) ** 2).sum(axis=0) / 2)
    return gaussian_filter(_template()[0, ::GRID, ::GRID, ::GRID] * near, 1.5)


def random_deformation(rng: Generator, *, ventricles: float = 0.0) -> NDArray:
    """Displacement of a random diffeomorphism, the exponential of a smooth stationary velocity field.

    Integrated by scaling and squaring (Arsigny et al., MICCAI 2006), which keeps the Jacobian positive.

    Args:
        rng: source of randomness.
        ventricles: by how many mm, at most, the ventricles' walls move outwards.

    Returns:
        [3, X, Y, Z] in mm on the 4 mm grid: the template's point at x is x + displacement(x).
    """
    velocity = np.stack([2.5 * _noise(rng, 24) + 1.1 * _noise(rng, 11) for _ in range(3)])
    inwards = np.stack(np.gradient(_ventricles()))
    velocity += ventricles * inwards / np.linalg.norm(inwards, axis=0).max()
    steps = 6
    displacement = velocity / 2**steps
    points = _grid((GRID,) * 3)
    for _ in range(steps):
        displacement = displacement + np.stack([_sample(axis, points + displacement) for axis in displacement])
    return displacement


def _random_affine(rng: Generator) -> NDArray:
    """[3, 3]: head size and proportions within 7 %, tilt within 5 degrees."""
    scale = rng.uniform(0.96, 1.04) * rng.uniform(0.97, 1.03, 3)
    x, y, z = np.deg2rad(rng.uniform(-5, 5, 3))
    skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation = np.linalg.solve(np.eye(3) - skew / 2, np.eye(3) + skew / 2)  # Cayley transform: exactly orthogonal
    return (rotation / scale).astype(np.float32)


def _mix_in(fractions: NDArray, tissue: str, amount: NDArray) -> None:
    """Lets ``tissue`` take the place of ``amount`` (0 to 1, per voxel) of everything in ``fractions`` [tissue, N]."""
    fractions *= 1 - amount
    fractions[INDEX[tissue]] += amount


def _radius(points: NDArray, centre: NDArray, radii: NDArray, wobble: NDArray) -> NDArray:
    """Distance of ``points`` [3, N] from an ellipsoid's centre: 1 on its surface, which ``wobble`` [N] makes uneven."""
    return np.linalg.norm((points - centre[:, None]) / radii[:, None], axis=0) + wobble


def _add_lesions(fractions: NDArray, points: NDArray, rng: Generator, edge: float) -> None:
    """Puts MS-like plaques, and in half the subjects a tumour, into ``fractions`` [tissue, N] at ``points`` [3, N] mm.

    ``edge`` is the width in mm over which a lesion fades, about a voxel.
    """
    white = np.argwhere(_template()[INDEX["white_matter"], ::GRID, ::GRID, ::GRID] > 0.9)
    near = 0.02 + _ventricles()[tuple(white.T)]  # plaques prefer the surroundings of the ventricles
    plaques, tumour = rng.integers(3, 15), rng.random() < 0.5
    centres = rng.choice(white, plaques, p=near / near.sum()) * GRID + rng.uniform(-2, 2, (plaques, 3)) + ORIGIN
    wobble = 0.25 * _sample(_noise(rng, 4), points, order=3)
    for centre in centres:
        radii = rng.uniform(2.2, 6.0) * rng.uniform(0.7, 1.4, 3)
        radius = _radius(points, centre, radii, wobble)
        amount = np.clip(0.5 + (1 - radius) * radii.mean() / (edge + 1), 0, 1)
        _mix_in(fractions, "lesion", amount * fractions[INDEX["white_matter"]] ** 0.5)
    if tumour:
        far = white[near < np.median(near)]
        centre, radii = rng.choice(far) * GRID + ORIGIN, rng.uniform(9, 17) * rng.uniform(0.8, 1.2, 3)
        uneven = _sample(_noise(rng, 7), points, order=3)
        radius = _radius(points, centre, radii, 0.2 * uneven + wobble / 3)
        inside = {shell: np.clip(0.5 + (shell - radius) * radii.mean() / edge, 0, 1) for shell in (1.0, 0.7)}
        spread = np.clip(0.5 + (rng.uniform(1.5, 2.1) + 0.3 * uneven - radius) * radii.mean() / (3 * edge), 0, 1)
        _mix_in(fractions, "oedema", spread * fractions[INDEX["white_matter"]])  # oedema follows the white matter
        _mix_in(fractions, "rim", inside[1.0])
        _mix_in(fractions, "necrosis", inside[0.7])


def _add_vessels(fractions: NDArray, points: NDArray, rng: Generator, edge: float) -> None:
    """Adds thin vessels, mostly in the sulci: the curves where two random fields are both zero."""
    length = 10.0
    distance = length * np.hypot(*(_sample(_noise(rng, length), points, order=3) for _ in range(2)))
    tube = np.clip(0.5 + (1.2 - distance) / edge, 0, 1) * min(1.0, 2.4 / edge)
    csf, grey, white = fractions[:3]
    _mix_in(fractions, "vessel", tube * np.clip(csf + 0.4 * grey + 0.1 * white, 0, 1))


def _three(spacing: float | Sequence[float]) -> tuple[float, float, float]:
    sizes = tuple(float(size) for size in np.ravel(spacing))
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3 or not all(0.5 <= size <= 20 for size in sizes):
        raise ValueError(f"spacing must be one or three numbers from 0.5 to 20 mm, got {spacing!r}")
    return sizes


def _template_points(rng: Generator, spacing: tuple, age: float) -> NDArray:
    """Where in the template each voxel of a subject comes from, [3, X, Y, Z] in mm; ``age`` (0 to 1) adds ventricle."""
    matrix, shift = _random_affine(rng), rng.uniform(-3, 3, 3).astype(np.float32)
    displacement = random_deformation(rng, ventricles=-2 + 6.5 * age + rng.normal(0, 0.5))
    centre = CENTRE.reshape(3, 1, 1, 1)
    points = np.tensordot(matrix, _grid(spacing) - centre, 1) + centre + shift.reshape(3, 1, 1, 1)
    return points + np.stack([_sample(axis, points) for axis in displacement])


def make_anatomy(rng: Generator, *, spacing: float | Sequence[float] = 2.0) -> Anatomy:
    """Draws a random subject.

    Args:
        rng: source of randomness; the same state gives the same person at every spacing.
        spacing: voxel size in mm, one number or three.

    Returns:
        The subject on a RAS grid that covers the field of view of MNI152.

    Raises:
        ValueError: for a spacing that is not one or three numbers from 0.5 to 20 mm.
    """
    spacing = _three(spacing)
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
    _add_lesions(inside, points, rng, edge)
    water = 0.03 * _sample(_noise(rng, 3), points, order=3) + 0.03 * _sample(_noise(rng, 12), points)

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


def simulate(anatomy: Anatomy, acquisition: str | Acquisition) -> NDArray:
    """Noise-free magnitude image: per voxel, the tissues' signals weighted by their fractions.

    Args:
        anatomy: the subject.
        acquisition: a preset's name or any timing.

    Returns:
        [X, Y, Z], float32, in units of PD; exactly 0 outside the brain.
    """
    acquisition = resolve(acquisition)
    doses = [tissue.gadolinium for tissue in TISSUES.values()]
    t1 = enhanced_t1(anatomy.t1, doses) if acquisition.gadolinium else anatomy.t1
    change = 1 + anatomy.texture[anatomy.brain]
    signal = np.zeros_like(change)
    for tissue, fraction in enumerate(anatomy.fractions[:, anatomy.brain]):
        there = fraction > 0
        more = change[there]  # more water: longer T1 and T2, and a little more PD
        pd = anatomy.pd[tissue] * more ** (1 / 3)
        signal[there] += fraction[there] * spin_echo(pd, t1[tissue] * more, anatomy.t2[tissue] * more, acquisition)
    image = np.zeros(anatomy.brain.shape, dtype=np.float32)
    image[anatomy.brain] = signal
    return image


def _save(data: NDArray, affine: NDArray, path: Path) -> None:
    """Writes a NIfTI file that is never seen half-written."""
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    with replacing(path) as partial:
        nib.save(image, partial)


def _write_subject(
    folder: Path, number: int, timings: Mapping[str, Acquisition], seed: int, spacing: tuple, one_gain: bool, **scanner
) -> dict:
    """Writes one subject's files and returns its entry in the subject list; ``scanner`` goes to ``corrupt``."""
    name = f"phantom_{number:03d}"
    entry = {"subject": name, "images": {}, "masks": {}, "reference": {}, "parameters": {}}
    anatomy = make_anatomy(np.random.default_rng([seed, number]), spacing=spacing)

    def save(data: NDArray, suffix: str) -> str:
        path = f"{name}/{name}_{suffix}.nii.gz"
        _save(data, anatomy.affine, folder / path)
        return path

    for mask in MASKS:
        entry["masks"][mask] = save(getattr(anatomy, mask).astype(np.uint8), mask)
    for sequence, timing in timings.items():
        # A stream of its own per image: adding a sequence leaves the others as they were.
        rng = np.random.default_rng([seed, number, crc32(sequence.encode())])
        gain = (np.random.default_rng([seed, number, 1]) if one_gain else rng).uniform(800, 1200)  # the receiver's
        reference = simulate(anatomy, timing) * np.float32(gain)
        image = corrupt(reference, rng, **scanner, brain=anatomy.brain)
        entry["images"][sequence] = save(image, sequence)
        entry["reference"][sequence] = save(reference, f"{sequence}_reference")
        entry["parameters"][sequence] = {"TR": timing.tr, "TE": timing.te, "TI": timing.ti}
    return entry


def _split(subjects: int, validation: float, test: float) -> tuple[int, int]:
    """Numbers of training and validation subjects; the rest are for testing."""
    if subjects < 1 or min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(
            f"Need subjects >= 1 and fractions that leave some for training: "
            f"subjects={subjects}, validation={validation}, test={test}"
        )
    least = int(subjects >= 3)
    held_out = [max(least, round(part * subjects)) if part else 0 for part in (validation, test)]
    training = subjects - sum(held_out)
    if training < 1:
        raise ValueError(f"No training subject left of {subjects}: validation={validation}, test={test}")
    return training, held_out[0]


def _timings(sequences: str | Sequence[str], acquisitions: Mapping | None) -> dict[str, Acquisition]:
    """Acquisition of each sequence asked for, by name."""
    names = words(list(FSE9) if sequences == "fse9" else sequences)
    bad = [name for name in names if not name.isalnum() or name in MASKS]
    if bad or not names or len(set(names)) < len(names):
        raise ValueError(f"sequences must be different words of letters and digits, none of {MASKS}: got {names}")
    if unused := set(acquisitions or {}) - set(names):
        raise ValueError(f"acquisitions has {sorted(unused)}, which are not among sequences={names}")
    return {name: resolve(name, acquisitions) for name in names}


def make_phantom(
    output_dir: str | Path,
    subjects: int = 20,
    *,
    sequences: str | Sequence[str] = ("T1", "T1Gd", "T2", "FLAIR"),
    spacing: float | Sequence[float] = 2.0,
    seed: int = 0,
    noise: float = 0.03,
    bias: float = 0.1,
    validation: float = 0.2,
    test: float = 0.2,
    acquisitions: Mapping[str, Sequence[float]] | None = None,
    one_gain: bool = False,
) -> None:
    """Writes a data set of random brains as NIfTI files, with its subject list ``subjects.json``.

    Per subject: each sequence (float32), the same without bias and noise (``_reference``), and the masks brain, lesion
    and tissue (uint8; 1 CSF, 2 grey matter, 3 white matter, 4 lesion). Subject k of a seed does not depend on how many
    subjects or sequences are asked for. Files of the same names are replaced, others left alone.

    Args:
        output_dir: folder to write to, made if missing.
        subjects: how many.
        sequences: names, as a list or separated by commas: T1, T1Gd, T2, FLAIR, PD, FSE1 to FSE9 (``fse9`` is all
            nine), or keys of ``acquisitions``.
        spacing: voxel size in mm, one number or three.
        seed: chooses the population.
        noise: Rician noise relative to the 99th percentile of each image.
        bias: largest relative deviation of the bias field.
        validation: fraction of the subjects, at least one of three or more; 0 for none. Training comes first.
        test: likewise.
        acquisitions: name to (TR, TE, TI) in ms, for sequences that are not presets or differ from them; TI = 0 means
            no inversion, and names that end in Gd are acquired after gadolinium.
        one_gain: one receiver gain for all images of a subject, so that what TR, TE and TI do can be compared.

    Raises:
        ValueError: for arguments that make no data set; nothing is written then.
    """
    timings, spacing = _timings(sequences, acquisitions), _three(spacing)
    training, validating = _split(subjects, validation, test)
    if not 0 <= bias < 1 or not noise >= 0 or seed < 0:
        raise ValueError(f"Need 0 <= bias < 1, noise >= 0 and seed >= 0: bias={bias}, noise={noise}, seed={seed}")
    folder = Path(output_dir)
    entries = [
        _write_subject(folder, number, timings, seed, spacing, one_gain, bias=bias, noise=noise)
        for number in bar(range(subjects), desc="simulating", unit="subjects")
    ]
    listing = {
        "name": "phantom (simulated)",
        "sequences": list(timings),
        "training": entries[:training],
        "validation": entries[training : training + validating],
        "test": entries[training + validating :],
    }
    write_text(folder / "subjects.json", json.dumps(listing, indent=2) + "\n")
