"""Checks a subject list before a training wastes a night on it: every file is read, every doubt becomes a finding.

Errors: FILE_MISSING, FILE_UNREADABLE, NOT_3D, NOT_FINITE, CONSTANT, BACKGROUND, BELOW_ZERO, NO_AFFINE,
SFORM_QFORM_DISAGREE, SHAPE_DIFFERS, SPACING_DIFFERS, AXES_DIFFER, SUBJECT_IN_TWO_SPLITS, SAME_IMAGE.
Warnings: NEGATIVE, HOT_VOXELS, SKULL, PARTIAL_COVERAGE, MISPLACED, ONE_SEQUENCE_ONLY, HEADER_ALIGNED_ONLY; PARAMETERS,
which only networks that are told TR, TE and TI refuse; and SFORM_QFORM_DISAGREE if the two carry different codes, as
they may then mean two spaces (scanner and template) on purpose.
What is an error of a file here is refused by loading, too (`image_problems`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ..files import what_it_is, write_text
from ..progress import bar
from .acquisition import refused
from .doubts import hot_voxels, misplaced, remaining_skull, uncovered
from .subjects import FILE_FIELDS, SPLITS, list_of, read_subjects

# How far apart, in mm, two grids may place the same voxel and still be one grid: far above the rounding of a float32
# header, far below a voxel. Measured at the corners, where a small rotation shows most.
GRID_TOLERANCE_MM = 0.1
UNREADABLE = (OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error, ImageFileError, HeaderDataError)
LARGEST_RATIO = 1100  # no gzip file holds more bytes for each of its own
# Of the voxels that are not 0: interpolation and bias correction leave up to 3 % clearly below it, a z-score half.
MOST_BELOW_ZERO = 0.1

ERROR, WARNING = "error", "warning"
Grid = tuple[tuple[int, ...], np.ndarray]  # shape, affine to mm
Problem = tuple[str, str, str, str]  # code, severity, reason


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
) -> None:
    """Reads every file of a subject list and reports what is wrong; the exit status is 1 if there is an error.

    Args:
        dataset_dir: the folder that holds subjects.json, or a list.
        subject_list: another list than subjects.json; absolute, or relative to dataset_dir.
        output_file: a JSON file for the findings.
        grid: the sequence, such as T1, onto whose grid the loading will resample the others.
        trust_headers: what is doubtful about where headers place voxels is a warning; by default as the list says.
    """
    options = {"output_file": output_file, "grid": grid, "trust_headers": trust_headers}
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

    Raises:
        FileNotFoundError: there is no such list.
        ValueError: the list is malformed, or has no sequence `grid`.
    """
    file = list_of(dataset_dir, subject_list)
    subjects = read_subjects(file, unique=False)
    if grid and grid not in subjects["sequences"]:
        raise ValueError(f"No sequence {grid!r} to resample to: {file} has {', '.join(subjects['sequences'])}")
    trust_headers = subjects.get("trust_headers", False) if trust_headers is None else trust_headers
    entries = [(split, entry) for split in SPLITS for entry in subjects[split]]
    findings = _find_leaks(entries, file.parent)
    seen: dict[str, tuple[str, str, str, str]] = {}
    for split, entry in bar(entries, desc="checking", unit="subjects"):
        findings += _check_subject(entry, split, grid, file.parent, seen, trust_headers)
    errors = sum(finding.severity == ERROR for finding in findings)
    summary = {"errors": errors, "warnings": len(findings) - errors, "subjects": len(entries)}
    print(_table(findings) + "{errors} errors, {warnings} warnings in {subjects} subjects".format(**summary))
    if output_file:
        report = {"list": file.name, **summary, "findings": [asdict(finding) for finding in findings]}
        write_text(output_file, json.dumps(report, indent=1) + "\n")
    return findings


def same_grid(shape_a: Sequence[int], affine_a: np.ndarray, shape_b: Sequence[int], affine_b: np.ndarray) -> str:
    """Compares two voxel grids.

    Args:
        shape_a: number of voxels along each axis, as `shape_b`.
        affine_a: 4 x 4 matrix from voxel to mm, as `affine_b`.

    Returns:
        "" if they are one grid within GRID_TOLERANCE_MM, else what differs, naming both sides:
        "shape (240, 240, 155) against (256, 256, 68); spacing (1, 1, 1) against (0.94, 0.94, 2.5) mm".
    """
    return "; ".join(text for _, text in _differences((tuple(shape_a), affine_a), (tuple(shape_b), affine_b)))


