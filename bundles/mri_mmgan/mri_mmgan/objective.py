"""The losses and the curriculum of MM-GAN (Sharma and Hamarneh, TMI 2020)."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from .adversary import SubsetAdversary
from .common.layout import is_available

TISSUE = (
    1 / 3
)  # where `trimmed_mean` brings most of it; the authors divide images by their mean, so that theirs is at 1


class MMGANObjective(nn.Module):
    """L1 of the missing sequences, as a share of what tissue is, and the adversary's view of a subject made whole.

    Which of its sequences a subject goes without is drawn anew in each step, every scenario as often. The curriculum
    begins with those of one missing sequence; after each stage one more may be missing.

    Args:
        slice_axis: of the network; the slices of a sample count as images of their own.
        l1_weight, adversarial_weight: of the two terms.
        stage: epochs of a stage of the curriculum; 0 begins with all scenarios.
        adversary: None is without.
    """

    def __init__(
        self,
        *,
        slice_axis: int = -1,
        l1_weight: float = 0.9,
        adversarial_weight: float = 0.1,
        stage: int = 0,
        adversary: SubsetAdversary | None = None,
    ) -> None:
        super().__init__()
        self.slice_axis = slice_axis
        self.l1_weight, self.adversarial_weight = l1_weight, adversarial_weight
        self.stage, self.adversary = stage, adversary
        self.epoch = 1  # the trainer says which it is

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "image" [B, S, X, Y, Z] to the weighted terms, and what the adversary is to be shown."""
        most = 1 + (self.epoch - 1) // self.stage if self.stage else batch["image"].shape[1]
        available = batch["available"] if "available" in batch else is_available(batch["image"])
        absent = draw_missing(available.cpu().bool(), most)
        truth = batch["image"].movedim(self.slice_axis, 1).flatten(0, 1).clamp(min=0)  # (N, S, X, Y)
        given, missing = (
            each.to(truth).repeat_interleave(len(truth) // len(absent), 0)
            for each in (available.cpu().bool() & ~absent, absent)
        )
        masks = {"given": given, "missing": missing}
        given, missing = (each[:, :, None, None] for each in (given, missing))
        made = network(truth, step="generate_from", given=masks["given"])
        # As the finished image will be: 0 where its sources are air, so that nothing has to be learned about it.
        fake = truth * given + made * missing * (truth * given).amax(1, keepdim=True).gt(0)
        pixels = missing.sum() * truth[0, 0].numel()
        terms = {"l1": self.l1_weight * ((fake - truth).abs() * missing).sum() / (TISSUE * pixels)}
        if self.adversary is None:
            return terms, {}
        shown = {"fake": fake, "real": truth, **masks}
        terms["adversarial"] = self.adversarial_weight * self.adversary.generator_loss(**shown)
        return terms, shown


def draw_missing(available: Tensor, most: int) -> Tensor:
    """Which sequences to go without, at most so many: bool [B, S] of those that there are; torch's CPU generator draws.

    Raises:
        ValueError: a subject has one sequence only.
    """
    missing = torch.zeros_like(available)
    for row, there in zip(missing, (each.nonzero()[:, 0].tolist() for each in available), strict=True):
        if len(there) < 2:
            raise ValueError("A subject of this batch has one sequence only: there is nothing to make it from.")
        counts = range(1, min(most, len(there) - 1) + 1)
        scenarios = [few for count in counts for few in combinations(there, count)]
        row[list(scenarios[int(torch.randint(len(scenarios), ()))])] = True
    return missing
