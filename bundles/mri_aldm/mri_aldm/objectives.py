"""The losses of ALDM's three trainings (Kim and Park, WACV 2024, Sec. 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Reconstruction
from .common.layout import is_available
from .common.training.adversary import Adversary
from .common.training.perceptual import VGG19Loss
from .sampling import STEPS, Process


def random_pairs(available: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Up to `count` pairs of different sequences per subject of available [B, S], all where count is 0.

    Returns subject, source and target [P] on the CPU (torch's CPU generator draws).

    Raises:
        ValueError: no subject has two sequences.
    """
    available = available.cpu()
    pairs = available[:, :, None] & available[:, None] & ~torch.eye(available.shape[1], dtype=torch.bool)
    rank = torch.rand(pairs.shape).masked_fill(~pairs, -1).flatten(1)
    if count:
        least = rank.topk(min(count, rank.shape[1])).values[:, -1:]
        pairs = pairs & (rank >= least).view_as(pairs)
    if not pairs.any():
        raise ValueError("No pair to train on: every subject of this batch has one sequence only.")
    return pairs.nonzero(as_tuple=True)


class AutoencoderObjective(nn.Module):
    """Stage 1: reconstruction, quantisation (or divergence), perceptual and patch-adversarial terms.

    Differences are taken in [-1, 1] and are 0 where the image is air, as they are in the finished image.

    Args:
        regularisation: the network's, which decides on the weight of its term.
        l1_weight, vq_weight, kl_weight: of the first terms; the KL divergence is summed over the latent.
        perceptual_weight: of VGG19's features, on `perceptual_slices` random slices of each axis.
        perceptual_weights: a file, "download", or "none" to train without the term.
        adversary: one discriminator; None is without.
        adversarial_weight: of its term, once it has begun.
        adversarial_start: the step from which it is trained and counts.
        images_per_step: so many of the batch's images are drawn; 0 takes all.

    Attributes:
        iteration: the current step, from 1 on; the trainer keeps it.
    """

    def __init__(
        self,
        *,
        regularisation: str = "vq",
        l1_weight: float = 1.0,
        vq_weight: float = 1.0,
        kl_weight: float = 1e-6,
        perceptual_weight: float = 0.1,
        perceptual_weights: str = "none",
        perceptual_slices: int = 8,
        adversary: Adversary | None = None,
        adversarial_weight: float = 0.1,
        adversarial_start: int = 10_000,
        images_per_step: int = 1,
    ) -> None:
        super().__init__()
        self.l1_weight = l1_weight
        self.regularisation_weight = {"vq": vq_weight, "kl": kl_weight}[regularisation]
        self.perceptual_weight = perceptual_weight
        self.perceptual_slices = perceptual_slices
        self.perceptual = VGG19Loss(perceptual_weights) if perceptual_weights != "none" else None
        self.adversary = adversary
        self.adversarial_weight = adversarial_weight
        self.adversarial_start = adversarial_start
        self.images_per_step = images_per_step
        self.iteration = 1

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "image" [B, S, X, Y, Z] to the weighted terms, and what the adversary is to be shown."""
        available = batch["available"] if "available" in batch else is_available(batch["image"])
        subject, source = available.cpu().nonzero(as_tuple=True)
        drawn = torch.randperm(len(subject))[: self.images_per_step or None]
        images = batch["image"][subject[drawn], source[drawn]][:, None]
        return self.terms(network(images, step="reconstruct"), images)

    def terms(self, made: Reconstruction, images: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Of a reconstruction of images [N, 1, X, Y, Z] in [0, 1]."""
        truth = 2 * images - 1
        image = torch.where(images > 0, made.image, -1)
        terms = {
            "l1": self.l1_weight * F.l1_loss(image, truth),
            "regularisation": self.regularisation_weight * made.loss.mean(),
        }
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual_weight * self._perceptual(image, truth)
        if self.adversary is None or self.iteration < self.adversarial_start:
            return terms, {}
        zeros = torch.zeros(len(images), dtype=torch.long)  # one discriminator for all sequences
        terms["adversarial"] = self.adversarial_weight * self.adversary.generator_loss(image, zeros)
        return terms, {"real": truth, "real_sequence": zeros, "fake": image, "fake_sequence": zeros}

    def _perceptual(self, image: Tensor, truth: Tensor) -> Tensor:
        """Mean over the three axes; all slices of a volume would need many times its memory."""
        losses = []
        for axis in (2, 3, 4):
            drawn = torch.randperm(image.shape[axis])[: self.perceptual_slices].to(image.device)
            planes = [(x.index_select(axis, drawn).movedim(axis, 1).flatten(0, 1) + 1) / 2 for x in (image, truth)]
            losses.append(self.perceptual(*planes))
        return torch.stack(losses).mean()


