"""DICOM files to series: pydicom reads what they are, what is wrong with them is said, dcm2niix converts the rest."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from ..data.acquisition import read_object
from ..files import DiskFull
from ..progress import bar
from .series import Series

if TYPE_CHECKING:
    from pydicom import Dataset

MOST_TILT = 1.0  # degree between the slices' normal and the way from one to the next
MOST_GAP = 1.5  # times the usual distance of two slices
CMS = bytes.fromhex("2a864886f70d0107")  # of a file that was encrypted as a whole, by DICOM's secure media
UNDEFINED = (AttributeError, KeyError, IndexError, TypeError, ValueError)
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "Modality", "PatientID", "PatientName", "StudyInstanceUID", "StudyDate",
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "ProtocolName", "SequenceName", "ImageType",
    "ScanningSequence", "ContrastBolusAgent", "DerivationDescription", "RepetitionTime", "EchoTime", "InversionTime",
    "FlipAngle", "SequenceVariant", "Rows", "Columns", "NumberOfFrames", "ImageOrientationPatient",
    "ImagePositionPatient",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "InstanceNumber", "FrameOfReferenceUID",
]  # fmt: skip


@dataclass
class Scan:
    """The files of one DICOM series, and the header of each."""

    uid: str
    files: list[Path] = field(default_factory=list)
    headers: list[Dataset] = field(default_factory=list)

    @property
    def first(self) -> Dataset:
        return self.headers[0]

    @property
    def patient(self) -> str:
        return f"{self.first.get('PatientID', '')} ({self.first.get('PatientName', '')})"

    @property
    def study(self) -> str:
        return f"{self.first.get('StudyInstanceUID', '')} of {self.first.get('StudyDate') or 'no date'}"

    @property
    def number(self) -> str:
        return str(self.first.get("SeriesNumber") or "")


def pydicom() -> ModuleType:
    """The package, or an error that says where it is listed."""
    try:
        import pydicom
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"DICOM needs pydicom: see requirements-prepare.txt ({error}).") from None
    # A number with a digit too many is no news, a thousand times even less.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    return pydicom


def write_file(header: Dataset, path: Path) -> None:
    """Writes a data set with its meta information; MONAI Label's pydicom is 2, whose words for it are others."""
    if pydicom().__version__.startswith("2."):
        header.is_little_endian, header.is_implicit_VR = True, False
        header.save_as(path, write_like_original=False)
    else:
        header.save_as(path, enforce_file_format=True)


def files_of(folder: Path) -> list[Path]:
    """All files below a folder, sorted, but for hidden ones and those in hidden folders."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [Path(where, name) for name in names if name[0] != "."]
    return sorted(found)


def read_scans(folder: Path) -> list[Scan]:
    """The MR series below a folder, in the order of their numbers; a file that is there twice counts once.

    Raises:
        ValueError: files are encrypted as a whole.
    """
    library, scans, known = pydicom(), {}, set()
    for path in bar(files_of(folder), desc="reading DICOM headers", unit="files", leave=False):
        try:
            header = library.dcmread(path, stop_before_pixels=True, specific_tags=TAGS)
        except (library.errors.InvalidDicomError, *UNDEFINED, OSError, EOFError):
            with path.open("rb") as file:
                if CMS in file.read(64):
                    raise ValueError(f"{path} is encrypted as a whole (CMS): decrypt it first.") from None
            continue
        if header.get("Modality") == "MR" and header.get("Rows") and header.get("SOPInstanceUID") not in known:
            known.add(header.SOPInstanceUID)
            scan = scans.setdefault(header.get("SeriesInstanceUID", ""), Scan(header.get("SeriesInstanceUID", "")))
            scan.files.append(path)
            scan.headers.append(header)
    return sorted(scans.values(), key=lambda scan: (scan.number.zfill(6), scan.uid))


def unpacked(archive: Path, folder: Path) -> Path:
    """The files of a zip, in a folder.

    Raises:
        ValueError: it is damaged, or has a password.
        DiskFull: there is no room for them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as zipped:
            if any(info.flag_bits & 1 for info in zipped.infolist()):
                raise ValueError(f"{archive} is encrypted with a password: unpack it first, and pass the folder.")
            needed, free = sum(info.file_size for info in zipped.infolist()), shutil.disk_usage(folder).free
            if needed > free:
                raise DiskFull(f"{archive} needs {needed / 1e9:.1f} GB unpacked, and {folder} has {free / 1e9:.1f} GB.")
            zipped.extractall(folder)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{archive} is a damaged zip ({error}): copy it again.") from None
    return folder


