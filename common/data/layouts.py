"""Makes the subject list from a folder of NIfTI files.

A layout is a function from a file's path, relative to the root and with POSIX slashes, to a `Match` or to None when
the layout does not know the file. All the rest (grouping, splits, dropping, writing) is the same for every layout.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import nibabel as nib

from ..options import words
from .acquisition import inherited_times
from .splits import random_splits, read_splits
from .subjects import LIST_NAME, SPLITS, drop_sequences, read_subjects, some, write_subjects

logger = logging.getLogger(__name__)
SYNTHESISED = b"synthesised"  # what the header of a file that a network made has as its description
DEFAULT_PATTERN = "{subject}/{sequence}.nii.gz"
SEQUENCES = {
    "T1": ("t1", "t1n", "t1w"),
    "T1Gd": ("t1gd", "t1ce", "t1c", "t1post"),
    "T2": ("t2", "t2w"),
    "FLAIR": ("flair", "t2f", "fla"),
    "PD": ("pd", "pdw"),
}
MASKS = {
    "brain": ("brain_mask", "brainmask", "brain", "mask"),
    "lesion": ("lesion_mask", "lesion"),
    "tumour": ("seg", "tumour_mask", "tumor_mask", "tumour", "tumor"),
}
# What a lower-case text in a file name means: the entry's field and the name in it.
KNOWN = {
    alias: (field, name)
    for field, kinds in (("images", SEQUENCES), ("masks", MASKS))
    for name, aliases in kinds.items()
    for alias in aliases
}


@dataclass(frozen=True)
class Match:
    """What one file is: `field` is "images" or "masks", `name` the sequence or mask; each visit of a `person` is a
    `subject` of its own."""

    person: str
    subject: str
    field: str
    name: str


Layout = Callable[[str], Match | None]


def make_list(
    root: str | os.PathLike,
    *,
    layout: str = "auto",
    pattern: str = DEFAULT_PATTERN,
    names: Mapping[str, str] | None = None,
    sequences: str | Sequence[str] | None = None,
    output: str | os.PathLike | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    splits: str | os.PathLike | None = None,
    drop: str | None = None,
    pairs: Sequence[Sequence[str]] | None = None,
    drop_splits: str | Sequence[str] = ("training",),
    overwrite: bool = False,
    extend: bool = False,
) -> Path:
    """Makes the subject list of a folder and prints how many subjects and sequences each split has.

    Args:
        root: the folder with the NIfTI files.
        layout: brats (2021 and 2023 names), ixi, bids, pattern, or auto: the first of these that fits. listed takes
            subjects, files and splits from the folder's own subjects.json, to drop sequences into another list.
        pattern: for any other folder, the files' paths below root with the placeholders {subject}, {sequence} and, if
            there are several visits per person, {session}; * stands for any text within a name, .nii.gz for .nii too.
        names: what your pattern's {sequence} texts are called here, such as '{"t1ce": "T1Gd"}'; usual ones are known.
        sequences: the sequences to list, such as T1,T2; by default all that were found.
        output: the list to write, by default subjects.json in root.
        validation: share of the people (not files) for validation.
        test: share of the people for the test; 1, with --validation 0, for people that nothing is trained on.
        seed: seed of the random split and of drop.
        splits: your own split instead: a JSON file {"training": [names], "validation": [...], "test": [...]} or a CSV
            file with the columns subject,split. A name is a subject's or a person's.
        drop: simulate missing sequences: random (one to all but one per subject) or pairs (one pairing per subject).
        pairs: the pairings for drop=pairs, such as '[["T1", "T2"], ["T2", "FLAIR"]]'.
        drop_splits: the splits to drop from; the test should stay complete.
        overwrite: replace an existing list.
        extend: replace an existing list, but leave its subjects in their splits, and divide only the new people.

    Returns:
        The path of the written list.

    Raises:
        FileNotFoundError: no such root or splits file.
        FileExistsError: the list exists and neither `overwrite` nor `extend` is set.
        ValueError: an option is wrong, or nothing in the folder fits the layout.
    """
    root = Path(os.path.abspath(Path(str(root)).expanduser()))
    output = Path(str(output)).expanduser() if output else root / LIST_NAME
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {root}: pass the folder that holds the NIfTI files")
    if output.exists() and not (overwrite or extend):
        raise FileExistsError(
            f"{output} exists: pass --overwrite to replace it, --extend to add to it, or --output FILE for another list"
        )
    known = read_subjects(output) if extend and output.exists() else {}
    settled = {entry["subject"]: split for split in SPLITS for entry in known.get(split, [])}
    if layout == "listed":
        subjects = read_subjects(root)
    else:
        found = _find(root, layout, pattern, names, words(sequences))
        entries, people = found.entries, found.people
        _warn(found)
        subjects = {"sequences": _in_order(entries, words(sequences), names or {}, root)}
        if splits:
            chosen = read_splits(Path(str(splits)), people)
        else:
            chosen = random_splits(people, validation, test, seed, settled)
        subjects |= {split: [entry for entry in entries if chosen[entry["subject"]] == split] for split in SPLITS}
    if drop:
        subjects = drop_sequences(subjects, rule=drop, seed=seed, pairs=pairs, splits=words(drop_splits))
    written = write_subjects(output, subjects)
    print(_summary(subjects))
    return written


def find_subjects(root: str | os.PathLike, pattern: str = "", split: str = "all") -> dict | None:
    """The subjects of a folder that has no list, found as `make_list` does; nothing is written, and a line is logged.

    Args:
        root: the folder.
        pattern: see `make_list`; "" tries what is known.
        split: that is wanted; without a list there is none but "all".

    Returns:
        A subject list, whose subjects are all in "test"; None where the folder has a list, or `root` is one.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: nothing fits, or several layouts or files do.
    """
    folder = Path(os.path.abspath(Path(str(root)).expanduser()))
    if not root or folder.is_file() or (not pattern and (folder / LIST_NAME).is_file()):
        return None
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder}: pass the folder that holds the NIfTI files")
    if split != "all":
        raise ValueError(
            f"{folder} has no {LIST_NAME}, which would say who is in the split '{split}': make one with "
            f"`python -m common.data list {folder}`, or leave out --split for all of the folder"
        )
    if not pattern:
        _check_one_layout(folder)
    found = _find(folder, "pattern" if pattern else "auto", pattern or DEFAULT_PATTERN)
    if found.further:
        raise ValueError(
            f"{folder}: {len(found.further)} files are a sequence that their subject already has ({found.layout}), "
            f"such as {some(found.further)}: say which are meant with --pattern, or with a subject list"
        )
    sequences = _in_order(found.entries, (), {}, folder)
    first = found.entries[0]
    taken = ", ".join(f"{name} from {Path(file).relative_to(folder)}" for name, file in first["images"].items())
    more = f" Not taken: {some(found.unknown)}." if found.unknown else ""
    logger.info(
        f"No list in {folder}; as {found.layout} it has {len(found.entries)} subjects, such as {first['subject']}: "
        f"{taken}.{more}"
    )
    return {"sequences": sequences, "training": [], "validation": [], "test": found.entries}


def _check_one_layout(folder: Path) -> None:
    files = list(_files(folder, (".nii", ".nii.gz")))
    layouts = {**LAYOUTS, f"the pattern {DEFAULT_PATTERN}": from_pattern(DEFAULT_PATTERN)}
    fits = {name: [path for path in files if match(path)] for name, match in layouts.items()}
    several = [f"{name} ({some(paths, 2)})" for name, paths in fits.items() if paths]
    if len(several) > 1:
        raise ValueError(
            f"{folder} has no {LIST_NAME}, and its files fit several layouts: {'; '.join(several)}. Say which are "
            f"meant with --pattern, such as '{DEFAULT_PATTERN}', or with a subject list"
        )


def _warn(found: Found) -> None:
    if found.unknown:
        warnings.warn(
            f"{len(found.unknown)} of {len(found.files)} NIfTI files do not fit {found.layout} and are left out: "
            f"{some(found.unknown)}",
            stacklevel=3,
        )
    if found.further:
        warnings.warn(
            f"{len(found.further)} further files of a sequence that its subject already has are left out, the first "
            f"in sorted order is used: {some(found.further)}",
            stacklevel=3,
        )


def _in_order(entries: list[dict], wanted: Sequence[str], names: Mapping[str, str], root: Path) -> list[str]:
    """The sequences that were found, in one order, in which each entry's images are put too."""
    found = {name for entry in entries for name in entry["images"]}
    if absent := [name for name in wanted if name not in found]:
        raise ValueError(f"No file of {', '.join(absent)} in {root}: found {', '.join(sorted(found))}; see --names")
    # dict.fromkeys: each sequence once.
    order = dict.fromkeys(wanted or [*SEQUENCES, *names.values(), *sorted(found)])
    for entry in entries:
        entry["images"] = {name: entry["images"][name] for name in order if name in entry["images"]}
    return [name for name in order if name in found]


