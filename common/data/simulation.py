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
from numpy.random import RandomState
from torch import Tensor

from .anatomies import Anatomy, read_anatomies
from .normalisation import DARKEST_TISSUE, RULES, headroom
from .simulated_lesions import Layer, Place, Waves, draw_layers
from .tissues import CANONICAL, INDEX, LESIONS, PARENCHYMA, RELAXATION, Patient, draw_setting, signal_table

SAMPLES = 8  # points of a voxel whose mean is its partial volume
COARSE = 4.5  # mm, of the grid of the whole head that intensities are scaled by
REACH = 144.0  # mm from the middle of the head, as far as smooth fields are defined
SHARES = [
    ("hypointensity",),
    ("white_matter", "cerebellar_white_matter"),
    tuple(PARENCHYMA),
    ("csf", "ventricle", "vessel"),
]

Axes = Sequence[Tensor]


class SmoothField:
    """Cubic B-splines with random coefficients, on any grid along the axes.

    Args:
        rng: source of randomness.
        channels: C.
        spacing: mm between knots.
        deviation: standard deviation of the field.
    """

    def __init__(self, rng: RandomState, channels: int, spacing: float, deviation: float | np.ndarray) -> None:
        self.spacing = spacing
        count = int(2 * REACH / spacing) + 4
        weights = rng.standard_normal((channels, count, count, count)) / 0.33  # which is a sum's deviation
        self.weights = torch.as_tensor(weights * np.reshape(deviation, (-1, 1, 1, 1)), dtype=torch.float32)

    def __call__(self, axes: Axes) -> Tensor:
        """Values [C, X, Y, Z] where the three axes, in mm from the middle, meet."""
        value = self.weights
        for axis in (3, 2, 1):
            value = torch.tensordot(value, self._basis(axes[axis - 1]), ([3], [1])).movedim(-1, 1)
        return value

    def _basis(self, positions: Tensor) -> Tensor:
        count = self.weights.shape[1]
        place = ((positions + REACH) / self.spacing + 1).clamp(1, count - 2)
        away = (place[:, None] - torch.arange(count)).abs()
        near, far = 2 / 3 - away**2 + away**3 / 2, (2 - away).clamp(min=0) ** 3 / 6
        return torch.where(away < 1, near, far)


