"""What only the frames of a series together can tell: of a DCE its enhancement, of a DWI its diffusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ..data.dynamic import apparent_diffusion, wash_in


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
