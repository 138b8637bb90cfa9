"""Series: images whose last axis is frames, and what tells these apart: times in s (DCE) or b values in s/mm2 (DWI).

These stand where BIDS has them: times as VolumeTiming (or PET's FrameTimesStart) in the JSON beside the image, b values
in its .bval file. A header alone cannot tell the times of frames that are not evenly spaced.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..files import replacing, write_text
from .acquisition import read_object
from .images import ERROR, WARNING, Problem

Frames = dict[str, list[float]]  # {"times": [T]} in s, {"b_values": [T]} in s/mm2, or {} where nothing tells
TIMINGS = ("VolumeTiming", "FrameTimesStart")
LONGEST_STEP = 3600  # s
SECONDS = {"sec": 1.0, "msec": 1e-3, "usec": 1e-6}  # units of a header's fourth spacing
UNITS = {"times": 600.0, "b_values": 1000.0}  # in which networks are told them: 10 min, and 1000 s/mm2


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


def files_of(value: str | Sequence[str | None]) -> list[str]:
    """The files of a sequence in a subject list: of one, or of one per frame those that are not missing."""
    return [value] if isinstance(value, str) else [file for file in value if file]


def changed_paths(value: str | Sequence[str | None], change: Callable[[str], str]) -> str | list[str | None]:
    """The same with each path changed; what is missing stays so."""
    return change(value) if isinstance(value, str) else [file and change(file) for file in value]


def channel_names(sequences: Sequence[str], frames: Mapping[str, int]) -> list[str]:
    """What each channel of a subject's image is: "T1", and of the T frames of a series "DCE 1" to "DCE T"."""
    counts = [(name, frames.get(name, 1)) for name in sequences]
    return [name if count == 1 else f"{name} {k}" for name, count in counts for k in range(1, count + 1)]


def frames_of(value: str | Sequence[str | None]) -> Frames | dict[str, int]:
    """What a subject list is to say of a sequence: `Frames`, {"count": T} if only their number is known, or {} of 3D.

    Of a 4D file without times a second entry is the header's fourth spacing, "step" in s, where it has one: it tells
    no times, but is written again.

    Files of one frame each (None is a missing one) tell b value or time one by one; AcquisitionTime counts from the
    first one.

    Raises:
        ValueError: see `read_frames`.
    """
    if isinstance(value, str):
        image = nib.load(value)
        count = image.shape[3] if len(image.shape) == 4 else 1
        told = (read_frames(value) or {"count": count}) if count > 1 else {}
        step = _step(image) if told and "times" not in told else 0
        return {**told, "step": step} if step else told
    told = [_one_frame(file) if file else {} for file in value]
    for kind in ("b_values", "times"):
        if all(len(each.get(kind, ())) == 1 for each in told):
            numbers = [each[kind][0] for each in told]
            return {kind: numbers if kind == "b_values" else [time - numbers[0] for time in numbers]}
    return {"count": len(value)}


def count_frames(frames: Mapping) -> int:
    """How many frames `frames_of` speaks of."""
    return frames.get("count") or len(frames.get("times") or frames.get("b_values") or [0])


def consecutive(counts: Sequence[int]) -> list[range]:
    """Of sequences of so many frames, the channels that each has of an image."""
    return [range(end - count, end) for count, end in zip(counts, accumulate(counts), strict=True)]


def frame_values(
    sequences: Sequence[str], frames: Mapping[str, Mapping], own: Mapping[str, Mapping] | None = None
) -> list[list[float]]:
    """What a network is told of each sequence's frames: times or b values, in `UNITS`; [0] of 3D, [] of unknown ones.

    Args:
        sequences: S names.
        frames: of those that are series, as the network has them.
        own: a subject's, which go before those; of frames that it lacks at the end it has none.
    """
    values = []
    for name in sequences:
        kind, numbers = next(iter(frames.get(name, {"times": [0.0]}).items()))
        told = (own or {}).get(name, {}).get(kind, [])
        values.append([] if kind == "count" else [each / UNITS[kind] for each in [*told, *numbers[len(told) :]]])
    return values


