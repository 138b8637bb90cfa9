"""Named rules that bring an image's intensities to [0, 1], and back."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy.ndimage import label
from torch import Tensor

from .mr_signal import brightest, setting_of
from .names import KNOWN


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


def minmax(values: np.ndarray) -> tuple[float, float]:
    """The smallest to the largest voxel, as the CRL authors scale each image."""
    low = max(float(values.min()), 0.0)
    return float(values.max()) - low, low


def trimmed_mean(values: np.ndarray) -> tuple[float, float]:
    """0 to the mean of the foreground between its 40th and 90th percentiles, which is what most tissue looks like.

    Vessels, enhancement, liquor and fat, which set the upper percentiles, are left out. Foreground is what is above a
    tenth of the 95th percentile of the voxels above 0: noise in air and ringing around a brain are not.
    """
    above = values[values > 0]
    foreground = above[above > 0.1 * np.percentile(above, 95)]
    low, high = np.percentile(foreground, (40, 90))
    return float(foreground[(foreground >= low) & (foreground <= high)].mean(dtype=np.float64)), 0.0


RULES: dict[str, Callable[[np.ndarray], tuple[float, float]]] = {
    "trimmed_mean": trimmed_mean,
    "p99": p99,
    "p99_foreground": p99_foreground,
    "percentile": percentile,
    "minmax": minmax,
}


# How many times the mean of tissue becomes 1, so that next to nothing is brighter: liquor is, in T2 alone. A network
# whose images are mostly dark learns badly, so others have no more than they need; what is not known may be as T2.
HEADROOM = {"T1": 3.0, "T1Gd": 3.0, "FLAIR": 3.0, "PD": 3.0}
MOST_HEADROOM = 4.5


def headroom(rule: str, sequence: str = "") -> float:
    """What the scale of a rule is multiplied by in a sequence, known by its usual names; 1 but for `trimmed_mean`."""
    _, name = KNOWN.get(sequence.lower(), ("", sequence))
    return HEADROOM.get(name, MOST_HEADROOM) if rule == "trimmed_mean" else 1.0


# Tissue never becomes 0, the mark of air, however dark it is: liquor in T1 must not be cut out of the T2 made from it.
DARKEST_TISSUE = 1e-3
ALMOST_AIR = 1e-6  # by the authors' rule, whose weights have seen 0 there


def tissue(image: np.ndarray) -> np.ndarray:
    """Voxels above 0 and those that they enclose, bool as the image [X, Y, Z]: liquor may have no signal in T1.

    Air reaches the faces of an image along two axes or more. What reaches them along one is liquor that a thin stack
    cuts through, or a single slice.
    """
    dark, count = label(image <= 0)
    reached = np.zeros(count + 1, int)
    for axis in range(3):
        reached[np.unique(dark.take((0, -1), axis))] += 1
    reached[0] = 0
    return (reached < 2)[dark]


def unscale(image: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """From [0, 1] back to the image's units: image [S, *spatial], scale and offset [S]. Background (0) stays 0."""
    shape = (-1,) + (1,) * (image.ndim - 1)
    return torch.where(image <= 0, 0, image * scale.view(shape) + offset.view(shape))  # NaN stays NaN


class ScaleSequencesd(MapTransform):
    """Each available sequence to [0, 1] by a rule of `RULES`: `clip((x - offset) / scale, 0.001, 1)`, and 0 in air;
    `p99` clips at 1e-6.

    Air is what is no `tissue`.

    Reads "available" [S]; adds "scale" and "offset" [S], 1 and 0 for a missing sequence. Further keys (a noise-free
    reference) are brought to the first key's scale.

    The frames of a series have one scale, that of all its frames: what changes between them is not scaled away.

    A scale of its own for each image erases what TR, TE and TI do to its brightness. With `per="subject"` all images
    have one, without offset, and sequences that are missing have it too. So that it hardly depends on which images
    there are, each of them votes with the upper end that the rule gives it, divided by the signal that its
    equation predicts for its "parameters" [S, 4] (TR, TE, TI in ms, FA) and the brightest tissue; the median is taken.

    Args:
        rule: of `RULES`.
        per: "image" or "subject".
        sequences: names, for `headroom`.
        frames: how many channels a sequence has, by name; 1 for others.

    Raises:
        ValueError: an available image has no voxel above 0, or no spread, so that the rule gives no scale.
    """

    def __init__(
        self,
        keys: KeysCollection,
        rule: str = "trimmed_mean",
        per: str = "image",
        allow_missing_keys: bool = False,
        sequences: Sequence[str] = (),
        frames: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if rule not in RULES:
            raise ValueError(f"normalisation is '{rule}'; choose one of {', '.join(RULES)}.")
        if per not in ("image", "subject"):
            raise ValueError(f"scale_per is '{per}'; it must be 'image' or 'subject'.")
        self.rule = rule
        self.per = per
        self.sequences = sequences
        self.frames = frames or {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image, available = d[self.keys[0]], d["available"]
        scale, offset = torch.ones(len(image)), torch.zeros(len(image))
        first = 0
        for name in self.sequences or [""] * len(image):
            rows = slice(first, first := first + self.frames.get(name, 1))
            if not available[rows].any():
                continue
            values = np.asarray(image[rows][available[rows]])
            usable = (values > 0).any() and values.min() < values.max()
            found = RULES[self.rule](values) if usable else (0.0, 0.0)
            if not found[0] > 0:
                raise ValueError(
                    f"Subject {d.get('subject', '?')}: sequence {name or rows.start} spans {values.min():g} to "
                    f"{values.max():g}, to which the rule '{self.rule}' gives no scale. Check the file, or drop it "
                    "from the subject list."
                )
            scale[rows], offset[rows] = found[0] * headroom(self.rule, name), found[1]
        if self.per == "subject":
            scale, offset = _of_subject(scale + offset, d["parameters"], available), torch.zeros_like(offset)
        shape = (-1,) + (1,) * (image.ndim - 1)
        for key in self.key_iterator(d):
            darkest = ALMOST_AIR if self.rule == "p99" else DARKEST_TISSUE
            scaled = ((d[key] - offset.view(shape)) / scale.view(shape)).clamp(darkest, 1)
            inside = torch.zeros(d[key].shape, dtype=torch.bool)  # as an image that lacks is, without a look at it
            for i in available.nonzero()[:, 0].tolist():
                inside[i] = torch.as_tensor(tissue(np.asarray(d[key][i])))
            d[key] = torch.where(inside, scaled, 0)
        d["scale"], d["offset"] = scale, offset
        return d


def _of_subject(highest: Tensor, parameters: Tensor, available: Tensor) -> Tensor:
    """One scale for all S sequences, from the intensity [S] that would become 1 in each image by itself."""
    votes = [
        high / brightest(setting_of(*timing))
        for high, timing, there in zip(highest.tolist(), parameters.tolist(), available.tolist(), strict=True)
        if there
    ]
    return torch.full_like(highest, float(np.median(votes)))
