"""Who trains, validates and tests: at random or as the user's file says, but all visits of one person together."""

from __future__ import annotations

import csv
import random
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from .acquisition import read_object
from .subjects import SPLITS, some


def random_splits(
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


def read_splits(file: Path, people: Mapping[str, str]) -> dict[str, str]:
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
    for split, names in read_object(file).items():
        if not isinstance(names, list):
            raise ValueError(f"{file}: '{split}' must be a list of names")
        yield from ((str(name), split) for name in names)
