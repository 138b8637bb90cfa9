"""Learning rate schedules counted in optimiser steps."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR


class Polynomial:
    """Factor of the learning rate after `step` of `steps` steps: (1 - step / steps) ** power, not below `floor`."""

    def __init__(self, steps: int, power: float, floor: float) -> None:
        self.steps, self.power, self.floor = steps, power, floor

    def __call__(self, step: int) -> float:
        return self.floor + (1 - self.floor) * max(0.0, 1 - step / self.steps) ** self.power


def polynomial_decay(optimizer: torch.optim.Optimizer, steps: int, power: float = 0.9, end: float = 1e-6) -> LambdaLR:
    """From the optimiser's rate down to `end` over `steps` steps (the whole run, whatever its length)."""
    return LambdaLR(optimizer, Polynomial(steps, power, end / optimizer.param_groups[0]["lr"]))
