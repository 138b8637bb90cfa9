"""Checks a subject list before a training wastes a night on it: every file is read, every doubt becomes a finding.

Each frame of a series is looked at, and the series as a whole.

Errors: FILE_MISSING, FILE_UNREADABLE, NOT_3D, NOT_FINITE, CONSTANT, BACKGROUND, BELOW_ZERO, NO_AFFINE,
SFORM_QFORM_DISAGREE, SHAPE_DIFFERS, SPACING_DIFFERS, AXES_DIFFER, SUBJECT_IN_TWO_SPLITS, SAME_IMAGE,
FRAME_COUNT, FRAME_ORDER of times.
Warnings: NEGATIVE, HOT_VOXELS, SKULL, PARTIAL_COVERAGE, MISPLACED, ONE_SEQUENCE_ONLY, HEADER_ALIGNED_ONLY,
FRAMES_UNKNOWN, FRAME_MISSING, FRAME_MOTION, FRAME_TIMES, FRAME_ORDER of b values; PARAMETERS, which only networks that
are told TR, TE and TI refuse; with a network's weights WRONG_NAME and OTHER_PERSON; and SFORM_QFORM_DISAGREE if the two
carry different codes, as they may then mean two spaces (scanner and template) on purpose.
What is an error of a file here is refused by loading, too (`common.data.images`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import write_text
from ..progress import bar
from .acquisition import refused
from .doubts import frame_motion, hot_voxels, misplaced, remaining_skull, uncovered
from .grids import Grid, grid_differences, same_grid
from .images import ERROR, UNREADABLE, WARNING, Problem, image_problems, read_image, unreadable
from .series import files_of, frame_problems
from .subject_validation import FILE_FIELDS, FREE_NAMES, SPLITS
from .subjects import frames_in, list_of, read_subjects, some

if TYPE_CHECKING:
    from ..translation import TranslationNetwork
    from .preparation import Subjects


@dataclass(frozen=True)
class Finding:
    """What is wrong ("error") or doubtful ("warning"); `file` is relative to the list's folder where it lies in it, and
    "" when the subject as a whole is meant."""

    code: str
    severity: str
    subject: str
    file: str
    reason: str


def check(
    dataset_dir: str,
    *,
    subject_list: str = "",
    output_file: str = "",
    grid: str | None = None,
    trust_headers: bool | None = None,
    weights: str = "",
    bundle: str = "",
) -> None:
    """Reads every file of a subject list and reports what is wrong; the exit status is 1 if there is an error.

    Args:
        dataset_dir: the folder that holds subjects.json, or a list.
        subject_list: another list than subjects.json; absolute, or relative to dataset_dir.
        output_file: a JSON file for the findings.
        grid: the sequence, such as T1, onto whose grid the loading will resample the others.
        trust_headers: what is doubtful about where headers place voxels is a warning; by default as the list says.
        weights: file of a network's weights, by which images are found that are not what they are called.
        bundle: the method that the weights are of, such as mri_seq2seq.
    """
    options = {"output_file": output_file, "grid": grid, "trust_headers": trust_headers}
    options |= {"weights": weights, "bundle": bundle}
    findings = check_subjects(str(dataset_dir), subject_list=subject_list, **options)
    if any(finding.severity == ERROR for finding in findings):
        sys.exit(1)


def check_subjects(
    dataset_dir: str | os.PathLike,
    *,
    subject_list: str | os.PathLike = "",
    output_file: str | os.PathLike = "",
    grid: str | None = None,
    trust_headers: bool | None = None,
    weights: str | os.PathLike = "",
    bundle: str = "",
) -> list[Finding]:
    """Reads every file of a subject list once, prints a table of findings and returns them.

    Args:
        dataset_dir: the folder that holds `subjects.json`, or a list.
        subject_list: another list than `subjects.json`; absolute, or relative to dataset_dir.
        output_file: a JSON file for the findings.
        grid: the sequence, such as T1, onto whose grid the loading will resample the others. Grids that differ within a
            subject are then a warning, not an error.
        trust_headers: what is doubtful about where a header places its voxels is a warning, not an error; None is as
            the list says, by which loading goes (`list --trust_headers`).
        weights, bundle: a network, see `common.inference.agreement`; "" compares no names. A subject that has an error
            is passed over, which a warning says.

    Raises:
        FileNotFoundError: there is no such list, or no such weights.
        ValueError: the list is malformed, or has no sequence `grid`; the weights are not the bundle's.
    """
    file = list_of(dataset_dir, subject_list)
    subjects = read_subjects(file, unique=False)
    if grid and grid not in subjects["sequences"]:
        raise ValueError(f"No sequence {grid!r} to resample to: {file} has {', '.join(subjects['sequences'])}")
    trust_headers = subjects.get("trust_headers", False) if trust_headers is None else trust_headers
    named = _network(weights, bundle, file, grid) if weights else None  # refused before the hours that the files take
    entries = [(split, entry) for split in SPLITS for entry in subjects[split]]
    findings = _find_leaks(entries, file.parent)
    seen: dict[str, tuple[str, str, str, str]] = {}
    for split, entry in bar(entries, desc="checking", unit="subjects"):
        entry = {**entry, "frames": frames_in(entry, subjects)}
        findings += _check_subject(entry, split, grid, file.parent, seen, trust_headers)
    if named:
        wrong = {finding.subject for finding in findings if finding.severity == ERROR}
        findings += _find_wrong_labels(*named, {**subjects, "trust_headers": trust_headers}, file.parent, wrong)
    errors = sum(finding.severity == ERROR for finding in findings)
    summary = {"errors": errors, "warnings": len(findings) - errors, "subjects": len(entries)}
    print(_table(findings) + "{errors} errors, {warnings} warnings in {subjects} subjects".format(**summary))
    if output_file:
        report = {"list": file.name, **summary, "findings": [asdict(finding) for finding in findings]}
        write_text(output_file, json.dumps(report, indent=1) + "\n")
    return findings


def _network(
    weights: str | os.PathLike, bundle: str, file: Path, grid: str | None
) -> tuple[TranslationNetwork, Subjects]:
    from ..workflows import network_of

    return network_of(bundle, str(weights), dataset_dir=str(file.parent), subject_list=str(file), grid=grid)


def _find_wrong_labels(
    network: TranslationNetwork, subjects: Subjects, listed: dict, folder: Path, passed_over: set[str]
) -> list[Finding]:
    """Images that a network finds to be others than they are called; the subjects `passed_over` have errors."""
    from ..inference.agreement import wrong_labels

    findings: list[Finding] = []
    refused = [f"there are errors in {some(sorted(passed_over))}"] * bool(passed_over)
    try:
        # As it was read: loading refuses the whole of a list in which one subject stands twice.
        items = [item for item in subjects.items("all", found=listed) if item["subject"] not in passed_over]
    except ValueError as error:  # none of its sequences is the network's
        items, refused = [], [str(error)]
    for item in bar(items, desc="comparing names", unit="subjects"):
        try:
            doubts = list(wrong_labels(network, subjects, item))
        except ValueError as error:  # loading asks for more than the check, such as TR where a network is told it
            doubts = []
            refused.append(str(error))
        for name, code, reason in doubts:
            file = _short(files_of(item["images"][name])[0], folder)
            findings.append(Finding(code, WARNING, item["subject"], file, f"{name} {reason}"))
    if refused:
        warnings.warn(f"not all names were compared: {some(refused)}", stacklevel=3)
    return findings


def _find_leaks(entries: list[tuple[str, dict]], folder: Path) -> list[Finding]:
    """Subjects or image files that stand in the list twice."""
    findings, subjects, files = [], {}, {}
    for split, entry in entries:
        name = entry["subject"]
        if name in subjects:
            reason = f"stands in {subjects[name]} and in {split}; keep it in one, else the test is on training data"
            findings.append(Finding("SUBJECT_IN_TWO_SPLITS", ERROR, name, "", reason))
        for path in (path for value in entry["images"].values() for path in files_of(value)):
            other, place = files.setdefault(path, (name, split))
            if other != name:
                reason = f"the same file is listed for '{other}' in {place} and here in {split}; keep it in one"
                findings.append(Finding("SUBJECT_IN_TWO_SPLITS", ERROR, name, _short(path, folder), reason))
        subjects.setdefault(name, split)
    return findings


def _check_subject(
    entry: dict,
    split: str,
    grid: str | None,
    folder: Path,
    seen: dict[str, tuple[str, str, str, str]],
    trust_headers: bool,
) -> list[Finding]:
    """`seen` has subject, sequence, split and file of each image's digest, and is added to."""
    found: list[tuple[str, Problem]] = []
    grids: dict[str, Grid] = {}
    shown: dict[str, list[np.ndarray]] = {}
    images = {name: files_of(value)[0] for name, value in entry["images"].items()}
    listed = [(field, name, value) for field in FILE_FIELDS for name, value in entry.get(field, {}).items()]
    for field, name, value in listed:
        frames = entry["frames"].get(name) if field not in FREE_NAMES else None
        count = None if isinstance(value, str) else len(value)
        for path in files_of(value):
            series = {"is_series": isinstance(value, str) and (frames is not None or field == "maps")}
            problems, voxels, affine = _check_file(
                Path(path), is_image=field not in FREE_NAMES, trust_headers=trust_headers, **series
            )
            if voxels is not None and field == "images":
                digest = hashlib.sha256(np.ascontiguousarray(voxels, np.float32)).hexdigest()
                problems += _same_image(seen.setdefault(digest, here := (entry["subject"], name, split, path)), here)
            found += [(path, problem) for problem in problems]
            if affine is not None:
                grids[path] = voxels.shape[:3], affine
                count = count or (*voxels.shape, 1)[3]
                wrong = any(severity == ERROR for _, severity, _ in problems)
                if field == "images" and images[name] in grids and not wrong:
                    shown.setdefault(name, []).extend(np.moveaxis(voxels.reshape(*voxels.shape[:3], -1), -1, 0))
        if frames is not None or not isinstance(value, str):
            found += [(files_of(value)[0], problem) for problem in frame_problems(value, frames or {}, count)]
    if split == "training" and len(images) == 1:
        found.append(("", ("ONE_SEQUENCE_ONLY", WARNING, f"only {next(iter(images))}: no pair to learn from")))
    found += _compare_grids(grids, {name: path for name, path in images.items() if path in grids}, grid)
    volumes = {name: frames[0] for name, frames in shown.items()}
    affines = {name: grids[images[name]][1] for name in volumes}
    doubts = {
        "HOT_VOXELS": {name: hot_voxels(volume) for name, volume in volumes.items()},
        "FRAME_MOTION": {name: frame_motion(frames, affines[name]) for name, frames in shown.items()},
        "SKULL": {name: remaining_skull(volume, affines[name]) for name, volume in volumes.items()},
        "PARAMETERS": {
            name: refused(path, entry.get("parameters", {}).get(name), folder)
            for name, path in images.items()
            if name not in entry["frames"] and path == entry["images"][name]
        },
    }
    if volumes:
        own = grids[images[next(iter(volumes))]]
        alike = {name: each for name, each in volumes.items() if not same_grid(*grids[images[name]], *own)}
        doubts |= {"PARTIAL_COVERAGE": uncovered(alike), "MISPLACED": misplaced(alike, own[1])}
    said = [(name, code, text) for code, each in doubts.items() for name, text in each.items() if text]
    found += [(images[name], (code, WARNING, text)) for name, code, text in said]
    return [
        Finding(code, severity, entry["subject"], _short(path, folder), reason)
        for path, (code, severity, reason) in found
    ]