def problem(scan: Scan) -> str:
    """Why a series cannot be one volume, "" if it may be."""
    sizes = {(int(header.Columns), int(header.Rows)) for header in scan.headers}
    if any("MOSAIC" in header.get("ImageType", ()) for header in scan.headers):
        return "a mosaic, whose slices lie in one picture"
    if len(sizes) > 1:
        return f"slices of different size: {' and '.join(f'{w} x {h}' for w, h in sorted(sizes))}"
    try:
        places = [place for header in scan.headers for place in places_of(header)]
    except UNDEFINED:
        return "slices without a place (ImagePositionPatient, ImageOrientationPatient)"
    directions = {tuple(np.round(direction, 3)) for direction, _ in places}
    if len(directions) > 1:
        return f"slices in {len(directions)} directions, as a localiser's"
    row, column = np.split(np.array(places[0][0]), 2)
    positions, counts = np.unique(np.round([at for _, at in places], 3), axis=0, return_counts=True)
    if len(positions) == 1:
        return "one slice, no volume"
    return _misplaced(positions, counts, np.cross(row, column))


def _misplaced(positions: np.ndarray, counts: np.ndarray, normal: np.ndarray) -> str:
    """Whether slices lack, or lie askew, by their positions [N, 3] in mm and how often each is there."""
    along = np.sort(positions @ normal)
    steps = np.diff(along)
    gap = int(steps.argmax())
    if steps[gap] > MOST_GAP * np.median(steps):
        return (
            f"slices are missing: {steps[gap]:.4g} mm between {along[gap]:.4g} and {along[gap + 1]:.4g} mm, "
            f"{np.median(steps):.4g} mm elsewhere"
        )
    if len(set(counts.tolist())) > 1:
        return f"slices are missing: {counts.min()} to {counts.max()} images of each"
    way = positions[(positions @ normal).argmax()] - positions[(positions @ normal).argmin()]
    tilt = np.degrees(np.arccos(min(1.0, abs(way @ normal) / np.linalg.norm(way))))
    return f"a gantry tilt of {tilt:.1f} degree: its voxels are askew" if tilt > MOST_TILT else ""


def places_of(header: Dataset) -> list[tuple[list[float], list[float]]]:
    """Direction (of rows, then columns) and position of each slice, in a classic or an enhanced image."""
    if "PerFrameFunctionalGroupsSequence" not in header:
        return [(list(map(float, header.ImageOrientationPatient)), list(map(float, header.ImagePositionPatient)))]
    shared, found = header.get("SharedFunctionalGroupsSequence") or [{}], []
    for frame in header.PerFrameFunctionalGroupsSequence:
        turned = next(group for group in (frame, shared[0]) if "PlaneOrientationSequence" in group)
        direction = turned.PlaneOrientationSequence[0].ImageOrientationPatient
        found.append(
            (list(map(float, direction)), list(map(float, frame.PlanePositionSequence[0].ImagePositionPatient)))
        )
    return found


