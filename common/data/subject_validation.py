"""Whether a JSON has the structure of a subject list, see `common.data.subjects`."""

from __future__ import annotations

import math

from .acquisition import NAMES
from .series import validate_frames

SPLITS = ("training", "validation", "test")
FILE_FIELDS = ("images", "masks", "reference", "withheld", "maps")
FREE_NAMES = ("masks", "maps")  # whose names are no sequences


def validate_subjects(subjects: dict, *, where: str, unique: bool = True) -> None:
    """Raises a ValueError that names `where`, subject and field if the structure is not that of a subject list."""
    if not isinstance(subjects, dict):
        raise ValueError(f"{where}: a subject list is a JSON object with 'sequences' and {', '.join(SPLITS)}")
    sequences = subjects.get("sequences")
    if not _is_names(sequences):
        raise ValueError(
            f'{where}: \'sequences\' must be a list of different names such as ["T1", "T2"], not {sequences!r}'
        )
    for key, value in subjects.items():
        if key not in ("sequences", *SPLITS) and isinstance(value, list):
            raise ValueError(f"{where}: unknown field '{key}'; the splits are called {', '.join(SPLITS)}")
    if not isinstance(trusted := subjects.get("trust_headers", False), bool):
        raise ValueError(f"{where}: 'trust_headers' must be true or false, not {trusted!r}")
    if not isinstance(name := subjects.get("name", ""), str):
        raise ValueError(f"{where}: 'name' must be a text, not {name!r}")
    _validate_acquisitions(subjects.get("acquisitions", {}), sequences, where)
    _validate_frames(subjects.get("frames", {}), sequences, where)
    seen: dict[str, str] = {}
    for split in SPLITS:
        entries = subjects.get(split, [])
        if not isinstance(entries, list):
            raise ValueError(f"{where}: '{split}' must be a list of subjects, not {type(entries).__name__}")
        for index, entry in enumerate(entries):
            name = _subject_name(entry, f"{where}: {split}[{index}]")
            _validate_entry(entry, sequences, f"{where}: subject '{name}' ({split})")
            if unique and name in seen:
                raise ValueError(
                    f"{where}: subject '{name}' stands twice, in {seen[name]} and in {split}; "
                    "keep it in one split, else the test is on training data"
                )
            seen[name] = split


def _subject_name(entry: dict, where: str) -> str:
    name = entry.get("subject") if isinstance(entry, dict) else None
    # The name becomes an output folder, so it must not lead out of it.
    if not isinstance(name, str) or not name or name in (".", "..") or set(name) & set("/\\"):
        raise ValueError(f"{where}: 'subject' must be a name without slashes, not {name!r}")
    return name


def _validate_entry(entry: dict, sequences: list[str], where: str) -> None:
    if not entry.get("images"):
        raise ValueError(
            f"{where}: 'images' is empty; give at least one of {', '.join(sequences)}, or remove the subject"
        )
    for field in (*FILE_FIELDS, "parameters"):
        values = entry.get(field, {})
        if not isinstance(values, dict):
            raise ValueError(f"{where}: '{field}' must map names to values, not {values!r}")
        unknown = [name for name in values if field not in FREE_NAMES and name not in sequences]
        if unknown:
            raise ValueError(
                f"{where}: '{field}' has '{unknown[0]}', which is not in 'sequences' "
                f"({', '.join(sequences)}); rename it or add it there"
            )
        for name, value in values.items():
            if field == "parameters":
                _validate_parameters(value, f"{where}: parameters of '{name}'")
            else:
                _validate_files(field, value, f"{where}: '{field}' of '{name}'")
    _validate_frames(entry.get("frames", {}), sequences, where)


def _validate_files(field: str, value: str | list, where: str) -> None:
    """A path; of a sequence also a list of them, one per frame."""
    if isinstance(value, list) and field not in FREE_NAMES:
        if not any(value) or not all(file is None or (isinstance(file, str) and file) for file in value):
            raise ValueError(f"{where} must be file paths, one per frame and null where it is missing, not {value!r}")
    elif not isinstance(value, str) or not value:
        raise ValueError(f"{where} must be a file path, not {value!r}")


def _validate_frames(frames: dict, sequences: list[str], where: str) -> None:
    if not isinstance(frames, dict) or set(frames) - set(sequences):
        raise ValueError(f"{where}: 'frames' must map names of 'sequences' to times or b values, not {frames!r}")
    for name, value in frames.items():
        validate_frames(value, f"{where}: 'frames' of '{name}'")


def _validate_parameters(values: dict, where: str) -> None:
    numbers = values.values() if isinstance(values, dict) else [None]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < math.inf for v in numbers):
        raise ValueError(
            f'{where} must be numbers in ms (FA: degrees) such as {{"TR": 500, "TE": 10, "TI": 0}}, not {values!r}'
        )


def _validate_acquisitions(acquisitions: dict, sequences: list[str], where: str) -> None:
    if not isinstance(acquisitions, dict) or set(acquisitions) - set(sequences):
        raise ValueError(
            f"{where}: 'acquisitions' must map names of 'sequences' to [TR, TE, TI] or [TR, TE, TI, FA], "
            f"not {acquisitions!r}"
        )
    for name, times in acquisitions.items():
        if not isinstance(times, list) or len(times) not in (3, 4):
            raise ValueError(
                f"{where}: 'acquisitions' of '{name}' must be [TR, TE, TI] in ms, with FA in degrees for a "
                f"gradient echo, not {times!r}"
            )
        _validate_parameters(dict(zip(NAMES, times, strict=False)), f"{where}: acquisitions of '{name}'")


def _is_names(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(name, str) and name for name in value)
        and len(set(value)) == len(value)
    )
