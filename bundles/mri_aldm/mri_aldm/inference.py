"""From one sequence to another, for validation while training."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from .common.distributed import unwrapped
from .common.inference.inferers import AdvisingInferer, available_sequences, plain, with_meta
from .common.inference.progress import WholeInferer


class OneSourceInferer(Inferer):
    """Each available sequence made from one of the subject's sequences: [1, S, X, Y, Z] to the same shape.

    A diffusion takes too long to make each from all the others every few epochs.

    Args:
        shift: 0 makes each from itself, which is the latent's own reconstruction; 1 from the available one before it.
    """

    def __init__(self, shift: int = 1) -> None:
        self.shift = shift

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        available = available_sequences(inputs)
        image = plain(inputs)
        network, made = unwrapped(network), torch.zeros_like(image)
        whole = AdvisingInferer(WholeInferer(network.repeated()), network.less_memory)
        for k, j in enumerate(available):
            pair = {"sources": [available[k - self.shift]], "targets": [j]}
            made[:, j] = whole(image, partial(network.translate, **pair))[:, 0]
        return with_meta(made, inputs)
