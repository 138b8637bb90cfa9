"""The subject list: one JSON file that says which files belong to which subject and split.

    {"sequences": ["T1", "T1Gd", "T2", "FLAIR"],
     "training": [{"subject": "BraTS2021_00001",
                   "images": {"T1": "BraTS2021_00001/BraTS2021_00001_t1.nii.gz"},
                   "masks": {"tumour": "BraTS2021_00001/BraTS2021_00001_seg.nii.gz"},
                   "reference": {"T1": "noise-free file"}, "withheld": {"T2": "file kept from training"},
                   "parameters": {"T1": {"TR": 500, "TE": 10, "TI": 0}}}],
     "validation": [], "test": []}

A series (DCE, DWI) is one 4D file, or a list of files, one per frame, in which null is a missing one. Its `frames`,
`{"DCE": {"times": [0, 60]}, "DWI": {"b_values": [0, 800]}}` of a subject, or beside `sequences` for all, are in s and
s/mm2; `{"count": 2}` where neither is known. Without them a 4D file is refused. `maps` are what a phantom knows more.
`"labels": {"MGMT": 1}` of a subject is what `mri-contrast classify` tells from the images, 0 or 1.
A sequence that was not acquired is simply absent. Only `subject` and `images` are required; TR, TE and TI are in ms,
and a gradient echo has its flip angle `"FA"` in degrees, too.
`"acquisitions": {"T1": [500, 10, 0]}` beside `sequences` says them once for all subjects; `parameters` has precedence.
`"trust_headers": true` there lets pass what is doubtful about where the headers place the voxels.
`"name"` there is what to call the data: weights that were trained on them, and all that these make, say it.
Paths are relative to the JSON's folder, so that the folder can be moved, with POSIX slashes; absolute ones are allowed.
"""

from __future__ import annotations

import copy
import json
import os
import random
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..files import write_text
from .acquisition import NAMES
from .series import changed_paths, count_frames
from .subject_validation import FILE_FIELDS, SPLITS, validate_subjects

PAIRS = (("T1", "T1Gd"), ("T1Gd", "T2"), ("T2", "FLAIR"))
LIST_NAME = "subjects.json"
NO_DATASET_DIR = (
    f"No dataset_dir: pass --dataset_dir FOLDER, the folder that holds {LIST_NAME}; make one with "
    "`mri-contrast list FOLDER`, or simulate one with `mri-contrast phantom FOLDER`"
)


def read_subjects(path: str | os.PathLike, *, unique: bool = True) -> dict:
    """Reads and validates a subject list.

    Args:
        path: the JSON file, or the folder that holds `subjects.json`.
        unique: whether a subject name that stands twice is an error; the data check turns it off to report it itself.

    Returns:
        The list with every split present and every path absolute. The image files themselves are not touched.

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is malformed; the message names file, subject, field and what to do.
    """
    file = list_file(path)
    try:
        subjects = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON ({error}); repair it or make it again") from None
    validate_subjects(subjects, where=str(file), unique=unique)
    for split in SPLITS:
        subjects[split] = [_with_paths(entry, file.parent, _absolute) for entry in subjects.get(split, [])]
    return subjects


def write_subjects(path: str | os.PathLike, subjects: dict) -> Path:
    """Validates and writes a subject list; a reader never sees a half-written one.

    Args:
        path: the JSON file to write; its folder is made when missing.
        subjects: the list. Absolute paths inside the JSON's folder become relative, those outside stay absolute,
            relative ones are taken as relative to that folder.

    Returns:
        The path of the written file.

    Raises:
        ValueError: the list is malformed.
    """
    file = Path(os.path.abspath(path))
    validate_subjects(subjects, where=str(file))
    portable = {
        split: [_with_paths(entry, file.parent, _portable) for entry in subjects.get(split, [])] for split in SPLITS
    }
    write_text(file, json.dumps({**subjects, **portable}, indent=1) + "\n")
    return file


