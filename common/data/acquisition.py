"""TR, TE and TI of an image, and a gradient echo's flip angle, from where users have them, never in the wrong unit.

An image's parameters are, in this order: what the subject list says of it (`parameters` of the subject, `acquisitions`
of the list), what the BIDS sidecar beside it says, in seconds, and the setting that its sequence has by default.

A spin echo has three parameters, TR, TE and TI in ms. A gradient echo, such as an MPRAGE, has a fourth, FA, its flip
angle in degrees: by that it is known as one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from .mr_signal import setting_of

Parameters = tuple[float, ...]  # TR, TE, TI in ms, and a gradient echo's flip angle in degrees
NAMES = ("TR", "TE", "TI", "FA")

# ms between which a time is believed, wide enough for any spin echo. TI may also be 0: no inversion.
PLAUSIBLE = {"TR": (20.0, 30_000.0), "TE": (0.5, 1000.0), "TI": (5.0, 10_000.0)}
LEAST_TR = 2.0  # ms, of a gradient echo
BIDS = {"TR": "RepetitionTime", "TE": "EchoTime", "TI": "InversionTime"}
# Where a sidecar does not say which kind it is of: spin echoes excite by more degrees, gradient echoes are earlier (s).
EXCITATION, LATEST = 60.0, 0.03


def check_parameters(
    tr: float, te: float, ti: float = 0.0, flip: float = 0.0, *, where: str, seconds: bool = False
) -> Parameters:
    """(TR, TE, TI) in ms, with a flip angle (TR, TE, TI, FA), checked; `where` begins the message of an error.

    Args:
        tr, te, ti: in ms, or with `seconds` in s as in a BIDS sidecar, whose names the message then uses.
        flip: in degrees; 0 is a spin echo.

    Raises:
        ValueError: a time that is no positive number, that is in the other unit by its size, or that does not go with
            the others (TE and TI are shorter than TR).
    """
    unit, factor = ("s", 1000.0) if seconds else ("ms", 1.0)
    times = []
    for (name, (low, high)), value in zip(PLAUSIBLE.items(), (tr, te, ti), strict=True):
        field = f"{where}: {BIDS[name] if seconds else name}"
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
            raise ValueError(f"{field} must be a number in {unit}, not {value!r}.")
        if name == "TI" and value == 0:
            times.append(0.0)
            continue
        if value <= 0:
            raise ValueError(f"{field} is {value:g} {unit}; it must be positive{' or 0' * (name == 'TI')}.")
        low = LEAST_TR if flip and name == "TR" else low
        time = round(value * factor, 6)
        if not low <= time <= high:
            thousand = next((k for k in (1000.0, 0.001) if low <= time * k <= high), None)
            # Too large by 1000 is ms where s belong; in a list of ms that comes from a sidecar that had ms.
            wrong = {1000.0: "seconds", 0.001: "milliseconds taken for seconds", None: None}[thousand]
            hint = f"it looks like {wrong}" if wrong else "check it"
            raise ValueError(
                f"{field} is {value:g} {unit}, outside {low / factor:g} to {high / factor:g} {unit}: {hint}."
            )
        times.append(time)
    if isinstance(flip, bool) or not isinstance(flip, int | float) or not isfinite(flip):
        raise ValueError(f"{where}: the flip angle must be a number in degrees, not {flip!r}.")
    try:
        setting_of(*times, flip)
    except ValueError as error:
        hint = "; an MPRAGE's TR counts from one inversion to the next" if flip and times[2] >= times[0] else ""
        raise ValueError(f"{where}: {error}{hint}.") from None
    return (*times, float(flip)) if flip else tuple(times)


def parameters_by_name(parameters: Sequence[float]) -> dict[str, float]:
    """{"TR": ..., "TE": ..., "TI": ...}, and of a gradient echo "FA"."""
    return {name: value for name, value in zip(NAMES, parameters, strict=False) if value or name != "FA"}


def four(parameters: Sequence[Sequence[float]]) -> list[list[float]]:
    """Rows of TR, TE, TI and FA, which is 0 of a spin echo."""
    return [[*each, *[0.0] * (len(NAMES) - len(each))] for each in parameters]


def read_object(file: str | Path) -> dict:
    """A JSON object, such as a BIDS sidecar.

    Raises:
        ValueError: it is none.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: not a readable JSON file ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: must hold a JSON object, not {type(content).__name__}.")
    return content


def read_sidecar(file: str | Path) -> Parameters | None:
    """What a BIDS sidecar says; None if it has neither RepetitionTime nor EchoTime. Without InversionTime TI is 0.

    Raises:
        ValueError: it is no JSON object, has only one of the two, or `check_parameters` refuses them.
    """
    return _of_mapping(said_by(read_object(file), str(file)), str(file), seconds=True)


