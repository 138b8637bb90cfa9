"""Finds the sessions in what a user has: DICOM, loose or zipped, or NIfTI, one subject or many."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib

from ..data.acquisition import read_object
from ..data.finding import is_synthesised
from ..data.images import UNREADABLE, unreadable
from ..data.layouts import find_subjects
from ..data.subjects import SPLITS, read_subjects
from .dicom import Scan, convert, files_of, has_dicom, read_scans, unpacked
from .series import Series

logger = logging.getLogger(__name__)


class Session(NamedTuple):
    """One subject: `series(folder)` reads what there is of it, with room in a folder."""

    subject: str
    series: Callable[[Path], list[Series]]


def find_sessions(root: Path, workspace: Path, pattern: str = "") -> list[Session]:
    """The sessions of a folder or a zip.

    NIfTI files are named by their layout (`common.data.layouts`); in a folder of one subject whose names tell nothing,
    by what their sidecars say. DICOM may lie at any depth; several patients or studies are several subjects where each
    has a folder of its own.

    Args:
        root: a folder, or a zip.
        workspace: a folder to unpack to.
        pattern: of NIfTI files, see `common.data.layouts.make_list`.

    Raises:
        FileNotFoundError, ValueError: there is no image, or patients or studies are mixed.
    """
    if not root.exists():
        raise FileNotFoundError(f"No folder or zip {root}: pass what holds DICOM series, or NIfTI files.")
    folder = root
    if root.is_file():
        if root.suffix.lower() != ".zip":
            raise ValueError(f"{root} is one file: pass the folder that holds the session, or a zip of it.")
        folder = unpacked(root, workspace / root.stem)
    name = folder.resolve().name
    files = files_of(folder)
    images = [path for path in files if path.name.lower().endswith((".nii", ".nii.gz"))]
    if not images and has_dicom(files):
        return _dicom_sessions(folder, root, name)
    if has_dicom(path for path in files if path not in images):
        logger.warning(f"{root} has NIfTI files, which are taken, and DICOM, which is not.")
    images = [path for path in images if not is_synthesised(path)]
    if not images:
        raise ValueError(f"{root} has neither DICOM nor a NIfTI file that a scanner made: it has {len(files)} files.")
    if pattern or len({path.parent for path in images}) > 1 or (folder / "subjects.json").is_file():
        return _listed(folder, pattern)
    try:
        return _listed(folder, pattern)
    except ValueError as error:
        logger.info(f"The series are told by their sidecars and names ({str(error).split('; ')[0]}).")
    return [Session(name, lambda _: [_of_file(path) for path in sorted(images)])]


def _listed(folder: Path, pattern: str) -> list[Session]:
    found = find_subjects(folder, pattern) or read_subjects(folder)
    sessions = []
    for entry in (entry for split in SPLITS for entry in found[split]):
        images = dict(entry["images"])

        def series(_: Path, images: dict[str, str] = images) -> list[Series]:
            return [
                _of_file(Path(file) if isinstance(file, str) else file, sequence) for sequence, file in images.items()
            ]

        sessions.append(Session(entry["subject"], series))
    return sessions


def _of_file(file: str | Path | list[str | None], sequence: str = "") -> Series:
    if isinstance(file, list):
        return Series(sequence, None, source={"files": file}, refused="a series in files of one frame each")
    path = Path(file)
    stem, how = path.name.split(".nii")[0], "its file's name" if sequence else ""
    sidecar, source = path.with_name(f"{stem}.json"), {"file": str(path)}
    try:
        said = read_object(sidecar) if sidecar.is_file() else {}
        image = nib.load(path)
    except UNREADABLE as error:
        return Series(stem, None, source=source, refused=unreadable(path, error))
    spacing = tuple(map(float, nib.affines.voxel_sizes(image.affine)))
    return Series(stem, path, said, image.shape, spacing, source, sequence, how)


def _dicom_sessions(folder: Path, root: Path, name: str) -> list[Session]:
    scans = read_scans(folder)
    if not scans:
        raise ValueError(f"{root} has DICOM files, and none is an MR image.")
    groups: dict[str, list[Scan]] = {}
    for scan in scans:
        for part in {_part(path, folder) for path in scan.files}:
            groups.setdefault(part, []).append(scan)
    if "" in groups or len({(scan.patient, scan.study) for scan in scans}) == 1:
        groups = {name: scans}
    for part, group in groups.items():
        _refuse_mixed(root / part if part != name else root, group)
    owners = [{(scan.patient, scan.study) for scan in group} for group in groups.values()]
    if len(set.union(*owners)) < len(owners):
        raise ValueError(f"{root}: one study lies in several of the folders {', '.join(groups)}: give it one folder.")

    def of(group: Sequence[Scan]) -> Callable[[Path], list[Series]]:
        return lambda workspace: convert(group, workspace, root)

    return [Session(part, of(group)) for part, group in groups.items()]


def _part(path: Path, folder: Path) -> str:
    """The folder right below the session's in which a file lies, "" for the session's own."""
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else ""


def _refuse_mixed(place: Path, scans: Sequence[Scan]) -> None:
    for what, values in (
        ("patients", [scan.patient for scan in scans]),
        ("studies", [scan.study for scan in scans]),
    ):
        if len(found := list(dict.fromkeys(values))) > 1:
            both = " and ".join(found[:2])
            raise ValueError(f"{place} holds series of {len(found)} {what}, {both}: give each a folder of its own.")
