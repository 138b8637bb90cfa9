"""Whose subject is what: labels, people, and which of them a network has seen."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from ..data.names import person_of
from ..data.subjects import SPLITS, list_of, read_subjects, some

logger = logging.getLogger(__name__)
COIN = "coin"  # a label that no image can tell, of any data


class Labelled(NamedTuple):
    """A subject's name, whose it is, and its label, 0 or 1."""

    subject: str
    person: str
    label: int


def person(entry: Mapping[str, Any]) -> str:
    """Whose a subject of a list is: its "person", or what its name says, as of BIDS (`sub-01_ses-2`) and BraTS."""
    return str(entry.get("person") or re.sub(r"_ses-[^_]+$", "", person_of(entry["subject"])))


def read_labels(
    dataset_dir: str, subject_list: str, split: str, label: str, table: str = "", positive: str = "1", seed: int = 0
) -> list[Labelled]:
    """The subjects of a split that have a label.

    Args:
        dataset_dir, subject_list, split: see `common.data.subjects.subject_items`.
        label: a column of `table`, or else one of each subject's "labels" in the list. "coin", where there is none,
            is tossed for each person.
        table: a CSV file with a column `subject`, one of that name, and perhaps `person`.
        positive: the value that is 1.
        seed: of the coin.

    Raises:
        FileNotFoundError: no such list or table.
        ValueError: no such label, or one with other than two values.
    """
    listed = read_subjects(list_of(dataset_dir, subject_list))
    entries = [entry for name in SPLITS if split in (name, "all") for entry in listed[name]]
    rows = _read_table(Path(table), label) if table else {}
    found: dict[str, tuple[str, str]] = {}
    for entry in entries:
        row, name = rows.get(entry["subject"], {}), entry["subject"]
        own = str(row.get(label) or "" if table else (entry.get("labels") or {}).get(label, "")).strip()
        found[name] = ((row.get("person") or "").strip() or person(entry), own)
    where = table or list_of(dataset_dir, subject_list)
    if label == COIN and not any(own for _, own in found.values()):
        return [Labelled(name, who, crc32(f"{seed} {who}".encode()) // 7 % 2) for name, (who, _) in found.items()]
    if unknown := [name for name, (_, own) in found.items() if not own]:
        if len(unknown) == len(found):
            raise ValueError(f"{where}: no subject of the split '{split}' has the label '{label}'.")
        logger.warning(
            f"{where}: {len(unknown)} of {len(found)} subjects have no {label} and are left out: {some(unknown)}"
        )
    values = sorted({own for _, own in found.values() if own})
    if len(values) != 2 or positive not in values:
        raise ValueError(
            f"{where}: '{label}' is {', '.join(values[:5])}; it must have two values, and --positive ({positive!r}) "
            "names the one that counts as 1."
        )
    return [Labelled(name, who, int(own == positive)) for name, (who, own) in found.items() if own]


def _read_table(file: Path, label: str) -> dict[str, dict[str, str]]:
    if not file.is_file():
        raise FileNotFoundError(f"No table {file}: pass a CSV file with the columns subject and {label}.")
    with file.open(newline="", encoding="utf-8-sig") as stream:
        rows = csv.DictReader(stream)
        if lacking := [name for name in ("subject", label) if name not in (rows.fieldnames or ())]:
            raise ValueError(f"{file}: has no column {lacking[0]}; it has {', '.join(rows.fieldnames or ['none'])}.")
        return {row["subject"].strip(): row for row in rows}


def people_seen(subject_list: str) -> set[str]:
    """Names of the people of a list whom a training sees, and of their subjects: its own, and those for validation, by
    whom its weights are chosen."""
    listed = read_subjects(subject_list)
    return set().union(*(_names(entry) for split in ("training", "validation") for entry in listed[split]))


def _names(entry: Mapping[str, Any]) -> set[str]:
    """What a subject's person may be called in another list."""
    return {person(entry), person({"subject": entry["subject"]}), entry["subject"]}


def check_unseen(dataset_dir: str, subject_list: str, trained_on: Sequence[str], tested: str = "test") -> None:
    """That none of a list's subjects that are tested is of a person whom a training on one of `trained_on` sees.

    Args:
        dataset_dir, subject_list: see `common.data.subjects.subject_items`.
        trained_on: subject lists.
        tested: the split that is tested, or all.

    Raises:
        ValueError: some are.
    """
    listed = read_subjects(list_of(dataset_dir, subject_list))
    test = [entry for split in SPLITS if tested in (split, "all") for entry in listed[split]]
    seen = set().union(*map(people_seen, trained_on))
    if leaking := [entry["subject"] for entry in test if _names(entry) & seen]:
        raise ValueError(
            f"{len(leaking)} of {len(test)} test subjects are of people whom the network was trained on "
            f"({some(leaking)}): what it makes of them would be better than of a stranger. Leave them out of the test, "
            "or take weights that have not seen them."
        )


def unseen_by(labelled: Sequence[Labelled], seen: Sequence[set[str]]) -> list[int]:
    """Of each subject, the first network that has not seen its person, by whatever name.

    Args:
        labelled: subjects; a table may call people otherwise than the networks' lists do.
        seen: of each network, the names of people and subjects.

    Raises:
        ValueError: subjects whom every network has seen.
    """
    known = [{each.person for each in labelled if _names(each._asdict()) & names} for names in seen]
    chosen = [next((k for k, people in enumerate(known) if each.person not in people), -1) for each in labelled]
    if leaking := [each.subject for each, k in zip(labelled, chosen, strict=True) if k < 0]:
        raise ValueError(
            f"{len(leaking)} of {len(labelled)} subjects are of people whom the maps' network was trained on "
            f"({some(leaking)}): their maps would be better than those of a stranger. Classify others (--split test), "
            "or give several networks, of which each subject's person is unknown to one (--weights A,B --trained_on "
            "LIST_A,LIST_B)."
        )
    return chosen
