"""The losses of pGAN (Dar et al., TMI 2019); without the perceptual one they are pix2pix's with least squares."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.training.adversary import Adversary
from .common.training.pairs import network_input
from .network import SOURCE, TARGET
from .perceptual import VGG16Loss


class PGANObjective(nn.Module):
    """L1, L1 of VGG16's features, and a discriminator that sees the source's slice beside the target's.

    Differences are taken in [-1, 1], the range of the authors' images, so that the paper's weights keep their meaning.

    Args:
        slice_axis: of the network.
        l1_weight, perceptual_weight, adversarial_weight: of the three terms.
        perceptual_weights: VGG16's: a file, "download", or "none" to train without the term.
        adversary: one discriminator of two channels; None is without.
    """

    def __init__(
        self,
        *,
        slice_axis: int = -1,
        l1_weight: float = 100.0,
        perceptual_weight: float = 100.0,
        perceptual_weights: str = "none",
        adversary: Adversary | None = None,
        adversarial_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.slice_axis = slice_axis
        self.l1_weight, self.perceptual_weight = l1_weight, perceptual_weight
        self.adversary, self.adversarial_weight = adversary, adversarial_weight
        self.perceptual = VGG16Loss(perceptual_weights) if perceptual_weight and perceptual_weights != "none" else None
        self.register_buffer("codes", torch.eye(2), persistent=False)

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "image" [B, 2, X, Y, Z], Z slices of which the middle one is made, to the weighted terms, and what the
        adversary is to be shown.
        """
        source, truth = (network_input(batch["image"][:, k : k + 1], 2, self.slice_axis) for k in (SOURCE, TARGET))
        middle = source.shape[1] // 2
        source_slice, truth = (image[:, middle : middle + 1] for image in (source, truth))
        every = torch.arange(len(source))
        rows = [every[:0], every]  # none to the source, all to the target
        made = network(source, self.codes[:1], rows, self.codes).prediction
        # As the finished image will be: 0 where the source is air, so that nothing has to be learned about it.
        made, truth = (2 * image - 1 for image in (made * (source_slice > 0), truth))
        terms = {"l1": self.l1_weight * F.l1_loss(made, truth)}
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual_weight * self.perceptual(made, truth)
        if self.adversary is None:
            return terms, {}
        fake, real = (torch.cat([2 * source_slice - 1, image], 1) for image in (made, truth))
        first = torch.zeros(len(source), dtype=torch.long)  # the one discriminator there is
        terms["adversarial"] = self.adversarial_weight * self.adversary.generator_loss(fake, first)
        return terms, {"real": real, "real_sequence": first, "fake": fake, "fake_sequence": first}