def brats(path: str) -> Match | None:
    """BraTS 2021 (`BraTS2021_00001_t1ce`) and 2023 (`BraTS-GLI-00001-000-t1c`; the last number is the visit)."""
    found = re.fullmatch(r"(brats.+?)[_-](t1ce|t1c|t1n|t1|t2w|t2f|t2|flair|seg)\.nii(\.gz)?", Path(path).name, re.I)
    if not found:
        return None
    subject, name = found[1], found[2].lower()
    return Match(re.sub(r"^(BraTS-[A-Z]+-\d+)-\d+$", r"\1", subject), subject, *KNOWN[name])


def ixi(path: str) -> Match | None:
    """IXI (`IXI-T1/IXI002-Guys-0828-T1.nii.gz`): T1, T2 and PD; its MRA and DTI are no contrasts to translate."""
    found = re.fullmatch(r"((IXI\d+)-\w+-\d+)-(T1|T2|PD)\.nii(\.gz)?", Path(path).name)
    return Match(found[2], found[1], "images", found[3]) if found else None


def bids(path: str) -> Match | None:
    """BIDS (`sub-01/ses-02/anat/sub-01_ses-02_T1w.nii.gz`): magnitude T1w, T2w, FLAIR, PDw; T1w with ce-gadolinium."""
    found = re.fullmatch(r"(sub-[^/_]+)/(?:(ses-[^/_]+)/)?anat/(sub-[^/]+)_(T1w|T2w|FLAIR|PDw|mask)\.nii(\.gz)?", path)
    if not found:
        return None
    entities = dict(part.partition("-")[::2] for part in found[3].split("_"))
    agent, field, name = entities.get("ce", "").lower(), *KNOWN[found[4].lower()]
    if agent and name == "T1" and agent.startswith(("gad", "gd")):
        name = "T1Gd"
    elif agent or entities.get("part", "mag") != "mag" or (field == "masks" and entities.get("desc") != "brain"):
        return None
    return Match(found[1], "_".join(filter(None, found.group(1, 2))), field, name)


