"""What lies in a folder by a layout: files grouped to subjects and series, and what the sidecars tell of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import nibabel as nib

from ..progress import bar
from .acquisition import inherited_times
from .names import DEFAULT_PATTERN, Layout, Match
from .series import changed_paths, files_of, frames_of
from .subjects import some

SYNTHESISED = b"synthesised"  # what the header of a file that a network made has as its description


class Found(NamedTuple):
    """A folder's subjects by the layout that fits: entries in order, each one's person, and of all `files` those that
    are left out: `further` ones of a sequence that is there, and `unknown` ones."""

    layout: str
    entries: list[dict]
    people: dict[str, str]
    files: list[str]
    further: list[str]
    unknown: list[str]


def found_in(root: Path, layout: tuple[str, Layout], wanted: Sequence[str] = ()) -> Found:
    label, match = layout
    files = list(files_below(root, (".nii", ".nii.gz")))
    matches = {path: _named_by(root, match(path)) for path in files}
    listed = [path for path, found in matches.items() if found]
    headers = bar(listed, desc="reading headers", unit="files", leave=False)
    made = [path for path in headers if is_synthesised(root / path)]
    if made:
        warnings.warn(f"{len(made)} files were made by a network and are left out: {some(made)}", stacklevel=4)
    matches = {path: found for path, found in matches.items() if path not in made}
    groups, further = _group(matches, wanted)
    if not groups:
        saw = f"it has {len(files)} NIfTI files, such as {some(files)}" if files else "it has no .nii or .nii.gz file"
        raise ValueError(
            f"Nothing in {root} fits {label}{' for ' + ', '.join(wanted) if wanted else ''}: {saw}; "
            f"pass --pattern, such as '{DEFAULT_PATTERN}', and --names for other sequence names"
        )
    sidecars: dict[Path, list[Path]] = {}
    for path in map(Path, files_below(root, (".json",))):
        sidecars.setdefault(path.parent, []).append(root / path)
    unreadable: list[Path] = []
    entries = [_entry(subject, group, root, sidecars, unreadable) for subject, group in groups.items()]
    if unreadable:
        links = any(file.is_symlink() and not file.exists() for file in unreadable)
        warnings.warn(
            f"{len(unreadable)} sidecars cannot be read, so their TR, TE and TI are not known: {some(unreadable)}; "
            f"{'fetch them with `datalad get`' if links else 'save them as UTF-8'}",
            stacklevel=4,
        )
    people = {subject: group["person"] for subject, group in groups.items()}
    return Found(label, entries, people, files, further, [path for path, found in matches.items() if not found])


def _named_by(root: Path, found: Match | None) -> Match | None:
    """The match; of a layout that names no subject, the folder does."""
    return found if not found or found.subject else replace(found, person=root.name, subject=root.name)


def is_synthesised(file: str | os.PathLike) -> bool:
    """Whether the header says that a network made it; False for what cannot be read, which others report."""
    try:
        return nib.load(file).header["descrip"].item() == SYNTHESISED
    except Exception:  # a damaged file raises anything
        return False


def _entry(
    subject: str, group: dict, root: Path, sidecars: Mapping[Path, Sequence[Path]], unreadable: list[Path]
) -> dict:
    fields = {
        field: {name: changed_paths(path, lambda file: str(root / file)) for name, path in group[field].items()}
        for field in ("images", "masks")
    }
    fields["parameters"] = {
        name: values
        for name, path in group["images"].items()
        if (values := inherited_times(Path(files_of(path)[0]), sidecars, unreadable))
    }
    fields["frames"] = {name: found for name, path in fields["images"].items() if (found := _frames(path, unreadable))}
    return {"subject": subject, **{field: values for field, values in fields.items() if values}}


def _frames(value: str | list[str | None], unreadable: list[Path]) -> dict:
    """`frames_of`; {} of an image that cannot be read, which the check reports, and a count where a sidecar cannot."""
    try:
        return frames_of(value)
    except ValueError:
        unreadable.append(Path(files_of(value)[0]))
        return {"count": nib.load(value).shape[3] if isinstance(value, str) else len(value)}
    except Exception:  # a damaged file raises anything
        return {}


def _group(matches: Mapping[str, Match | None], wanted: Sequence[str]) -> tuple[dict[str, dict], list[str]]:
    """Person, images and masks of each subject that has an image, sorted; and the paths that came second.

    Files of one frame each become a list in the order of their numbers, from the first that any subject has of the
    sequence; a number that is missing between is None.
    """
    groups: dict[str, dict] = {}
    again, first = [], {}
    for path, found in matches.items():
        if found and (found.field == "masks" or not wanted or found.name in wanted):
            group = groups.setdefault(found.subject, {"person": found.person, "images": {}, "masks": {}})
            there = group[found.field]
            if found.frame is not None and isinstance(there.setdefault(found.name, {}), dict):
                there, name = there[found.name], found.frame
                first[found.name] = min(name, first.get(found.name, name))
            else:
                name = found.name
            if there.setdefault(name, path) != path:
                again.append(path)
    for group in groups.values():
        for name, files in group["images"].items():
            if isinstance(files, dict):
                group["images"][name] = [files.get(number) for number in range(first[name], max(files) + 1)]
    return {subject: groups[subject] for subject in sorted(groups) if groups[subject]["images"]}, again


def files_below(root: Path, endings: tuple[str, ...]) -> Iterator[str]:
    """Paths below root in sorted order, so that no file system decides which files and splits are chosen.

    Each real folder is walked once: links may form a circle.
    """
    walked: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        walked.add(os.path.realpath(folder))
        # Hidden names are version control's and the copies that macOS leaves.
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and os.path.realpath(Path(folder, name)) not in walked
        )
        for name in sorted(files):
            if name.lower().endswith(endings) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()