def _same_image(first: tuple[str, str, str, str], here: tuple[str, str, str, str]) -> list[Problem]:
    """A sequence that is a copy of another one, or a person under two names; the very file is found as a leak."""
    (subject, name, split, path), own = first, here
    if path == own[3]:
        return []
    what = f"has the very voxels of {name}" + (f" of '{subject}' in {split}" if subject != own[0] else "")
    advice = "copy the right file" if subject == own[0] else "is it one person? keep both in one split"
    return [("SAME_IMAGE", WARNING if subject != own[0] and split == own[2] else ERROR, f"{what}; {advice}")]


def _compare_grids(grids: dict[str, Grid], images: dict[str, str], wanted: str | None) -> Iterator[tuple[str, Problem]]:
    """File and problem for each file that does not lie on the grid of the subject's `wanted`, or else first, image."""
    if not images:
        return
    name = wanted if wanted in images else next(iter(images))
    advice = (
        f"there is no readable {wanted} to resample to"
        if wanted
        else f"register first (`mri-contrast prepare`), or resample with --grid {name} if the patient lay still"
    )
    for path, own in grids.items():
        differences = list(grid_differences(own, grids[images[name]]))
        if differences and name == wanted:
            found = "; ".join(text for _, text in differences)
            reason = (
                f"not on the grid of {name}: {found}. Only the headers align them, no registration is done here: "
                "register first (`mri-contrast prepare`) unless the patient lay still"
            )
            yield path, ("HEADER_ALIGNED_ONLY", WARNING, reason)
        else:
            for code, text in differences:
                yield path, (code, ERROR, f"not on the grid of {name}: {text}; {advice}")


