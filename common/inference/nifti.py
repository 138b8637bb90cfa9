"""NIfTI images on the grid of an acquired one."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from ..data.finding import SYNTHESISED
from ..files import replacing


def save_like(array: np.ndarray, like: str | Path, path: str | Path, step: float = 0.0) -> None:
    """Writes float32 [X, Y, Z] as NIfTI on the grid of the file `like`: its affine, codes and units, to the bit.

    A series [X, Y, Z, T] has `step`, in ms, as its fourth spacing; 0 is not known.

    Raises:
        ValueError: the array's shape is not the grid's, a voxel is NaN or infinite, or `path` is the file `like`.
        NotWritten: see `common.files.replacing`.
    """
    path = Path(path)
    image = image_like(array, like, path, step)
    if path.exists() and path.samefile(like):
        raise ValueError(f"{path} is an acquired image and is not overwritten; pass another --output_dir.")
    with replacing(path) as partial:
        nib.save(image, partial)


def image_like(
    array: np.ndarray, like: str | Path, path: Path, step: float = 0.0, unit: str = "msec"
) -> nib.Nifti1Image:
    """The image that `save_like` writes to `path`; of another `unit` of steps."""
    original = nib.load(like)
    if array.shape[:3] != original.shape[:3]:
        raise ValueError(f"An image of shape {array.shape} cannot lie on the grid of {like}, {original.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"The image for {path} has NaN or infinite voxels and is not written.")
    header = original.header if isinstance(original, nib.Nifti1Pair) else None
    nifti = nib.Nifti2Image if isinstance(original, nib.Nifti2Image) else nib.Nifti1Image
    image = nifti(array.astype(np.float32), original.affine, header)
    image.set_data_dtype(np.float32)  # the header is a copy, and may have been one of integers
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header["descrip"] = SYNTHESISED
    if header is None:
        image.header.set_xyzt_units("mm")
    if array.ndim == 4:
        image.header.set_zooms((*original.header.get_zooms()[:3], step or 1))
        image.header.set_xyzt_units(image.header.get_xyzt_units()[0], unit if step else "unknown")
    return image
