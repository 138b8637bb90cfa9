"""The discriminator of MM-GAN, which says of each sequence whether it is real."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .common.training.adversary import Adversary
from .common.training.optimizers import gradient_norm


class PatchDiscriminator(nn.Sequential):
    """Images beside the true ones [N, 2 S, X, Y] to a verdict per sequence [N, S, x, y], each for a patch.

    pix2pix's with four convolutions that halve the size, where MONAI's halves it three times at these widths.
    """

    def __init__(self, sequences: int, channels: int = 64) -> None:
        widths = [2 * sequences, *(channels * 2**k for k in range(4))]
        layers: list[nn.Module] = []
        for k in range(4):
            layers += [nn.Conv2d(widths[k], widths[k + 1], 4, 2, 1)]
            layers += [nn.InstanceNorm2d(widths[k + 1])] if k else []
            layers += [nn.LeakyReLU(0.2)]
        last = nn.Conv2d(widths[-1], sequences, 4, padding=1, bias=False)
        super().__init__(*layers, nn.ZeroPad2d((1, 0, 1, 0)), last)
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)


class SubsetAdversary(Adversary):
    """Least squares over each sequence by itself: of a made image those that were pasted back are real.

    Images are [N, S, X, Y]; `given` and `missing` [N, S] say which of them are real and which were made, neither
    which are no part of the subject at all.

    Args:
        sequences: S.
        device: where it runs.
        learning_rate: of its Adam.
        channels: width of its first layer.
    """

    def __init__(self, sequences: int, device: torch.device, learning_rate: float = 2e-4, channels: int = 64) -> None:
        super().__init__(PatchDiscriminator(sequences, channels), device, learning_rate)

    def generator_loss(self, fake: Tensor, real: Tensor, given: Tensor, missing: Tensor) -> Tensor:
        """Of all sequences, as if each were real."""
        self.discriminators.requires_grad_(False)
        verdict = self.discriminators(torch.cat([fake, real], 1))
        self.discriminators.requires_grad_(True)
        return _distance(verdict, torch.ones_like(given), given + missing)

    def backward(self, fake: Tensor, real: Tensor, given: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and gradient's norm, see `Adversary`: the mean of what real and what made images are off by."""
        self.optimizer.zero_grad(set_to_none=True)
        shown = torch.cat([torch.cat([each, real], 1) for each in (real, fake.detach())]).float()
        of_real, of_fake = self.trained(shown).chunk(2)
        there = given + missing
        loss = (_distance(of_real, torch.ones_like(given), there) + _distance(of_fake, given, there)) / 2
        loss.backward()
        return loss.detach(), gradient_norm(self.discriminators)


def _distance(verdict: Tensor, truth: Tensor, counts: Tensor) -> Tensor:
    """Mean square over the sequences [N, S] that count."""
    error = (verdict.float() - truth[:, :, None, None]).square().flatten(2).mean(2)
    return (error * counts).sum() / counts.sum().clamp(min=1)