def _differences(a: Grid, b: Grid) -> Iterator[tuple[str, str]]:
    """Finding code and explanation for each way in which two grids differ."""
    (shape_a, affine_a), (shape_b, affine_b) = a, b
    affine_a, affine_b = np.asarray(affine_a, float), np.asarray(affine_b, float)
    if not (is_invertible(affine_a) and is_invertible(affine_b)):
        yield "NO_AFFINE", "an affine that cannot be inverted, so voxels have no place"
        return
    common = np.minimum(shape_a[:3], shape_b[:3])
    if shape_a != shape_b:
        yield "SHAPE_DIFFERS", f"shape {_text(shape_a)} against {_text(shape_b)}"
    spacing_a, spacing_b = (np.linalg.norm(affine[:3, :3], axis=0) for affine in (affine_a, affine_b))
    if np.any(np.abs(spacing_a - spacing_b) * (common - 1) > GRID_TOLERANCE_MM):
        yield "SPACING_DIFFERS", f"spacing {_text(spacing_a)} against {_text(spacing_b)} mm"
    # With the same spacing on both sides, what is left is direction and origin.
    rescaled = affine_b.copy()
    rescaled[:3, :3] *= spacing_a / spacing_b
    shift = _largest_shift(affine_a, rescaled, common)
    if shift > GRID_TOLERANCE_MM:
        axes_a, axes_b = ("".join(nib.aff2axcodes(affine)) for affine in (affine_a, affine_b))
        yield (
            "AXES_DIFFER",
            (
                f"axes {axes_a} from {_text(affine_a[:3, 3])} against {axes_b} from "
                f"{_text(affine_b[:3, 3])} mm, up to {shift:.3g} mm apart"
            ),
        )


def is_invertible(affine: np.ndarray) -> bool:
    """Whether an affine gives every voxel a place of its own."""
    return bool(np.isfinite(affine).all()) and abs(np.linalg.det(affine)) >= 1e-9


def read_image(path: Path) -> tuple[nib.spatialimages.SpatialImage, np.ndarray]:
    """An image and its voxels, from a file that is whole.

    Raises:
        ValueError: the header claims more voxels than the file can hold, which would cost the memory for all of them.
        OSError, EOFError, ...: whatever a damaged file raises, `UNREADABLE` and others; also for a gzip file whose
            checksum is wrong, which nibabel does not read far enough to see.
    """
    image = nib.load(path)
    zipped = path.name.lower().endswith(".gz")
    claimed = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    if claimed > path.stat().st_size * (LARGEST_RATIO if zipped else 1):
        raise ValueError(f"the header claims {_text(image.shape)} voxels, the file has {path.stat().st_size} bytes")
    voxels = np.asanyarray(image.dataobj)
    if zipped:
        with gzip.open(path) as file:
            while file.read(2**22):
                pass
    return image, voxels


def unreadable(path: Path, error: Exception) -> str:
    """Why a file cannot be read, and what to do about it."""
    if path.is_file() and (what := what_it_is(path)):
        return f"it is {what}; copy or download it again"
    zipped = path.is_file() and path.open("rb").read(2) == b"\x1f\x8b"
    if path.name.lower().endswith(".gz") and path.is_file() and path.stat().st_size and not zipped:
        return f"it is not gzipped: rename it to {path.name[:-3]}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{reason}; copy or download it again"


def not_3d(shape: Sequence[int]) -> str:
    """What an image of another shape than [X, Y, Z] is."""
    what = {2: "one slice without a third axis", 4: "a series"}.get(len(shape), "no volume")
    return f"{what}, shape {_text(shape)}; {'give it the volume' if len(shape) == 2 else 'split or average it'}"


