"""The losses of VQ-Seq2Seq, Eq. 6 to 8 of Han et al. (MICCAI 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import SSIMLoss
from torch import Tensor, nn

from .augmentation import IntensityAugmentation, TranslationAugmentation
from .common.training.pairs import Pairs, draw_pairs, network_input, rows_by_target
from .common.training.perceptual import VGG19Loss

RECONSTRUCTIONS = 6  # of Eq. 8: from two sources and from their sample, to two targets
NEVER = -1


class Reconstruction(nn.Module):
    """Eq. 6: L1, SSIM and perceptual loss of predictions and truth [P, c, *spatial] in [0, 1].

    As in the authors' code, L1 is taken in [-1, 1], the window of SSIM is uniform and 7 wide, and VGG19 sees [0, 1].
    SSIM is taken in [0, 1], where its luminance means something; theirs in [-1, 1].
    """

    def __init__(self, spatial_dims: int, l1: float, ssim: float, perceptual: float, perceptual_weights: str) -> None:
        super().__init__()
        self.weights = {"l1": l1, "ssim": ssim, "perceptual": perceptual}
        self.ssim = SSIMLoss(spatial_dims, kernel_type="uniform", win_size=7)
        self.perceptual = VGG19Loss(perceptual_weights) if perceptual_weights != "none" else None

    def forward(self, made: Tensor, truths: Tensor, row: Tensor | None = None) -> dict[str, Tensor]:
        """The three terms, weighted; without VGG19 two. With `row` [P] the truth of made[k] is truths[row[k]]."""
        truth = truths if row is None else truths[row]
        terms = {"l1": 2 * F.l1_loss(made, truth)}
        with torch.autocast(made.device.type, enabled=False):  # the variances of SSIM are small differences
            terms["ssim"] = self.ssim(made.float(), truth.float())
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(made, truths, row)
        return {name: self.weights[name] * term for name, term in terms.items()}


class Consistency(nn.Module):
    """Eq. 7: the latents of two sequences of a subject are equal, and unlike those of other places.

    Args:
        temperature: of the contrastive part.
        positions: so many are drawn from the foreground of both images, all that there are where there are fewer, so
            that the memory does not grow with the image. The authors take an eighth of all, background for the most
            part, although foreground is meant.
    """

    def __init__(self, temperature: float = 0.07, positions: int = 256) -> None:
        super().__init__()
        self.temperature = temperature
        self.positions = positions

    def squared(self, one: Tensor, other: Tensor, foreground: Tensor) -> Tensor:
        """The first two terms: latents [Q, D, *s] each drawn to the other, mean over the foreground [Q, 1, *s]."""
        difference = (one - other.detach()).square() + (one.detach() - other).square()
        weight = foreground.expand_as(difference).float()
        return (weight * difference).sum() / weight.sum().clamp(min=1)

    def contrastive(self, one: Tensor, other: Tensor, foreground: Tensor) -> Tensor:
        """The last: at each position drawn the other's latent is told from all else, of either (InfoNCE).

        Its two orders, of which the authors add up both, are the same number: it is computed once and doubled.
        """
        inside = foreground.flatten(1)  # (Q, n)
        count = min(self.positions, inside.shape[1])
        score, where = torch.rand(inside.shape, device=inside.device).masked_fill(~inside, -1).topk(count)
        drawn = [z.flatten(2).gather(2, where[:, None].expand(-1, z.shape[1], -1)) for z in (one, other)]
        views = F.normalize(torch.cat(drawn, 2).float(), dim=1)  # (Q, D, 2 M)
        valid = (score >= 0).repeat(1, 2)
        with torch.autocast(one.device.type, enabled=False):
            logits = views.transpose(1, 2) @ views / self.temperature
        itself = torch.eye(2 * count, dtype=torch.bool, device=one.device)
        logits = logits.masked_fill(itself | ~valid[:, None], -1e4)
        partner = torch.arange(2 * count, device=one.device).roll(count).expand(len(one), -1)
        error = F.cross_entropy(logits.transpose(1, 2), partner, reduction="none")
        return 2 * (valid * error).sum() / valid.sum().clamp(min=1)


class VQSeq2SeqObjective(nn.Module):
    """Eq. 8 over the available sequences, on inputs disturbed as in Sec. 2.4.

    Eq. 8 has two sequences. Here a subject may have one or more: each kind of term is the mean over its pairs and
    images, times the number of such terms in Eq. 8, so that the weights keep their balance.

    Args:
        sequences: S.
        spatial_dims, slice_axis: of the network, to lay a batch out as its input.
        l1_weight, ssim_weight, perceptual_weight: of Eq. 6.
        perceptual_weights: VGG19's weights: a file, "download", or "none" to train without the term.
        consistency_weight: lambda_con; 0 leaves Eq. 7 out.
        vq_weight: lambda_vq.
        temperature, positions: see `Consistency`.
        contrastive_start: the contrastive part of Eq. 7 starts after so many epochs; -1 is never.
        sampling_start: the same of the images made from Eq. 5's sample.
        translation_start: the same of `TranslationAugmentation`.
        intensity: disturbs what the encoder sees; None is without.
        pairs_per_subject: as many pairs are drawn at random per subject and step; 0 takes all. Those of the sample are
            always all.

    Attributes:
        epoch: the current one, from 1 on; the trainer keeps it.
    """

    def __init__(
        self,
        sequences: int,
        *,
        spatial_dims: int = 2,
        slice_axis: int = -1,
        l1_weight: float = 10.0,
        ssim_weight: float = 1.0,
        perceptual_weight: float = 0.1,
        perceptual_weights: str = "none",
        consistency_weight: float = 10.0,
        vq_weight: float = 10.0,
        temperature: float = 0.07,
        positions: int = 256,
        contrastive_weight: float = 1.0,
        contrastive_start: int = 100,
        sampling_start: int = 200,
        translation_start: int = 200,
        intensity: IntensityAugmentation | None = None,
        pairs_per_subject: int = 0,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.slice_axis = slice_axis
        self.consistency_weight = consistency_weight
        self.vq_weight = vq_weight
        self.contrastive_weight = contrastive_weight
        self.contrastive_start = contrastive_start
        self.sampling_start = sampling_start
        self.translation_start = translation_start
        self.pairs_per_subject = pairs_per_subject
        self.epoch = 1
        self.reconstruction = Reconstruction(
            spatial_dims, l1_weight, ssim_weight, perceptual_weight, perceptual_weights
        )
        self.consistency = Consistency(temperature, positions)
        self.intensity = intensity
        self.translation = TranslationAugmentation()
        self.register_buffer("codes", torch.eye(sequences), persistent=False)

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "image" [B, S, X, Y, Z] to the weighted terms of Eq. 8; there is no adversary to be shown anything.

        Where the batch has a "reference" of the same shape, that is what the images shall look like.
        """
        pairs = draw_pairs(batch["image"], batch.get("available"), pairs_per_subject=self.pairs_per_subject)
        images = network_input(pairs.images, self.spatial_dims, self.slice_axis)
        truths = network_input(pairs.truths(batch), self.spatial_dims, self.slice_axis)
        source = self.codes[pairs.source]
        seen = images if self.intensity is None else self.intensity(images)
        if self._runs(self.translation_start):
            seen = self.translation(network, seen, source, pairs.subject)
        sampled = self._runs(self.sampling_start)
        row, target, truth = with_samples(pairs) if sampled else (pairs.row, pairs.target, pairs.truth)
        rows = rows_by_target(row, target, len(self.codes))
        made, encoded = network(seen, source, rows, self.codes, pairs.subject if sampled else None)
        # As the finished image will be: 0 where its sources are air, so that nothing has to be learned about it.
        made = made * foreground_of(images, pairs.subject)[row]
        terms = {name: RECONSTRUCTIONS * term for name, term in self.reconstruction(made, truths, truth).items()}
        if self.consistency_weight:
            terms |= self._consistency(encoded.latent, images, pairs.subject)
        terms["vq"] = self.vq_weight * 2 * encoded.loss.mean()
        return terms, {}

    def _consistency(self, latent: Tensor, images: Tensor, subject: Tensor) -> dict[str, Tensor]:
        """Eq. 7 between each two images of a subject; 0 where there are none."""
        one, other = (subject[:, None] == subject).triu(1).nonzero(as_tuple=True)
        inside = to_positions(images > 0, latent.shape[2:])
        arguments = latent[one], latent[other], inside[one] & inside[other]
        terms = {"consistency": self.consistency_weight * self.consistency.squared(*arguments)}
        if self._runs(self.contrastive_start):
            weight = self.consistency_weight * self.contrastive_weight
            terms["contrastive"] = weight * self.consistency.contrastive(*arguments)
        return terms

    def _runs(self, start: int) -> bool:
        return start != NEVER and self.epoch > start


def with_samples(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, targets and truths of the pairs and, as rows N + g, of the samples of the subjects with several images."""
    count = torch.bincount(pairs.subject)
    truth = (count[pairs.subject] > 1).nonzero()[:, 0]
    row = torch.cat([pairs.row, len(pairs.images) + pairs.subject[truth]])
    target, truth = torch.cat([pairs.target, pairs.source[truth]]), torch.cat([pairs.truth, truth])
    order = target.argsort(stable=True)
    return row[order], target[order], truth[order]


def foreground_of(images: Tensor, subject: Tensor) -> Tensor:
    """Where each of the N images and, as rows N + g, any of a subject's is not air: bool [N + G, c, *spatial]."""
    inside = images > 0
    union = torch.stack([inside[subject == g].any(0) for g in range(int(subject.max()) + 1)])
    return torch.cat([inside, union])


def to_positions(inside: Tensor, size: torch.Size) -> Tensor:
    """Bool [N, c, *spatial] to the latent's positions [N, 1, *size]: those whose block is for the most part inside."""
    pool = F.adaptive_avg_pool2d if len(size) == 2 else F.adaptive_avg_pool3d
    return pool(inside.float().mean(1, keepdim=True), size) > 0.5
