"""Signal that changes over the frames of a series: contrast agent over time (DCE), and diffusion over b values (DWI).

    C(t) = vp Cp(t) + Ktrans int_0^t Cp(u) exp(-Ktrans / ve (t - u)) du        extended Tofts model
    S(t) = spoiled gradient echo of R1(t) = 1 / T1 + r1 C(t)                   (`common.data.mr_signal`)
    S(b) = S(0) exp(-b D)

Series are arrays [..., T], times are in s from the arrival of the agent, kinetics per minute, b in s/mm2. The effect of
the agent on T2* and the exchange of water are not simulated. What users derive from such series is here too:

    rise = wash_in(series)                     # intensity, from the first frame to the peak
    fall = wash_out(series, times=[0, 60, 120, 210, 300, 450])  # intensity per minute, from the peak to the last frame
    d = apparent_diffusion(series, b_values=[0, 150, 800, 1500])  # mm2/s
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.signal import lfilter

from .mr_signal import Acquisition, GradientEcho

HAEMATOCRIT = 0.42  # volume of blood that is cells, which the agent does not enter
STEP = 0.5  # s, between the samples of the arterial input, whose bolus is 8 s wide
# The frame at 0 is before the agent; the last is 7.5 min after it, as in the Seq2Seq authors' breast DCE. Others: ours.
DCE_TIMES = (0.0, 60.0, 120.0, 210.0, 300.0, 450.0)
DCE = GradientEcho(tr=5.0, te=2.0, flip=15.0)  # ours: a usual 3D T1-weighted gradient echo
DWI_B_VALUES = (0.0, 150.0, 800.0, 1500.0)  # s/mm2, the Seq2Seq authors' breast DWI
DWI = Acquisition(tr=5000.0, te=80.0)  # ours: a usual echo-planar spin echo


class Kinetics(NamedTuple):
    """Of the extended Tofts model: transfer constant Ktrans in 1/min, and the volume fractions ve of the extravascular
    extracellular space and vp of plasma."""

    ktrans: float
    ve: float
    vp: float


# Behind an intact barrier Ktrans is 0. Plasma of grey and white matter goes by their blood volumes of about 5 and
# 2.7 ml/100 ml (Leenders et al., Brain 1990), rounded up. All others are chosen: the rim as a tumour that enhances
# within minutes and washes out, as vessels are blood, chronic plaques and oedema do not enhance, and nothing perfuses
# necrosis and fluid.
KINETICS: dict[str, Kinetics] = {
    "csf": Kinetics(0.0, 0.0, 0.0),
    "grey_matter": Kinetics(0.0, 0.0, 0.04),
    "white_matter": Kinetics(0.0, 0.0, 0.02),
    "lesion": Kinetics(0.0, 0.0, 0.02),
    "oedema": Kinetics(0.0, 0.0, 0.02),
    "necrosis": Kinetics(0.0, 0.0, 0.0),
    "rim": Kinetics(0.12, 0.3, 0.06),
    "vessel": Kinetics(0.0, 0.0, 1 - HAEMATOCRIT),
}

# mm2/s. Fluid, grey and white matter are about those that Le Bihan et al. list (JMRI 2001). Plaques, oedema, rim and
# necrosis are chosen between tissue and fluid; vessels are as fluid: what flow does to them (IVIM) is not simulated.
DIFFUSIVITY: dict[str, float] = {
    "csf": 3.0e-3,
    "grey_matter": 0.85e-3,
    "white_matter": 0.75e-3,
    "lesion": 1.2e-3,
    "oedema": 1.4e-3,
    "necrosis": 2.0e-3,
    "rim": 1.1e-3,
    "vessel": 3.0e-3,
}


def arterial_plasma(times: ArrayLike) -> NDArray:
    """Concentration (mmol/l) in arterial plasma, of a population: Parker et al., MRM 2006, Eq. 1 and Table 1.

    Two Gaussians (first pass and recirculation) and an exponential that a sigmoid turns on give that of blood, for a
    dose of 0.1 mmol/kg. Until the agent arrives, which is at 0, there is none.

    Args:
        times: s.
    """
    t = np.asarray(times, dtype=np.float64) / 60
    blood = np.zeros_like(t)
    for area, centre, width in ((0.809, 0.17046, 0.0563), (0.330, 0.365, 0.132)):  # mmol min, min, min
        blood += area / (width * np.sqrt(2 * np.pi)) * np.exp(-((t - centre) ** 2) / (2 * width**2))
    after = np.maximum(t, 0)  # what is before 0 could overflow
    blood += 1.050 * np.exp(-0.1685 * after) / (1 + np.exp(-38.078 * (after - 0.483)))
    return np.where(t > 0, blood, 0) / (1 - HAEMATOCRIT)


def convolve_exponential(values: NDArray, rate: float, step: float) -> NDArray:
    """int_0^t f(u) exp(-rate (t - u)) du at the samples of f, exact for the f that is linear between its samples.

    Args:
        values: [N], f at 0, step, 2 step ...
        rate: positive, per unit of ``step``.
        step: between samples.

    Returns:
        [N], of which the first is 0. Flouri et al., MRM 2016, give this recursion.
    """
    x = rate * step
    kept = np.exp(-x)
    now = (x - 1 + kept) / (rate * x)
    before = (1 - kept) / rate - now
    result, _ = lfilter([now, before], [1, -kept], values, zi=[-now * values[0]])
    return result


def concentration(times: ArrayLike, kinetics: Kinetics) -> NDArray:
    """Concentration (mmol/l) in a tissue after the arrival of the agent, by the extended Tofts model.

    Args:
        times: s, of any shape; before 0 it is 0.
        kinetics: of the tissue.

    Raises:
        ValueError: a fraction outside 0 to 1, a negative Ktrans, or one without a space to go to.
    """
    ktrans, ve, vp = kinetics
    if ktrans < 0 or not (0 <= ve <= 1 and 0 <= vp <= 1) or (ktrans and not ve):
        raise ValueError(f"Need Ktrans >= 0, ve and vp from 0 to 1, and ve > 0 where Ktrans is: {kinetics}")
    times = np.asarray(times, dtype=np.float64)
    grid = STEP * np.arange(2 + max(0, int(np.max(times, initial=0) / STEP)))
    plasma = arterial_plasma(grid)
    curve = vp * plasma
    if ktrans:
        curve += ktrans * convolve_exponential(plasma, ktrans / ve, STEP / 60)
    return np.interp(times, grid, curve)


def diffusion_weighted(unweighted: ArrayLike, b_values: ArrayLike, diffusivity: ArrayLike) -> NDArray:
    """S(b) = S(0) exp(-b D) [..., T]: S(0) [...], b [T] in s/mm2, D in mm2/s [...]."""
    decay = np.exp(-np.multiply.outer(np.asarray(diffusivity), np.asarray(b_values)))
    return np.asarray(unweighted)[..., None] * decay


def apparent_diffusion(series: ArrayLike, b_values: Sequence[float]) -> NDArray:
    """Apparent diffusion coefficient, mm2/s: minus the slope of log S over b, by least squares.

    Args:
        series: [..., T], magnitude.
        b_values: [T], s/mm2.

    Returns:
        [...], float64; 0 where a frame is not above 0.

    Raises:
        ValueError: not one b per frame, or fewer than two different ones.
    """
    series, b = np.asarray(series, dtype=np.float64), np.asarray(b_values, dtype=np.float64)
    _check_frames(series, b, "b value")
    if np.ptp(b) == 0:
        raise ValueError(f"A slope over b needs two different b values, not {list(b_values)}")
    usable = (series > 0).all(axis=-1)
    logs = np.log(np.where(usable[..., None], series, 1))
    centred = b - b.mean()
    return -(logs @ centred) / (centred @ centred)


def wash_in(series: ArrayLike, times: Sequence[float] | None = None, *, baseline: int = 1) -> NDArray:
    """Rise from the frames before the agent to the brightest one after it, at least 0.

    Args:
        series: [..., T], magnitude of a DCE.
        times: [T] in s, ascending; if given, the rise is per minute from the last frame of the baseline to the peak.
        baseline: how many frames are before the agent; their mean is taken.

    Returns:
        [...], float64, in the unit of the series, or that per minute.

    Raises:
        ValueError: no frame left after the baseline, not one time per frame, or times that do not ascend.
    """
    series, times = _dynamic(series, times, baseline)
    after = series[..., baseline:]
    rise = np.maximum(after.max(axis=-1) - series[..., :baseline].mean(axis=-1), 0)
    if times is None:
        return rise
    return rise * 60 / (times[baseline:][after.argmax(axis=-1)] - times[baseline - 1])


def wash_out(series: ArrayLike, times: Sequence[float] | None = None, *, baseline: int = 1) -> NDArray:
    """Fall from the brightest frame after the agent to the last one: 0 where the last one is the brightest.

    Arguments, result and errors are those of `wash_in`; per minute is from the peak to the last frame.
    """
    series, times = _dynamic(series, times, baseline)
    after = series[..., baseline:]
    fall = after.max(axis=-1) - after[..., -1]
    if times is None:
        return fall
    minutes = (times[-1] - times[baseline:][after.argmax(axis=-1)]) / 60
    return np.divide(fall, minutes, out=np.zeros_like(fall), where=minutes > 0)


def _dynamic(series: ArrayLike, times: Sequence[float] | None, baseline: int) -> tuple[NDArray, NDArray | None]:
    series = np.asarray(series, dtype=np.float64)
    frames = series.shape[-1] if series.ndim else 0
    if not 1 <= baseline < frames:
        raise ValueError(f"baseline is {baseline} of {frames} frames: it must be at least 1 and leave one after it")
    if times is None:
        return series, None
    ascending = np.asarray(times, dtype=np.float64)
    _check_frames(series, ascending, "time")
    if np.any(np.diff(ascending) <= 0):
        raise ValueError(f"times must ascend, in s: {list(times)}")
    return series, ascending


def _check_frames(series: NDArray, values: NDArray, what: str) -> None:
    if series.shape[-1:] != values.shape:
        raise ValueError(f"Need one {what} per frame: {values.size} for a series of shape {series.shape}")
