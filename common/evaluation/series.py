"""What only the frames of a series together can tell: of a DCE its enhancement, of a DWI its diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.dynamic import apparent_diffusion, wash_in

AXES = {"times": ("time (s)", "{:g} s"), "b_values": ("b (s/mm²)", "b {:g}")}  # of a curve, and what a frame is called


def curve_numbers(
    made: Tensor, truth: Tensor, places: Mapping[str, Tensor], frames: Mapping[str, Sequence[float]]
) -> dict[str, float]:
    """By name and place, how far what is made of a series is from the truth; the scale of the two does not matter.

    With times: "enhancement_rmse", of the mean's relative enhancement S(t) / S(0) - 1 over the frames, and
    "wash_in_error", of its rise per minute. With b values: "adc_error" in 1e-3 mm2/s, the mean over voxels.

    Args:
        made, truth: the frames that there are, [T, X, Y, Z], in units without offset.
        places: masks [X, Y, Z], by what the numbers' names end in.
        frames: "times" [T] in s, from the one before the agent on, or "b_values" [T].
    """
    if len(made) < 2:
        return {}
    numbers = {}
    for end, mask in places.items():
        inside = [np.asarray(each[:, mask].cpu(), np.float64) for each in (made, truth)]  # [T, N]
        if not inside[0].size:
            continue
        if "times" in frames:
            curves = [each.mean(1) / max(each[0].mean(), 1e-6) - 1 for each in inside]
            rises = [wash_in(curve, frames["times"]) for curve in curves]
            numbers[f"enhancement_rmse{end}"] = float(np.sqrt(np.mean((curves[0] - curves[1]) ** 2)))
            numbers[f"wash_in_error{end}"] = float(abs(rises[0] - rises[1]))
        elif np.ptp(frames.get("b_values", [0])) > 0:
            adc = [1e3 * apparent_diffusion(each.T, frames["b_values"]) for each in inside]
            numbers[f"adc_error{end}"] = float(np.abs(adc[0] - adc[1]).mean())
    return numbers


def frame_axis(frames: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Of a series of so many frames: "axis" and "x" [T] of a chart, and what each is called, "frames" [T]."""
    kind = next((kind for kind in AXES if kind in frames), "")
    axis, text = AXES.get(kind, ("frame", "frame {}"))
    x = list(frames[kind]) if kind else list(range(1, count + 1))
    return {"axis": axis, "x": x, "frames": [text.format(each) for each in x]}


def region_curve(images: NDArray, there: NDArray, mask: NDArray) -> list[float | None]:
    """The mean of each frame [T, X, Y, Z] in a mask [X, Y, Z], relative to the first that is `there` [T]; None of those
    that are not, and where there is nothing to relate to.
    """
    means = images[:, mask].mean(1, dtype=np.float64)
    first = means[np.argmax(there)]
    return [
        round(float(mean / first), 4) if known and first > 0 else None for mean, known in zip(means, there, strict=True)
    ]
