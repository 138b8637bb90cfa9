"""In which file an image is sent: the client's choice of format and type, as far as nothing is lost in it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from common.preparing.derived import write_dicom
from common.preparing.native import Made

DICOM = ".dcm.zip"
ENDINGS = (".nii.gz", ".nii", ".nrrd", DICOM)
TYPES = ("float32", "float64", "uint8", "int16", "uint16", "int32", "uint32")
COARSEST = 0.01  # of the brightest voxel: what rounding may change


class Format(NamedTuple):
    """A file's ending, and the type of its voxels."""

    ending: str
    dtype: np.dtype

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Format:
        """What a request's "result_extension" and "result_dtype" ask for.

        Raises:
            ValueError: images are not written so here.
        """
        ending, dtype = request.get("result_extension") or ENDINGS[0], request.get("result_dtype") or TYPES[0]
        ending = f".{ending.lstrip('.')}" if isinstance(ending, str) else ending
        if ending not in ENDINGS:
            raise ValueError(f'"result_extension" is {ending!r}; images are sent as {", ".join(ENDINGS)}.')
        if dtype not in TYPES:
            raise ValueError(f'"result_dtype" is {dtype!r}; it may be {", ".join(TYPES)}.')
        if ending == DICOM and dtype != TYPES[0]:
            raise ValueError(f'"result_dtype" is {dtype}, and DICOM has a type of its own: leave it out.')
        return cls(ending, np.dtype(dtype))

    def write(self, file: Path) -> Path:
        """Puts an image, float32 in .nii.gz, into this format; returns its path, beside the old one's, which goes.

        Raises:
            ValueError: the type has no room for its values, or only a few steps.
        """
        if self == (ENDINGS[0], np.float32):
            return file
        image = nib.load(file)
        try:
            voxels = self._cast(np.asanyarray(image.dataobj))
        finally:
            file.unlink()
        if voxels.ndim > 3 and self.ending == ".nrrd":
            raise ValueError('"result_extension" is .nrrd, and the image is a series: ask for .nii.gz.')
        path = file.with_name(file.name.removesuffix(".nii.gz") + self.ending)
        if self.ending == ".nrrd":
            import nrrd

            affine = image.affine
            space = {"space": "right-anterior-superior", "space directions": affine[:3, :3].T}
            nrrd.write(str(path), voxels, {**space, "space origin": affine[:3, 3], "kinds": ["domain"] * 3})
        else:
            header = image.header.copy()
            header.set_data_dtype(self.dtype)
            nib.save(nib.Nifti1Image(voxels, image.affine, header), path)
        return path

    def write_dicom(self, file: Path, sidecar: Mapping[str, Any], record: dict[str, Any], sequence: str) -> Path:
        """Puts an image into a zip of a derived DICOM series where the subject's `sequence` has its slices.

        Args:
            file: the image, which goes.
            sidecar: what is said of it.
            record: how the subject was prepared, `common.preparing.native.record_of`.
            sequence: of the series that gives the geometry.

        Raises:
            ValueError: the subject was not prepared from DICOM, which the series would join.
        """
        made = Made(file, dict(sidecar), record)
        try:
            series = write_dicom(made, sequence)
        finally:
            file.unlink()
        archive = shutil.make_archive(str(series).removesuffix("_dicom") + ".dcm", "zip", series)
        shutil.rmtree(series)
        return Path(archive)

    def _cast(self, voxels: np.ndarray) -> np.ndarray:
        if self.dtype.kind == "f":
            return voxels.astype(self.dtype)
        low, high, limits = float(voxels.min()), float(voxels.max()), np.iinfo(self.dtype)
        if round(low) < limits.min or round(high) > limits.max or COARSEST * max(high, -low) < 0.5:
            raise ValueError(
                f'"result_dtype" is {self.dtype}, from {limits.min} to {limits.max} in steps of 1, and the image goes '
                f"from {low:g} to {high:g}: ask for float32."
            )
        return np.rint(voxels).astype(self.dtype)
