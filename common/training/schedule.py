"""Learning rate schedules counted in optimiser steps."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR


def polynomial_decay(
    optimizer: torch.optim.Optimizer, steps: int, power: float = 0.9, end: float = 1e-6, warmup: int = 0
) -> LambdaLR:
    """From the optimiser's rate down to `end` over `steps` steps (the whole run, whatever its length).

    Over the first `warmup` steps it rises linearly from next to nothing: a network that saturates early is lost.
    """
    floor = end / optimizer.param_groups[0]["lr"]

    def factor(step: int) -> float:  # a function, since a checkpoint would store an object's old `steps`
        decayed = floor + (1 - floor) * max(0.0, 1 - step / steps) ** power
        return decayed * min(1.0, (step + 1) / (warmup + 1))

    return LambdaLR(optimizer, factor)


def step_decay(optimizer: torch.optim.Optimizer, every: int, factor: float = 0.5) -> LambdaLR:
    """The optimiser's rate times `factor` after each `every` epochs (a function, for the same reason)."""
    return LambdaLR(optimizer, lambda epoch: factor ** (epoch // every))


def constant_then_linear(optimizer: torch.optim.Optimizer, steps: int, constant: float = 0.5) -> LambdaLR:
    """The optimiser's rate for a share `constant` of the `steps`, then linearly down to 0, as pix2pix and its kin."""
    return LambdaLR(optimizer, lambda step: max(0.0, min(1.0, (1 - step / steps) / (1 - constant))))
