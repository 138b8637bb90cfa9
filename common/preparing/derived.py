"""A synthesised image as a derived DICOM series of the study that it was made from."""

from __future__ import annotations

import copy
import datetime
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from ..inference.weights import sha256
from .dicom import Scan, places_of, pydicom, read_scans, unpacked, write_file
from .grids import LPS
from .native import Made, on_grid, sequence_of_grid

if TYPE_CHECKING:
    from pydicom import Dataset

TOP = 4095  # of the pixels, where the image's own values are too few to be whole numbers
FEWEST_LEVELS = 255
OF_THE_STUDY = (
    "PatientName PatientID PatientBirthDate PatientSex PatientAge PatientWeight StudyInstanceUID StudyDate StudyTime "
    "StudyID StudyDescription AccessionNumber ReferringPhysicianName FrameOfReferenceUID PositionReferenceIndicator "
    "MagneticFieldStrength PatientPosition SpecificCharacterSet IssuerOfPatientID"
)


def write_dicom(made: Made, wanted: str, mark: bool = False) -> Path:
    """Writes `<subject>_<target>_dicom/`, a file per slice, where the source series has its slices.

    Args:
        made: the image.
        wanted: the sequence whose series gives the geometry, or "native" for the reference's.
        mark: write "SYNTHESISED" into the pixels.

    Returns:
        The folder, which is whole or not there.

    Raises:
        ValueError: the session was no DICOM, or its series is not where it was.
    """
    sequence = sequence_of_grid(made.record, wanted)
    source = made.record["images"][sequence]["source"]
    if "dicom" not in source:
        raise ValueError(
            f"{made.record['subject']}: its {sequence} was no DICOM, so that --dicom has no study to join."
        )
    with tempfile.TemporaryDirectory(prefix="mri-contrast-") as room:
        scan = _source(Path(source["dicom"]), source["series_uid"], Path(room))
        grid, places = slices(scan)
        data = on_grid(made, grid, np.array(made.record["images"][sequence]["transform"]))
        folder = made.file.with_name(made.file.name.replace(".nii.gz", "_dicom"))
        partial = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
        try:
            for k, each in enumerate(_series(data, scan, made, grid, places, mark)):
                write_file(each, partial / f"IM{k + 1:04}.dcm")
            shutil.rmtree(folder, ignore_errors=True)
            partial.chmod(0o755)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _source(root: Path, uid: str, room: Path) -> Scan:
    if not root.exists():
        raise ValueError(f"{root}, from which the subject was prepared, is gone: --dicom needs it.")
    folder = unpacked(root, room) if root.is_file() else root
    found = next((scan for scan in read_scans(folder) if scan.uid == uid), None)
    if found is None:
        raise ValueError(f"{root} has no series {uid} any more, from which the subject was prepared.")
    found.headers = [pydicom().dcmread(path, stop_before_pixels=True) for path in found.files]
    return found


def slices(scan: Scan) -> tuple[nib.Nifti1Image, np.ndarray]:
    """A series' grid, in RAS and voxels [column, row, slice], and its slices' positions [N, 3] in DICOM's mm."""
    found = [place for header in scan.headers for place in places_of(header)]
    row, column = np.split(np.array(found[0][0]), 2)
    normal = np.cross(row, column)
    positions = np.unique(np.round([at for _, at in found], 4), axis=0)
    positions = positions[np.argsort(positions @ normal)]
    affine = np.eye(4)
    down, across = map(float, _measure(scan.first, "PixelSpacing"))
    affine[:3, 0], affine[:3, 1] = row * across, column * down
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    shape = (int(scan.first.Columns), int(scan.first.Rows), len(positions))
    return nib.Nifti1Image(np.zeros(shape, np.uint8), LPS @ affine), positions


def _measure(header: Dataset, name: str) -> Any:
    """Of a classic image, or of an enhanced one's frames."""
    if name in header:
        return header[name].value
    groups = [*header.SharedFunctionalGroupsSequence, *header.PerFrameFunctionalGroupsSequence]
    return next(g for g in groups if "PixelMeasuresSequence" in g).PixelMeasuresSequence[0][name].value


