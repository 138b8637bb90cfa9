"""Series: images whose last axis is frames, and what tells these apart: times in s (DCE) or b values in s/mm2 (DWI).

These stand where BIDS has them: times as VolumeTiming (or PET's FrameTimesStart) in the JSON beside the image, b values
in its .bval file. A header alone cannot tell the times of frames that are not evenly spaced.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..files import replacing, write_text
from .acquisition import read_object

Frames = dict[str, list[float]]  # {"times": [T]} in s, {"b_values": [T]} in s/mm2, or {} where nothing tells
TIMINGS = ("VolumeTiming", "FrameTimesStart")


def beside(file: str | os.PathLike, ending: str) -> Path:
    """The file of the same name with another ending, such as ".json" or ".bval"."""
    return Path(file).with_name(Path(file).name.split(".nii")[0] + ending)


def read_frames(file: str | os.PathLike) -> Frames:
    """What the files beside a series tell of its frames; b values go first, which no series of times has.

    Raises:
        ValueError: they are no numbers.
    """
    if (bval := beside(file, ".bval")).is_file():
        return {"b_values": _numbers(bval.read_text(encoding="utf-8").split(), bval)}
    sidecar = beside(file, ".json")
    said = read_object(sidecar) if sidecar.is_file() else {}
    times = next((said[name] for name in TIMINGS if name in said), None)
    return {} if times is None else {"times": _numbers(times, sidecar)}


def save_series(
    data: NDArray,
    affine: NDArray,
    path: str | os.PathLike,
    frames: Mapping[str, Sequence[float]] | None = None,
    acquired: Mapping[str, float] | None = None,
) -> None:
    """Writes [X, Y, Z, T] as NIfTI, and beside it what tells the frames apart.

    Args:
        data: the series; [X, Y, Z] is an image that has no frames.
        affine: voxel to RAS mm.
        path: of the image, .nii or .nii.gz; whole or not there.
        frames: see `Frames`. The fourth spacing becomes the median step of the times, in s.
        acquired: BIDS fields for the sidecar, such as RepetitionTime in s.
    """
    frames = frames or {}
    image = nib.Nifti1Image(data, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    if len(times := frames.get("times", ())) > 1:
        image.header.set_zooms((*image.header.get_zooms()[:3], float(np.median(np.diff(times)))))
    with replacing(path) as partial:
        nib.save(image, partial)
    if "b_values" in frames:
        write_text(beside(path, ".bval"), " ".join(f"{b:g}" for b in frames["b_values"]) + "\n")
    said = {**(acquired or {}), **({TIMINGS[0]: list(frames["times"])} if "times" in frames else {})}
    if said:
        write_text(beside(path, ".json"), json.dumps(said, indent=1) + "\n")


def _numbers(values: object, file: Path) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{file}: must hold one number per frame, not {str(values)[:80]}; correct it")
    return numbers
