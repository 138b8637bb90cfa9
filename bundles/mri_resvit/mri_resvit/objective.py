"""The losses of ResViT's unified model (Dalmaz et al., TMI 2022)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .common.training.adversary import Adversary
from .common.training.subsets import draw_sources


class ResViTObjective(nn.Module):
    """L1 of the targets and of the sources themselves, and the least-squares adversary.

    Which sequences are sources is drawn anew in each step. Differences are taken in [-1, 1], as the authors' are.

    Args:
        slice_axis: of the network; the slices of a sample count as images of their own.
        l1_weight: of the targets.
        self_weight: of the sources, as a share of that.
        fewest_sources: see `draw_sources`.
        adversary: one discriminator for S sources and S targets, each 0 where they are not; None is without.
        adversarial_weight: of its term.
    """

    def __init__(
        self,
        *,
        slice_axis: int = -1,
        l1_weight: float = 100.0,
        self_weight: float = 1.0,
        fewest_sources: int = 1,
        adversary: Adversary | None = None,
        adversarial_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.slice_axis = slice_axis
        self.l1_weight, self.self_weight = l1_weight, self_weight
        self.fewest_sources = fewest_sources
        self.adversary, self.adversarial_weight = adversary, adversarial_weight

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "image" [B, S, X, Y, Z] to the weighted terms, and what the adversary is to be shown.

        Where the batch has a "reference" of the same shape, that is what the images shall look like.
        """
        sources, targets = draw_sources(batch["image"], batch.get("available"), self.fewest_sources)
        images, truths = (
            self._slices(batch[name]) for name in ("image", "reference" if "reference" in batch else "image")
        )
        given, wanted = (
            each.to(images).repeat_interleave(len(images) // len(each), 0)[:, :, None, None]
            for each in (sources, targets)
        )
        made = network(images, step="generate_from", given=given[:, :, 0, 0])
        # As the finished image will be: 0 where its sources are air, so that nothing has to be learned about it.
        made = made * (images * given).amax(1, keepdim=True).gt(0)
        error = 2 * (made - truths).abs()
        terms = {
            "l1": self.l1_weight * _mean(error, wanted),
            "l1_self": self.l1_weight * self.self_weight * _mean(error, given),
        }
        if self.adversary is None:
            return terms, {}
        condition = (2 * images - 1) * given
        real, fake = (torch.cat([condition, (2 * each - 1) * wanted], 1) for each in (truths, made))
        sequence = torch.zeros(len(images), dtype=torch.long)  # one discriminator for all
        terms["adversarial"] = self.adversarial_weight * self.adversary.generator_loss(fake, sequence)
        return terms, {"real": real, "real_sequence": sequence, "fake": fake, "fake_sequence": sequence}

    def _slices(self, volumes: Tensor) -> Tensor:
        """Volumes [B, S, X, Y, Z] to slices [B * Z, S, X, Y], what is missing 0."""
        return volumes.movedim(self.slice_axis, 1).flatten(0, 1).clamp(min=0)


def _mean(error: Tensor, weight: Tensor) -> Tensor:
    return (error * weight).sum() / (weight.sum() * error[0, 0].numel()).clamp(min=1)
