"""Heads of many people as label maps, from which subjects are simulated (`common.data.simulation`).

A folder of NIfTI files with FreeSurfer's numbers, such as those that SynthSeg's authors share (Billot et al., MedIA
2023), or where none is given the tissue maps of MNI152.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from .tissues import INDEX, PARENCHYMA

# FreeSurfer's numbers (its colour table), and from 500 the tissues outside the brain of SynthSeg's maps.
NUMBERS: dict[str, tuple[int, ...]] = {
    "white_matter": (2, 41, 85, 251, 252, 253, 254, 255),
    "cortex": (3, 42, 80),
    "csf": (24, 257),
    "ventricle": (4, 5, 14, 15, 43, 44, 72),
    "cerebellar_cortex": (8, 47),
    "cerebellar_white_matter": (7, 46),
    "thalamus": (9, 10, 48, 49),
    "caudate": (11, 50),
    "putamen": (12, 26, 51, 58),
    "pallidum": (13, 52),
    "brain_stem": (16, 28, 60, 170, 173, 174, 175),
    "hippocampus": (17, 18, 53, 54),
    "choroid_plexus": (31, 63, 136, 137, 163, 164),
    "vessel": (30, 62),
    "hypointensity": (25, 57, 77, 78, 79),
    "fat": (509, 515),
    "muscle": (502, 507, 508, 514, 530),
    "bone": (511, 512, 516),
}
MARGIN = 12  # mm around the brain that is kept
COARSE = 2  # mm, of the maps of distances


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One head, cropped to the brain, RAS.

    Attributes:
        tissue: [X, Y, Z] at 1 mm, uint8, in the order of `common.data.tissues.RELAXATION`.
        distances: [3, x, y, z] at 2 mm, float32, in mm: to the outside of the fluid around the brain and of the brain
            with its sulci closed (both negative inside), and to the ventricles.
        white: [N, 3], mm, places in the white matter of the cerebrum.
        optic_chiasm: [3], mm, or None.
    """

    tissue: Tensor
    distances: Tensor
    white: NDArray
    optic_chiasm: NDArray | None

    def nearest_tissue(self, points: Tensor, offsets: Tensor) -> Tensor:
        """Tissue [N, K] at points [3, N] and each of offsets [3, K] from them in mm, less than `MARGIN`.

        The origin is the first voxel's centre. Points that lie further out are moved to where offsets find voxels.
        """
        index: Tensor | int = 0
        for place, offset, size in zip(points, offsets, self.tissue.shape, strict=True):
            reach = float(offset.abs().max()) + 1
            near = place.clamp(reach, size - 1 - reach) + 0.5
            voxel = (near + offset[:, None]).to(torch.int32)
            index = voxel if isinstance(index, int) else index.mul_(size).add_(voxel)
        return self.tissue.view(-1).index_select(0, index.view(-1)).view(index.shape).T

    def distance(self, points: Tensor, mode: str = "bilinear") -> Tensor:
        """The three distances [3, N] at points [3, N], interpolated by a mode of torch's `grid_sample`."""
        extent = COARSE * (torch.tensor(self.distances.shape[1:]) - 1)
        place = points.flip(0).T / extent.flip(0) * 2 - 1  # grid_sample counts axes from the last
        options = {"mode": mode, "padding_mode": "border", "align_corners": True}
        return F.grid_sample(self.distances[None], place[None, None, None], **options)[0, :, 0, 0]