def said_by(sidecar: Mapping[str, Any], where: str) -> dict[str, Any]:
    """TR, TE and TI of a sidecar as they stand there, in s, and FA in degrees where it is a gradient echo's.

    That is what ScanningSequence (GR) says or, if it says nothing, a flip angle below 60 degrees and a TE up to 30 ms.
    TR is then from one inversion to the next (RepetitionTimePreparation, if it is there), or between excitations.

    Raises:
        ValueError: of a gradient echo without one flip angle, or whose inversion has no time.
    """
    said, flip = {name: sidecar.get(field) for name, field in BIDS.items()}, sidecar.get("FlipAngle")
    kinds, variants = (str(sidecar.get(field) or "").upper() for field in ("ScanningSequence", "SequenceVariant"))
    is_angle, is_early = _is_positive(flip), _is_positive(said["TE"]) and said["TE"] <= LATEST
    says_nothing = not any(kind in kinds for kind in ("SE", "GR", "IR", "EP"))
    if said["TE"] is None or not ("GR" in kinds or (says_nothing and is_early and is_angle and flip < EXCITATION)):
        return said
    if not is_angle:
        raise ValueError(f"{where}: FlipAngle of a gradient echo must be a number of degrees above 0, not {flip!r}.")
    inverted = _is_positive(said["TI"])
    if not inverted and ("IR" in kinds or "MP" in variants):
        said_so = "An inversion is said (ScanningSequence, SequenceVariant), and no InversionTime"
        raise ValueError(f"{where}: {said_so}: add it.")
    field = "RepetitionTimePreparation" if inverted else "RepetitionTimeExcitation"
    other = sidecar.get(field)
    return said | {"TR": other if other and (inverted or said["TR"] is None) else said["TR"], "FA": flip}


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def inherited_times(image: Path, sidecars: Mapping[Path, Sequence[Path]], unreadable: list[Path]) -> dict[str, float]:
    """TR, TE, TI in ms and FA, unchecked, of all sidecars that speak of an image; the nearer wins (BIDS inheritance).

    Args:
        image: its path below the data set's root.
        sidecars: the JSON files of each folder below that root.
        unreadable: those that are no JSON are added to it: who needs no times is not stopped.
    """
    parts = image.name.split(".nii")[0].split("_")
    values: dict = {}
    for folder in reversed(image.parents):
        for file in sorted(sidecars.get(folder, ()), key=lambda file: len(file.name)):
            own = file.stem.split("_")
            # Beside the image only its own one: that of `sub-01_T1w` must not pass for `sub-01_ce-gadolinium_T1w`.
            if own == parts or (folder != image.parent and own[-1] == parts[-1] and set(own) < set(parts)):
                try:
                    values |= read_object(file)
                except ValueError:
                    unreadable.append(file)
    try:
        return in_ms(said_by(values, str(image)))
    except ValueError:  # which is told when the sidecar is needed
        return {}


def in_ms(said: Mapping[str, Any]) -> dict[str, float]:
    """What `said_by` found, times in ms; without what is no number."""
    numbers = {name: value for name, value in said.items() if isinstance(value, int | float)}
    return {name: value if name == "FA" else round(1000 * value, 6) for name, value in numbers.items()}


def image_parameters(
    image: str | Path | None, listed: Mapping[str, float] | None, setting: Sequence[float], where: str
) -> Parameters:
    """The parameters of one image; see the module.

    Args:
        image: its file, if there is one; the sidecar is the JSON of the same name beside it.
        listed: {"TR": ..., "TE": ..., "TI": ...} in ms and "FA" in degrees from the subject list, if it says anything.
        setting: the parameters where nothing else is known.
        where: names subject and sequence in messages.
    """
    return known_parameters(image, listed, where) or check_parameters(*setting, where=where)


def known_parameters(image: str | Path | None, listed: Mapping[str, float] | None, where: str) -> Parameters | None:
    """`image_parameters`, None where only its sequence's setting would be left.

    Raises:
        ValueError: see `check_parameters`, and a sidecar that cannot be read.
    """
    if (found := _of_mapping(listed or {}, where)) is not None or image is None:
        return found
    sidecar = Path(image).with_name(Path(image).name.split(".nii")[0] + ".json")
    return read_sidecar(sidecar) if sidecar.is_file() else None


def refused(image: str | Path, listed: Mapping[str, float] | None, folder: Path) -> str:
    """What a network that is told TR, TE and TI says of an image, files as seen from `folder`; "" if it takes it."""
    try:
        known_parameters(image, listed, "the list")
    except ValueError as error:
        return f"{str(error).replace(f'{folder}/', '')} A network that is told TR, TE and TI (mri_crl) refuses it"
    return ""


def _of_mapping(values: Mapping[str, float | None], where: str, seconds: bool = False) -> Parameters | None:
    tr, te, ti, flip = (values.get(name) for name in NAMES)
    if tr is None and te is None:
        return None
    if tr is None or te is None:
        raise ValueError(f"{where}: TR is {tr} and TE is {te}; give both, or neither for the sequence's own setting.")
    return check_parameters(tr, te, 0.0 if ti is None else ti, flip or 0.0, where=where, seconds=seconds)
