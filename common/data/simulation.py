"""A new subject for every item of a training: drawn anatomy, disease, scanner and settings, and the truth beside them.

    SimulatedSubjects(["T1", "T1Gd", "T2", "FLAIR"], anatomies="labels", roi_size=(128, 160, 3))

Nothing is written and only the crop is computed. As in SynthSeg (Billot et al., MedIA 2023) a label map is deformed and
intensities are drawn per structure; as in SynthSR (Billot et al., NeuroImage 2021) the truth has one fixed contrast.
Here T1, T2, PD and the settings are drawn, within what patients and hospitals have, and physics gives the intensities.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import Dataset
from monai.transforms import Compose, Randomizable, Transform
from torch import Tensor

from ..threads import one_thread
from .anatomies import Anatomy, read_anatomies
from .normalisation import DARKEST_TISSUE, RULES, headroom
from .simulated_head import Axes, Head
from .tissues import CANONICAL

COARSE = 5.0  # mm, of the grid of the whole head that intensities are scaled by


class DrawSubject(Randomizable, Transform):
    """Draws a subject and returns a crop of it, see `SimulatedSubjects`."""

    def __init__(
        self,
        sequences: Sequence[str],
        anatomies: Sequence[Anatomy],
        roi_size: Sequence[int],
        spacing: tuple[float, float],
        rule: str,
    ) -> None:
        self.sequences, self.anatomies = list(sequences), anatomies
        self.roi_size, self.spacing, self.rule = list(roi_size), spacing, rule

    @one_thread()
    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        rng = self.R
        head = Head(rng, self.anatomies[rng.randint(len(self.anatomies))], self.sequences)
        generator = torch.Generator().manual_seed(int(rng.randint(2**31)))
        low, high = head.warp.box(head.anatomy)
        size = torch.full((3,), rng.uniform(*self.spacing))
        if rng.uniform() < 0.3:  # a stack as it was acquired; else registered to a grid like that of the plane
            size[2] = rng.uniform(2, 6)
        axes = self._axes(low, high, size)
        whole = _whole(head, low, high, size, generator)
        acquired, truth, lesion, inside = _crop(head, axes, size, generator, whole.median)
        # A receiver's gain is any number; it only shows where a scale is told in the image's own units.
        gain = torch.as_tensor(np.exp(rng.uniform(4, 8) + rng.normal(0, 0.3, len(self.sequences))), dtype=torch.float32)
        scale, offset = self._scales(whole.acquired)
        true_scale, true_offset = self._scales(whole.truth)
        return {
            **data,
            "image": _scaled(acquired, scale, offset, inside),
            "reference": _scaled(truth, true_scale, true_offset, inside),
            "lesion": ((lesion > 0.5) & inside)[None].float(),
            "available": torch.ones(len(self.sequences), dtype=torch.bool),
            "scale": scale * gain,
            "offset": offset * gain,
        }

    def _axes(self, low: Tensor, high: Tensor, size: Tensor) -> Axes:
        """Voxel centres in mm of a crop: anywhere in the head along an axis that it does not fill, else about it."""
        axes = []
        for axis, count in enumerate(self.roi_size):
            extent, step = count * float(size[axis]), float(size[axis])
            start, end = float(low[axis]) - 4, float(high[axis]) + 4
            room = abs(end - start - extent) / 2
            centre = (start + end) / 2 + self.R.uniform(-1, 1) * (room if extent < end - start else min(room, 10))
            axes.append(centre + (torch.arange(count) - (count - 1) / 2) * step)
        return axes

    def _scales(self, values: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.tensor([RULES[self.rule](each.numpy()) for each in values], dtype=torch.float32)
        return found[:, 0] * torch.tensor([headroom(self.rule, name) for name in self.sequences]), found[:, 1]


@dataclass(frozen=True, slots=True)
class _Whole:
    """A whole head on a coarse grid: acquired and true signals [S, N], and the medians [S] of the former."""

    acquired: Tensor
    truth: Tensor
    median: Tensor


def _whole(head: Head, low: Tensor, high: Tensor, size: Tensor, generator: torch.Generator) -> _Whole:
    """As the crop will be, at points on a coarse grid (each moved at random, which makes quantiles surer)."""
    axes = [torch.arange(float(a) - 8, float(b) + 8, COARSE) for a, b in zip(low, high, strict=True)]
    points = head.warp(axes).reshape(3, -1)
    points += COARSE * head.warp.matrix @ (torch.rand(points.shape, generator=generator) - 0.5)
    inside = (head.edge(points, head.anatomy.distance(points, "nearest")) < COARSE).nonzero()[:, 0]
    distances = head.anatomy.distance(points[:, inside])  # exact, but only near the brain
    kept = head.edge(points[:, inside], distances) < 0
    inside = inside[kept]
    points, distances = points[:, inside], distances[:, kept]
    texture = torch.randn(len(inside), generator=generator)
    kernels = head.scanner.kernels(size)
    acquired, truth, _ = head.signals(points, distances, size, texture)
    coil = head.scanner.coil(axes).reshape(1, -1)[:, inside]
    acquired *= (coil + head.scanner.bias(axes).reshape(len(acquired), -1)[:, inside]).exp_()
    truth *= coil.exp()
    median = acquired.median(1).values
    left = (kernels**2).sum(-1).prod(-1).sqrt()  # of white noise after the filters
    return _Whole(head.scanner.measured(acquired, median, left, generator), truth, median)


def _halved(axis: Tensor) -> Tensor:
    """Every second position, from the first to the last."""
    return torch.linspace(float(axis[0]), float(axis[-1]), len(axis) // 2 + 1)


def _enlarged(field: Tensor, shape: Sequence[int]) -> Tensor:
    """[C, x, y, Z] to [C, X * Y * Z], linearly in plane, the corners staying."""
    slices = field.movedim(-1, 1)
    slices = F.interpolate(slices, size=tuple(shape[:2]), mode="bilinear", align_corners=True)
    return slices.movedim(1, -1).reshape(len(field), -1)


def _crop(
    head: Head, axes: Axes, size: Tensor, generator: torch.Generator, median: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Acquired and true images [S, X, Y, Z], share of lesion and the mask [X, Y, Z]."""
    scanner, count, shape = head.scanner, len(median), [len(axis) for axis in axes]
    fewer = [_halved(axes[0]), _halved(axes[1]), axes[2]]
    smaller = [len(axis) for axis in fewer]
    points = head.warp(fewer)
    distances = head.anatomy.distance(points.reshape(3, -1))
    edge = head.edge(points.reshape(3, -1), distances)[None]
    texture = 1.6 * torch.randn((1, *smaller), generator=generator)  # interpolation takes as much
    shading = [scanner.coil(fewer), scanner.bias(fewer)]
    smooth = [points, distances.view(3, *smaller), edge.view(1, *smaller), texture, *shading]
    points, distances, edge, texture, coil, bias = _enlarged(torch.cat(smooth), shape).split([3, 3, 1, 1, 1, count])
    # Some mm more than the mask, so that neither shift nor blur brings in the air beyond.
    there = (edge[0] < 2 * float(size[0])).nonzero()[:, 0]
    signal, true, share = head.signals(points[:, there], distances[:, there], size, texture[0, there])
    true *= coil[:, there].exp()
    signal = scanner.measured(signal * (coil + bias)[:, there].exp(), median, torch.ones(count), generator)
    filled = torch.zeros(2 * count + 2, edge.shape[1])
    filled[:, there] = torch.cat([signal, true, share[None], -edge[:, there]])
    images, truth, (lesion, depth) = filled.view(-1, *shape).split([count, count, 2])
    return scanner.filtered(images, size), truth, lesion, depth > 0