class Warp:
    """From a subject's place, in mm from the middle of its head, to the place of the anatomy that it is made from.

    Rotation within 15 degrees, size within 15 % and shear as in SynthSeg, a flip of left and right, and two smooth
    fields of displacements.
    """

    def __init__(self, rng: RandomState, anatomy: Anatomy) -> None:
        x, y, z = np.deg2rad(rng.normal(0, 6, 3).clip(-15, 15))
        turn = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        rotation = np.linalg.solve(np.eye(3) - turn / 2, np.eye(3) + turn / 2)  # Cayley: exactly orthogonal
        size = np.diag(rng.uniform(0.92, 1.08) * rng.uniform(0.93, 1.07, 3))
        shear = np.eye(3) + np.triu(rng.uniform(-0.03, 0.03, (3, 3)), 1)
        matrix = rotation @ size @ shear @ np.diag([rng.choice([-1, 1]), 1, 1])
        self.matrix = torch.as_tensor(matrix, dtype=torch.float32)
        self.middle = torch.as_tensor(anatomy.white.mean(0), dtype=torch.float32)
        self.wide = SmoothField(rng, 3, 36.0, rng.uniform(0.5, 3.5))
        self.narrow = SmoothField(rng, 3, 15.0, rng.uniform(0.2, 1.2))

    def __call__(self, axes: Axes) -> Tensor:
        """Points [3, X, Y, Z] of the anatomy where the axes meet."""
        straight = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        points = torch.tensordot(self.matrix, straight, 1) + self.middle.view(3, 1, 1, 1)
        return points.add_(self.wide(axes)).add_(self.narrow(axes))

    def box(self, anatomy: Anatomy) -> tuple[Tensor, Tensor]:
        """The lowest and the highest corner of the white matter, displacements left out."""
        few = torch.as_tensor(anatomy.white[:: len(anatomy.white) // 1500 + 1], dtype=torch.float32)
        places = torch.linalg.solve(self.matrix, (few - self.middle).T)
        return places.amin(1), places.amax(1)


@dataclass(frozen=True, slots=True)
class Scanner:
    """What scanner and preparation do to images of S sequences, each [S] unless told.

    Attributes:
        noise: standard deviation relative to the median.
        gamma: exponent.
        thick: bool, whether slices are thicker than the grid's.
        thickness: mm, of those; one number.
        shift: [2, S], in-plane misregistration in mm.
        blur: share of a voxel's neighbours that in-plane blurring mixes in.
        ghost: of motion: its strength.
        bias: the logarithm of the receive field.
        tight, margin, ragged: the mask follows the brain (1) or the fluid around it (0), by mm, unevenly by mm.
        texture: deviation of the water content within tissues; one number.
    """

    noise: np.ndarray
    gamma: np.ndarray
    thick: np.ndarray
    thickness: float
    shift: np.ndarray
    blur: np.ndarray
    ghost: np.ndarray
    bias: SmoothField
    tight: float
    margin: float
    ragged: float
    texture: float

    @classmethod
    def drawn(cls, rng: RandomState, sequences: int) -> Scanner:
        registered, moved = rng.uniform() < 0.6, rng.uniform() < 0.15
        shift = rng.normal(0, 0.35, (2, sequences)).clip(-1, 1) * registered
        corrected = rng.uniform() < 0.6  # N4 leaves little
        tight = rng.uniform() ** 0.5
        return cls(
            noise=np.exp(rng.uniform(np.log(0.005), np.log(0.06), sequences)),
            gamma=np.exp(rng.normal(0, 0.06, sequences)),
            thick=rng.uniform(size=sequences) < rng.choice([0, 0.3, 0.7]),
            thickness=rng.uniform(2, 6),
            shift=shift,
            blur=rng.uniform(0, 0.12, sequences),
            ghost=moved * rng.uniform(0, 0.06, sequences) * (rng.uniform(size=sequences) < 0.5),
            bias=SmoothField(rng, sequences, 90.0, rng.uniform(0, 0.04 if corrected else 0.16, sequences)),
            tight=tight,
            margin=rng.uniform(-1.2, 0.4) + 2.0 * tight * rng.uniform(0, 1),
            ragged=rng.uniform(0, 0.8),
            texture=rng.uniform(0.01, 0.035),
        )

    def measured(self, signal: Tensor, median: Tensor, left: Tensor, generator: torch.Generator) -> Tensor:
        """Rician noise, or what is `left` [S] of its deviation, and gamma: [S, N] to the same; `median` [S]."""
        sigma = (left * torch.as_tensor(self.noise, dtype=torch.float32) * median)[:, None]
        real, imaginary = torch.randn((2, *signal.shape), generator=generator) * sigma
        noisy = real.add_(signal).square_().add_(imaginary.square_()).sqrt_()
        median, gamma = median[:, None], torch.as_tensor(self.gamma, dtype=torch.float32)[:, None]
        return noisy.div_(median).pow_(gamma).mul_(median)

    def kernels(self, size: Tensor) -> Tensor:
        """[S, 2, 5]: per in-plane axis, blurring and the linear interpolation by a misregistration, as one filter."""
        shift = torch.as_tensor(self.shift, dtype=torch.float32).T / size[:2]  # (S, 2)
        taps = (1 - (torch.arange(-2, 3) - shift[..., None]).abs()).clamp(min=0)
        blur = torch.as_tensor(self.blur, dtype=torch.float32)[:, None, None]
        padded = F.pad(taps, (1, 1))
        return (1 - 2 * blur) * taps + blur * (padded[..., :-2] + padded[..., 2:])

    def filtered(self, images: Tensor, size: Tensor) -> Tensor:
        """Ghosts of motion and the kernels, on images [S, X, Y, Z]."""
        if self.ghost.any():
            ghost = torch.as_tensor(self.ghost, dtype=torch.float32).view(-1, 1, 1, 1)
            images = (1 - ghost) * images + ghost * images.roll(images.shape[2] // 3, 2)
        kernels = self.kernels(size)
        both = kernels[:, 0, :, None] * kernels[:, 1, None, :]  # (S, 5, 5)
        slices = F.conv2d(images.movedim(-1, 0), both[:, None], padding=2, groups=len(images))
        return slices.movedim(0, -1)


class Head:
    """One drawn subject: an anatomy under a warp, with layers of lesions and vessels, and its signals.

    Args:
        rng: source of randomness.
        anatomy: what it is made from.
        sequences: S names, each of `CANONICAL`.
    """

    def __init__(self, rng: RandomState, anatomy: Anatomy, sequences: Sequence[str]) -> None:
        self.anatomy = anatomy
        self.warp = Warp(rng, anatomy)
        self.layers: list[Layer] = draw_layers(rng, anatomy)
        self.scanner = Scanner.drawn(rng, len(sequences))
        self.fine, self.coarse, self.water = Waves(rng, 6), Waves(rng, 20), Waves(rng, 12)
        patient = Patient.drawn(rng)
        settings = [draw_setting(name, rng, patient.t1[INDEX["csf"]]) for name in sequences]
        if {"T1", "T1Gd"} <= set(sequences) and rng.uniform() < 0.6:  # mostly the same protocol before and after
            settings[sequences.index("T1Gd")] = settings[sequences.index("T1")]
        drawn = signal_table(patient, settings, sequences)
        # What the equations leave out, such as magnetisation transfer and flow, is a factor of its own for each.
        drawn *= np.tile(np.exp(rng.normal(0, 0.03, (len(RELAXATION), len(sequences)))), 2)
        truth = signal_table(patient, [CANONICAL[name] for name in sequences], sequences)
        shares = np.array([[name in group for group in SHARES] for name in RELAXATION])
        self.table = torch.as_tensor(np.concatenate([drawn, truth, shares], 1), dtype=torch.float32)
        self.turn = torch.as_tensor(rng.uniform(size=(3, 1)), dtype=torch.float32)

    def edge(self, points: Tensor, distances: Tensor) -> Tensor:
        """mm by which points [3, N] lie outside the brain as it was extracted [N]: negative inside."""
        scanner = self.scanner
        surface = torch.lerp(distances[0], distances[1], scanner.tight) - scanner.margin
        return surface - scanner.ragged * self.coarse(points)

    def _mixed(self, points: Tensor, size: Tensor, table: Tensor) -> Tensor:
        """Rows of a table [tissue, C] averaged over voxels of a size [3] in mm around points [3, N]: [N, C]."""
        steps = torch.tensor([0.8191725134, 0.6710436067, 0.5497004779])[:, None]  # Roberts' quasi-random sequence
        offsets = (steps * torch.arange(SAMPLES) + self.turn).frac() - 0.5
        offsets = self.warp.matrix @ (offsets * size[:, None])
        tissue = self.anatomy.nearest_tissue(points, offsets)
        return F.embedding_bag(tissue.to(torch.int32), table, mode="mean")

    def signals(
        self, points: Tensor, distances: Tensor, size: Tensor, texture: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """At voxels of a size [3] in mm around points [3, N] of the anatomy.

        Args:
            distances: [3, N], see `Anatomy`.
            texture: [N], random numbers of unit variance.

        Returns:
            The acquired signals and the true ones, [S, N], and how much of each voxel is lesion, [N].
        """
        scanner, count = self.scanner, len(self.scanner.noise)
        mixed = self._mixed(points, size, self.table)
        thick = np.tile(scanner.thick, 2).nonzero()[0]
        if len(thick) and scanner.thickness > size[2]:
            slab = torch.stack([size[0], size[1], torch.tensor(scanner.thickness)])
            mixed[:, thick] = self._mixed(points, slab, self.table[:, thick].contiguous())
        white, matter, fluid = mixed[:, -3:].T.contiguous()
        fields = self.fine(points), self.coarse(points)
        place = Place(points, distances[0], distances[2], white, matter, fluid, *fields, float(size[:2].mean()))
        mixed, lesion = mixed[:, :-4], mixed[:, -4].clone()
        for name, rule in self.layers:
            share = rule(place)
            there = (share > 0.01).nonzero()[:, 0]
            if len(there):
                amount = share[there]
                mixed[there] = torch.lerp(mixed[there], self.table[INDEX[name], :-4], amount[:, None])
                lesion[there] = lesion[there] * (1 - amount) + amount * (name in LESIONS)
        value, change = mixed.T.reshape(2, 2, count, -1).unbind(1)
        water = scanner.texture * (texture + 0.5 * self.water(points))
        value = (value + change * water).clamp_(min=0)
        return value[0], value[1], lesion


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
        scale, offset = self._scales(whole.acquired)
        true_scale, true_offset = self._scales(whole.truth)
        return {
            **data,
            "image": _scaled(acquired, scale, offset, inside),
            "reference": _scaled(truth, true_scale, true_offset, inside),
            "lesion": ((lesion > 0.5) & inside)[None].float(),
            "available": torch.ones(len(self.sequences), dtype=torch.bool),
            "scale": scale,
            "offset": offset,
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
        scale, offset = np.array([RULES[self.rule](each.numpy()) for each in values], np.float32).T
        more = np.array([headroom(self.rule, name) for name in self.sequences], np.float32)
        return torch.from_numpy(scale * more), torch.from_numpy(offset.copy())


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
    acquired *= head.scanner.bias(axes).reshape(len(acquired), -1)[:, inside].exp_()
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
    smooth = [points, distances.view(3, *smaller), edge.view(1, *smaller), texture, scanner.bias(fewer)]
    points, distances, edge, texture, bias = _enlarged(torch.cat(smooth), shape).split([3, 3, 1, 1, count])
    # Some mm more than the mask, so that neither shift nor blur brings in the air beyond.
    there = (edge[0] < 2 * float(size[0])).nonzero()[:, 0]
    signal, true, share = head.signals(points[:, there], distances[:, there], size, texture[0, there])
    signal = scanner.measured(signal * bias[:, there].exp(), median, torch.ones(count), generator)
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
    loading scales it, "reference" (the same, noise-free at each sequence's `CANONICAL` setting), "lesion" [1, X, Y, Z]
    (0 or 1), and "available", "scale", "offset" [S].

    Args:
        sequences: S names among T1, T1Gd, T2, FLAIR, PD.
        anatomies: a folder of label maps, see `common.data.anatomies`; "" is MNI152.
        length: items of an epoch.
        roi_size: of a crop; slices are axial.
        spacing: least and largest voxel size in mm in plane; slices are as far apart, in three of ten 2 to 6 mm.
        normalisation: a rule of `common.data.normalisation.RULES`, which is applied to the whole head.

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
        draw = DrawSubject(sequences, read_anatomies(str(anatomies)), roi_size, tuple(spacing), normalisation)
        super().__init__([{"subject": f"simulated_{k}"} for k in range(length)], Compose([draw]))
