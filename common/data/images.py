"""One file's image: its voxels, whole or not at all, and what is wrong or doubtful in it, for checking and loading."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ..files import what_it_is
from .grids import GRID_TOLERANCE_MM, as_text, is_invertible, largest_shift

UNREADABLE = (OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error, ImageFileError, HeaderDataError)
LARGEST_RATIO = 1100  # no gzip file holds more bytes for each of its own
# Of the voxels that are not 0: interpolation and bias correction leave up to 3 % clearly below it, a z-score half.
MOST_BELOW_ZERO = 0.1

ERROR, WARNING = "error", "warning"
Problem = tuple[str, str, str]  # code, severity, reason


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
        raise ValueError(f"the header claims {as_text(image.shape)} voxels, the file has {path.stat().st_size} bytes")
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
    return f"{what}, shape {as_text(shape)}; {'give it the volume' if len(shape) == 2 else 'split or average it'}"


def image_problems(
    image: nib.spatialimages.SpatialImage,
    voxels: np.ndarray,
    *,
    is_image: bool = True,
    trust_headers: bool = False,
    is_series: bool = False,
) -> Iterator[Problem]:
    """What is wrong or doubtful in one file, as code, severity and reason: the same for checking and for loading.

    Args:
        image: whose header and affine are looked at.
        voxels: its own, as stored.
        is_image: masks may be empty, and have no background.
        trust_headers: see `common.data.check.check_subjects`.
        is_series: [X, Y, Z, T] is looked at frame by frame.
    """
    if voxels.dtype.kind not in "biuf":
        yield "FILE_UNREADABLE", ERROR, f"voxels are {voxels.dtype}, not plain numbers; convert to magnitude"
        return
    volume = voxels.ndim == 3 or (voxels.ndim == 4 and (voxels.shape[3] == 1 or is_series))
    if not volume:
        yield "NOT_3D", ERROR, f"not 3D: {not_3d(voxels.shape)}"
    if volume and voxels.ndim == 4:
        yield from _check_frames(voxels, is_image)
    else:
        yield from _check_voxels(voxels, is_image and volume, is_image)
    for code, severity, reason in _check_header(image) if volume else ():
        trusted = trust_headers and is_invertible(image.affine)
        yield code, WARNING if trusted else severity, reason


def _check_frames(voxels: np.ndarray, is_image: bool) -> Iterator[Problem]:
    """Each problem of the frames [X, Y, Z, T] once, as it is in the first frame that has it."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for number in range(count := voxels.shape[3]):
        for code, severity, reason in _check_voxels(voxels[..., number], is_image, is_image):
            found.setdefault((code, severity), []).append((number + 1, reason))
    for (code, severity), frames in found.items():
        number, reason = frames[0]
        others = f" and {len(frames) - 1} more" if len(frames) > 1 else ""
        yield code, severity, reason if count == 1 else f"frame {number}{others} of {count}: {reason}"


def _check_voxels(voxels: np.ndarray, is_volume: bool, is_image: bool) -> Iterator[Problem]:
    if not np.isfinite([low := float(voxels.min()), high := float(voxels.max())]).all():
        count = np.count_nonzero(~np.isfinite(voxels))
        yield "NOT_FINITE", ERROR, f"{count} voxels are NaN or infinite; repair or drop it"
    elif is_image and low == high:  # An empty mask is a subject without a lesion.
        yield "CONSTANT", ERROR, f"every voxel is {low:g}; drop it"
    elif is_volume:
        yield from _check_zero(voxels, low, high)


def _check_zero(voxels: np.ndarray, low: float, high: float) -> Iterator[Problem]:
    """0 is air here: whether it is in this image [X, Y, Z]."""
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
        shift = largest_shift(image.header.get_sform(), image.header.get_qform(), image.shape[:3])
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
