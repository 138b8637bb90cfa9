"""Named ways to turn a prediction and its truth into numbers.

One prediction scored 15.7 to 36.2 dB under nine published conventions: no number may stand without its convention's
name. A convention is one entry of `CONVENTIONS`; only `declared` may be compared across methods. The others repeat
what the methods' authors measured, so that their tables can be read; `docs/conventions.md` says where they are silent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor

from .metrics import GAUSSIAN, GAUSSIAN_2D, UNIFORM, Lpips, Window, nmse, psnr, spectral_distance, ssim_map


def brain_mask(target: Tensor) -> Tensor:
    """The mask used when a subject has none of its own: the target's non-background, target > 0, bool [X, Y, Z]."""
    return target > 0


def percentiles(values: Tensor, *which: float) -> list[float]:
    """Percentiles (0 to 100), linearly interpolated; nan without values.

    numpy's, because it selects where `torch.quantile` sorts, and some versions of that refuse more than 2^24 values.
    """
    if values.numel() == 0:
        return [math.nan] * len(which)
    return np.percentile(values.cpu().numpy(), which).tolist()


@dataclass(frozen=True)
class Convention:
    """How one set of numbers is measured.

    Attributes:
        region: where `psnr` and `ssim` are measured, in words that can follow "PSNR".
        steps: what is done to the images before they are measured, in this order: scaling, cropping.
        span: the lowest and highest nominal intensity after that; their distance is PSNR's peak and SSIM's data range.
        metrics: (images, mask) to a number, by the number's name; a mask of None means everywhere.
        places: the images' masks, by what their numbers' names end in; "" is where the region says.
        window: of SSIM.
        lpips: (metric, images) to `lpips`; without it, the convention has none.
        spectrum: whether it has the `spectral_distance` in the brain.
    """

    region: str
    steps: tuple[Callable[[Pair], Pair], ...]
    span: tuple[float, float]
    metrics: Mapping[str, Callable[[Pair, Tensor | None], float]]
    places: Callable[[Pair], dict[str, Tensor | None]]
    window: Window = GAUSSIAN
    lpips: Callable[[Lpips, Pair], float] | None = None
    spectrum: bool = False


@dataclass(frozen=True)
class Pair:
    """A prediction and its truth on their way to being measured; volumes [X, Y, Z], masks bool [X, Y, Z]."""

    pred: Tensor
    target: Tensor
    brain: Tensor
    regions: Mapping[str, Tensor]
    rules: Convention

    def each(self, change: Callable[[Tensor], Tensor]) -> Pair:
        """Both images changed alike."""
        return replace(self, pred=change(self.pred), target=change(self.target))

    def part(self, index: tuple) -> Pair:
        """A part of the images and of the masks."""
        regions = {name: mask[index] for name, mask in self.regions.items()}
        return replace(self.each(lambda x: x[index]), brain=self.brain[index], regions=regions)

    @property
    def peak(self) -> float:
        return self.rules.span[1] - self.rules.span[0]

    @cached_property
    def similarity(self) -> Tensor:
        rules = self.rules
        return ssim_map(self.pred, self.target, window=rules.window, data_range=self.peak, low=rules.span[0])


# --- steps ---


def _divisor(low: float, high: float) -> float:
    """high - low, but nan unless that is positive: an image without a scale then makes every number nan."""
    return high - low if high > low else math.nan


def _by_brain(pair: Pair) -> Pair:
    """Both by (x - p0.5) / (p99.5 - p0.5), the target's in-brain percentiles, and clipped to [0, 1]."""
    low, high = percentiles(pair.target[pair.brain], 0.5, 99.5)
    return pair.each(lambda x: ((x - low) / _divisor(low, high)).clamp(0, 1))


def _by_p99(pair: Pair) -> Pair:
    """Both by clip(x, 0, 2 p99) / (2 p99) * 2 - 1, p99 of the target, in whose units the authors predict."""
    (p99,) = percentiles(pair.target, 99)
    top = 2 * p99 if p99 > pair.target.min().clamp(0) else math.nan
    return pair.each(lambda x: x.clamp(0, top) / top * 2 - 1)


def _unclipped(pair: Pair) -> Pair:
    """Both linearly, so that the target's p0.5 becomes -1 and its p99.5 becomes 1."""
    low, high = percentiles(pair.target, 0.5, 99.5)
    return pair.each(lambda x: (x - low) / _divisor(low, high) * 2 - 1)