LAYOUTS: dict[str, Layout] = {"brats": brats, "ixi": ixi, "bids": bids}


def from_pattern(pattern: str, names: Mapping[str, str] | None = None) -> Layout:
    """The layout that a pattern such as "{subject}/{subject}_{sequence}.nii.gz" describes (see `make_list`)."""
    missing = [name for name in ("{subject}", "{sequence}") if name not in pattern]
    if missing:
        raise ValueError(f"The pattern {pattern!r} lacks {missing[0]}: write something like {DEFAULT_PATTERN!r}")
    own = {str(text).lower(): ("masks" if name in MASKS else "images", name) for text, name in (names or {}).items()}
    known = {**KNOWN, **own}
    # Only known texts can be {sequence}: so "A_lesion_mask" is subject A, and "BraTS_1_t1" is subject BraTS_1.
    texts = "|".join(re.escape(text) for text in sorted(known, key=len, reverse=True))
    groups = {"subject": "[^/]+?", "session": "[^/]+?", "sequence": f"(?i:{texts})"}
    expression = re.escape(pattern).replace(r"\*", "[^/]*")
    if pattern.endswith(".nii.gz"):
        expression = expression.removesuffix(r"\.gz") + r"(\.gz)?"
    for name, group in groups.items():
        placeholder = re.escape(f"{{{name}}}")
        expression = expression.replace(placeholder, f"(?P<{name}>{group})", 1).replace(placeholder, f"(?P={name})")

    def match(path: str) -> Match | None:
        found = re.fullmatch(expression, path)
        if not found:
            return None
        parts = found.groupdict()
        subject = "_".join(filter(None, (parts["subject"], parts.get("session"))))
        return Match(parts["subject"], subject, *known[parts["sequence"].lower()])

    return match


