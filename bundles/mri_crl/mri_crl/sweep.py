"""A series of images along TR, TE or TI, made from one encoding, to look for the contrast that shows a lesion best."""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image, ImageDraw

from .common.data.acquisition import PLAUSIBLE, Parameters, check_parameters
from .common.inference.saving import SYNTHESISED
from .inference import SaveTargets, bids

MS_PER_FRAME = 150


def series(
    parameter: str, start: float, stop: float, steps: int, at: str | Sequence[float], settings: Mapping[str, Sequence]
) -> list[Parameters]:
    """Equidistant values of one parameter, the other two as in `at`.

    Args:
        parameter: "TR", "TE" or "TI".
        start, stop: in ms, both included.
        steps: how many images.
        at: (TR, TE, TI) in ms, or a name among `settings`.

    Raises:
        ValueError: an unknown parameter or name, fewer than two steps, or a point that is no acquisition.
    """
    if parameter not in PLAUSIBLE:
        raise ValueError(f"sweep is '{parameter}'; it must be one of {', '.join(PLAUSIBLE)}.")
    if isinstance(at, str) and at not in settings:
        raise ValueError(f"at is '{at}'; give (TR, TE, TI) in ms or one of {', '.join(settings)}.")
    if steps < 2 or start == stop:
        raise ValueError(f"A sweep needs two images or more at different values: {steps} from {start} to {stop}.")
    point = dict(zip(PLAUSIBLE, settings[at] if isinstance(at, str) else at, strict=True))
    values = np.linspace(start, stop, steps).round(3).tolist()
    points = [tuple({**point, parameter: value}.values()) for value in values]
    return [check_parameters(*each, where=f"sweep of {parameter}") for each in points]


class SaveSeries(SaveTargets):
    """Writes "pred" as one 4D NIfTI `<subject>_sweep_<parameter>.nii.gz` [X, Y, Z, T], a sidecar, and a GIF.

    The header's fourth spacing is the parameter's step in ms. The GIF shows the middle slice in RAS.

    Args:
        parameter: "TR", "TE" or "TI".
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
        volumes = torch.where(pred > 0, pred * scale + offset, 0).permute(1, 2, 3, 0).numpy()
        points = self.wanted.further
        stem = self.output_dir / data["subject"] / f"{data['subject']}_sweep_{self.parameter}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        values = [point[list(PLAUSIBLE).index(self.parameter)] for point in points]
        image = _save_4d(volumes, values[1] - values[0], data["grid_file"], Path(f"{stem}.nii.gz"))
        seen = nib.as_closest_canonical(image).get_fdata(dtype=np.float32)
        _save_gif(seen, [f"{self.parameter} {value:g} ms" for value in values], self.slice_axis, Path(f"{stem}.gif"))
        sidecar = {
            "subject": data["subject"],
            "volumes": [bids(point) for point in points],
            "sources": {self.sequences[i]: data["images"][self.sequences[i]] for i in available},
            "grid": data["grid_file"],
            **self._origin,
            "units": units,
            "note": "Made by a network, not acquired. Not for clinical use.",
        }
        Path(f"{stem}.json").write_text(json.dumps(sidecar, indent=1))
        return data


def _save_4d(volumes: np.ndarray, step: float, like: str, path: Path) -> nib.Nifti1Image:
    if path.exists() and nib.load(path).header["descrip"].item() != SYNTHESISED:
        raise ValueError(f"{path} is an acquired image and is not overwritten; pass another --output_dir.")
    original = nib.load(like)
    if volumes.shape[:3] != original.shape[:3] or not np.isfinite(volumes).all():
        raise ValueError(f"The series for {path} has NaN or infinite voxels, or not the shape of {like}.")
    image = nib.Nifti1Image(volumes.astype(np.float32), original.affine)
    for form in ("sform", "qform"):
        code = int(original.header[f"{form}_code"]) if isinstance(original, nib.Nifti1Pair) else 1
        getattr(image, f"set_{form}")(original.affine, code=code)
    image.header.set_zooms((*original.header.get_zooms()[:3], abs(step)))
    image.header.set_xyzt_units("mm", "msec")
    image.header["descrip"] = SYNTHESISED
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    nib.save(image, partial)
    os.replace(partial, path)
    return image


def _save_gif(volumes: np.ndarray, texts: Sequence[str], slice_axis: int, path: Path) -> None:
    axis = 3 + slice_axis
    planes = np.rot90(volumes.take(volumes.shape[axis] // 2, axis))  # (rows, columns, T)
    grey = (255 * planes / max(float(planes.max()), 1e-9)).astype(np.uint8)  # one scale: brightness may be compared
    zoom = max(1, 256 // max(grey.shape[:2]))
    frames = []
    for t, text in enumerate(texts):
        frame = Image.fromarray(np.ascontiguousarray(grey[..., t])).resize((grey.shape[1] * zoom, grey.shape[0] * zoom))
        ImageDraw.Draw(frame).text((4, 4), text, fill=255)
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=MS_PER_FRAME, loop=0)
