"""Finds the subjects in a folder of NIfTI files, and makes their list.

How files are named is a matter of `common.data.names`; the rest (grouping, splits, dropping, writing) is the same for
every layout.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..options import words
from .finding import Found, files_below, found_in, is_synthesised
from .names import DEFAULT_PATTERN, KNOWN, LAYOUTS, SEQUENCES, Layout, from_pattern
from .series import count_frames, files_of
from .splits import random_splits, read_splits
from .subjects import LIST_NAME, SPLITS, drop_sequences, frames_in, read_subjects, some, write_subjects

logger = logging.getLogger(__name__)


def make_list(
    dataset_dir: str | os.PathLike,
    *,
    layout: str = "auto",
    pattern: str = DEFAULT_PATTERN,
    names: Mapping[str, str] | None = None,
    frames: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    sequences: str | Sequence[str] | None = None,
    subject_list: str | os.PathLike = "",
    validation: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    splits: str | os.PathLike | None = None,
    drop: str | None = None,
    pairs: Sequence[Sequence[str]] | None = None,
    drop_splits: str | Sequence[str] = ("training",),
    overwrite: bool = False,
    extend: bool = False,
    trust_headers: bool = False,
) -> Path:
    """Makes the subject list of a folder, prints how many subjects and sequences each split has; returns its path.

    Args:
        dataset_dir: the folder with the NIfTI files.
        layout: brats (2021 and later names), ixi, bids, pattern, folder (of one subject), or auto: what fits first.
            listed takes all from the folder's own subjects.json, to drop sequences into another list.
        pattern: for any other folder, the files' paths below it with the placeholders {subject}, {sequence}, {session}
            of several visits and {frame} of a file per frame; * is any text within a name, .nii.gz is .nii too.
        names: what your pattern's {sequence} texts are called here, such as '{"t1ce": "T1Gd"}'; usual ones are known.
        frames: times in s (times) or b_values of series that no file tells: '{"DCE": {"times": [0, 60, 120]}}'.
        sequences: the sequences to list, such as T1,T2; by default all that were found.
        subject_list: the list to write, by default subjects.json; absolute, or relative to dataset_dir.
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
        trust_headers: you know that sforms (or spacings alone) place the voxels rightly: no doubtful header is refused.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: no folder or splits file, a list is there, or nothing fits.
    """
    folder, file = _list_to_write(dataset_dir, subject_list, overwrite or extend)
    if layout == "listed":
        subjects = read_subjects(folder)
    else:
        known = read_subjects(file) if extend and file.exists() else {}
        shares = None if splits else (validation, test, seed)
        subjects = _listed(folder, (layout, pattern, names), words(sequences), known, shares, splits)
    if drop:
        subjects = drop_sequences(subjects, rule=drop, seed=seed, pairs=pairs, splits=words(drop_splits))
    subjects = _told(subjects, frames or {}) | ({"trust_headers": True} if trust_headers else {})
    written = write_subjects(file, subjects)
    print(_summary(subjects))
    return written


def _told(subjects: dict, frames: Mapping[str, Mapping[str, Sequence[float]]]) -> dict:
    """The list with the frames that the user tells, which hold for all subjects, and take the place of mere counts."""
    if not frames:
        return subjects
    for entry in (entry for split in SPLITS for entry in subjects[split]):
        own = entry.get("frames", {})
        entry["frames"] = {name: value for name, value in own.items() if name not in frames or "count" not in value}
    return {**subjects, "frames": {**subjects.get("frames", {}), **frames}}


def _list_to_write(dataset_dir: str | os.PathLike, subject_list: str | os.PathLike, replace: bool) -> tuple[Path, Path]:
    """The folder, and the list in it."""
    folder = Path(os.path.abspath(Path(str(dataset_dir)).expanduser()))
    file = folder / Path(str(subject_list or LIST_NAME)).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"No folder {folder}: pass the folder that holds the NIfTI files")
    if file.exists() and not replace:
        raise FileExistsError(
            f"{file} exists: pass --overwrite to replace it, --extend to add to it, or --subject_list FILE to make "
            "another list"
        )
    return folder, file


def _listed(
    folder: Path,
    naming: tuple[str, str, Mapping[str, str] | None],
    wanted: Sequence[str],
    known: dict,
    shares: tuple[float, float, int] | None,
    splits: str | os.PathLike | None,
) -> dict:
    """The list of a folder by layout, pattern and names, split at random by `shares` or as the file `splits` says."""
    found = found_in(folder, _choose(list(files_below(folder, (".nii", ".nii.gz"))), *naming), wanted)
    _warn(found)
    order = _in_order(found.entries, wanted, naming[2] or {}, folder)
    before = {entry["subject"]: (split, entry) for split in SPLITS for entry in known.get(split, [])}
    if shares is None:
        chosen = read_splits(Path(str(splits)), found.people)
    else:
        chosen = random_splits(found.people, *shares, {subject: split for subject, (split, _) in before.items()})
    kept = {name: known[name] for name in ("name", "acquisitions", "frames", "trust_headers") if name in known}
    return {"sequences": order, **_split(found.entries, chosen, before), **kept}


def _split(
    entries: Sequence[dict], chosen: Mapping[str, str], before: Mapping[str, tuple[str, dict]]
) -> dict[str, list[dict]]:
    """The entries by split. What a list that is extended withheld stays so, and what it said of its images holds."""
    splits: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for entry in entries:
        _, old = before.get(entry["subject"], ("", {}))
        images = {name: file for name, file in entry["images"].items() if name not in old.get("withheld", {})}
        parameters = {**entry.get("parameters", {}), **old.get("parameters", {})}
        frames = {**entry.get("frames", {}), **old.get("frames", {})}
        kept = {**old, **entry, "images": images, "parameters": parameters, "frames": frames}
        splits[chosen[entry["subject"]]].append({name: value for name, value in kept.items() if value})
    return splits


def find_subjects(
    root: str | os.PathLike, pattern: str = "", split: str = "all", names: Sequence[str] = ()
) -> dict | None:
    """The subjects of a folder that has no list, found as `make_list` does; nothing is written, and a line is logged.

    Args:
        root: the folder.
        pattern: see `make_list`; "" tries what is known.
        split: that is wanted; without a list there is none but "all".
        names: of sequences that are meant by these very texts.

    Returns:
        A subject list, whose subjects are all in "test"; None where the folder has a list and `pattern` is "", or
        `root` is one.

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
            f"Subjects that are found in {folder} are in no split '{split}'. Make a list of them with `mri-contrast "
            f"list {folder}`, or take all with --split all"
        )
    texts = {name: name for name in names}
    files = [path for path in files_below(folder, (".nii", ".nii.gz")) if not is_synthesised(folder / path)]
    if not files:
        raise ValueError(
            f"{folder} has no NIfTI file that a scanner made. DICOM is to be converted and prepared first: "
            "`mri-contrast prepare` does (by dcm2niix), or `complete --prepare`"
        )
    label, match = _the_one_layout(folder, files, pattern, texts)
    found = found_in(folder, (label, match))
    twice = [path for path in found.further if match(path).field == "images"]
    if twice:
        raise ValueError(
            f"{folder}: {len(twice)} files are a sequence that their subject already has ({label}), such as "
            f"{some(twice)}: say which are meant with --pattern, or with a subject list"
        )
    sequences = _in_order(found.entries, (), texts, folder)
    first = found.entries[0]
    taken = ", ".join(
        f"{name} from {Path(files_of(file)[0]).relative_to(folder)}" for name, file in first["images"].items()
    )
    more = f" Not taken: {some(found.unknown)}." if found.unknown else ""
    logger.info(
        f"Without a list: as {label} {folder} has {len(found.entries)} subjects, such as {first['subject']}: {taken}."
        f"{more}"
    )
    return {"sequences": sequences, "training": [], "validation": [], "test": found.entries}


