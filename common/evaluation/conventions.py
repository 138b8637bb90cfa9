"""Named ways to turn a prediction and its truth into numbers.

One prediction scored 15.7 to 36.2 dB under nine published conventions: no number may stand without its convention's
name. A convention is one entry of `CONVENTIONS`; only `declared` may be compared across methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor

from .metrics import Lpips, nmse, psnr, ssim_map


def brain_mask(target: Tensor) -> Tensor:
    """The mask used when a subject has none of its own: the target's non-background, target > 0, bool [X, Y, Z]."""
    return target > 0


def percentiles(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """Two percentiles (0 to 100), linearly interpolated; nan without values.

    numpy's, because it selects where `torch.quantile` sorts, and some versions of that refuse more than 2^24 values.
    """
    if values.numel() == 0:
        return math.nan, math.nan
    return tuple(np.percentile(values.cpu().numpy(), [low, high]).tolist())


def scale_by_target(pred: Tensor, target: Tensor, brain: Tensor) -> tuple[Tensor, Tensor]:
    """Maps both by (x - p0.5) / (p99.5 - p0.5), the target's in-brain percentiles, and clips both to [0, 1].

    A target that is constant in the brain, or no brain, has no such scale: both become nan, and so does every metric.
    """
    low, high = percentiles(target[brain], 0.5, 99.5)
    span = high - low if high > low else math.nan
    return ((pred - low) / span).clamp(0, 1), ((target - low) / span).clamp(0, 1)


@dataclass(frozen=True)
class Convention:
    """How one set of numbers is measured.

    Attributes:
        scale: (prediction, target, brain) to the two images that are measured.
        peak: PSNR's peak, and SSIM's data range, after scaling.
        ssim: (prediction, target, data_range=) to the SSIM map, [X, Y, Z].
        rim: voxels left out on every side when the map is averaged over the volume.
    """

    scale: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    peak: float
    ssim: Callable[..., Tensor]
    rim: int


CONVENTIONS = {"declared": Convention(scale=scale_by_target, peak=1.0, ssim=ssim_map, rim=5)}


def _volumes(images: Mapping[str, Tensor]) -> list[Tensor]:
    """The images as plain float32 tensors (MONAI's MetaTensor is slow to index); raises when shapes differ."""
    shapes = {name: tuple(image.shape) for name, image in images.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 3 for shape in shapes.values()):
        raise ValueError(f"Expected volumes [X, Y, Z] of one shape, got {shapes}")
    return [convert_to_tensor(image, dtype=torch.float32, track_meta=False) for image in images.values()]


def _numbers(
    pred: Tensor, target: Tensor, brain: Tensor, regions: Mapping[str, Tensor], rules: Convention
) -> dict[str, float]:
    """PSNR, SSIM and NMSE of the scaled images: in the brain, in the volume, and (no SSIM) in the regions."""
    similarity = rules.ssim(pred, target, data_range=rules.peak)
    inner = tuple(slice(rules.rim, size - rules.rim) for size in similarity.shape)
    numbers = {
        "psnr": psnr(pred, target, brain, rules.peak),
        "ssim": similarity[brain].mean().item(),
        "nmse": nmse(pred, target, brain),
        "psnr_volume": psnr(pred, target, None, rules.peak),
        "ssim_volume": similarity[inner].mean().item(),
        "nmse_volume": nmse(pred, target),
    }
    for name, mask in regions.items():
        numbers[f"psnr_{name}"] = psnr(pred, target, mask, rules.peak)
        numbers[f"nmse_{name}"] = nmse(pred, target, mask)
    return numbers


@torch.no_grad()
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
        pred: prediction in training units, [X, Y, Z].
        target: truth in training units, [X, Y, Z].
        brain: brain mask, bool [X, Y, Z].
        convention: a name of `CONVENTIONS`.
        lpips: the loaded metric; without it, `lpips` is not among the numbers.
        regions: further masks by name, such as "lesions", bool [X, Y, Z].

    Returns:
        `psnr` (dB), `ssim` and `nmse` in the brain, `psnr_volume`, `ssim_volume` and `nmse_volume` in the whole volume,
        `lpips` over the slices with brain, and `psnr_<name>` and `nmse_<name>` of every region.

    Raises:
        ValueError: an unknown convention, a region named "volume", or shapes that differ or are not [X, Y, Z].
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"Unknown convention {convention!r}; there are: {', '.join(CONVENTIONS)}")
    if "volume" in (regions := dict(regions or {})):
        raise ValueError("A region may not be named 'volume': psnr_volume is the whole volume's")
    masks = {"brain": brain} | {f"region {name}": mask for name, mask in regions.items()}
    pred, target, *masks = _volumes({"prediction": pred, "target": target} | masks)
    brain, *masks = (mask.bool() for mask in masks)
    rules = CONVENTIONS[convention]
    pred, target = rules.scale(pred, target, brain)
    numbers = _numbers(pred, target, brain, dict(zip(regions, masks, strict=True)), rules)
    return numbers if lpips is None else numbers | {"lpips": lpips(pred, target, brain)}