def _largest_shift(affine_a: np.ndarray, affine_b: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance in mm between where two affines place a corner of the volume."""
    corners = np.array([[*corner, 1] for corner in product(*((0, size - 1) for size in shape))])
    return float(np.linalg.norm(corners @ (affine_a - affine_b)[:3].T, axis=1).max())


def _find_leaks(entries: list[tuple[str, dict]], folder: Path) -> list[Finding]:
    """Subjects or image files that stand in the list twice."""
    findings, subjects, files = [], {}, {}
    for split, entry in entries:
        name = entry["subject"]
        if name in subjects:
            reason = f"stands in {subjects[name]} and in {split}; keep it in one, else the test is on training data"
            findings.append(Finding("SUBJECT_IN_TWO_SPLITS", ERROR, name, "", reason))
        for path in entry["images"].values():
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
    volumes: dict[str, np.ndarray] = {}
    images = entry["images"]
    for field in FILE_FIELDS:
        for name, path in entry.get(field, {}).items():
            problems, voxels, affine = _check_file(Path(path), is_image=field != "masks", trust_headers=trust_headers)
            if voxels is not None and field == "images":
                digest = hashlib.sha256(np.ascontiguousarray(voxels, np.float32)).hexdigest()
                problems += _same_image(seen.setdefault(digest, here := (entry["subject"], name, split, path)), here)
            found += [(path, problem) for problem in problems]
            if affine is not None:
                grids[path] = voxels.shape[:3], affine
                if field == "images" and not any(severity == ERROR for _, severity, _ in problems):
                    volumes[name] = voxels.reshape(voxels.shape[:3])
    if split == "training" and len(images) == 1:
        found.append(("", ("ONE_SEQUENCE_ONLY", WARNING, f"only {next(iter(images))}: no pair to learn from")))
    found += _compare_grids(grids, {name: path for name, path in images.items() if path in grids}, grid)
    affines = {name: grids[images[name]][1] for name in volumes}
    doubts = {
        "HOT_VOXELS": {name: hot_voxels(volume) for name, volume in volumes.items()},
        "SKULL": {name: remaining_skull(volume, affines[name]) for name, volume in volumes.items()},
        "PARAMETERS": {
            name: refused(path, entry.get("parameters", {}).get(name), folder) for name, path in images.items()
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
        else f"register first (ANTs, elastix, FSL), or resample with --grid {name} if the patient lay still"
    )
    for path, own in grids.items():
        differences = list(_differences(own, grids[images[name]]))
        if differences and name == wanted:
            found = "; ".join(text for _, text in differences)
            reason = (
                f"not on the grid of {name}: {found}. Only the headers align them, no registration is done here: "
                "register first (ANTs, elastix, FSL) unless the patient lay still"
            )
            yield path, ("HEADER_ALIGNED_ONLY", WARNING, reason)
        else:
            for code, text in differences:
                yield path, (code, ERROR, f"not on the grid of {name}: {text}; {advice}")


def _check_file(
    path: Path, *, is_image: bool, trust_headers: bool = False
) -> tuple[list[Problem], np.ndarray | None, np.ndarray | None]:
    """The problems of one file, its voxels if they can be read, and its affine if it is a volume."""
    if not path.is_file():
        return [("FILE_MISSING", ERROR, "no such file; correct the list or fetch the file")], None, None
    try:
        image, voxels = read_image(path)
        problems = [*image_problems(image, voxels, is_image=is_image, trust_headers=trust_headers)]
    except UNREADABLE as error:
        return [("FILE_UNREADABLE", ERROR, unreadable(path, error))], None, None
    codes = {code for code, severity, _ in problems if severity == ERROR}
    if "FILE_UNREADABLE" in codes:
        return problems, None, None
    return problems, voxels, None if codes & {"NOT_3D", "NO_AFFINE"} else image.affine


def image_problems(
    image: nib.spatialimages.SpatialImage, voxels: np.ndarray, *, is_image: bool = True, trust_headers: bool = False
) -> Iterator[Problem]:
    """What is wrong or doubtful in one file, as code, severity and reason: the same for checking and for loading.

    Args:
        image: whose header and affine are looked at.
        voxels: its own, as stored.
        is_image: masks may be empty, and have no background.
        trust_headers: see `check_subjects`.
    """
    if voxels.dtype.kind not in "biuf":
        yield "FILE_UNREADABLE", ERROR, f"voxels are {voxels.dtype}, not plain numbers; convert to magnitude"
        return
    volume = voxels.ndim == 3 or (voxels.ndim == 4 and voxels.shape[3] == 1)
    if not volume:
        yield "NOT_3D", ERROR, f"not 3D: {not_3d(voxels.shape)}"
    if not np.isfinite([low := float(voxels.min()), high := float(voxels.max())]).all():
        count = np.count_nonzero(~np.isfinite(voxels))
        yield "NOT_FINITE", ERROR, f"{count} voxels are NaN or infinite; repair or drop it"
    elif is_image and low == high:  # An empty mask is a subject without a lesion.
        yield "CONSTANT", ERROR, f"every voxel is {low:g}; drop it"
    elif is_image and volume:
        yield from _check_zero(voxels, low, high)
    for code, severity, reason in _check_header(image) if volume else ():
        trusted = trust_headers and is_invertible(image.affine)
        yield code, WARNING if trusted else severity, reason


def _check_zero(voxels: np.ndarray, low: float, high: float) -> Iterator[Problem]:
    """0 is air here: whether it is in this image, [X, Y, Z] or [X, Y, Z, 1]."""
    faces = np.concatenate([np.moveaxis(voxels, axis, 0)[[0, -1]].ravel() for axis in range(3)])
    values, counts = np.unique(faces, return_counts=True)
    air = float(values[counts.argmax()]) if counts.max() > faces.size / 2 else 0.0
    if not air and low >= 0:
        return
    top = float(np.percentile(np.abs(voxels[voxels != 0]), 99))
    if abs(air) > 1e-3 * top:
        yield "BACKGROUND", ERROR, f"the background is {air:g}, not 0; set it to 0, which means air here"
    elif low < 0:
        share = np.count_nonzero(voxels < -0.01 * top) / np.count_nonzero(voxels)
        below = f"{np.count_nonzero(voxels < 0)} voxels below 0, from {low:.4g} up to {high:.4g}"
        if share > MOST_BELOW_ZERO:
            reason = f"{share:.0%} of what is not 0 lies below: z-scored, or signed; pass the unscaled magnitude image"
            yield "BELOW_ZERO", ERROR, f"{below}; {reason}"
        else:
            yield "NEGATIVE", WARNING, f"{below}; taken as air, or as dark tissue where tissue encloses them"


def _check_header(image: nib.spatialimages.SpatialImage) -> Iterator[Problem]:
    if not is_invertible(image.affine):
        yield "NO_AFFINE", ERROR, "the affine cannot be inverted, so voxels have no place; convert from DICOM again"
        return
    if not isinstance(image.header, nib.Nifti1Header):
        return
    sform, qform = (int(image.header[key]) for key in ("sform_code", "qform_code"))
    if not sform and not qform:
        reason = "neither sform nor qform is set, left and right are unknown; convert from DICOM again"
        yield "NO_AFFINE", ERROR, f"{reason}, or trust it (`list --trust_headers`)"
    elif sform and qform:
        shift = _largest_shift(image.header.get_sform(), image.header.get_qform(), image.shape[:3])
        if shift > GRID_TOLERANCE_MM:
            # Different codes may mean two spaces on purpose, such as the scanner's and a template's.
            yield (
                "SFORM_QFORM_DISAGREE",
                ERROR if sform == qform else WARNING,
                (
                    f"sform (code {sform}) and qform (code {qform}) are up to {shift:.3g} mm apart; the sform is used "
                    "here, the qform by some other tools: make them equal, or trust it (`list --trust_headers`)"
                ),
            )


def _table(findings: Sequence[Finding]) -> str:
    rows = [("subject", "severity", "code", "file", "reason")] if findings else []
    rows += [(finding.subject, finding.severity, finding.code, finding.file, finding.reason) for finding in findings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return "".join("  ".join([*map(str.ljust, row, widths), row[-1]]) + "\n" for row in rows)


def _short(path: str, folder: Path) -> str:
    return Path(path).relative_to(folder).as_posix() if path and Path(path).is_relative_to(folder) else path


def _text(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.5g}' for value in values)})"