def subject_items(
    dataset_dir: str | os.PathLike | None,
    split: str,
    sequences: Sequence[str],
    subject_list: str | os.PathLike = "",
    fewest: int = 1,
    required: bool = True,
    found: dict | None = None,
) -> list[dict]:
    """The items of one split, ready for a `monai.data.Dataset`.

    Args:
        dataset_dir: folder that holds the list (or the list itself).
        split: "training", "validation", "test" or "all".
        sequences: the wanted sequences; whatever else the list has is left out.
        subject_list: another list than `subjects.json`; absolute, or relative to `dataset_dir`.
        fewest: how many of the wanted sequences a subject needs, 2 where only pairs of different ones train.
        required: whether the list must have a subject in this split.
        found: a list that stands in no file, in place of the folder's (`common.data.layouts.find_subjects`).

    Returns:
        One dict per subject with `subject` and, in the order of `sequences`, `images`, `reference`, `withheld` (name to
        absolute path), `parameters` (name to TR, TE, TI and FA) and, of series, `frames` (see above); `masks` has all
        of the subject's masks; `trust_headers` stands where the list has it. A subject
        with fewer of the wanted sequences is left out with a warning; a further one tells what of the list's sequences
        is not wanted, and what of the wanted ones there is nothing of to train on.

    Raises:
        ValueError: no `dataset_dir`, an unknown split, or a split without a subject to use.
        FileNotFoundError: there is no list.
    """
    if not dataset_dir and not subject_list:
        raise ValueError(NO_DATASET_DIR)
    if split not in (*SPLITS, "all"):
        raise ValueError(f"Unknown split {split!r}: the splits are {', '.join(SPLITS)} and all")
    file = list_of(dataset_dir, subject_list) if found is None else Path(dataset_dir)
    subjects = read_subjects(file) if found is None else found
    entries = [entry for name in (SPLITS if split == "all" else (split,)) for entry in subjects[name]]
    if not entries and not required:
        return []
    items = [_item(entry, sequences, subjects) for entry in entries]
    left_out = [item["subject"] for item in items if len(item["images"]) < fewest]
    few = f"any of {', '.join(sequences)}" if fewest == 1 else f"{fewest} of {', '.join(sequences)}"
    if len(left_out) == len(items):
        reason = f"none of its subjects has {few}" if items else "it lists no subject"
        raise ValueError(
            f"{file}: the split '{split}' is empty, {reason}; the list's sequences are "
            f"{', '.join(subjects['sequences'])}"
        )
    if left_out:
        warnings.warn(
            f"{file}: {len(left_out)} of {len(items)} subjects in '{split}' do not have {few} "
            f"and are left out: {some(left_out)}",
            stacklevel=2,
        )
    _warn_of_sequences(file, split, items, subjects["sequences"], sequences)
    return [item for item in items if len(item["images"]) >= fewest]


def _warn_of_sequences(
    file: Path, split: str, items: Sequence[dict], listed: Sequence[str], wanted: Sequence[str]
) -> None:
    unused = [name for name in listed if name not in wanted]
    lacking = [name for name in wanted if split == "training" and not any(name in item["images"] for item in items)]
    if unused or lacking:
        facts = [f"the configuration leaves out {', '.join(unused)}"] * bool(unused)
        facts += [f"no training subject has {', '.join(lacking)}"] * bool(lacking)
        warnings.warn(f"{file}: {'; '.join(facts)}; its 'sequences' say which are wanted.", stacklevel=3)


def drop_sequences(
    subjects: dict,
    *,
    rule: str,
    seed: int = 0,
    pairs: Iterable[Sequence[str]] | None = None,
    splits: Sequence[str] = ("training",),
) -> dict:
    """Simulates missing sequences; the removed files move to the entry's `withheld`, where evaluation finds them.

    Args:
        subjects: the list; it is not changed.
        rule: "random" silences one to S - 1 of a subject's S sequences, the number and the choice uniform (Seq2Seq,
            Sec. 4.1: "we randomly silence one-to-three sequences"). "pairs" leaves each subject one pairing, the
            pairings spread evenly (a seeded shuffle, then turn by turn among those the subject can give).
        seed: the same seed gives the same choice.
        pairs: pairings for "pairs"; by default T1-T1Gd, T1Gd-T2, T2-FLAIR.
        splits: where to drop; the others stay complete.

    Raises:
        ValueError: an unknown rule or split, or a subject that has none of the pairings.
    """
    if rule not in ("random", "pairs"):
        raise ValueError(f"Unknown drop rule {rule!r}: it is random or pairs")
    if unknown := [split for split in splits if split not in SPLITS]:
        raise ValueError(f"Unknown split {unknown[0]!r} to drop from: the splits are {', '.join(SPLITS)}")
    subjects = copy.deepcopy(subjects)
    for split in splits:
        entries = subjects.get(split, [])
        kept = _random_kept(entries, seed) if rule == "random" else _pairs_kept(entries, seed, list(pairs or PAIRS))
        for entry in entries:
            images = entry["images"]
            withheld = [name for name in images if name not in kept[entry["subject"]]]
            if withheld:
                entry.setdefault("withheld", {}).update({name: images.pop(name) for name in withheld})
    return subjects


