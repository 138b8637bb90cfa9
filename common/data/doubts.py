"""What is doubtful in images that can be read: looked for before a training, and never a reason to refuse them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import nibabel as nib
import numpy as np
from scipy import fft, ndimage

MOST_UNCOVERED = 0.05  # of what the other sequences show; brain masks that differ by a voxel stay below
HOTTEST = 10  # times the 99th percentile; vessels reach 4
# How much more a mirrored image must tell of another than as it is. Of registered images it tells less than half.
MIRRORED = 1.5
FEWEST = 1000  # voxels in common, below which shared information is chance
# mm below the surface of a whole head, where its skull is; of a brain, where its cortex is.
SKULL = (8.0, 16.0)
MOST_DARK = 0.1  # of that shell: brains have up to 3 %, whole heads 20 to 40 %
PART = 0.05  # of the largest connected one
COARSE = 3.0  # mm, enough to see a skull
FINE = 2.0  # mm, enough to see the edges that frames are laid over each other by
MOVED = 1.0  # mm; frames of a phantom that lies still seem to be up to 0.5 apart, where b values change the contrast


def hot_voxels(image: np.ndarray) -> str:
    """Whether a few voxels outshine all others, by which rules that go by the largest one scale the image."""
    bright = image[image > 0]
    top = HOTTEST * float(np.percentile(bright, 99)) if bright.size else np.inf
    count = np.count_nonzero(bright > top)
    return f"{count} voxels of up to {bright.max():.4g}, more than {HOTTEST} times its 99th percentile" if count else ""


def tissue_shown(image: np.ndarray) -> np.ndarray:
    """What is brighter than 5 % of the 99th percentile, bool: noise in air is not."""
    bright = image[image > 0]
    return image > 0.05 * np.percentile(bright, 99) if bright.size else np.zeros(image.shape, bool)


def uncovered(images: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Of a subject's images on one grid, [X, Y, Z] each, those without data where others show tissue, and how much."""
    shown = np.logical_or.reduce([tissue_shown(image) for image in images.values()])
    shares = {name: np.count_nonzero(shown & (image <= 0)) / max(shown.sum(), 1) for name, image in images.items()}
    advice = "nothing is made from it there, and as a target of training it is air"
    return {
        name: f"{name} has no data in {share:.0%} of the tissue that the subject's sequences show; {advice}"
        for name, share in shares.items()
        if share > MOST_UNCOVERED
    }


def remaining_skull(image: np.ndarray, affine: np.ndarray) -> str:
    """Whether an image [X, Y, Z] seems to show a whole head: below its surface lies a shell that is as dark as bone."""
    sizes = nib.affines.voxel_sizes(affine)
    steps = np.maximum(np.round(COARSE / sizes), 1).astype(int)
    coarse, sizes = image[tuple(slice(None, None, step) for step in steps)], sizes * steps
    bright = coarse[coarse > 0]
    if bright.size < FEWEST:
        return ""
    shown = coarse > 0.1 * np.percentile(bright, 99)
    parts, _ = ndimage.label(shown)
    counts = np.bincount(parts[shown])
    head = (counts > PART * counts.max())[parts] & shown  # scalp and brain may be apart; specks are neither
    head = ndimage.binary_closing(np.pad(head, 5), iterations=4)  # sulci, and what leads from the nose inwards
    for axis in range(3):
        head = np.stack([ndimage.binary_fill_holes(plane) for plane in np.moveaxis(head, axis, 0)], axis)
    depth = ndimage.distance_transform_edt(head, sampling=sizes)[5:-5, 5:-5, 5:-5]
    shell = (depth > SKULL[0]) & (depth <= SKULL[1])
    dark = np.count_nonzero(shell & ~shown) / max(np.count_nonzero(shell), 1)
    if np.count_nonzero(shell) < FEWEST or dark <= MOST_DARK:
        return ""
    where = f"{SKULL[0]:g} to {SKULL[1]:g} mm below its surface"
    return f"seems to have its skull ({dark:.0%} is dark {where}); remove it first (`mri-contrast prepare`)"