def anatomy_of(numbers: NDArray) -> Anatomy:
    """From FreeSurfer's numbers [X, Y, Z], RAS at 1 mm."""
    table = np.zeros(max(int(numbers.max()) + 1, 600), np.uint8)
    for name, members in NUMBERS.items():
        table[list(members)] = INDEX[name]
    tissue = table[numbers]
    matter = np.isin(tissue, [INDEX[name] for name in PARENCHYMA])
    box = []
    for axis in range(3):
        filled = np.flatnonzero(matter.any(axis=tuple({0, 1, 2} - {axis})))
        box.append(slice(max(filled[0] - MARGIN, 0), filled[-1] + MARGIN + 1))
    tissue, numbers = tissue[tuple(box)], numbers[tuple(box)]
    low = tissue[::COARSE, ::COARSE, ::COARSE]
    ventricles = np.isin(low, [INDEX[name] for name in ("ventricle", "choroid_plexus")])
    matter = ventricles | np.isin(low, [INDEX[name] for name in PARENCHYMA])
    hull = 8 - _signed(_signed(matter) > 8)  # closing: sulci up to 16 mm wide belong to the brain
    inner = matter | np.isin(low, [INDEX[name] for name in ("csf", "vessel")])
    outer = _signed((inner & (hull < 5)) | (hull < -5))  # falx and tentorium are no holes
    to_ventricles = distance_transform_edt(~ventricles) * COARSE if ventricles.any() else np.full(low.shape, 99.0)
    white = np.argwhere(low == INDEX["white_matter"]) * float(COARSE)
    chiasm = np.argwhere(numbers == 85)
    distances = torch.as_tensor(np.stack([outer, hull, to_ventricles]).astype(np.float32))
    place = chiasm.mean(0) if len(chiasm) else None
    return Anatomy(torch.as_tensor(np.ascontiguousarray(tissue)), distances, white, place)


def _signed(inside: NDArray) -> NDArray:
    """Distance in mm to the surface of a region, negative within."""
    if not inside.any():
        return np.full(inside.shape, 99.0)
    outwards = distance_transform_edt(~inside)
    inwards = distance_transform_edt(inside)
    return COARSE * (np.where(outwards > 0, outwards - 0.5, 0.5 - inwards))


def _template_numbers() -> NDArray:
    from .template import ORIGIN, tissue_maps

    maps = tissue_maps((1.0, 1.0, 1.0))
    numbers = np.array([24, 3, 2])[maps.argmax(0)]
    numbers[maps.sum(0) < 0.5] = 0
    points = np.stack(np.meshgrid(*map(np.arange, numbers.shape), indexing="ij")) + ORIGIN.reshape(3, 1, 1, 1)
    middle, width = np.reshape([0, -12, 14], (3, 1, 1, 1)), np.reshape([36, 45, 24], (3, 1, 1, 1))
    central = (((points - middle) / width) ** 2).sum(0) < 1
    numbers[(numbers == 24) & central] = 4
    return numbers


def read_anatomy(path: Path) -> Anatomy:
    """One file of FreeSurfer's numbers, turned to RAS; other spacings than 1 mm are resampled (nearest).

    Raises:
        ValueError: it cannot be read, or has no white matter or cortex by these numbers.
    """
    try:
        image = nib.as_closest_canonical(nib.load(path))
        voxels = np.asarray(image.dataobj)
    except Exception as error:  # a damaged file raises anything
        raise ValueError(f"Anatomy {path} cannot be read ({error}).") from None
    if voxels.ndim != 3 or not np.all(np.mod(voxels, 1) == 0) or voxels.min() < 0:
        raise ValueError(f"Anatomy {path} of shape {voxels.shape} is no map of FreeSurfer's numbers.")
    zooms = image.header.get_zooms()[:3]
    if not np.allclose(zooms, 1, atol=0.05):
        sizes = zip(voxels.shape, zooms, strict=True)
        voxels = voxels[np.ix_(*(np.round(np.arange(0, n * z) / z).clip(0, n - 1).astype(int) for n, z in sizes))]
    numbers = voxels.astype(np.int32)
    if not np.isin(numbers, (2, 41)).any() or not np.isin(numbers, (3, 42)).any():
        raise ValueError(
            f"Anatomy {path} has no white matter (2, 41) or no cortex (3, 42); its numbers must be FreeSurfer's."
        )
    return anatomy_of(numbers)


@lru_cache(maxsize=2)
def read_anatomies(folder: str) -> list[Anatomy]:
    """All NIfTI files of a folder, read once; "" is MNI152.

    Raises:
        ValueError: there is no such folder, no NIfTI file in it, or a file that `read_anatomy` refuses.
    """
    if not folder:
        return [anatomy_of(_template_numbers())]
    files = sorted(file for end in ("*.nii", "*.nii.gz") for file in Path(folder).expanduser().glob(end))
    if not files:
        raise ValueError(f"anatomies is {folder}, where there is no NIfTI file; give a folder of label maps, or none.")
    return [read_anatomy(file) for file in files]
