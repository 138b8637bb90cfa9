"""One subject's images onto one grid, without skull: everything that is decided and measured on the way is told."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes

from ..data.doubts import remaining_skull
from ..data.grids import as_text, same_grid
from ..data.images import ERROR, UNREADABLE, image_problems, read_image, unreadable
from .atlas import LEAST_DICE as ATLAS_DICE
from .atlas import atlas_grid, to_atlas
from .brains import extractors
from .grids import covered, regridded, resampled
from .registration import Registered, overlap, register
from .series import Series, times_of

logger = logging.getLogger(__name__)
PLAUSIBLE_ML = (800.0, 2000.0)  # of an adult's brain
LEAST_DICE = 0.93  # of two masks of one brain; those of one subject's sequences are at 0.97
N4_MM, N4_ITERATIONS = 4.0, [30, 30, 30]
FARTHEST_MM = 15.0  # that a patient moves within a session, and has not left the coil


class Options(NamedTuple):
    """What `prepare` is asked for, see there."""

    reference: str = ""
    spacing: tuple[float, ...] = ()
    brain: str = "deepbet"
    n4: bool = False
    atlas: str = ""
    register: bool = True


@dataclass
class Image:
    """A sequence: as it came, its brain on its own grid, and where it lies in the reference's mm."""

    series: Series
    native: nib.Nifti1Image
    brain: np.ndarray
    mask_from: str
    seconds: dict[str, float] = field(default_factory=dict)
    registered: Registered | None = None
    to_reference: np.ndarray = field(default_factory=lambda: np.eye(4))
    prepared: np.ndarray | None = None

    @property
    def transform(self) -> np.ndarray:
        """From the grid's mm to the image's: by way of the reference's where the grid is an atlas'."""
        return self.to_reference if self.registered is None else self.registered.transform @ self.to_reference

    @property
    def mask(self) -> nib.Nifti1Image:
        return nib.Nifti1Image(self.brain.astype(np.uint8), self.native.affine)

    @property
    def millilitres(self) -> float:
        return float(self.brain.sum() * abs(np.linalg.det(self.native.affine)) / 1000)


@dataclass
class Prepared:
    """A subject's images on `grid`, whose voxels are the brain: the mask of all of them."""

    subject: str
    images: dict[str, Image]
    reference: str
    grid: nib.Nifti1Image
    warnings: list[str] = field(default_factory=list)

    @property
    def lowest_dice(self) -> float:
        """Of the images' masks and the reference's, by the transforms that were kept; 1 of a single image."""
        return min(
            (found.dice[found.kept] for image in self.images.values() if (found := image.registered)), default=1.0
        )


def prepare_session(
    subject: str, chosen: Mapping[str, Series], masks: Mapping[str, Path], options: Options
) -> Prepared:
    """Reads, masks, registers and resamples the images of a subject.

    Args:
        subject: its name.
        chosen: by sequence.
        masks: by sequence, brain masks that there are, each on its image's grid.
        options: see there.

    Raises:
        ValueError: an image or a mask cannot be taken, or the reference is not there.
    """
    images = {name: _read(name, series, masks.get(name), options) for name, series in chosen.items()}
    reference = options.reference or finest({name: image.native for name, image in images.items()})
    if reference not in images:
        raise ValueError(f"{subject}: there is no {reference} for --reference; there are: {', '.join(images)}.")
    fixed = images[reference]
    for name, image in images.items():
        if name != reference:
            logger.info(f"{subject}: {name} onto {reference}")
            begun = time.monotonic()
            image.registered = _placed(fixed, image, options.register)
            image.seconds["registration"] = round(time.monotonic() - begun, 1)
    grid = regridded(fixed.native, options.spacing) if options.spacing else fixed.native
    warnings = []
    if options.atlas:
        logger.info(f"{subject}: {reference} onto the atlas")
        found, dice = to_atlas(fixed.native, fixed.brain)
        grid = atlas_grid(options.atlas)
        for image in images.values():
            image.to_reference = found
        if dice < ATLAS_DICE:
            warnings.append(f"{reference}: its brain mask overlaps with the atlas' by {dice:.3f} (Dice)")
    brain = consensus(images, grid)
    for image in images.values():
        native = _without_bias(image) if options.n4 else image.native
        image.prepared = np.where(brain, resampled(native, grid, image.transform), 0).astype(np.float32)
    mask = nib.Nifti1Image(brain.astype(np.uint8), grid.affine)
    prepared = Prepared(subject, images, reference, mask, warnings)
    prepared.warnings += _doubts(prepared)
    return prepared


def finest(images: Mapping[str, nib.Nifti1Image]) -> str:
    """The image with the thinnest slices and, of these, the smallest voxels."""

    def sizes(name: str) -> list[float]:
        return sorted((round(float(size), 2) for size in voxel_sizes(images[name].affine)), reverse=True)

    return min(images, key=sizes)


def consensus(images: Mapping[str, Image], grid: nib.Nifti1Image) -> np.ndarray:
    """bool [X, Y, Z]: what at least half of the masks that reach a voxel of the grid call brain."""
    votes = np.zeros(grid.shape[:3], np.float32)
    reach = np.zeros(grid.shape[:3], np.float32)
    for image in images.values():
        votes += resampled(image.mask, grid, image.transform)
        reach += covered(image.native, grid, image.transform)
    return (votes >= 0.5 * reach) & (votes > 0)


