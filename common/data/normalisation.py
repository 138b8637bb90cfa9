"""Named rules that bring an image's intensities to [0, 1], and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor


def p99(values: np.ndarray) -> tuple[float, float]:
    """The Seq2Seq authors' rule: 0 to twice the 99th percentile of the whole volume."""
    return 2 * float(np.percentile(values, 99)), 0.0


def p99_foreground(values: np.ndarray) -> tuple[float, float]:
    """0 to 1.5 times the 99th percentile of the voxels above 0, so that it does not depend on how much air there is."""
    return 1.5 * float(np.percentile(values[values > 0], 99)), 0.0


def percentile(values: np.ndarray) -> tuple[float, float]:
    """The 0.5th to the 99.5th percentile of the voxels above 0."""
    low, high = np.percentile(values[values > 0], (0.5, 99.5))
    return float(high - low), float(low)


RULES: dict[str, Callable[[np.ndarray], tuple[float, float]]] = {
    "p99": p99,
    "p99_foreground": p99_foreground,
    "percentile": percentile,
}


# Tissue never becomes 0, the mark of air, however dark it is: liquor in T1 must not be cut out of the T2 made from it.
DARKEST_TISSUE = 1e-3


def unscale(image: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """From [0, 1] back to the image's units: image [S, *spatial], scale and offset [S]. Background (0) stays 0."""
    shape = (-1,) + (1,) * (image.ndim - 1)
    return torch.where(image <= 0, 0, image * scale.view(shape) + offset.view(shape))  # NaN stays NaN


class ScaleSequencesd(MapTransform):
    """Each available sequence to [0, 1] by a rule of `RULES`: `clip((x - offset) / scale, 0.001, 1)`, 0 where x <= 0.

    Reads "available" [S]; adds "scale" and "offset" [S], 1 and 0 for a missing sequence. Further keys (a noise-free
    reference) are brought to the first key's scale.

    Raises:
        ValueError: an available image has no voxel above 0, or no spread, so that the rule gives no scale.
    """

    def __init__(self, keys: KeysCollection, rule: str = "p99_foreground", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if rule not in RULES:
            raise ValueError(f"normalisation is '{rule}'; choose one of {', '.join(RULES)}.")
        self.rule = rule

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image, available = d[self.keys[0]], d["available"]
        scale, offset = torch.ones(len(image)), torch.zeros(len(image))
        for i in available.nonzero()[:, 0].tolist():
            values = np.asarray(image[i])
            usable = (values > 0).any() and values.min() < values.max()
            found = RULES[self.rule](values) if usable else (0.0, 0.0)
            if not found[0] > 0:
                raise ValueError(
                    f"Subject {d.get('subject', '?')}: sequence {i} spans {values.min():g} to {values.max():g}, to "
                    f"which the rule '{self.rule}' gives no scale. Check the file, or drop it from the subject list."
                )
            scale[i], offset[i] = found
        shape = (-1,) + (1,) * (image.ndim - 1)
        for key in self.key_iterator(d):
            scaled = ((d[key] - offset.view(shape)) / scale.view(shape)).clamp(DARKEST_TISSUE, 1)
            d[key] = torch.where(d[key] > 0, scaled, 0)
        d["scale"], d["offset"] = scale, offset
        return d
