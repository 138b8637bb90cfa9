"""Signal of brain tissue in spin and gradient echoes, and what a scanner adds to it: TR, TE, TI and the flip angle act
on T1, T2 and proton density (PD). The spin echo is

    S = PD * |1 - 2 exp(-TI/T1) + exp(-TR/T1)| * exp(-TE/T2)      inversion recovery, TI > 0
    S = PD * (1 - exp(-TR/T1)) * exp(-TE/T2)                      TI = 0

and the gradient echo see `gradient_echo`. Times are in ms, PD is relative to water (1.0). Example:

    white = TISSUES["white_matter"]
    spin_echo(white.pd, white.t1, white.t2, "FLAIR")
    spin_echo(white.pd, white.t1, white.t2, Acquisition(tr=2500, te=30, ti=400))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

# Longitudinal relaxivity of an extracellular gadolinium agent at 1.5 to 3 T, per ms and mmol/l (about 4.5 per s).
RELAXIVITY = 4.5e-3
PULSES, SPACING = 160, 7.5  # of an MPRAGE's train: how many at most, and the ms between two
T2_STAR = 1.6  # by which T2* is shorter than T2


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Timing of one spin-echo sequence.

    Args:
        tr: repetition time, ms.
        te: echo time, ms, shorter than ``tr``.
        ti: inversion time, ms, shorter than ``tr``; 0 means no inversion pulse.
        gadolinium: whether the contrast agent was given before.

    Raises:
        ValueError: for times that no scanner could play.
    """

    tr: float
    te: float
    ti: float = 0.0
    gadolinium: bool = False

    def __post_init__(self) -> None:
        if not all(isfinite(time) for time in (self.tr, self.te, self.ti)):
            raise ValueError(f"Acquisition times must be finite: TR={self.tr}, TE={self.te}, TI={self.ti} ms")
        if self.tr <= 0 or self.te <= 0:
            raise ValueError(f"TR and TE must be positive: TR={self.tr} ms, TE={self.te} ms")
        if self.te >= self.tr:
            raise ValueError(f"TE must be shorter than TR: TE={self.te} ms, TR={self.tr} ms")
        if not 0 <= self.ti < self.tr:
            raise ValueError(f"TI must be 0 (no inversion) or lie below TR: TI={self.ti} ms, TR={self.tr} ms")


@dataclass(frozen=True, slots=True)
class GradientEcho:
    """Timing of a spoiled gradient echo, or with an inversion pulse of an MPRAGE.

    Args:
        tr: repetition time, ms; with an inversion from one inversion to the next.
        te: echo time, ms.
        flip: excitation angle, degrees.
        ti: from the inversion to the middle of the train of excitations, ms; 0 means no inversion.
        pulses: excitations after each inversion; 0 means 160 or, where these do not fit, as many as do.
        spacing: ms between these.
        gadolinium: whether the contrast agent was given before.

    Raises:
        ValueError: for times and angles that no scanner could play, and a train of excitations that does not fit
            between two inversions.
    """

    tr: float
    te: float
    flip: float
    ti: float = 0.0
    pulses: float = 0.0
    spacing: float = SPACING
    gadolinium: bool = False

    def __post_init__(self) -> None:
        Acquisition(self.tr, self.te, self.ti)
        if not 0 < self.flip <= 90:
            raise ValueError(f"A gradient echo's flip angle lies above 0 and up to 90 degrees: it is {self.flip:g}")
        room = 2 * min(self.ti, self.tr - self.ti) / self.spacing
        object.__setattr__(self, "pulses", self.pulses or min(PULSES, room))
        if self.ti and self.pulses > room:
            train = self.pulses * self.spacing
            raise ValueError(f"A train of {train:g} ms around TI={self.ti:g} ms does not fit TR={self.tr:g} ms")


Setting = Acquisition | GradientEcho


def setting_of(tr: float, te: float, ti: float = 0.0, flip: float = 0.0, *, gadolinium: bool = False) -> Setting:
    """The spin echo of these times in ms or, with a flip angle in degrees, the gradient echo."""
    if flip:
        return GradientEcho(tr, te, flip, ti, gadolinium=gadolinium)
    return Acquisition(tr, te, ti, gadolinium)


