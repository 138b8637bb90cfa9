"""One simulated subject: an anatomy under a warp, with its lesions, its tissues' signals and its scanner.

Everything is a function of place, so that a slab and the whole head are the same subject's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import RandomState
from torch import Tensor

from .anatomies import Anatomy
from .simulated_lesions import Layer, Place, Waves, draw_layers
from .tissues import CANONICAL, INDEX, LESIONS, PARENCHYMA, RELAXATION, Patient, draw_setting, signal_table

SAMPLES = 8  # points of a voxel whose mean is its partial volume
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
        coil: the logarithm of the receive coil's sensitivity, one for all images, which are of one session; so an
            image that lacks would have it, too.
        bias: what each has of its own beside it, as from the transmit field.
        tight, margin, ragged: the mask follows the brain (1) or the fluid around it (0), by mm, unevenly by mm.
        rests: mm of what lies around the fluid that the mask holds at most: skull and dura where above 0.
        texture: deviation of the water content within tissues; one number.
    """

    noise: np.ndarray
    gamma: np.ndarray
    thick: np.ndarray
    thickness: float
    shift: np.ndarray
    blur: np.ndarray
    ghost: np.ndarray
    coil: SmoothField
    bias: SmoothField
    tight: float
    margin: float
    rests: float
    ragged: float
    texture: float

    @classmethod
    def drawn(cls, rng: RandomState, sequences: int) -> Scanner:
        registered, moved = rng.uniform() < 0.6, rng.uniform() < 0.15
        shift = rng.normal(0, 0.35, (2, sequences)).clip(-1, 1) * registered
        corrected = rng.uniform() < 0.6  # N4 leaves little
        tight = min(1.0, rng.uniform(0, 2))
        return cls(
            noise=np.exp(rng.uniform(np.log(0.005), np.log(0.06), sequences)),
            gamma=np.exp(rng.normal(0, 0.06, sequences)),
            thick=rng.uniform(size=sequences) < rng.choice([0, 0.3, 0.7]),
            thickness=rng.uniform(2, 6),
            shift=shift,
            blur=rng.uniform(0, 0.2, sequences),
            ghost=moved * rng.uniform(0, 0.06, sequences) * (rng.uniform(size=sequences) < 0.5),
            coil=SmoothField(rng, 1, 90.0, rng.uniform(0, 0.03 if corrected else 0.2)),
            bias=SmoothField(rng, sequences, 90.0, rng.uniform(0, 0.03 if corrected else 0.07, sequences)),
            tight=tight,
            margin=rng.uniform(-1.2, 0.4) + 2.0 * tight * rng.uniform(0, 1),
            rests=rng.uniform(0.5, 2.5) if rng.uniform() < 0.2 else rng.uniform(-1, 0),
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
        self.fine, self.coarse, self.water = Waves(rng, 6), Waves(rng, 20), Waves(rng, 14)
        patient = Patient.drawn(rng)
        settings = [draw_setting(name, rng, patient.t1[INDEX["csf"]]) for name in sequences]
        if {"T1", "T1Gd"} <= set(sequences) and rng.uniform() < 0.6:  # mostly the same protocol before and after
            settings[sequences.index("T1Gd")] = settings[sequences.index("T1")]
        drawn = signal_table(patient, settings, sequences)
        # What the equations leave out, such as magnetisation transfer and flow, is a factor of its own for each.
        drawn *= np.tile(np.exp(rng.normal(0, 0.03, (len(RELAXATION), len(sequences)))), 2)
        truth = signal_table(patient, [CANONICAL[name] for name in sequences], sequences)
        # Sulci narrower than a label map's voxels hold some cortex and pia too.
        fluid, cortex = INDEX["csf"], INDEX["cortex"]
        narrow = rng.uniform(0, 0.5)
        for table in (drawn, truth):
            table[fluid] = (1 - narrow) * table[fluid] + narrow * table[cortex]
        shares = np.array([[name in group for group in SHARES] for name in RELAXATION])
        self.table = torch.as_tensor(np.concatenate([drawn, truth, shares], 1), dtype=torch.float32)
        self.turn = torch.as_tensor(rng.uniform(size=(3, 1)), dtype=torch.float32)

    def edge(self, points: Tensor, distances: Tensor) -> Tensor:
        """mm by which points [3, N] lie outside the brain as it was extracted [N]: negative inside."""
        scanner = self.scanner
        surface = torch.lerp(distances[0], distances[1], scanner.tight) - scanner.margin
        surface = torch.maximum(surface, distances[0] - scanner.rests)
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
        for name, rule in self.layers if points.shape[1] else ():  # a small crop may miss the brain
            share = rule(place)
            there = (share > 0.01).nonzero()[:, 0]
            if len(there):
                amount = share[there]
                mixed[there] = torch.lerp(mixed[there], self.table[INDEX[name], :-4], amount[:, None])
                lesion[there] = lesion[there] * (1 - amount) + amount * (name in LESIONS)
        value, change = mixed.T.reshape(2, 2, count, -1).unbind(1)
        water = scanner.texture * (0.8 * texture + self.water(points))
        value = (value + change * water).clamp_(min=0)
        return value[0], value[1], lesion