def _choose(files: Sequence[str], layout: str, pattern: str, names: Mapping[str, str] | None) -> tuple[str, Layout]:
    fixed = LAYOUTS
    if layout not in (*fixed, "pattern", "auto"):
        raise ValueError(f"Unknown layout {layout!r}: it is auto, {', '.join(fixed)} or pattern")
    own = bool(names) or pattern != DEFAULT_PATTERN
    if layout in fixed and own:
        raise ValueError(
            f"The layout {layout} has its own file names: leave out pattern and names, or pass layout=pattern"
        )
    if layout == "auto" and not own:
        layout = next((name for name, match in fixed.items() if any(map(match, files))), "pattern")
    return (layout, fixed[layout]) if layout in fixed else (f"pattern {pattern}", from_pattern(pattern, names))


class Found(NamedTuple):
    """A folder's subjects by the layout that fits: entries in order, each one's person, and of all `files` those that
    are left out: `further` ones of a sequence that is there, and `unknown` ones."""

    layout: str
    entries: list[dict]
    people: dict[str, str]
    files: list[str]
    further: list[str]
    unknown: list[str]


def _find(
    root: Path, layout: str, pattern: str, names: Mapping[str, str] | None = None, wanted: Sequence[str] = ()
) -> Found:
    files = list(_files(root, (".nii", ".nii.gz")))
    label, match = _choose(files, layout, pattern, names)
    matches = {path: match(path) for path in files}
    made = [path for path, found in matches.items() if found and is_synthesised(root / path)]
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
    for path in map(Path, _files(root, (".json",))):
        sidecars.setdefault(path.parent, []).append(root / path)
    entries = [_entry(subject, group, root, sidecars) for subject, group in groups.items()]
    people = {subject: group["person"] for subject, group in groups.items()}
    return Found(label, entries, people, files, further, [path for path, found in matches.items() if not found])


def is_synthesised(file: str | os.PathLike) -> bool:
    """Whether the header says that a network made it; False for what cannot be read, which others report."""
    try:
        return nib.load(file).header["descrip"].item() == SYNTHESISED
    except Exception:  # a damaged file raises anything
        return False


def _entry(subject: str, group: dict, root: Path, sidecars: Mapping[Path, Sequence[Path]]) -> dict:
    fields = {field: {name: str(root / path) for name, path in group[field].items()} for field in ("images", "masks")}
    fields["parameters"] = {
        name: values for name, path in group["images"].items() if (values := inherited_times(Path(path), sidecars))
    }
    return {"subject": subject, **{field: values for field, values in fields.items() if values}}


def _group(matches: Mapping[str, Match | None], wanted: Sequence[str]) -> tuple[dict[str, dict], list[str]]:
    """Person, images and masks of each subject that has an image, sorted; and the paths that came second."""
    groups: dict[str, dict] = {}
    again = []
    for path, found in matches.items():
        if found and (found.field == "masks" or not wanted or found.name in wanted):
            group = groups.setdefault(found.subject, {"person": found.person, "images": {}, "masks": {}})
            if group[found.field].setdefault(found.name, path) != path:
                again.append(path)
    return {subject: groups[subject] for subject in sorted(groups) if groups[subject]["images"]}, again


def _files(root: Path, endings: tuple[str, ...]) -> Iterator[str]:
    """Paths below root in sorted order, so that no file system decides which files and splits are chosen."""
    for folder, folders, files in os.walk(root, followlinks=True):
        # Hidden names are version control's and the copies that macOS leaves.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(endings) and not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _summary(subjects: dict) -> str:
    lines = []
    for split in SPLITS:
        has = Counter(name for entry in subjects[split] for name in entry["images"])
        counts = ", ".join(f"{name} {has[name]}" for name in subjects["sequences"])
        lines.append(f"{split:<10} {len(subjects[split]):>5} subjects: {counts}")
    return "\n".join(lines)
