"""Regions of a label map: what is segmented, each with a channel of its own since one may lie in another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

# BraTS: 1 necrosis, 2 oedema, 3 the enhancing tumour, which was 4 until 2021.
BRATS = "whole=1+2+3+4,core=1+3+4,enhancing=3+4"


class Regions:
    """Regions by name, each the values of a label map that belong to it.

    Args:
        text: such as "whole=1+2+3,core=1+3,enhancing=3".

    Attributes:
        names: in that order.
        values: of each.

    Raises:
        ValueError: the text does not say so.
    """

    def __init__(self, text: str = BRATS) -> None:
        self.text = str(text)
        try:
            parts = [part.split("=") for part in self.text.replace(" ", "").split(",")]
            self.values = {name: tuple(int(value) for value in values.split("+")) for name, values in parts}
        except ValueError:
            raise ValueError(f"regions is {text!r}; it must be such as {BRATS}, or lesion=1.") from None
        if len(self.values) < len(parts) or not all(self.values) or min(map(min, self.values.values())) < 1:
            raise ValueError(f"regions is {text!r}; names must differ, and values be 1 or more: 0 is no region.")
        self.names = list(self.values)

    def channels(self, label: Tensor, subject: str = "the subject") -> Tensor:
        """A label map [1, X, Y, Z] as regions [R, X, Y, Z] of 0 and 1.

        Raises:
            ValueError: it has 3 and 4, of which the usual regions take one for the other.
        """
        if self.text == BRATS and (label == 3).any() and (label == 4).any():
            raise ValueError(
                f"The label map of {subject} has both 3 and 4, and one of them must be something else: say by --regions"
                " what belongs to what, such as whole=1+2+3,core=1+3,enhancing=3."
            )
        return torch.cat([sum((label == value).float() for value in values) for values in self.values.values()])

    def nested(self, channels: Tensor) -> Tensor:
        """Regions [R, ...], each within the one before it, as a label map [1, ...]: in how many a voxel lies.

        What is predicted may not be nested; then the later region counts.
        """
        inside, result = channels > 0.5, torch.zeros_like(channels[:1], dtype=torch.uint8)
        for k in range(len(inside)):
            result = torch.where(inside[k : k + 1], k + 1, result).to(torch.uint8)
        return result

    def check_nested(self) -> None:
        """Raises a ValueError unless each region lies within the one before it, as nnU-Net's labels need it."""
        for outer, inner in pairwise(self.names):
            if not {*self.values[inner]} < {*self.values[outer]}:
                raise ValueError(f"{inner} is not within {outer}: name the larger regions first ({self.text}).")

    def labels(self) -> dict[str, int | Sequence[int]]:
        """nnU-Net's labels of `nested`: regions by the values that belong to each, one alone as a plain class."""
        count = len(self.names)
        if count == 1:
            return {"background": 0, self.names[0]: 1}
        return {"background": 0, **{name: list(range(k + 1, count + 1)) for k, name in enumerate(self.names)}}
