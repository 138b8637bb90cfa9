"""Makes the subject list from a folder of NIfTI files.

A layout is a function from a file's path, relative to the root and with POSIX slashes, to a `Match` or to None when
the layout does not know the file. All the rest (grouping, splits, dropping, writing) is the same for every layout.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..options import words
from .subjects import LIST_NAME, SPLITS, drop_sequences, read_subjects, some, write_subjects

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
        entries, people = _entries(root, layout, pattern, names, words(sequences))
        subjects = {"sequences": _in_order(entries, words(sequences), names or {}, root)}
        if splits:
            chosen = _read_splits(Path(str(splits)), people)
        else:
            chosen = _random_splits(people, validation, test, seed, settled)
        subjects |= {split: [entry for entry in entries if chosen[entry["subject"]] == split] for split in SPLITS}
    if drop:
        subjects = drop_sequences(subjects, rule=drop, seed=seed, pairs=pairs, splits=words(drop_splits))
    written = write_subjects(output, subjects)
    print(_summary(subjects))
    return written


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
    fixed = {"brats": brats, "ixi": ixi, "bids": bids}
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


def _entries(
    root: Path, layout: str, pattern: str, names: Mapping[str, str] | None, wanted: Sequence[str]
) -> tuple[list[dict], dict[str, str]]:
    """The subjects, sorted by name, and the person of each."""
    files = list(_files(root, (".nii", ".nii.gz")))
    label, match = _choose(files, layout, pattern, names)
    matches = {path: match(path) for path in files}
    groups, again = _group(matches, wanted)
    if not groups:
        saw = f"it has {len(files)} NIfTI files, such as {some(files)}" if files else "it has no .nii or .nii.gz file"
        raise ValueError(
            f"Nothing in {root} fits {label}{' for ' + ', '.join(wanted) if wanted else ''}: {saw}; "
            f"pass --pattern, such as '{DEFAULT_PATTERN}', and --names for other sequence names"
        )
    if unknown := [path for path, found in matches.items() if not found]:
        warnings.warn(
            f"{len(unknown)} of {len(files)} NIfTI files do not fit {label} and are left out: {some(unknown)}",
            stacklevel=3,
        )
    if again:
        warnings.warn(
            f"{len(again)} further files of a sequence that its subject already has are left out, the first "
            f"in sorted order is used: {some(again)}",
            stacklevel=3,
        )
    sidecars: dict[Path, list[Path]] = {}
    for path in map(Path, _files(root, (".json",))):
        sidecars.setdefault(path.parent, []).append(root / path)
    entries = [_entry(subject, group, root, sidecars) for subject, group in groups.items()]
    return entries, {subject: group["person"] for subject, group in groups.items()}


def _entry(subject: str, group: dict, root: Path, sidecars: Mapping[Path, Sequence[Path]]) -> dict:
    fields = {field: {name: str(root / path) for name, path in group[field].items()} for field in ("images", "masks")}
    fields["parameters"] = {
        name: values
        for name, path in group["images"].items()
        if (values := _acquisition_parameters(Path(path), sidecars))
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


def _acquisition_parameters(image: Path, sidecars: Mapping[Path, Sequence[Path]]) -> dict[str, float]:
    """TR, TE and TI in ms from the JSON sidecars, which have seconds; the nearer sidecar wins (BIDS inheritance)."""
    parts = image.name.split(".nii")[0].split("_")
    values: dict = {}
    for folder in reversed(image.parents):
        for file in sorted(sidecars.get(folder, ()), key=lambda file: len(file.name)):
            own = file.stem.split("_")
            # Beside the image only its own one: that of `sub-01_T1w` must not pass for `sub-01_ce-gadolinium_T1w`.
            if own == parts or (folder != image.parent and own[-1] == parts[-1] and set(own) < set(parts)):
                values |= _read_json(file)
    fields = {"TR": "RepetitionTime", "TE": "EchoTime", "TI": "InversionTime"}
    return {
        name: round(1000 * values[field], 6)
        for name, field in fields.items()
        if isinstance(values.get(field), int | float)
    }


def _read_json(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file}: not a readable JSON file ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file}: must hold a JSON object, not {type(content).__name__}")
    return content


def _random_splits(
    people: Mapping[str, str], validation: float, test: float, seed: int, settled: Mapping[str, str]
) -> dict[str, str]:
    """Subject to split; by person, as two visits of one person are no independent test. Settled subjects stay."""
    if (validation, test) == (0, 1):
        return dict.fromkeys(people, "test")
    if min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(
            f"validation={validation} and test={test} must be shares of the people that leave some for training, such "
            "as 0.1 and 0.1, or 0 and 1 for a test alone"
        )
    split = {people[subject]: settled[subject] for subject in settled if subject in people}
    persons = sorted(set(people.values()))
    random.Random(seed).shuffle(persons)
    total = len(persons)

    def count(share: float, most: int) -> int:
        least = 1 if share > 0 and total >= 3 else 0
        return max(0, min(max(least, round(share * total)), most))

    tests = count(test, total - 1 - (validation > 0))
    validations = count(validation, total - 1 - tests)
    left = {"test": tests, "validation": validations, "training": total}
    for name in split.values():
        left[name] -= 1
    for person in persons:
        if person not in split:
            split[person] = next(name for name, number in left.items() if number > 0)
            left[split[person]] -= 1
    return {subject: split[person] for subject, person in people.items()}


def _read_splits(file: Path, people: Mapping[str, str]) -> dict[str, str]:
    """Subject to split as the user's JSON or CSV file says, under the subject's or the person's name."""
    if not file.is_file():
        raise FileNotFoundError(f"No splits file {file}: pass a JSON or CSV file, see --help")
    pairs = list(_csv_splits(file) if file.suffix.lower() == ".csv" else _json_splits(file))
    split_of: dict[str, str] = {}
    for name, split in pairs:
        if split not in SPLITS:
            raise ValueError(f"{file}: unknown split {split!r} of '{name}'; the splits are {', '.join(SPLITS)}")
        if split_of.setdefault(name, split) != split:
            raise ValueError(f"{file}: '{name}' stands in {split_of[name]} and in {split}; keep it in one")
    chosen = {subject: split_of.get(subject, split_of.get(person)) for subject, person in people.items()}
    if missing := [subject for subject, split in chosen.items() if split is None]:
        raise ValueError(
            f"{file}: {len(missing)} of {len(people)} subjects found are not listed: {some(missing)}; "
            "add them, or move their files away"
        )
    splits_of: dict[str, set] = {}
    for subject, person in people.items():
        splits_of.setdefault(person, set()).add(chosen[subject])
    if torn := [person for person, splits in splits_of.items() if len(splits) > 1]:
        raise ValueError(f"{file}: visits of one person stand in different splits: {some(torn)}; keep them together")
    if absent := sorted(set(split_of) - set(people) - set(people.values())):
        warnings.warn(f"{file}: {len(absent)} listed names have no files: {some(absent)}", stacklevel=3)
    return chosen


def _csv_splits(file: Path) -> Iterator[tuple[str, str]]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        if not {"subject", "split"} <= set(rows.fieldnames or ()):
            raise ValueError(f"{file}: needs the columns subject,split, has {', '.join(rows.fieldnames or ['none'])}")
        yield from ((row["subject"].strip(), (row["split"] or "").strip()) for row in rows)


def _json_splits(file: Path) -> Iterator[tuple[str, str]]:
    for split, names in _read_json(file).items():
        if not isinstance(names, list):
            raise ValueError(f"{file}: '{split}' must be a list of names")
        yield from ((str(name), split) for name in names)


def _summary(subjects: dict) -> str:
    lines = []
    for split in SPLITS:
        has = Counter(name for entry in subjects[split] for name in entry["images"])
        counts = ", ".join(f"{name} {has[name]}" for name in subjects["sequences"])
        lines.append(f"{split:<10} {len(subjects[split]):>5} subjects: {counts}")
    return "\n".join(lines)