class Tissue(NamedTuple):
    """T1 and T2 in ms, relative proton density, and the gadolinium it takes up in mmol/l."""

    t1: float
    t2: float
    pd: float
    gadolinium: float = 0.0


# The order is that of the phantom's fraction maps. Blood has a short T2, which stands in for its flow void.
TISSUES: dict[str, Tissue] = {
    "csf": Tissue(4300, 1900, 1.0),
    "grey_matter": Tissue(1400, 95, 0.82),
    "white_matter": Tissue(850, 75, 0.70),
    "lesion": Tissue(1800, 180, 0.86),
    "oedema": Tissue(1500, 140, 0.84),
    "necrosis": Tissue(2600, 280, 0.93),
    "rim": Tissue(1500, 110, 0.84, gadolinium=0.2),
    "vessel": Tissue(1650, 45, 0.70, gadolinium=0.7),
}

# FLAIR's TI is nulling_ti(9000, TISSUES["csf"].t1), rounded to a ms.
PRESETS: dict[str, Acquisition] = {
    "T1": Acquisition(tr=500.0, te=10.0),
    "T1Gd": Acquisition(tr=500.0, te=10.0, gadolinium=True),
    "T2": Acquisition(tr=4000.0, te=100.0),
    "FLAIR": Acquisition(tr=9000.0, te=120.0, ti=2481.0),
    "PD": Acquisition(tr=3000.0, te=15.0),
}

# The nine fast spin echoes of Xiong et al., "Contrast Representation Learning" (MICCAI 2024), Table 1.
FSE9: dict[str, Acquisition] = {
    "FSE1": Acquisition(tr=2479.0, te=9.62, ti=1055.0),  # T1-FLAIR
    "FSE2": Acquisition(tr=2479.0, te=10.42),
    "FSE3": Acquisition(tr=6777.0, te=10.42),
    "FSE4": Acquisition(tr=6777.0, te=62.52),
    "FSE5": Acquisition(tr=8000.0, te=10.42),  # PD
    "FSE6": Acquisition(tr=8000.0, te=39.92),
    "FSE7": Acquisition(tr=8142.0, te=104.2),  # T2
    "FSE8": Acquisition(tr=8000.0, te=99.98, ti=1030.0),
    "FSE9": Acquisition(tr=8000.0, te=98.78, ti=2025.0),  # T2-FLAIR
}


# Smallest and largest times in ms of clinical spin echoes; TI also 0.
CLINICAL = {"tr": (400.0, 9000.0), "te": (8.0, 150.0), "ti": (100.0, 3000.0)}
# The same of gradient echoes: spoiled ones, and MPRAGE, where TR counts from TI on. Flip angles in degrees.
SPOILED = {"tr": (6.0, 300.0), "te": (2.0, 5.0), "flip": (5.0, 80.0)}
MPRAGE = {"tr": (700.0, 1700.0), "te": (2.0, 5.0), "ti": (600.0, 1200.0), "flip": (6.0, 15.0)}


def draw_acquisition(rng: Generator) -> Acquisition:
    """A spin echo whose times lie log-uniformly in `CLINICAL`; half of them without inversion, TI at most 0.8 TR."""
    tr, te = (float(np.exp(rng.uniform(*np.log(CLINICAL[name])))) for name in ("tr", "te"))
    least, most = CLINICAL["ti"]
    ti = float(np.exp(rng.uniform(np.log(least), np.log(min(most, 0.8 * tr)))))
    return Acquisition(round(tr, 2), round(te, 2), round(ti, 2) if rng.random() < 0.5 else 0.0)


def draw_gradient_echo(rng: Generator) -> GradientEcho:
    """Of `SPOILED` or, in half of the cases, of `MPRAGE`, all log-uniformly."""
    box = MPRAGE if rng.random() < 0.5 else SPOILED
    drawn = {name: round(float(np.exp(rng.uniform(*np.log(limits)))), 2) for name, limits in box.items()}
    return GradientEcho(**{**drawn, "tr": round(drawn["tr"] + drawn.get("ti", 0.0), 2)})