def _check_file(
    path: Path, *, is_image: bool, trust_headers: bool = False, is_series: bool = False
) -> tuple[list[Problem], np.ndarray | None, np.ndarray | None]:
    """The problems of one file, its voxels if they can be read, and its affine if it is a volume."""
    if not path.is_file():
        return [("FILE_MISSING", ERROR, "no such file; correct the list or fetch the file")], None, None
    try:
        image, voxels = read_image(path)
        options = {"is_image": is_image, "trust_headers": trust_headers, "is_series": is_series}
        problems = [*image_problems(image, voxels, **options)]
    except UNREADABLE as error:
        return [("FILE_UNREADABLE", ERROR, unreadable(path, error))], None, None
    codes = {code for code, severity, _ in problems if severity == ERROR}
    if "FILE_UNREADABLE" in codes:
        return problems, None, None
    return problems, voxels, None if codes & {"NOT_3D", "NO_AFFINE"} else image.affine


def _table(findings: Sequence[Finding]) -> str:
    rows = [("subject", "severity", "code", "file", "reason")] if findings else []
    rows += [(finding.subject, finding.severity, finding.code, finding.file, finding.reason) for finding in findings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "".join("  ".join([*map(str.ljust, row, widths), row[-1]]) + "\n" for row in rows)


def _short(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix() if path and Path(path).is_relative_to(folder) else path