def _each_by_itself(pair: Pair) -> Pair:
    """Each image by its own p0.5 (at least 0) and p99.5, clipped to [0, 1]."""

    def scale(x: Tensor) -> Tensor:
        low, high = percentiles(x, 0.5, 99.5)
        low = max(low, 0)
        return ((x - low) / _divisor(low, high)).clamp(0, 1)

    return pair.each(scale)


def _slices(pair: Pair) -> Pair:
    """The axial slices with foreground, both images by the minimum and maximum of the target's slice.

    A slice in which the target is constant has no such scale and is left out.
    """
    low, high = pair.target.amin((0, 1)), pair.target.amax((0, 1))  # (Z,)
    keep = ~((high <= 0) | (high <= low))  # so written, a slice with nan stays and is seen
    return pair.each(lambda x: (x - low) / (high - low)).part((..., keep))


def crop(*size: int) -> Callable[[Pair], Pair]:
    """The step that leaves at most so many voxels along each axis, those in the middle."""

    def step(pair: Pair) -> Pair:
        starts = [max(n - m, 0) // 2 for n, m in zip(pair.target.shape, size, strict=True)]
        return pair.part(tuple(slice(start, start + m) for start, m in zip(starts, size, strict=True)))

    return step


# --- numbers ---


def _psnr(pair: Pair, mask: Tensor | None) -> float:
    return psnr(pair.pred, pair.target, mask, pair.peak)


def _nmse(pair: Pair, mask: Tensor | None) -> float:
    return nmse(pair.pred, pair.target, mask)


def _psnr_of_slices(pair: Pair, mask: None) -> float:
    """Mean over the slices; one perfect slice, inf, makes it inf."""
    error = (pair.pred - pair.target).square().mean((0, 1))  # (Z,)
    return (10 * torch.log10(pair.peak**2 / error)).mean().item()


def _ssim(pair: Pair, mask: Tensor | None) -> float:
    """Mean of the map in the mask, or everywhere but in its rim."""
    inside = pair.rules.window.inside(pair.similarity) if mask is None else pair.similarity[mask]
    return inside.mean().item()


def _ssim_alone(pair: Pair, mask: Tensor | None) -> float:
    """The same, but of images that are 0 outside of the mask."""
    return _ssim(pair if mask is None else pair.each(lambda x: x * mask), mask)


# --- places ---


def _everywhere(pair: Pair) -> dict[str, Tensor | None]:
    return {"": None}


def _regions(pair: Pair, within: Tensor | bool = True) -> dict[str, Tensor]:
    """Every region, and what is outside of it but within the other mask."""
    places = {}
    for name, mask in pair.regions.items():
        places |= {f"_{name}": mask, f"_outside_{name}": ~mask & within}
    return places


CONVENTIONS = {
    "declared": Convention(
        region="in the brain",
        steps=(_by_brain,),
        span=(0, 1),
        metrics={"psnr": _psnr, "ssim": _ssim, "nmse": _nmse},
        places=lambda pair: {"": pair.brain, "_volume": None} | _regions(pair, pair.brain),
        lpips=lambda lpips, pair: lpips(pair.pred, pair.target, pair.brain),
        spectrum=True,
    ),
    "seq2seq": Convention(
        region="in the central 192 x 192 x 128 voxels",
        steps=(_by_p99, crop(192, 192, 128)),
        span=(-1, 1),
        metrics={"psnr": _psnr, "ssim": _ssim},
        places=_everywhere,
        window=UNIFORM,
        # the sum over slices, as printed in the papers
        lpips=lambda lpips, pair: lpips((pair.pred + 1) / 2, (pair.target + 1) / 2) * pair.target.shape[-1],
    ),
    "aldm": Convention(
        region="in the central 192 x 192 x 144 voxels",
        steps=(crop(192, 192, 144), _unclipped),
        span=(-1, 1),
        metrics={"psnr": _psnr, "ssim": _ssim, "nmse": _nmse},
        places=_everywhere,
    ),
    "crl": Convention(
        region="per axial slice with foreground",
        steps=(_slices,),
        span=(0, 1),
        metrics={"psnr": _psnr_of_slices, "ssim": _ssim},
        places=_everywhere,
        window=GAUSSIAN_2D,
    ),
    "brasyn": Convention(
        region="in the central 240 x 240 x 155 voxels",
        steps=(crop(240, 240, 155), _each_by_itself),
        span=(0, 1),
        metrics={"psnr": _psnr, "ssim": _ssim_alone},
        places=lambda pair: {"": None} | _regions(pair),
    ),
}


def _prepared(pred: Tensor, target: Tensor, brain: Tensor, regions: Mapping[str, Tensor], rules: Convention) -> Pair:
    """The images as plain tensors (MONAI's MetaTensor is slow to index), taken through the convention's steps."""
    if taken := [name for name in regions if name == "volume" or name.startswith("outside_")]:
        raise ValueError(f"A region may not be named {taken[0]!r}: psnr_{taken[0]} has a meaning already")
    masks = {"brain": brain} | {f"region {name}": mask for name, mask in regions.items()}
    shapes = {k: tuple(x.shape) for k, x in ({"prediction": pred, "target": target} | masks).items()}
    if len(set(shapes.values())) > 1 or len(target.shape) != 3:
        raise ValueError(f"Expected volumes [X, Y, Z] of one shape, got {shapes}")
    pred, target = (convert_to_tensor(x, dtype=torch.float32, track_meta=False) for x in (pred, target))
    brain, *masks = (convert_to_tensor(x, dtype=torch.bool, track_meta=False) for x in masks.values())
    pair = Pair(pred, target, brain, dict(zip(regions, masks, strict=True)), rules)
    for step in rules.steps:
        pair = step(pair)
    return pair


@torch.no_grad()
def measurements(
    pred: Tensor,
    target: Tensor,
    brain: Tensor,
    *,
    convention: str = "declared",
    lpips: Lpips | None = None,
    regions: Mapping[str, Tensor] | None = None,
) -> dict[str, Callable[[], float]]:
    """The numbers of `score`, same arguments and errors, each computed only when it is called."""
    if convention not in CONVENTIONS:
        raise ValueError(f"Unknown convention {convention!r}; there are: {', '.join(CONVENTIONS)}")
    rules = CONVENTIONS[convention]
    pair = _prepared(pred, target, brain, regions or {}, rules)
    numbers = {
        metric + place: partial(measure, pair, mask)
        for place, mask in rules.places(pair).items()
        for metric, measure in rules.metrics.items()
    }
    if rules.spectrum:
        numbers["spectrum"] = partial(spectral_distance, pair.pred, pair.target, pair.brain)
    if lpips is not None and rules.lpips is not None:
        numbers["lpips"] = partial(rules.lpips, lpips, pair)
    return numbers


def score(
    pred: Tensor,
    target: Tensor,
    brain: Tensor,
    *,
    convention: str = "declared",
    lpips: Lpips | None = None,
    regions: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Measures one synthesised volume against its truth.

    Args:
        pred: prediction in training units, [X, Y, Z], the last axis from inferior to superior.
        target: truth in training units, [X, Y, Z].
        brain: brain mask, bool [X, Y, Z]; only `declared` asks for it.
        convention: a name of `CONVENTIONS`.
        lpips: the loaded metric; without it, `lpips` is not among the numbers.
        regions: further masks by name, such as "lesions", bool [X, Y, Z]; `declared` and `brasyn` ask for them.

    Returns:
        `psnr` (dB) and `ssim` as the convention defines them, and

        - `declared`: `nmse`, all in the brain; `psnr_volume`, `ssim_volume` and `nmse_volume` in the whole volume; the
          same three of every region (`psnr_<name>` ...) and of the rest of the brain (`psnr_outside_<name>` ...);
          `spectrum` (dB), the spectral distance in the brain; `lpips`, the mean over the slices with brain;
        - `seq2seq`: `lpips`, the sum over the slices;
        - `aldm`: `nmse`;
        - `brasyn`: PSNR and SSIM of every region and of the rest of the volume.

        nan where nothing is to be measured, or where the target (`brasyn`: either image) has no intensity scale.

    Raises:
        ValueError: an unknown convention, a region whose name is taken, or shapes that differ or are not [X, Y, Z].
    """
    numbers = measurements(pred, target, brain, convention=convention, lpips=lpips, regions=regions)
    return {name: number() for name, number in numbers.items()}
