"""A series along TR, TE, TI or the flip angle, made from one encoding, to look for the contrast that shows a lesion."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image, ImageDraw

from .common.data.acquisition import NAMES, Parameters, check_parameters, parameters_by_name
from .common.files import replacing
from .inference import SaveTargets, bids

MS_PER_FRAME = 150
LONGEST = 320  # pixels of a frame's longer side


def series(
    parameter: str, start: float, stop: float, steps: int, at: str | Sequence[float], settings: Mapping[str, Sequence]
) -> list[Parameters]:
    """Equidistant values of one parameter, the others as in `at`.

    Args:
        parameter: "TR", "TE", "TI", or a gradient echo's "FA".
        start, stop: in ms (FA in degrees), both included.
        steps: how many images.
        at: (TR, TE, TI) in ms, of a gradient echo with FA, or a name among `settings`.

    Raises:
        ValueError: an unknown parameter or name, fewer than two steps, or a point that is no acquisition.
    """
    if isinstance(at, str) and at not in settings:
        raise ValueError(f"at is '{at}'; give (TR, TE, TI) in ms or one of {', '.join(settings)}.")
    if not isinstance(at, str) and len(at) not in (3, 4):
        raise ValueError(f"at is {at!r}; give (TR, TE, TI) in ms, of a gradient echo (TR, TE, TI, FA).")
    if steps < 2 or start == stop:
        raise ValueError(f"A sweep needs two images or more at different values: {steps} from {start} to {stop}.")
    if parameter == "FA" and min(start, stop) <= 0:
        raise ValueError(f"A sweep of FA lies above 0 degrees: it is from {start} to {stop}.")
    point = parameters_by_name(settings[at] if isinstance(at, str) else at)
    if parameter not in point:
        raise ValueError(f"sweep is '{parameter}'; it must be one of {', '.join(point)}.")
    values = np.linspace(start, stop, steps).round(3).tolist()
    points = [tuple({**point, parameter: value}.values()) for value in values]
    return [check_parameters(*each, where=f"sweep of {parameter}") for each in points]


class SaveSeries(SaveTargets):
    """Writes "pred" as one 4D NIfTI `<subject>_sweep_<parameter>.nii.gz` [X, Y, Z, T], a sidecar, and a GIF.

    The header's fourth spacing is the parameter's step in ms or degrees. The GIF shows the middle slice.

    Args:
        parameter: "TR", "TE", "TI", or a gradient echo's "FA".
        slice_axis: spatial axis of the picture's slice, counted from the end.
        others: see `SaveTargets`.
    """

    def __init__(self, *, parameter: str, slice_axis: int = -1, **others: Any) -> None:
        super().__init__(**others)
        self.parameter = parameter
        self.slice_axis = slice_axis

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        available = data["available"].nonzero()[:, 0].tolist()
        units, scale, offset = self.scale(data, len(self.sequences))
        pred = torch.as_tensor(data["pred"])
        volumes = torch.where(pred > 0, pred * scale + offset, 0).permute(1, 2, 3, 0)
        points = self.wanted.further
        values = [point[list(NAMES).index(self.parameter)] for point in points]
        more = {"units": units, "volumes": [bids(point) for point in points], "step": abs(values[1] - values[0])}
        path = self._save_as(volumes, data, f"sweep_{self.parameter}", available, **more)
        if self.pictures:
            seen = nib.as_closest_canonical(nib.load(path))
            unit = "degrees" if self.parameter == "FA" else "ms"
            texts = [f"synthesised, {self.parameter} {value:g} {unit}" for value in values]
            _save_gif(seen, texts, self.slice_axis, path.with_name(path.name.replace(".nii.gz", ".gif")))
        return data


def _save_gif(series: nib.Nifti1Image, texts: Sequence[str], slice_axis: int, path: Path) -> None:
    """A frame per volume [X, Y, Z, T] of RAS: the middle slice in right proportion, right (or front) on the left."""
    volumes, axis = series.get_fdata(dtype=np.float32), 3 + slice_axis
    planes = np.flip(volumes.take(volumes.shape[axis] // 2, axis), (0, 1)).swapaxes(0, 1)  # (rows, columns, T)
    grey = (255 * planes / max(float(planes.max()), 1e-9)).astype(np.uint8)  # one scale: brightness may be compared
    spacing = series.header.get_zooms()
    across, up = (spacing[k] * volumes.shape[k] for k in range(3) if k != axis)
    size = tuple(max(1, round(LONGEST * length / max(across, up))) for length in (across, up))
    frames = []
    for t, text in enumerate(texts):
        frame = Image.new("L", (max(size[0], 8 + 7 * len(text)), size[1] + 20))
        left = (frame.width - size[0]) // 2
        frame.paste(Image.fromarray(np.ascontiguousarray(grey[..., t])).resize(size), (left, 20))
        draw = ImageDraw.Draw(frame)
        draw.text((4, 4), text, fill=255)
        draw.text((left + 2, 20 + size[1] // 2), "A" if axis == 0 else "R", fill=255)
        frames.append(frame)
    with replacing(path) as partial:
        frames[0].save(partial, save_all=True, append_images=frames[1:], duration=MS_PER_FRAME, loop=0)