def _the_one_layout(folder: Path, files: Sequence[str], pattern: str, names: Mapping[str, str]) -> tuple[str, Layout]:
    """That which the images fit, by its name: the pattern's or, without one, that which is known."""
    layouts = LAYOUTS if not pattern else {}
    layouts = {**layouts, f"the pattern {pattern or DEFAULT_PATTERN}": from_pattern(pattern or DEFAULT_PATTERN, names)}
    fits = {
        name: [path for path in files if (found := match(path)) and found.field == "images"]
        for name, match in layouts.items()
    }
    several = [f"{name} ({some(paths, 2)})" for name, paths in fits.items() if paths]
    if len(several) == 1:
        return next((name, layouts[name]) for name, paths in fits.items() if paths)
    advice = (
        "say how they are named with --pattern, such as '{subject}/{subject}_{sequence}.nii.gz', where {sequence} is "
        f"{', '.join(dict.fromkeys([*names.values(), *SEQUENCES]))} or a usual name of these; or pass a subject list"
    )
    if several:
        raise ValueError(f"The files of {folder} fit several layouts: {'; '.join(several)}; {advice}")
    raise ValueError(
        f"Nothing in {folder} fits {', '.join(layouts)}: it has {len(files)} files, such as {some(files)}; {advice}"
    )


def _warn(found: Found) -> None:
    endings = "|".join(re.escape(text) for text in KNOWN)
    halves = {name: re.sub(rf"[_-]({endings})$", "", name, flags=re.I) for name in found.people}
    if unsure := [f"{name} of {half}" for name, half in halves.items() if half != name and half in found.people]:
        warnings.warn(
            f"{len(unsure)} subjects look like an image of another one ({some(unsure)}): if so, name the sequence with "
            "--names",
            stacklevel=3,
        )
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
        found = [name for name, match in fixed.items() if any(map(match, files))]
        # What lies beside subjects' folders, such as a template, is no subject.
        subjects = found != ["folder"] or any(map(from_pattern(pattern), files))
        layout = next((name for name in found if name != "folder" or not subjects), "pattern")
    return (layout, fixed[layout]) if layout in fixed else (f"pattern {pattern}", from_pattern(pattern, names))


def _summary(subjects: dict) -> str:
    lines = []
    for split in SPLITS:
        has = Counter(name for entry in subjects[split] for name in entry["images"])
        numbers = [frames_in(entry, subjects) for entry in subjects[split]]
        counts = ", ".join(
            f"{name} {has[name]}{_in_frames(each[name] for each in numbers if name in each)}"
            for name in subjects["sequences"]
        )
        lines.append(f"{split:<10} {len(subjects[split]):>5} subjects: {counts}")
    masks: dict[str, list[str]] = {}
    for entry in (entry for split in SPLITS for entry in subjects[split]):
        for name, file in entry.get("masks", {}).items():
            masks.setdefault(name, []).append(Path(file).name)
    lines += [f"{'masks':<10} {len(files):>5} taken for {name}: {some(files, 2)}" for name, files in masks.items()]
    return "\n".join(lines)


def _in_frames(found: Iterable[dict]) -> str:
    """ " of 4 to 6 frames (times)", "" of none."""
    found = list(found)
    numbers, kinds = sorted(map(count_frames, found)), sorted({next(iter(each)) for each in found})
    if not found:
        return ""
    count = f"{numbers[0]}" if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"
    return f" of {count} frames ({', '.join(kinds)})".replace("count", "neither times nor b values known")
