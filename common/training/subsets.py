"""Which of its sequences a subject's others are made from in a training step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..layout import is_available


def draw_sources(image: Tensor, available: Tensor | None = None, fewest: int = 1) -> tuple[Tensor, Tensor]:
    """Sources at random (by torch's CPU generator), of each number as often; the others are targets.

    Args:
        image: a batch [B, S, X, Y, Z].
        available: the batch's [B, S]; None is looked for in the images.
        fewest: so many sources at least. A subject with no more sequences than that has all but one.

    Returns:
        Which sequences are sources and which are targets, two bool [B, S] on the CPU.

    Raises:
        ValueError: a subject has one sequence only.
    """
    available = (is_available(image) if available is None else available).cpu().bool()
    count = available.sum(1)
    if count.min() < 2:
        raise ValueError("A subject of this batch has one sequence only: there is nothing to make it from.")
    least = torch.clamp(count - 1, max=fewest)
    number = least + (torch.rand(len(count)) * (count - least)).long()
    order = torch.rand(available.shape).masked_fill(~available, 2).argsort(1).argsort(1)  # the available ones first
    sources = order < number[:, None]
    return sources, available & ~sources