def misplaced(images: Mapping[str, np.ndarray], affine: np.ndarray) -> dict[str, str]:
    """Of a subject's images on one grid, those that seem shifted, or mirrored left to right, against the first one.

    Shifted: each has tissue where the other has none, which a smaller field of view alone does not explain. Mirrored:
    its mutual information with the first is larger the other way round, within the tissue of both.
    """
    axis = int(np.flatnonzero(nib.io_orientation(affine)[:, 0] == 0)[0])
    first, *others = images
    whole, found = tissue_shown(images[first]), {}
    for name in others:
        shown = tissue_shown(images[name])
        lacks = [np.count_nonzero(a & ~b) / max(np.count_nonzero(a), 1) for a, b in ((whole, shown), (shown, whole))]
        flipped = np.flip(images[name], axis)
        aside = round(_centre(whole, axis) - _centre(np.flip(shown, axis), axis))  # it was registered once mirrored
        told, *mirrored = (
            _information(images[first], each, whole) for each in (images[name], flipped, np.roll(flipped, aside, axis))
        )
        if max(mirrored) > MIRRORED * told:
            found[name] = f"tells more of {first} when it is mirrored left to right; convert both from DICOM again"
        elif min(lacks) > MOST_UNCOVERED:
            shares = " and ".join(f"{share:.0%}" for share in lacks)
            found[name] = (
                f"{first} and {name} have {shares} of their tissue where the other has none; are they registered?"
            )
    return found


def _centre(mask: np.ndarray, axis: int) -> float:
    return float(np.flatnonzero(mask.any(tuple({0, 1, 2} - {axis}))).mean()) if mask.any() else 0.0


def _information(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    """Mutual information in nats of every fourth voxel of the tissue, in 32 bins up to the 99th percentile."""
    inside = where & tissue_shown(other)
    if np.count_nonzero(inside) < FEWEST:
        return 0.0
    values = [image[inside][::4] for image in (one, other)]
    joint, _, _ = np.histogram2d(*(np.minimum(each, np.percentile(each, 99)) for each in values), bins=32)
    joint /= joint.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def frame_motion(frames: Sequence[np.ndarray], affine: np.ndarray) -> str:
    """Whether the frames [X, Y, Z] of a series lie apart: by the shifts at which their edges agree best.

    Edges, since contrast changes less where they are than how bright they are. A rotation is seen as far as it shifts.
    """
    if len(frames) < 2:
        return ""
    sizes = nib.affines.voxel_sizes(affine)
    steps = np.maximum(np.round(FINE / sizes), 1).astype(int)
    alike = [frame for frame in frames if frame.shape == frames[0].shape]
    edges = [_edges(frame, FINE / sizes)[tuple(slice(None, None, step) for step in steps)] for frame in alike]
    first, *others = map(fft.rfftn, edges)
    shifts = [_shift(fft.irfftn(first * other.conj(), edges[0].shape), sizes * steps) for other in others]
    most = max(shifts, default=0.0)
    if most <= MOVED:
        return ""
    count = sum(shift > MOVED for shift in shifts)
    return (
        f"has {count} of {len(frames)} frames apart from the first, by up to {most:.1f} mm; bring them together first"
    )


def _edges(image: np.ndarray, width: np.ndarray) -> np.ndarray:
    strength = ndimage.gaussian_gradient_magnitude(image.astype(np.float32), np.maximum(width, 0.7))  # voxels
    return np.minimum(strength / max(np.percentile(strength, 99), 1e-9), 1)


def _shift(correlation: np.ndarray, sizes: np.ndarray) -> float:
    """How far its peak is from no shift, in mm, between voxels by a parabola along each axis."""
    shape = np.array(correlation.shape)
    peak = np.array(np.unravel_index(correlation.argmax(), shape))
    offset = np.zeros(3)
    for axis in np.flatnonzero(shape > 2):
        step = np.eye(3, dtype=int)[axis]
        low, high = (correlation[tuple((peak + side * step) % shape)] for side in (-1, 1))
        bend = low - 2 * correlation[tuple(peak)] + high
        offset[axis] = (low - high) / (2 * bend) if bend else 0
    centred = (peak + offset + shape / 2) % shape - shape / 2
    return float(np.linalg.norm(centred * sizes))