def frame_problems(value: str | Sequence[str | None], frames: Mapping, count: int | None) -> Iterator[Problem]:
    """What is wrong or doubtful about a series as a whole.

    Args:
        value: its files in the subject list.
        frames: see `frames_of`; {} if nothing is said.
        count: how many there are, with those that are missing; None if the file cannot be read.
    """
    kind, numbers = next(iter(frames.items()), ("count", count))
    if count and frames and count_frames(frames) != count:
        told = f"{count_frames(frames)} {dict(b_values='b values').get(kind, kind.replace('count', 'frames'))}"
        yield "FRAME_COUNT", ERROR, f"has {count} frames, but {told} are told; correct the list, or what it was made of"
    if kind == "count":
        reason = "neither times nor b values are known; put them beside the file (VolumeTiming in a JSON, .bval), or"
        yield "FRAMES_UNKNOWN", WARNING, f"{reason} tell them (`list --frames`)"
    else:
        falls = (k for k, (a, b) in enumerate(pairwise(numbers), 2) if b < a or (b == a and kind == "times"))
        if k := next(falls, 0):
            place = f"do not ascend: {numbers[k - 1]:g} in frame {k} after {numbers[k - 2]:g}"
            if kind == "times":
                yield "FRAME_ORDER", ERROR, f"times {place}; put the frames in order"
            else:
                yield "FRAME_ORDER", WARNING, f"b values {place}"
        if kind == "times" and (step := step_of(frames)) > LONGEST_STEP:
            yield "FRAME_TIMES", WARNING, f"frames are {step:g} s apart; times are in s: are these in ms?"
    if not isinstance(value, str) and (missing := [str(k + 1) for k, file in enumerate(value) if not file]):
        yield "FRAME_MISSING", WARNING, f"frames {', '.join(missing)} of {len(value)} are missing"


def validate_frames(frames: object, where: str) -> None:
    """Raises a ValueError that begins with `where` unless it is what `frames_of` gives of frames."""
    single = isinstance(frames, dict) and len(frames.keys() - {"step"}) == 1 and next(iter(frames)) != "step"
    kind, value = next(iter(frames.items())) if single else ("", None)
    numbers = [value] if kind == "count" else value if kind in ("times", "b_values") else None
    if not isinstance(numbers, list) or not numbers or not all(map(_is_number, numbers)):
        raise ValueError(
            f'{where} must be {{"times": [s, ...]}}, {{"b_values": [s/mm2, ...]}} or {{"count": number}}, '
            f"not {frames!r}"
        )
    if kind == "count" and not (isinstance(value, int) and value > 0):
        raise ValueError(f"{where}: count must be a whole number above 0, not {value!r}")
    if "step" in frames and not (_is_number(frames["step"]) and frames["step"] > 0):
        raise ValueError(f"{where}: step must be a number above 0, in s, not {frames['step']!r}")


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
    if step := step_of(frames):
        image.header.set_zooms((*image.header.get_zooms()[:3], step))
    with replacing(path) as partial:
        nib.save(image, partial)
    write_b_values(path, frames)
    if said := {**(acquired or {}), **times_of(frames)}:
        write_text(beside(path, ".json"), json.dumps(said, indent=1) + "\n")


def step_of(frames: Mapping) -> float:
    """The fourth spacing of a header, in s: the median step of the times, or what the header had; 0 where none is."""
    return float(np.median(np.diff(times))) if len(times := frames.get("times", ())) > 1 else frames.get("step", 0.0)


def times_of(frames: Mapping) -> dict[str, list[float]]:
    """What a sidecar says of the frames."""
    return {TIMINGS[0]: list(frames["times"])} if "times" in frames else {}


def write_b_values(path: str | os.PathLike, frames: Mapping) -> None:
    """The .bval file beside a series that has b values."""
    if "b_values" in frames:
        write_text(beside(path, ".bval"), " ".join(f"{b:g}" for b in frames["b_values"]) + "\n")


def _one_frame(file: str) -> Frames:
    sidecar = beside(file, ".json")
    if (frames := read_frames(file)) or not sidecar.is_file():
        return frames
    clock = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", str(read_object(sidecar).get("AcquisitionTime", "")))
    return {"times": [3600 * float(clock[1]) + 60 * float(clock[2]) + float(clock[3])]} if clock else {}


def _step(image: nib.spatialimages.SpatialImage) -> float:
    """The fourth spacing of a header, in s; 0 where it has none, or in no unit of time."""
    if not isinstance(image, nib.Nifti1Pair):
        return 0.0
    step = float(image.header.get_zooms()[3]) * SECONDS.get(image.header.get_xyzt_units()[1], 0)
    return round(step, 6) if math.isfinite(step) and step > 0 else 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _numbers(values: object, file: Path) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{file}: must hold one number per frame, not {str(values)[:80]}; correct it")
    return numbers