def _series(data: np.ndarray, scan: Scan, made: Made, grid: nib.Nifti1Image, places: np.ndarray, mark: bool) -> list:
    """The data sets of a series, in the order of its slices."""
    data = data.clip(min=0)
    top = float(data.max()) or 1.0
    factor = 1.0 if FEWEST_LEVELS <= top <= 2**15 - 1 else TOP / top
    pixels = np.round(data * factor).astype(np.uint16)
    common = _common(scan, made, factor, int(pixels.max()), mark)
    axes = (LPS @ grid.affine)[:3, :3]
    sizes = np.linalg.norm(axes, axis=0)
    made_of = []
    for k, place in enumerate(places):
        each = copy.deepcopy(common)
        each.SOPInstanceUID = each.file_meta.MediaStorageSOPInstanceUID = _uid(common.SeriesInstanceUID, k)
        each.InstanceNumber = k + 1
        each.ImagePositionPatient = [f"{value:.6f}"[:16] for value in place]
        each.ImageOrientationPatient = [f"{v:.12f}"[:16] for v in (*(axes[:, 0] / sizes[0]), *(axes[:, 1] / sizes[1]))]
        each.PixelSpacing = [f"{sizes[1]:.8f}", f"{sizes[0]:.8f}"]
        each.SliceThickness = f"{float(_measure(scan.first, 'SliceThickness')):.8f}"
        each.SpacingBetweenSlices = f"{sizes[2]:.8f}"
        each.Rows, each.Columns = data.shape[1], data.shape[0]
        shown = pixels[:, :, k].T
        each.PixelData = (marked(shown, int(pixels.max())) if mark else shown).tobytes()
        made_of.append(each)
    return made_of


def _common(scan: Scan, made: Made, factor: float, top: int, mark: bool) -> Dataset:
    """What all files of the series say."""
    library, first = pydicom(), scan.first
    each = library.Dataset()
    each.file_meta = library.dataset.FileMetaDataset()
    each.file_meta.TransferSyntaxUID = library.uid.ExplicitVRLittleEndian
    each.SOPClassUID = each.file_meta.MediaStorageSOPClassUID = library.uid.MRImageStorage
    each.PatientName, each.PatientID, each.PatientBirthDate, each.PatientSex = first.get("PatientName", ""), "", "", ""
    for name in ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "PatientPosition"):
        setattr(each, name, "")  # to be there, if only empty
    for name in OF_THE_STUDY.split():
        if name in first:
            each[name] = first[name]
    each.BodyPartExamined = first.get("BodyPartExamined") or "BRAIN"
    each.FrameOfReferenceUID = first.get("FrameOfReferenceUID") or library.uid.generate_uid()
    each.PositionReferenceIndicator = first.get("PositionReferenceIndicator", "")
    now = datetime.datetime.now()
    each.InstanceCreationDate = each.ContentDate = each.SeriesDate = now.strftime("%Y%m%d")
    each.InstanceCreationTime = each.ContentTime = each.SeriesTime = now.strftime("%H%M%S")
    sources, weights = list(made.said["sources"]), str(made.said.get("weights_sha256", "unknown"))
    each.Modality, each.Manufacturer = "MR", "MRI contrast synthesis"
    each.ManufacturerModelName = str(made.said.get("bundle", ""))[:64]
    each.SoftwareVersions = str(made.said.get("bundle_version", "unknown"))
    each.SeriesInstanceUID = _uid(sha256(made.file), scan.uid, mark)
    each.SeriesNumber = 9000 + int(first.get("SeriesNumber") or 0) % 900
    each.SeriesDescription = f"{made.target} synthesised from {', '.join(sources)}"[:64]
    each.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
    each.DerivationDescription = (
        f"{made.target} synthesised by a network from {', '.join(sources)} ({made.said.get('bundle', 'unknown')}, "
        f"weights sha256 {weights}). Not acquired, not for clinical use. Pixels are the image's times {factor:g}."
    )
    each.ContentQualification, each.BurnedInAnnotation = "RESEARCH", "NO"  # the mark says nothing of the patient
    each.ImageComments = "SYNTHESISED" + ", marked in the pixels" * mark
    each.ScanningSequence, each.SequenceVariant, each.ScanOptions = "RM", "NONE", ""
    each.MRAcquisitionType = first.get("MRAcquisitionType") or "2D"
    each.RepetitionTime = each.EchoTime = each.EchoTrainLength = None
    each.AcquisitionNumber = None
    each.SamplesPerPixel, each.PhotometricInterpretation = 1, "MONOCHROME2"
    each.BitsAllocated = each.BitsStored = 16
    each.HighBit, each.PixelRepresentation = 15, 0
    each.WindowCenter, each.WindowWidth = str(top // 2), str(max(top, 1))
    each.SourceImageSequence = [_reference(header) for header in scan.headers]
    return each


def _uid(*of: object) -> str:
    """The same for the same image on the same grid, so that it does not come twice into an archive."""
    return pydicom().uid.generate_uid(entropy_srcs=[str(each) for each in of])


def _reference(header: Dataset) -> Dataset:
    found = pydicom().Dataset()
    found.ReferencedSOPClassUID, found.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return found


def marked(pixels: np.ndarray, top: int) -> np.ndarray:
    """A slice [rows, columns] with a word in its upper left corner."""
    from PIL import Image, ImageDraw

    word = Image.new("1", (pixels.shape[1], pixels.shape[0]))
    ImageDraw.Draw(word).text((2, 2), "SYNTHESISED", fill=1)
    return np.where(np.array(word), top, pixels).astype(pixels.dtype)
