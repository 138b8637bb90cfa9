"""Lesions and enhancing structures of a simulated subject: which tissue takes the place of which share of a voxel.

A layer is a tissue and a rule that gives its share (0 to 1) at any points, so that a slab and the whole head agree.
Later layers lie on earlier ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import RandomState
from numpy.typing import NDArray
from torch import Tensor

from .anatomies import Anatomy


@dataclass(frozen=True, slots=True)
class Place:
    """N points of a subject: what rules look at.

    Attributes:
        points: [3, N], mm of the anatomy.
        outside: [N], mm to the edge of the fluid around the brain, negative inside.
        ventricles: [N], mm to the ventricles.
        white, matter, fluid: [N], shares of white matter, of all parenchyma and of fluid.
        fine, coarse: [N], random fields of unit variance, smooth over some 3 and 10 mm.
        edge: mm over which borders are blurred, about a voxel.
    """

    points: Tensor
    outside: Tensor
    ventricles: Tensor
    white: Tensor
    matter: Tensor
    fluid: Tensor
    fine: Tensor
    coarse: Tensor
    edge: float


Layer = tuple[str, Callable[[Place], Tensor]]


class Waves:
    """A random field of unit variance as a sum of plane waves, so that it has a value at any point.

    Args:
        wavelength: mm, of the shortest; the longest is 2.5 times as long.
        waves: how many.
    """

    def __init__(self, rng: RandomState, wavelength: float, waves: int = 7) -> None:
        direction = rng.randn(3, waves)
        direction /= np.linalg.norm(direction, axis=0) * wavelength * rng.uniform(1, 2.5, waves) / (2 * np.pi)
        self.frequency = torch.as_tensor(direction.T, dtype=torch.float32)
        self.phase = torch.as_tensor(rng.uniform(0, 2 * np.pi, (waves, 1)), dtype=torch.float32)

    def __call__(self, points: Tensor) -> Tensor:
        """Points [3, N] in mm to values [N]."""
        phases = torch.addmm(self.phase, self.frequency, points)
        return phases.cos_().sum(0).mul_((2 / len(self.phase)) ** 0.5)


def _within(place: Place, name: str) -> Tensor | float:
    return {"white": place.white.sqrt(), "matter": place.matter, "all": (place.matter + place.fluid).clamp(max=1)}[name]


def spheres(
    centres: NDArray,
    radii: NDArray,
    *,
    within: str = "matter",
    shell: float = 1.0,
    uneven: float = 0.25,
    soft: float = 1.0,
) -> Callable[[Place], Tensor]:
    """Uneven spheres that may overlap: the rule of most lesions.

    Args:
        centres, radii: [M, 3] and [M], mm.
        within: "white", "matter" (parenchyma) or "all" (fluid too).
        shell: radius relative to `radii`.
        uneven: how far their surface departs from a sphere's, relative to the radius.
        soft: mm over which the border fades, beside the voxels' own.
    """
    middle = torch.as_tensor(np.atleast_2d(centres), dtype=torch.float32)
    size = torch.as_tensor(np.atleast_1d(radii), dtype=torch.float32)

    def share(place: Place) -> Tensor:
        reach = float(size.max() * shell * (1 + 2 * uneven)) + soft + place.edge
        low, high = place.points.amin(1) - reach, place.points.amax(1) + reach
        near = ((middle > low) & (middle < high)).all(1)
        if not near.any():
            return torch.zeros_like(place.fine)
        relative = torch.cdist(place.points.T, middle[near]).div_(size[near])
        nearest, which = relative.min(1)
        surface = shell * (1 + uneven * (0.6 * place.coarse + 0.4 * place.fine))
        amount = (0.5 + (surface - nearest) * size[near][which] / (place.edge + soft)).clamp_(0, 1)
        return amount * _within(place, within)

    return share


def halo(reach: float, uneven: float) -> Callable[[Place], Tensor]:
    """White matter within some mm of the ventricles, more here than there."""

    def share(place: Place) -> Tensor:
        limit = reach * (1 + uneven * place.coarse)
        return (0.5 + (limit - place.ventricles) / (place.edge + 1.5)).clamp_(0, 1) * place.white

    return share


def confluent(level: float) -> Callable[[Place], Tensor]:
    """Patches of deep white matter, as of small-vessel disease; the higher the level the fewer."""

    def share(place: Place) -> Tensor:
        patch = place.coarse + 0.4 * place.fine - level - 0.03 * place.ventricles
        return (1.2 * patch).clamp_(0, 0.9) * place.white * (place.white > 0.8)

    return share


def vessels(rng: RandomState, radius: float, share: float) -> Callable[[Place], Tensor]:
    """Thin curves in the sulci, where two random fields are both zero; a share of them only."""
    first, second = Waves(rng, 22, 5), Waves(rng, 22, 5)

    def amount(place: Place) -> Tensor:
        there = (place.fluid > 0.15) & (place.coarse < 4 * share - 2)
        found = torch.zeros_like(place.fine)
        points = place.points[:, there]
        distance = torch.hypot(first(points), second(points)) * 22 / 4
        thin = min(1.0, 2 * radius / place.edge)
        found[there] = (0.5 + (radius - distance) / place.edge).clamp_(0, 1) * thin
        return found * place.fluid.clamp(max=1)

    return amount


def dura(thickness: float, share: float) -> Callable[[Place], Tensor]:
    """The shell around the fluid, a share of it."""

    def amount(place: Place) -> Tensor:
        there = (place.coarse < 4 * share - 2).float()
        return (1.2 - (place.outside - 0.3).abs() / thickness).clamp_(0, 1) * there

    return amount


def sinus(middle: float, back: float, height: float) -> Callable[[Place], Tensor]:
    """The sagittal sinus: in the midline, on top of the brain and behind it."""

    def amount(place: Place) -> Tensor:
        x, y, z = place.points
        there = ((z > height) | (y < back)).float()
        section = torch.hypot((x - middle) / 4.5, (place.outside + 0.5) / 3.0)
        return (1.6 - 1.3 * section).clamp_(0, 1) * there

    return amount


def _chains(rng: RandomState, starts: NDArray, radii: NDArray) -> tuple[NDArray, NDArray]:
    """Each place and a second sphere beside it, so that lesions are longish."""
    step = rng.randn(*starts.shape)
    step *= (radii * rng.uniform(0, 1.3, len(radii)) / np.linalg.norm(step, axis=1))[:, None]
    return np.concatenate([starts, starts + step]), np.concatenate([radii, radii * rng.uniform(0.6, 1, len(radii))])


def _chosen(rng: RandomState, anatomy: Anatomy, count: int, *, depth: tuple[float, float], side: float) -> NDArray:
    """Places in the white matter; `side` of them within `depth` mm of the ventricles, the others anywhere."""
    few = anatomy.white[rng.randint(len(anatomy.white), size=60 * count)]
    away = anatomy.distance(torch.as_tensor(few.T, dtype=torch.float32))[2].numpy()
    near = np.flatnonzero((away > depth[0]) & (away < depth[1]))
    rows = rng.randint(len(few), size=count)
    chosen = rng.uniform(size=count) < side
    if len(near):
        rows[chosen] = rng.choice(near, chosen.sum())
    return few[rows] + rng.uniform(-1, 1, (count, 3))


def multiple_sclerosis(rng: RandomState, anatomy: Anatomy) -> list[Layer]:
    """Plaques around the ventricles, below the cortex and elsewhere; some old and dark in T1, some enhancing."""
    count = int(np.exp(rng.uniform(np.log(4), np.log(45))))
    radii = np.exp(rng.normal(np.log(2.6), 0.4, count)).clip(1.2, 9)
    places = _chosen(rng, anatomy, count, depth=(0.5, 7), side=rng.uniform(0.3, 0.7))
    old, active = rng.uniform(size=count) < rng.uniform(0, 0.5), rng.uniform(size=count) < rng.choice([0, 0.15])
    layers: list[Layer] = [("gliosis", halo(rng.uniform(0.5, 2.5), 0.5))] if rng.uniform() < 0.6 else []
    layers.append(("plaque", spheres(*_chains(rng, places, radii), within="matter", soft=1.2)))
    if old.any():
        layers.append(("black_hole", spheres(places[old], radii[old], shell=0.7, soft=1.5)))
    if active.any():
        layers.append(("active_plaque", spheres(places[active], radii[active], soft=1.0)))
        if rng.uniform() < 0.5:
            layers.append(("plaque", spheres(places[active], radii[active], shell=0.55, soft=1.0)))
    return layers


def small_vessel_disease(rng: RandomState, anatomy: Anatomy) -> list[Layer]:
    """Caps and bands around the ventricles, patches and dots in the white matter, and sometimes lacunes."""
    count = rng.randint(5, 60)
    places = _chosen(rng, anatomy, count, depth=(3, 15), side=0.3)
    radii = np.exp(rng.normal(np.log(1.6), 0.35, count)).clip(1, 4)
    layers: list[Layer] = [
        ("gliosis", halo(rng.uniform(1, 7), rng.uniform(0.3, 0.7))),
        ("gliosis", spheres(places, radii, within="white")),
    ]
    if rng.uniform() < 0.5:
        layers.append(("gliosis", confluent(rng.uniform(0.5, 1.6))))
    if rng.uniform() < 0.3:
        few = places[: rng.randint(1, 4)]
        layers.append(("cavity", spheres(few, rng.uniform(1.5, 4, len(few)))))
    return layers


def glioma(rng: RandomState, anatomy: Anatomy) -> list[Layer]:
    """Oedema along the white matter, a solid part, and in most an enhancing rim around necrosis."""
    centre = _chosen(rng, anatomy, 1, depth=(8, 30), side=1.0)
    radius = np.array([rng.uniform(7, 22)])
    centres, radii = _chains(rng, centre, radius)
    spread = min(rng.uniform(1.2, 2.2), 1 + 16 / radius[0])
    uneven = rng.uniform(0.15, 0.35)
    layers: list[Layer] = [("oedema", spheres(centres, radii, within="white", shell=spread, uneven=0.4, soft=3))]
    layers.append(("tumour", spheres(centres, radii, within="all", uneven=uneven, soft=1.5)))
    if rng.uniform() < 0.7:
        outer, inner = rng.uniform(0.75, 0.95), rng.uniform(0.45, 0.75)
        layers.append(("rim", spheres(centres, radii, within="all", shell=outer, uneven=uneven)))
        layers.append(("necrosis", spheres(centres, radii, within="all", shell=outer * inner, uneven=uneven)))
    elif rng.uniform() < 0.3:
        layers.append(("cavity", spheres(centres, radii, within="all", shell=rng.uniform(0.3, 0.6), uneven=uneven)))
    return layers


def metastases(rng: RandomState, anatomy: Anatomy) -> list[Layer]:
    """A few balls that enhance, solid or as rings, each in its oedema."""
    count = rng.randint(1, 7)
    places = _chosen(rng, anatomy, count, depth=(12, 40), side=0.9)
    radii = np.exp(rng.normal(np.log(5), 0.5, count)).clip(2, 14)
    layers: list[Layer] = [
        ("oedema", spheres(places, radii + rng.uniform(2, 12, count), within="white", uneven=0.4, soft=3)),
        ("rim", spheres(places, radii, within="all", uneven=0.12)),
    ]
    if rng.uniform() < 0.6:
        layers.append(("necrosis", spheres(places, radii, within="all", shell=rng.uniform(0.4, 0.75), uneven=0.15)))
    return layers


def infarct(rng: RandomState, anatomy: Anatomy) -> list[Layer]:
    """A territory of cortex and white matter: swollen when fresh, with a cavity inside gliosis when old."""
    centre, radius = _chosen(rng, anatomy, 1, depth=(15, 40), side=0.8), np.array([rng.uniform(6, 26)])
    centres, radii = _chains(rng, centre, radius)
    if rng.uniform() < 0.5:
        return [("infarct", spheres(centres, radii, uneven=0.3, soft=1.5))]
    core = ("cavity", spheres(centres, radii, shell=rng.uniform(0.5, 0.85), uneven=0.3, soft=1.5))
    return [("gliosis", spheres(centres, radii, uneven=0.3, soft=2)), core]


def resection(rng: RandomState, anatomy: Anatomy) -> list[Layer]:
    """A cavity full of fluid with gliosis around, sometimes with a thin enhancing wall."""
    centre, radius = _chosen(rng, anatomy, 1, depth=(10, 40), side=1.0), np.array([rng.uniform(6, 18)])
    layers: list[Layer] = [("gliosis", spheres(centre, radius + rng.uniform(2, 8), within="white", uneven=0.4, soft=2))]
    if rng.uniform() < 0.5:
        layers.append(("rim", spheres(centre, radius + 1, within="all", uneven=0.2)))
    return [*layers, ("cavity", spheres(centre, radius, within="all", uneven=0.2))]


DISEASES: dict[Callable[[RandomState, Anatomy], list[Layer]], float] = {
    multiple_sclerosis: 0.32,
    small_vessel_disease: 0.22,
    glioma: 0.2,
    metastases: 0.07,
    infarct: 0.08,
    resection: 0.04,
}


def draw_layers(rng: RandomState, anatomy: Anatomy) -> list[Layer]:
    """What every head has (vessels, dura, sinus, pituitary), and the lesions of one disease or of none."""
    size = anatomy.tissue.shape
    layers: list[Layer] = [
        ("vessel", vessels(rng, rng.uniform(0.6, 1.1), rng.uniform(0.2, 0.8))),
        ("dura", dura(rng.uniform(0.6, 1.4), rng.uniform(0.2, 0.9))),
        ("vessel", sinus(size[0] / 2, 0.25 * size[1], 0.6 * size[2])),
    ]
    if anatomy.optic_chiasm is not None:
        layers.append(("pituitary", spheres(anatomy.optic_chiasm - [0, 2, 9], [4.5], within="all", uneven=0.1)))
    diseases = list(DISEASES)
    odds = np.array([*DISEASES.values(), 1 - sum(DISEASES.values())])
    which = rng.choice(len(odds), p=odds)
    if which < len(diseases):
        layers += diseases[which](rng, anatomy)
        if rng.uniform() < 0.15:  # age has no respect of other diseases
            layers[3:3] = small_vessel_disease(rng, anatomy)[:2]
    elif rng.uniform() < 0.5:
        layers.append(("gliosis", halo(rng.uniform(0.3, 2), 0.5)))  # as most have from their fifties on
    return layers
