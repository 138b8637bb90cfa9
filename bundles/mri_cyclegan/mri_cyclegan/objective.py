"""The losses of CycleGAN (Zhu et al., ICCV 2017), and of RegGAN (Kong et al., NeurIPS 2021)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.blocks import Warp
from torch import Tensor, nn

from .common.distributed import unwrapped
from .common.training.adversary import Adversary
from .common.training.pairs import Pairs, draw_pairs, network_input


class CycleGANObjective(nn.Module):
    """Adversarial, cycle and identity terms of unpaired images; of pairs that do not quite fit, RegGAN's, too.

    Differences are taken in [-1, 1], the range of the authors' images, so that the papers' weights keep their meaning.

    Args:
        slice_axis: of the network; the slices of a sample count as images of their own.
        adversary: a discriminator for each sequence.
        adversarial_weight, cycle_weight: of these terms.
        identity_weight: of a sequence made from itself, as a share of `cycle_weight`.
        registration_weight: of the difference between the truth and a made image that was warped onto it; 0 is without,
            and no two images of a subject are compared.
        smooth_weight: of the warp's squared gradient.
    """

    def __init__(
        self,
        *,
        slice_axis: int = -1,
        adversary: Adversary,
        adversarial_weight: float = 1.0,
        cycle_weight: float = 10.0,
        identity_weight: float = 0.5,
        registration_weight: float = 0.0,
        smooth_weight: float = 10.0,
    ) -> None:
        super().__init__()
        self.slice_axis = slice_axis
        self.adversary, self.adversarial_weight = adversary, adversarial_weight
        self.cycle_weight, self.identity_weight = cycle_weight, identity_weight
        self.registration_weight, self.smooth_weight = registration_weight, smooth_weight
        self.warp = Warp() if registration_weight else None
        self.register_buffer("codes", torch.eye(2), persistent=False)

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "image" [B, 2, X, Y, Z] to the weighted terms, and what the adversary is to be shown."""
        has_identity = self.cycle_weight * self.identity_weight > 0
        pairs = draw_pairs(batch["image"], batch.get("available"), include_self=has_identity, include_missing=True)
        images = network_input(pairs.images, 2, self.slice_axis)
        made = self._made(network, images, pairs.source, pairs.row, pairs.target)
        cross = pairs.source[pairs.row] != pairs.target
        fake, row, target = made[cross], pairs.row[cross], pairs.target[cross]
        directions = len(target.unique())  # whose terms the papers sum
        terms = {"adversarial": self.adversarial_weight * directions * self.adversary.generator_loss(fake, target)}
        if self.cycle_weight:
            order = target.argsort(descending=True)  # the other of two sequences, ascending
            back = self._made(network, fake, target, order, 1 - target[order])
            terms["cycle"] = self.cycle_weight * self._difference(back, images[row[order]], pairs.source[row[order]])
        if has_identity:
            own = pairs.row[~cross]
            weight = self.cycle_weight * self.identity_weight
            terms["identity"] = weight * self._difference(made[~cross], images[own], pairs.source[own])
        if self.registration_weight:
            terms |= self._registration(network, fake, images, pairs, cross)
        return terms, {"real": images, "real_sequence": pairs.source, "fake": fake, "fake_sequence": target}

    def _made(self, network: nn.Module, images: Tensor, source: Tensor, row: Tensor, target: Tensor) -> Tensor:
        """Of pairs sorted by target; as the finished image will be, 0 where its source is air."""
        rows = row.split(torch.bincount(target, minlength=2).tolist())
        return network(images, self.codes[source], rows, self.codes).prediction * (images[row] > 0)

    @staticmethod
    def _difference(made: Tensor, truth: Tensor, sequence: Tensor) -> Tensor:
        """L1 of each sequence's images, summed over the sequences, as there is a term for each direction."""
        error = 2 * (made - truth).abs().flatten(1).mean(1)
        return torch.stack([error[sequence == j].mean() for j in sequence.unique().tolist()]).sum()

    def _registration(
        self, network: nn.Module, fake: Tensor, images: Tensor, pairs: Pairs, cross: Tensor
    ) -> dict[str, Tensor]:
        """RegGAN's: a smooth field brings the made image onto the true one, with which it is then compared."""
        target, truth = pairs.target[cross], pairs.truth[cross]
        corrected, smooth = [], []
        for j in target.unique().tolist():
            both = (target == j) & (truth >= 0)
            if not both.any():
                raise ValueError(
                    "registration_weight is for pairs, and no subject of this batch has both sequences: leave it out."
                )
            moving, fixed = fake[both], images[truth[both]]
            field = unwrapped(network).registration[j](2 * torch.cat([moving, fixed], 1) - 1)
            corrected.append(2 * F.l1_loss(self.warp(moving, field), fixed))
            smooth.append(field.diff(dim=2).square().mean() + field.diff(dim=3).square().mean())
        return {
            "registration": self.registration_weight * torch.stack(corrected).sum(),
            "smooth": self.smooth_weight * torch.stack(smooth).sum(),
        }
