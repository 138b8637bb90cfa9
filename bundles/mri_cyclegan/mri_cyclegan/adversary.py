"""The discriminators of CycleGAN, which also see images that were made earlier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .common.training.adversary import Adversary


class PooledAdversary(Adversary):
    """Discriminators that see, in place of half of the made images, one of the last `pool` of that sequence.

    So a generator cannot win by what its discriminator has just forgotten (Shrivastava et al., CVPR 2017). The pool is
    part of a checkpoint: a training that goes on shows what it would have shown.

    Args:
        pool: how many are kept of each sequence; 0 for none.
        others: as for `Adversary`.
    """

    def __init__(self, *others: Any, pool: int = 50) -> None:
        super().__init__(*others)
        self.pool = pool
        self.kept: dict[int, list[Tensor]] = {}

    def backward(
        self, real: Tensor, real_sequence: Tensor, fake: Tensor, fake_sequence: Tensor
    ) -> tuple[Tensor, Tensor]:
        each = zip(fake.detach(), fake_sequence.tolist(), strict=True)
        shown = [self._exchanged(image, self.kept.setdefault(j, [])) for image, j in each]
        return super().backward(real, real_sequence, torch.stack(shown), fake_sequence)

    def _exchanged(self, image: Tensor, kept: list[Tensor]) -> Tensor:
        """The image, or an earlier one of its size that it takes the place of."""
        if len(kept) < self.pool:
            kept.append(image)
            return image
        if not self.pool or torch.rand(()) < 0.5:
            return image
        k = int(torch.randint(len(kept), ()))
        earlier, kept[k] = kept[k], image
        return earlier

    def state_dict(self) -> dict:
        return {**super().state_dict(), "pool": {j: torch.stack(kept) for j, kept in self.kept.items() if kept}}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        device = next(self.discriminators.parameters()).device
        self.kept = {j: list(kept.to(device)) for j, kept in state["pool"].items()}