def _read(name: str, series: Series, mask: Path | None, options: Options) -> Image:
    image, begun = _volume(series.file), time.monotonic()
    for _, severity, reason in image_problems(image, np.asanyarray(image.dataobj)):
        if severity == ERROR:
            raise ValueError(f"{series.file} ({name}): {reason}")
    if mask is not None:
        found = _volume(mask)
        if differs := same_grid(found.shape, found.affine, image.shape, image.affine):
            raise ValueError(f"{mask} is not on the grid of {series.file}: {differs}.")
        brain, how = np.asarray(found.dataobj) > 0, str(mask)
        if not brain.any():
            raise ValueError(f"{mask} is empty: it is no brain mask.")
    elif (brain := stripped(image)) is not None:
        how = "what is not 0: its skull was removed before"
    else:
        logger.info(f"brain mask of {series.file.name} by {options.brain}")
        brain, how = extractors()[options.brain](image), options.brain
    return Image(series, image, brain, how, {"brain_mask": round(time.monotonic() - begun, 1)})


def _volume(path: Path) -> nib.Nifti1Image:
    try:
        image, voxels = read_image(path)
    except UNREADABLE as error:
        raise ValueError(f"{path}: {unreadable(path, error)}") from None
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    return nib.Nifti1Image(voxels, image.affine, image.header)


def stripped(image: nib.Nifti1Image) -> np.ndarray | None:
    """bool [X, Y, Z], the brain of an image that has no skull any more; None of a head.

    Air of a head is noise, so that what is not 0 would be no brain by its size.
    """
    from scipy.ndimage import binary_fill_holes

    data = np.asarray(image.dataobj, dtype=np.float32)
    shown = data > 0
    millilitres = shown.sum() * abs(np.linalg.det(image.affine)) / 1000
    if not PLAUSIBLE_ML[0] / 2 <= millilitres <= PLAUSIBLE_ML[1] or remaining_skull(data, image.affine):
        return None
    return binary_fill_holes(shown)


def _placed(fixed: Image, moving: Image, wanted: bool) -> Registered:
    if wanted:
        return register(fixed.native, moving.native, fixed.brain, moving.brain)
    dice = overlap(fixed.mask, moving.mask, np.eye(4))
    return Registered(np.eye(4), False, 0.0, (0.0, 0.0), (dice, dice))


def _without_bias(image: Image) -> nib.Nifti1Image:
    """N4 (Tustison et al. 2010) by SimpleITK, its field found in the brain on voxels of N4_MM, where it is smooth."""
    try:
        import SimpleITK as sitk
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"--n4 needs SimpleITK: see requirements-prepare.txt ({error}).") from None
    data = np.asarray(image.native.dataobj, dtype=np.float32)
    whole, brain = (sitk.GetImageFromArray(each.T.astype(kind)) for each, kind in ((data, "f4"), (image.brain, "u1")))
    whole.SetSpacing([float(size) for size in voxel_sizes(image.native.affine)])
    brain.CopyInformation(whole)
    coarse, inside = (
        sitk.Shrink(each, [max(1, round(N4_MM / size)) for size in whole.GetSpacing()]) for each in (whole, brain)
    )
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(N4_ITERATIONS)
    corrector.Execute(coarse, inside)
    field = sitk.Resample(corrector.GetLogBiasFieldAsImage(coarse), whole)
    return nib.Nifti1Image(data / np.exp(sitk.GetArrayFromImage(field).T), image.native.affine)


def _doubts(found: Prepared) -> list[str]:
    said = []
    for name, image in found.images.items():
        low, high = PLAUSIBLE_ML
        if not low <= image.millilitres <= high:
            said.append(f"{name}: a brain of {image.millilitres:.0f} ml; an adult's has {low:g} to {high:g} ml")
        placed = image.registered
        if placed and (dice := placed.dice[placed.kept]) < LEAST_DICE:
            said.append(f"{name}: its brain mask overlaps with that of {found.reference} by {dice:.3f} (Dice)")
        if placed and placed.kept and placed.moved_mm > FARTHEST_MM:
            said.append(f"{name} was moved by {placed.moved_mm:.1f} mm")
        lacking = 1 - (image.prepared[found.grid.get_fdata() > 0] != 0).mean()
        if lacking > 0.05:
            said.append(f"{name} has no data in {lacking:.0%} of the brain")
    return said


def decided(found: Prepared) -> dict[str, Any]:
    """All that was decided and measured, for a JSON file."""

    def of(image: Image) -> dict[str, Any]:
        placed = image.registered
        told: dict[str, Any] = {
            "source": image.series.source,
            "series": image.series.name,
            "taken_because": image.series.reason,
            "shape": list(image.native.shape),
            "affine": image.native.affine.tolist(),
            "brain_mask": image.mask_from,
            "seconds": image.seconds,
            "brain_ml": round(image.millilitres, 1),
            "transform": image.transform.tolist(),
        }
        if placed is not None:
            told["registration"] = {
                "kept": "registered" if placed.kept else "headers",
                "found": placed.found.tolist(),
                "moved_mm": round(placed.moved_mm, 3),
                **{f"{name}_{which}": round(value, 4) for name, both in (("edges", placed.edges), ("dice", placed.dice))
                   for which, value in zip(("headers", "registered"), both, strict=True)},
            }  # fmt: skip
        return told

    return {
        "subject": found.subject,
        "reference": found.reference,
        "grid": {
            "shape": list(found.grid.shape),
            "spacing": as_text(voxel_sizes(found.grid.affine)),
            "affine": found.grid.affine.tolist(),
        },
        "images": {name: of(image) for name, image in found.images.items()},
        "parameters": {
            name: times
            for name, image in found.images.items()
            if (times := times_of(image.series.said, f"{name}, {image.series.name}"))
        },
        "lowest_dice": round(found.lowest_dice, 4),
        "warnings": found.warnings,
    }
