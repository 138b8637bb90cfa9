"""Files that are not what this server reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

ADVICE = (
    "Convert each series to one NIfTI file first (dcm2niix -z y -o NIFTI_FOLDER DICOM_FOLDER makes one of each series)."
)
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


def check_nifti(name: str, file: BinaryIO) -> None:
    """Raises a ValueError, which says what to do, for a file that is not called .nii or .nii.gz, or is DICOM inside.

    Args:
        name: that the client gives it.
        file: at its beginning, where it is left.
    """
    head = file.read(132)
    file.seek(0)
    if head[128:] == b"DICM" or name.lower().endswith((".dcm", ".dicom", ".ima")):
        raise ValueError(f"{name} is DICOM, which is not read here. {ADVICE}")
    if head[:4] == b"PK\3\4" or name.lower().endswith(ARCHIVES):
        raise ValueError(
            f"{name} is an archive, and nothing is unpacked here: send one image, .nii or .nii.gz. If it "
            f"holds DICOM files: {ADVICE}"
        )
    if not name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{name or 'A file without a name'} is not called .nii or .nii.gz: send one NIfTI file.")


def first_dicom(folder: Path, most: int = 1000) -> Path | None:
    """A DICOM file in a folder, of the first files that are looked into."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return next((path for path in _first(files, most) if _is_dicom(path)), None)


def _first(files: Iterable[Path], most: int) -> Iterable[Path]:
    return (path for path, _ in zip(files, range(most), strict=False))


def _is_dicom(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False