class TranslationObjective(nn.Module):
    """MS-SPADE's training: L1 to the target's latent, and the cycle back to the source's.

    The paper gives no weights; both are 1 here. With `joint`, the paper's first stage, the autoencoder learns with it:
    its own terms are added, and the cycle is taken between images. The target's latent is not drawn to the translation.

    Args:
        sequences: S.
        translation_weight, cycle_weight: of the two terms; without a weight the way back is not computed.
        pairs_per_subject: random pairs of different sequences per subject and step; 0 takes all.
        joint: the autoencoder's objective; None is with encoder and decoder frozen, on cached latents.
    """

    def __init__(
        self,
        sequences: int,
        *,
        translation_weight: float = 1.0,
        cycle_weight: float = 1.0,
        pairs_per_subject: int = 1,
        joint: AutoencoderObjective | None = None,
    ) -> None:
        super().__init__()
        self.translation_weight = translation_weight
        self.cycle_weight = cycle_weight
        self.pairs_per_subject = pairs_per_subject
        self.joint = joint
        self.iteration = 1
        self.register_buffer("codes", torch.eye(sequences), persistent=False)

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "available" [B, S] with "latent" [B, S, C, *s] (with `joint` "image" [B, S, X, Y, Z])."""
        subject, source, target = random_pairs(batch["available"], self.pairs_per_subject)
        codes = {"source_code": self.codes[source], "target_code": self.codes[target]}
        terms, samples, cycle = {}, {}, None
        if self.joint is None:
            latent, wanted = batch["latent"][subject, source], batch["latent"][subject, target]
            if self.cycle_weight:
                like, back = network(latent, step="translate_latents", **codes)
                cycle = F.l1_loss(back, latent)
            else:
                like = network(latent, step="target_like", **codes)
        else:
            self.joint.iteration = self.iteration
            images = torch.cat([batch["image"][subject, source], batch["image"][subject, target]])[:, None]
            made, like, back = network(images, step="reconstruct_and_translate", **codes)
            terms, samples = self.joint.terms(made, images)
            images, wanted = images[: len(source)], made.latent[len(source) :].detach()
            cycle = F.l1_loss(torch.where(images > 0, back, -1), 2 * images - 1)
        terms["translation"] = self.translation_weight * F.l1_loss(like, wanted)
        if cycle is not None:
            terms["cycle"] = self.cycle_weight * cycle
        return terms, samples


class DiffusionObjective(nn.Module):
    """Eq. 4: the mean squared error of the noise (or the velocity) that the network sees in a noised target latent.

    Args:
        sequences: S.
        process: the network's.
        normalise: the network's, of latents.
        pairs_per_subject: random pairs of different sequences per subject and step; 0 takes all.
    """

    def __init__(
        self, sequences: int, process: Process, normalise: Callable[[Tensor], Tensor], *, pairs_per_subject: int = 1
    ) -> None:
        super().__init__()
        self.process = process
        self.normalise = normalise
        self.pairs_per_subject = pairs_per_subject
        self.register_buffer("codes", torch.eye(sequences), persistent=False)

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "available" [B, S], "latent" [B, S, C, *s] and "like" [B, S, S, C, *s], rows sources."""
        subject, source, target = random_pairs(batch["available"], self.pairs_per_subject)
        latent = self.normalise(batch["latent"][subject, target])
        like = self.normalise(batch["like"][subject, source, target])
        timesteps = torch.randint(STEPS, (len(latent),), device=latent.device)
        noisy, wanted = self.process.noised(latent, like, torch.randn_like(latent), timesteps)
        codes = {"like": like, "target_code": self.codes[target]}
        answer = network(noisy, step="predict", timesteps=timesteps, **codes)
        return {"diffusion": F.mse_loss(answer.float(), wanted)}, {}
