"""Series of the phantom: DCE with the wash-in and wash-out that are derived from it, and DWI.

The truth is known for every frame, for the concentration of the agent and for the diffusivity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import nibabel as nib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, center_of_mass

from .dynamic import (
    DCE,
    DCE_TIMES,
    DIFFUSIVITY,
    DWI,
    DWI_B_VALUES,
    KINETICS,
    Kinetics,
    concentration,
    diffusion_weighted,
    wash_in,
    wash_out,
)
from .mr_signal import corrupt, enhanced_t1, gradient_echo, spin_echo

if TYPE_CHECKING:
    from .anatomy import Anatomy

WASH = {"wash-in": wash_in, "wash-out": wash_out}
SERIES = ("DCE", "DWI", *WASH)
# Relative spread between subjects, ours: wide enough that some rims still rise at the last frame and others wash out.
SPREAD = {"ktrans": 0.4, "ve": 0.2, "vp": 0.2}
DIFFUSIVITY_SPREAD = 0.05
FRAMES = {"DCE": {"times": list(DCE_TIMES)}, "DWI": {"b_values": list(DWI_B_VALUES)}}
# What a sidecar says, in s as BIDS wants it.
ACQUIRED = {
    "DCE": {"RepetitionTime": DCE.tr / 1000, "EchoTime": DCE.te / 1000, "FlipAngle": DCE.flip},
    "DWI": {"RepetitionTime": DWI.tr / 1000, "EchoTime": DWI.te / 1000},
}


class Series(NamedTuple):
    """Of one sequence: what the scanner gives and the noise-free truth, [X, Y, Z, T] or [X, Y, Z], both float32."""

    image: NDArray
    reference: NDArray


def draw_kinetics(rng: Generator) -> dict[str, Kinetics]:
    """`KINETICS` of a subject: each value times a log-normal factor; fractions of the volume stay below 1."""
    factors = np.exp(rng.standard_normal((len(KINETICS), 3)) * list(SPREAD.values()))
    drawn = np.array(list(KINETICS.values())) * factors
    drawn[:, 1:] = drawn[:, 1:].clip(max=0.9)
    return {name: Kinetics(*values) for name, values in zip(KINETICS, drawn.tolist(), strict=True)}


def draw_diffusivity(rng: Generator) -> dict[str, float]:
    """`DIFFUSIVITY` of a subject, mm2/s."""
    factors = np.exp(rng.standard_normal(len(DIFFUSIVITY)) * DIFFUSIVITY_SPREAD)
    return {name: value * factor for (name, value), factor in zip(DIFFUSIVITY.items(), factors.tolist(), strict=True)}


def draw_frames(rng: Generator, spread: float) -> dict[str, dict[str, list[float]]]:
    """`FRAMES` of a subject: each step between them times a log-normal factor, to whole s and s/mm2."""
    drawn = {}
    for name, ((kind, values),) in ((name, each.items()) for name, each in FRAMES.items()):
        steps = np.diff(values) * np.exp(spread * rng.standard_normal(len(values) - 1))
        drawn[name] = {kind: [values[0], *np.round(values[0] + steps.cumsum()).tolist()]}
    return drawn


def simulate_dce(
    anatomy: Anatomy, kinetics: Mapping[str, Kinetics] = KINETICS, times: Sequence[float] = DCE_TIMES
) -> tuple[NDArray, NDArray]:
    """Noise-free DCE in units of PD, and the concentration in mmol/l: both [X, Y, Z, T], float32.

    A voxel's signal and concentration are those of its tissues weighted by their fractions.
    """
    curves = np.stack([concentration(times, each) for each in kinetics.values()]).astype(np.float32)

    def signal(tissue: int, water: NDArray) -> NDArray:
        pd, t1, t2 = (value[:, None] for value in anatomy.relaxation(tissue, water))
        return gradient_echo(pd, enhanced_t1(t1, curves[tissue]), t2, DCE)

    return anatomy.mixture(signal), anatomy.mixture(lambda tissue, water: np.tile(curves[tissue], (len(water), 1)))


def simulate_dwi(
    anatomy: Anatomy, diffusivity: Mapping[str, float] = DIFFUSIVITY, b_values: Sequence[float] = DWI_B_VALUES
) -> tuple[NDArray, NDArray]:
    """Noise-free DWI [X, Y, Z, T] in units of PD, and D [X, Y, Z] in mm2/s, float32.

    D of a voxel is the mean of its tissues' weighted by their signal at b = 0, which is the slope of -log S there.
    """
    d = np.array(list(diffusivity.values()), dtype=np.float32)

    def unweighted(tissue: int, water: NDArray) -> NDArray:
        return spin_echo(*anatomy.relaxation(tissue, water), DWI)

    frames = anatomy.mixture(lambda tissue, water: diffusion_weighted(unweighted(tissue, water), b_values, d[tissue]))
    slope = anatomy.mixture(lambda tissue, water: unweighted(tissue, water) * d[tissue])
    signal = anatomy.mixture(unweighted)
    return frames, np.divide(slope, signal, out=np.zeros_like(slope), where=signal > 0)


def move(series: NDArray, affine: NDArray, rng: Generator, motion: float) -> NDArray:
    """Rigid motion of the patient between frames: each but the first one [X, Y, Z, T] is somewhere else.

    Args:
        series: frames; what comes in from outside the field of view is 0.
        affine: without rotation, voxel to mm.
        rng: source of randomness.
        motion: standard deviation of the shift along each axis in mm, and of the turn about each in degrees.
    """
    sizes = nib.affines.voxel_sizes(affine)
    centre = np.array(center_of_mass(series[..., 0]))
    moved = series.copy()
    for frame in range(1, series.shape[-1]):
        turn = nib.eulerangles.euler2mat(*np.deg2rad(motion * rng.standard_normal(3)))
        matrix = turn * sizes / sizes[:, None]  # in voxels
        offset = centre - matrix @ centre + motion * rng.standard_normal(3) / sizes
        affine_transform(series[..., frame], matrix, offset, output=moved[..., frame], order=1)
    return moved


def simulate_series(
    anatomy: Anatomy,
    names: Sequence[str],
    rng: Mapping[str, Generator],
    *,
    gain: Mapping[str, float],
    frames: Mapping[str, Mapping[str, Sequence[float]]] = FRAMES,
    motion: float = 0.0,
    bias: float = 0.2,
    noise: float = 0.03,
) -> tuple[dict[str, Series], dict[str, NDArray]]:
    """The series among ``names`` and what is derived from them; and the true maps.

    Args:
        anatomy: the subject.
        names: of `SERIES`.
        rng: streams of randomness of the "subject" (kinetics and diffusivity), of "DCE" and of "DWI".
        gain: of the receiver, for "DCE" and for "DWI": one for all frames.
        frames: times in s of the DCE and b values of the DWI.
        motion: see `move`; the truth lies still, as the first frame does.
        bias, noise: see `corrupt`, one field for all frames and noise relative to the first one.

    Returns:
        By name the images, and "concentration" [X, Y, Z, T] in mmol/l and "diffusivity" [X, Y, Z] in mm2/s.
    """
    kinetics, diffusivity = draw_kinetics(rng["subject"]), draw_diffusivity(rng["subject"])
    made: dict[str, Series] = {}
    maps: dict[str, NDArray] = {}

    def scanned(name: str, truth: NDArray) -> Series:
        reference = truth * np.float32(gain[name])
        seen = move(reference, anatomy.affine, rng[name], motion) if motion else reference
        return Series(corrupt(seen, rng[name], bias, noise, brain=anatomy.brain), reference)

    if {"DCE", *WASH} & set(names):
        truth, maps["concentration"] = simulate_dce(anatomy, kinetics, frames["DCE"]["times"])
        made["DCE"] = scanned("DCE", truth)
        for name, derive in WASH.items():
            made[name] = Series(*(derive(series).astype(np.float32) for series in made["DCE"]))
    if "DWI" in names:
        truth, maps["diffusivity"] = simulate_dwi(anatomy, diffusivity, frames["DWI"]["b_values"])
        made["DWI"] = scanned("DWI", truth)
    return {name: made[name] for name in names if name in made}, maps
