"""Random domain augmentation, Sec. 2.4 of VQ-Seq2Seq: what the encoder sees is disturbed, what it shall make is not.

Torch's generators draw everything, what is as large as an image on its device.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from .common.data.normalisation import DARKEST_TISSUE
from .common.distributed import unwrapped


class IntensityAugmentation(nn.Module):
    """x -> x-tilde: a random gamma, bias field and noise per image, each with probability 0.5.

    Air stays 0 and tissue at least 0.001. The authors' gamma, 1.002 to 1.022, cannot be seen, and the paper's range is
    lost; 0.7 to 1.5 makes a grey of 0.5 one of 0.35 to 0.62. Their bias field is added; here it is a factor, as in a
    scanner.

    Args:
        probability: that an image is changed at all.
        gamma: range of the exponent.
        noise: largest standard deviation of the Gaussian noise, in units of the image.
        bias: largest departure of the bias field from 1.
        degree: of the bias field's polynomial.
    """

    def __init__(
        self,
        probability: float = 0.5,
        gamma: Sequence[float] = (0.7, 1.5),
        noise: float = 0.05,
        bias: float = 0.2,
        degree: int = 2,
    ) -> None:
        super().__init__()
        if not 0 < gamma[0] <= gamma[1]:
            raise ValueError(f"The range of gamma is {list(gamma)}; it must be two ascending numbers above 0.")
        self.probability = probability
        self.gamma = gamma
        self.noise = noise
        self.bias = bias
        self.degree = degree

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Images [N, c, *spatial] in [0, 1] to the same."""
        shape = (-1,) + (1,) * (images.ndim - 1)
        changed = torch.rand(len(images), device=images.device) < self.probability
        gamma, bias, noise = ((torch.rand(3, len(images), device=images.device) < 0.5) & changed).view(3, *shape)
        strength = torch.rand(3, len(images), device=images.device).view(3, *shape)
        low, high = self.gamma
        made = torch.where(gamma, images ** (low + (high - low) * strength[0]), images)
        made = torch.where(bias, made * (1 + self.bias * strength[1] * self._field(images)), made)
        made = torch.where(noise, made + self.noise * strength[2] * torch.randn_like(images), made)
        return torch.where(images > 0, made.clamp(DARKEST_TISSUE, 1), images)

    def _field(self, images: Tensor) -> Tensor:
        """A random polynomial without constant per image, its largest size 1: [N, 1, *spatial]."""
        axes = [torch.linspace(-1, 1, size, device=images.device) for size in images.shape[2:]]
        grid = torch.meshgrid(axes, indexing="ij")
        exponents = [e for e in product(range(self.degree + 1), repeat=len(axes)) if 0 < sum(e) <= self.degree]
        terms = [torch.stack([x**n for x, n in zip(grid, e, strict=True)]).prod(0) for e in exponents]
        weights = 2 * torch.rand(len(images), len(terms), device=images.device) - 1
        field = torch.einsum("nt,t...->n...", weights, torch.stack(terms))[:, None]
        return field / field.flatten(1).abs().amax(1).view(-1, *[1] * (field.ndim - 1)).clamp(min=1e-6)


class TranslationAugmentation(nn.Module):
    """Puts the network's own translation in the place of one image of a subject, to any sequence or to none.

    Half of the codes are one-hot, half are uniform in [0, 1]: domains that no scanner makes.

    Args:
        probability: that a subject is drawn; which of its images is then drawn too.
    """

    def __init__(self, probability: float = 0.5) -> None:
        super().__init__()
        self.probability = probability

    @torch.no_grad()
    def forward(self, network: nn.Module, images: Tensor, source: Tensor, subject: Tensor) -> Tensor:
        """Images [N, c, *spatial], their codes [N, S] and, on the CPU, `subject` [N] of each, to images."""
        # No gradient is asked for and not every process draws a translation, so none may wait for another's.
        network = unwrapped(network)
        order = torch.randperm(len(subject))
        drawn = [order[subject[order] == g][:1] for g in subject.unique() if torch.rand(()) < self.probability]
        if not drawn:
            return images
        rows = torch.cat(drawn)
        codes = self._codes(len(rows), source.shape[1], network.code_layer.code_channels).to(images)
        made = network(images[rows], source[rows], torch.arange(len(rows)).split(1), codes).prediction
        made = torch.where(images[rows] > 0, made.to(images).clamp(DARKEST_TISSUE, 1), 0)
        return images.index_copy(0, rows.to(images.device), made)

    def _codes(self, count: int, sequences: int, channels: int) -> Tensor:
        one_hot = torch.eye(channels)[torch.randint(sequences, (count,))]
        return torch.where(torch.rand(count, 1) < 0.5, one_hot, torch.rand(count, channels))