def resolve(acquisition: str | Setting, acquisitions: Mapping[str, Sequence[float] | Setting] | None = None) -> Setting:
    """Gives the acquisition that a name stands for.

    Args:
        acquisition: a name, or a setting, which is returned as it is.
        acquisitions: further names, each with (TR, TE, TI) in ms, and a gradient echo's flip angle in degrees; they
            take precedence over ``PRESETS``. A name that ends in ``Gd`` is acquired after gadolinium.

    Raises:
        ValueError: for an unknown name, or for values that are not three or four valid numbers.
    """
    if isinstance(acquisition, Setting):
        return acquisition
    known = {**PRESETS, **FSE9, **(acquisitions or {})}
    if acquisition not in known:
        raise ValueError(f"Unknown sequence {acquisition!r}: give its (TR, TE, TI), or use {', '.join(known)}")
    values = known[acquisition]
    if isinstance(values, Setting):
        return values
    try:
        tr, te, ti, flip = (*map(float, values), *[0.0] * (len(values) == 3))
    except (TypeError, ValueError):
        raise ValueError(
            f"Sequence {acquisition!r} needs three numbers (TR, TE, TI) in ms, and a gradient echo its flip angle; got "
            f"{values!r}"
        ) from None
    return setting_of(tr, te, ti, flip, gadolinium=acquisition.endswith("Gd"))


def signal(pd: ArrayLike, t1: ArrayLike, t2: ArrayLike, acquisition: str | Setting) -> NDArray:
    """`spin_echo` or `gradient_echo`, whichever it is."""
    setting = resolve(acquisition)
    return (gradient_echo if isinstance(setting, GradientEcho) else spin_echo)(pd, t1, t2, setting)


def spin_echo(pd: ArrayLike, t1: ArrayLike, t2: ArrayLike, acquisition: str | Acquisition) -> NDArray:
    """Magnitude of the spin-echo signal, in units of PD.

    Args:
        pd: relative proton density.
        t1: longitudinal relaxation time, ms.
        t2: transverse relaxation time, ms. The three broadcast against each other.
        acquisition: a preset's name or any timing. Its ``gadolinium`` is not looked at here: see ``enhanced_t1``.

    Returns:
        The signal, of the broadcast shape.
    """
    timing = resolve(acquisition)
    pd, t1, t2 = np.asarray(pd), np.asarray(t1), np.asarray(t2)
    recovery = 1 - np.exp(-timing.tr / t1)
    if timing.ti > 0:
        recovery = np.abs(1 - 2 * np.exp(-timing.ti / t1) + np.exp(-timing.tr / t1))
    return pd * recovery * np.exp(-timing.te / t2)


def gradient_echo(pd: ArrayLike, t1: ArrayLike, t2: ArrayLike, timing: GradientEcho) -> NDArray:
    """Magnitude of the spoiled gradient echo in its steady state, in units of PD; T2* is taken to be T2 / `T2_STAR`.

    Without inversion that is Ernst's equation. With it magnetisation recovers, is driven towards Ernst's by the first
    half of the train (where the signal is taken), then by the second, and recovers again (Deichmann et al.,
    NeuroImage 2000).
    """
    maps = (torch.as_tensor(np.asarray(each) * 1.0) for each in (pd, t1, t2))
    numbers = (timing.tr, timing.te, timing.ti, timing.flip, timing.pulses * timing.spacing / 2)
    return steady_state(*maps, *torch.tensor(numbers, dtype=torch.float64), timing.spacing).numpy()