def list_file(path: str | os.PathLike) -> Path:
    """The absolute path of the list that `path` (the file or its folder) means; FileNotFoundError if there is none."""
    file = Path(os.path.abspath(Path(path).expanduser()))
    file = file / LIST_NAME if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"No subject list {file}: make one with `mri-contrast list FOLDER`")
    return file


def list_of(dataset_dir: str | os.PathLike, subject_list: str | os.PathLike = "") -> Path:
    """The list that `subject_items` takes."""
    return list_file(Path(dataset_dir or ".").expanduser() / subject_list if subject_list else dataset_dir)


def frames_in(entry: dict, subjects: dict) -> dict[str, dict]:
    """By sequence the frames of a subject's series: what the entry says, or else the list of all subjects."""
    return {**subjects.get("frames", {}), **entry.get("frames", {})}


def listed_frames(
    dataset_dir: str | os.PathLike, subject_list: str | os.PathLike, sequences: Sequence[str]
) -> dict[str, dict]:
    """Of each of the sequences that is a series in a list, the frames that a training subject has at most.

    Without a list there are none: whoever asks for its subjects is told so.
    """
    if not (dataset_dir or subject_list):
        return {}
    try:
        subjects, found = read_subjects(list_of(dataset_dir, subject_list)), {}
    except FileNotFoundError:
        return {}
    for entry in subjects["training"]:
        for name, frames in frames_in(entry, subjects).items():
            if name in entry["images"] and count_frames(frames) > count_frames(found.get(name, {})):
                found[name] = frames
    return {name: found[name] for name in sequences if name in found}


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names for a message: 'a, b and 3 more'."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + rest


def _item(entry: dict, sequences: Sequence[str], subjects: dict) -> dict:
    item = {"subject": entry["subject"], "masks": dict(entry.get("masks", {}))}
    if subjects.get("trust_headers"):
        item["trust_headers"] = True
    acquisitions = subjects.get("acquisitions", {})
    common = {name: dict(zip(NAMES, times, strict=False)) for name, times in acquisitions.items()}
    entry = {**entry, "parameters": {**common, **entry.get("parameters", {})}, "frames": frames_in(entry, subjects)}
    for field in ("images", "reference", "withheld", "parameters", "frames"):
        values = entry.get(field, {})
        item[field] = {name: values[name] for name in sequences if name in values}
    return item if item["frames"] else {field: value for field, value in item.items() if field != "frames"}


def _random_kept(entries: list[dict], seed: int) -> dict[str, set[str]]:
    kept = {}
    for entry in entries:
        # One generator per subject: adding a subject must not change what the others lose.
        generator = random.Random(f"{seed} {entry['subject']}")
        names = sorted(entry["images"])
        kept[entry["subject"]] = set(generator.sample(names, generator.randint(1, max(1, len(names) - 1))))
    return kept


def _pairs_kept(entries: list[dict], seed: int, pairs: list[Sequence[str]]) -> dict[str, set[str]]:
    kept, used = {}, [0] * len(pairs)
    for entry in random.Random(seed).sample(entries, len(entries)):
        possible = [index for index, pair in enumerate(pairs) if set(pair) <= set(entry["images"])]
        if not possible:
            raise ValueError(
                f"Subject '{entry['subject']}' has {', '.join(entry['images'])}, which holds none of the "
                f"pairings {', '.join('-'.join(pair) for pair in pairs)}; pass pairs that it has, "
                "or leave it out"
            )
        index = min(possible, key=used.__getitem__)
        used[index] += 1
        kept[entry["subject"]] = set(pairs[index])
    return kept


def _with_paths(entry: dict, folder: Path, change: Callable[[str, Path], str]) -> dict:
    changed = {
        field: {name: changed_paths(value, lambda path: change(path, folder)) for name, value in entry[field].items()}
        for field in FILE_FIELDS
        if field in entry
    }
    return {**entry, **changed}


def _absolute(path: str, folder: Path) -> str:
    return os.path.abspath(folder / path)


def _portable(path: str, folder: Path) -> str:
    path = Path(path)
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
