"""Learning rate schedules counted in optimiser steps."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR


def polynomial_decay(optimizer: torch.optim.Optimizer, steps: int, power: float = 0.9, end: float = 1e-6) -> LambdaLR:
    """From the optimiser's rate down to `end` over `steps` steps (the whole run, whatever its length)."""
    floor = end / optimizer.param_groups[0]["lr"]

    def factor(step: int) -> float:  # a function, since a checkpoint would store an object's old `steps`
        return floor + (1 - floor) * max(0.0, 1 - step / steps) ** power

    return LambdaLR(optimizer, factor)


def step_decay(optimizer: torch.optim.Optimizer, every: int, factor: float = 0.5) -> LambdaLR:
    """The optimiser's rate times `factor` after each `every` epochs (a function, for the same reason)."""
    return LambdaLR(optimizer, lambda epoch: factor ** (epoch // every))