def convert(scans: Sequence[Scan], folder: Path, root: Path) -> list[Series]:
    """Series as NIfTI in a folder, each with what it came from; those that cannot be converted say why.

    Args:
        scans: of one study.
        folder: for what is made, which may be left there.
        root: what is written of a series names it, to be found again.
    """
    found: list[Series] = []
    numbers = [scan.number for scan in scans]
    for k, scan in enumerate(bar(scans, desc="converting DICOM", unit="series", leave=False)):
        name = f"series{scan.number or k + 1}"
        if numbers.count(scan.number) > 1:
            name += f"-{numbers[:k].count(scan.number) + 1}"
        source = {"dicom": str(root), "series_uid": scan.uid}
        said = _said(scan.first)
        if refused := problem(scan):
            found.append(Series(name, None, said, source=source, refused=refused))
            continue
        made, reason = _dcm2niix(scan, folder / name)
        if not made:
            found.append(Series(name, None, said, source=source, refused=reason))
        for letter, path in zip("abcdefghijklmnopqrstuvwxyz", made, strict=False):
            image = nib.load(path)
            sidecar = path.with_suffix(".json")
            both = said | (read_object(sidecar) if sidecar.is_file() else {})
            if len(made) == 1:  # of several, such as magnitude and phase, each has its own
                both["ImageType"] = said["ImageType"] or both.get("ImageType")
            grid = (image.shape, tuple(map(float, nib.affines.voxel_sizes(image.affine))))
            found.append(Series(name + letter * (len(made) > 1), path, both, *grid, source=source))
    return found


def _said(header: Dataset) -> dict[str, Any]:
    """What the rules on series look at, in BIDS' names and units; nothing of the patient."""
    names = ("SeriesDescription", "ProtocolName", "SequenceName", "ContrastBolusAgent", "DerivationDescription")
    said: dict[str, Any] = {name: str(header.get(name) or "") for name in names}
    for name in ("ImageType", "ScanningSequence", "SequenceVariant"):
        value = header.get(name) or ()
        said[name] = value if isinstance(value, str) else "\\".join(map(str, value))
    units = {"RepetitionTime": 1000, "EchoTime": 1000, "InversionTime": 1000, "FlipAngle": 1}
    return said | {name: float(value) / unit for name, unit in units.items() if (value := header.get(name))}


def _dcm2niix(scan: Scan, folder: Path) -> tuple[list[Path], str]:
    """The NIfTI files of a series, or none and what dcm2niix said."""
    try:
        import dcm2niix
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"DICOM needs dcm2niix: see requirements-prepare.txt ({error}).") from None
    files, out = folder / "dicom", folder / "nifti"
    for made in (files, out):
        made.mkdir(parents=True)
    for k, path in enumerate(scan.files):
        linked(path, files / f"{k:05}.dcm")
    asked = [dcm2niix.bin, "-b", "y", "-ba", "y", "-z", "n", "-f", "image", "-o", str(out), str(files)]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    made = sorted(out.glob("*.nii"))
    shutil.rmtree(files)
    if made and done.returncode == 0:
        return made, ""
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "Error" in line or "Warning" in line]
    how = _compression(scan.files[0])
    said = lines[0].strip() if lines else f"status {done.returncode}"
    return [], f"dcm2niix cannot convert it ({said})" + f"; it is compressed as {how}: decompress it first" * bool(how)


def _compression(path: Path) -> str:
    """The name of a file's compression, "" of none."""
    syntax = pydicom().dcmread(path, stop_before_pixels=True).file_meta.get("TransferSyntaxUID")
    return syntax.name if syntax is not None and syntax.is_compressed else ""


def linked(path: Path, place: Path) -> None:
    """A file in another place, without a copy where that can be."""
    try:
        place.symlink_to(path.resolve())
    except OSError:  # Windows asks for a right
        shutil.copy(path, place)


def has_dicom(paths: Iterable[Path]) -> bool:
    """Whether one of the first files is DICOM: `DICM` after 128 bytes."""
    for path in paths:
        with path.open("rb") as file:
            head = file.read(132)
        if head[128:] == b"DICM" or CMS in head[:64]:
            return True
    return False