def steady_state(
    pd: Tensor,
    t1: Tensor,
    t2: Tensor,
    tr: Tensor,
    te: Tensor,
    ti: Tensor,
    flip: Tensor,
    half: Tensor,
    spacing: float = SPACING,
    t2_star: float = T2_STAR,
) -> Tensor:
    """`gradient_echo` with gradients, and compiled by TorchScript; `half` is the half of a train of excitations in ms.

    All broadcast against each other. What is not chosen (TI or none) is finite, too.
    """
    angle = torch.deg2rad(flip)
    step = torch.where(ti > 0, torch.full_like(tr, spacing), tr)
    log_kept = torch.log(torch.cos(angle).clamp(min=1e-6)) - step / t1  # of the magnetisation, by one excitation
    driven = (1 - torch.exp(-step / t1)) / (1 - torch.exp(log_kept))
    before, after = torch.exp((half - ti) / t1), torch.exp((ti + half - tr) / t1)
    train, to_middle = torch.exp(log_kept * (2 * half / spacing)), torch.exp(log_kept * (half / spacing))
    # After the pause: M = 1 - after + after * end, where end = driven (1 - train) + train * (1 - before - before M).
    ready = 1 - after + after * (driven * (1 - train) + train * (1 - before))
    ready = ready / (1 + after * train * before)
    first = 1 - before - before * ready
    inverted = torch.abs(driven + (first - driven) * to_middle)
    return pd * torch.sin(angle) * torch.where(ti > 0, inverted, driven) * torch.exp(-t2_star * te / t2)


def brightest(acquisition: str | Setting) -> float:
    """Signal, in units of PD, of the brightest among liquor, grey and white matter."""
    tissues = np.array([TISSUES[name][:3] for name in ("csf", "grey_matter", "white_matter")])
    t1, t2, pd = tissues.T
    return float(signal(pd, t1, t2, acquisition).max())


def enhanced_t1(t1: ArrayLike, concentration: ArrayLike) -> NDArray:
    """T1 (ms) after gadolinium at a concentration (mmol/l): 1/T1' = 1/T1 + r1 C."""
    return 1 / (1 / np.asarray(t1) + RELAXIVITY * np.asarray(concentration))


def nulling_ti(tr: float, t1: float) -> float:
    """TI (ms) at which a tissue of this T1 gives no signal, from 1 - 2 exp(-TI/T1) + exp(-TR/T1) = 0."""
    return float(t1 * np.log(2 / (1 + np.exp(-tr / t1))))


def corrupt(
    image: NDArray, rng: Generator, bias: float = 0.2, noise: float = 0.03, *, brain: NDArray | None = None
) -> NDArray:
    """Degrades an image as a scanner does: receive bias field, then Rician noise (Gudbjartsson and Patz, MRM 1995).

    Args:
        image: [X, Y, Z], noise-free; or a series [X, Y, Z, T], whose frames have one field and one level of noise.
        rng: source of randomness.
        bias: the field, a cubic polynomial, lies within 1 - bias and 1 + bias.
        noise: standard deviation of either channel, relative to the brain's 99th percentile in ``image``, of a
            series in its first frame.
        brain: [X, Y, Z], bool, where there is noise; by default where the image is positive.

    Returns:
        The same shape, float32; exactly 0 outside the brain.

    Raises:
        ValueError: unless 0 <= bias < 1 and noise >= 0.
    """
    if not 0 <= bias < 1 or not noise >= 0:
        raise ValueError(f"bias must lie in [0, 1) and noise be at least 0: bias={bias}, noise={noise}")
    first = image[..., 0] if image.ndim == 4 else image
    brain = first > 0 if brain is None else brain
    signal = image[brain]  # [N] or [N, T]
    place = np.argwhere(brain).T / np.array(brain.shape)[:, None] * 2 - 1
    x, y, z = place.astype(np.float32)
    terms = np.stack([x, y, z, x * y, y * z, z * x, x * x, y * y, z * z, x**3, y**3, z**3])
    field = rng.standard_normal(len(terms)) @ terms
    field -= (field.max() + field.min()) / 2
    field *= rng.uniform(0.5, 1) * bias / np.abs(field).max()
    field = 1 + field.reshape(-1, *[1] * (signal.ndim - 1))
    sigma = noise * np.percentile(first[brain], 99)
    real, imaginary = sigma * rng.standard_normal((2, *signal.shape))
    result = np.zeros(image.shape, dtype=np.float32)
    result[brain] = np.hypot(signal * field + real, imaginary)
    return result