def _scaled(image: Tensor, scale: Tensor, offset: Tensor, inside: Tensor) -> Tensor:
    """To [0, 1] as `ScaleSequencesd` does, air 0."""
    shape = (-1, 1, 1, 1)
    scaled = ((image - offset.view(shape)) / scale.view(shape)).clamp(DARKEST_TISSUE, 1)
    return torch.where(inside, scaled, 0)


class SimulatedSubjects(Dataset):
    """Crops of subjects that are drawn anew for each item; a training's data set in place of files.

    An item is a function of its transform's random state alone, which `common.data.loaders.SeededItems` sets from the
    epoch's seed and the index. It holds "subject", a name, and tensors: "image" [S, X, Y, Z] in [0, 1] with air 0 as
    loading scales it, "reference" (the same, noise-free at each sequence's `CANONICAL` setting, under the coil's
    shading that all images share), "lesion" [1, X, Y, Z] (0 or 1), and "available", "scale", "offset" [S].

    Args:
        sequences: S names among T1, T1Gd, T2, FLAIR, PD.
        anatomies: a folder of label maps, see `common.data.anatomies`; "" is MNI152.
        length: items of an epoch.
        roi_size: of a crop; slices are axial.
        spacing: least and largest voxel size in mm in plane; slices are as far apart, in three of ten 2 to 6 mm.
        normalisation: a rule of `common.data.normalisation.RULES`, which is applied to the whole head.

    Attributes:
        trained_on: what these images are, in words, for the description of weights.

    Raises:
        ValueError: a sequence or a rule is unknown, sizes are not positive, or the folder holds no label maps.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        *,
        anatomies: str = "",
        length: int = 1000,
        roi_size: Sequence[int] = (128, 160, 3),
        spacing: Sequence[float] = (1.0, 1.5),
        normalisation: str = "trimmed_mean",
    ) -> None:
        if unknown := [name for name in sequences if name not in CANONICAL]:
            raise ValueError(f"Cannot simulate {', '.join(unknown)}; there are {', '.join(CANONICAL)}.")
        if normalisation not in RULES:
            raise ValueError(f"normalisation is '{normalisation}'; choose one of {', '.join(RULES)}.")
        if len(roi_size) != 3 or min(roi_size) < 1 or length < 1 or not 0.3 <= spacing[0] <= spacing[1] <= 3:
            raise ValueError(
                f"Need three positive sizes, length >= 1 and 0.3 <= spacing <= 3 mm, ascending: roi_size={roi_size}, "
                f"length={length}, spacing={spacing}"
            )
        heads = read_anatomies(str(anatomies))
        self.trained_on = f"simulated subjects of {len(heads)} anatom{'ies' if len(heads) > 1 else 'y'}"
        draw = DrawSubject(sequences, heads, roi_size, tuple(spacing), normalisation)
        super().__init__([{"subject": f"simulated_{k}"} for k in range(length)], Compose([draw]))
