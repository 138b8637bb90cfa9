"""A head whose brain is known, and DICOM made from it as scanners make it, by pydicom."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

STUDY = "1.2.826.0.1.3680043.8.498.1"
TIMES = {"T1": (500, 10, 0), "T2": (5000, 100, 0), "FLAIR": (9000, 100, 2500)}
DESCRIPTIONS = {"T1": "t1_se_tra", "T2": "t2_tse_tra", "FLAIR": "t2_tirm_tra_dark-fluid"}


def _brain(places: np.ndarray) -> np.ndarray:
    """Which places [..., 3] in mm lie in the brain, an ellipsoid of 1,300 ml."""
    return ((places / [62.0, 78.0, 64.0]) ** 2).sum(-1) <= 1


@pytest.fixture(scope="session")
def anatomy() -> Callable[[np.ndarray], np.ndarray]:
    """Tissue from -1 to 1 at places [..., 3] in mm, blobs of about 8 mm."""
    from scipy.ndimage import map_coordinates

    blobs = gaussian_filter(np.random.default_rng(0).normal(size=(64, 64, 64)), 2)
    blobs /= np.abs(blobs).max()
    return lambda places: map_coordinates(blobs, np.moveaxis(places / 4 + 32, -1, 0), order=3, mode="nearest")


@pytest.fixture
def head(anatomy: Callable[[np.ndarray], np.ndarray]) -> Callable[..., tuple[nib.Nifti1Image, np.ndarray]]:
    """An image of the head with noise in air, and its brain mask: of a contrast, spacing, moved by `move` (4 x 4)."""

    def make(
        contrast: str = "T1", spacing: tuple[float, ...] = (3, 3, 4), turn: float = 4.0, move: np.ndarray | None = None
    ) -> tuple[nib.Nifti1Image, np.ndarray]:
        shape = np.ceil(np.array([170, 200, 160]) / spacing).astype(int)
        affine = np.eye(4)
        turned = Rotation.from_euler("xyz", [turn, -turn / 2, turn / 3], degrees=True).as_matrix()
        affine[:3, :3] = turned @ np.diag([-spacing[0], -spacing[1], spacing[2]])
        affine[:3, 3] = -affine[:3, :3] @ (shape - 1) / 2
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
        at = nib.affines.apply_affine(affine if move is None else np.linalg.inv(move) @ affine, grid)
        brain, scalp = _brain(at), _brain(at / 1.15) & ~_brain(at / 1.08)
        tissue = 500 + {"T1": 300, "T2": -350, "FLAIR": 200}.get(contrast, 300) * anatomy(at)
        noise = np.random.default_rng(len(contrast)).normal(size=(2, *shape)) * 10
        data = np.hypot(np.where(brain, tissue, np.where(scalp, 700, 0)) + noise[0], noise[1])
        return nib.Nifti1Image(data.round().astype(np.int16), affine), brain

    return make


@pytest.fixture
def write_series() -> Callable[..., list[Path]]:
    """Writes an image as one DICOM series, a file per slice, in no order; keywords are DICOM's attributes."""
    pytest.importorskip("pydicom", reason="requirements-prepare.txt is not installed")
    return _write_series


def _write_series(folder: Path, image: nib.Nifti1Image, number: int, contrast: str = "T1", **said: Any) -> list[Path]:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

    from common.preparing.dicom import write_file

    data, affine = np.asarray(image.dataobj).astype(np.int16), np.diag([-1, -1, 1, 1]) @ image.affine
    spacing = nib.affines.voxel_sizes(affine)
    files = list(range(data.shape[2]))
    random.Random(number).shuffle(files)
    folder.mkdir(parents=True, exist_ok=True)
    for k, file in enumerate(files):
        each = Dataset()
        each.file_meta = FileMetaDataset()
        each.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        each.SOPClassUID = each.file_meta.MediaStorageSOPClassUID = MRImageStorage
        each.SOPInstanceUID = each.file_meta.MediaStorageSOPInstanceUID = f"{STUDY}.{number}.{k + 1}"
        each.Modality, each.Manufacturer = "MR", "Maker"
        each.PatientID, each.PatientName, each.StudyDate = "P1", "Doe^Jane", "20200101"
        each.StudyInstanceUID, each.SeriesInstanceUID = STUDY, f"{STUDY}.{number}"
        each.FrameOfReferenceUID, each.SeriesNumber, each.InstanceNumber = f"{STUDY}.9", number, k + 1
        each.ImageType, each.ScanningSequence, each.SequenceVariant = ["ORIGINAL", "PRIMARY", "M"], "SE", "NONE"
        each.MRAcquisitionType, each.SeriesDescription = "2D", DESCRIPTIONS.get(contrast, contrast)
        times = TIMES.get(contrast, TIMES["T1"])
        each.RepetitionTime, each.EchoTime, each.InversionTime = (str(time) for time in times)
        each.Rows, each.Columns = data.shape[1], data.shape[0]
        directions = [*(affine[:3, 0] / spacing[0]), *(affine[:3, 1] / spacing[1])]
        each.ImageOrientationPatient = [f"{value:.10f}" for value in directions]
        each.ImagePositionPatient = [f"{value:.8f}" for value in affine[:3, :3] @ [0, 0, k] + affine[:3, 3]]
        each.PixelSpacing = [f"{spacing[1]:.8f}", f"{spacing[0]:.8f}"]
        each.SliceThickness = each.SpacingBetweenSlices = f"{spacing[2]:.8f}"
        each.SamplesPerPixel, each.PhotometricInterpretation = 1, "MONOCHROME2"
        each.BitsAllocated, each.BitsStored, each.HighBit, each.PixelRepresentation = 16, 16, 15, 1
        each.PixelData = data[:, :, k].T.tobytes()
        for name, value in said.items():
            setattr(each, name, value(k) if callable(value) else value)
        write_file(each, folder / f"IM{file:04}")
    return [folder / f"IM{file:04}" for file in files]
