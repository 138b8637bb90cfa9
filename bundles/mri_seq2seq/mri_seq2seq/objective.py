"""The losses of Seq2Seq, Eq. 1 to 3 of Han et al. (MedIA 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.distributed import unwrapped
from .common.layout import is_available
from .common.training.adversary import Adversary
from .common.training.pairs import (
    Pairs,
    SeriesPairs,
    draw_pairs,
    draw_series_pairs,
    network_input,
    rows_by_target,
    series_input,
)
from .common.training.perceptual import VGG19Loss

POSITIVE = 5.0  # how many times more a lesion's voxel counts than another, in telling them apart


class Seq2SeqObjective(nn.Module):
    """Eq. 1 over the available pairs; with an adversary also Eq. 2 and 3, for data with few or no pairs.

    Differences are taken in [-1, 1], the range of the authors' images, so that the paper's weights keep their meaning.

    Args:
        sequences: S.
        spatial_dims, slice_axis: of the network, to lay a batch out as its input.
        l1_weight: lambda_r.
        perceptual_weight: lambda_p.
        perceptual_weights: VGG19's weights: a file, "download", or "none" to train without the term.
        gradient_weight: of an L1 between the images' gradients, which keeps edges sharp where VGG19 is not at hand; not
            the paper's, whose value is 0.
        self_weight: of the pairs whose source is their target, beside 1 for the others; 0 leaves them out.
        adversary: brings in Eq. 2 and Eq. 3 (targets then need not be available); None is Eq. 1 alone.
        adversarial_weight, cycle_weight: of Eq. 2 and Eq. 3.
        pairs_per_subject: as many pairs are drawn at random per subject and step; 0 takes all, as Eq. 1 does.
        lesion_weight: how many times more, beside once, a lesion's voxels count in the L1 (not the paper's: 0). It
            needs images with masks of lesions.
        lesion_head_weight: of the cross-entropy of the network's `lesion_head`.
    """

    def __init__(
        self,
        sequences: int,
        *,
        spatial_dims: int = 2,
        slice_axis: int = -1,
        l1_weight: float = 10.0,
        perceptual_weight: float = 0.01,
        perceptual_weights: str = "none",
        gradient_weight: float = 0.0,
        self_weight: float = 1.0,
        adversary: Adversary | None = None,
        adversarial_weight: float = 1.0,
        cycle_weight: float = 10.0,
        pairs_per_subject: int = 0,
        lesion_weight: float = 0.0,
        lesion_head_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if adversary is not None and 0 < pairs_per_subject <= sequences:
            raise ValueError(
                f"pairs_per_subject is {pairs_per_subject}, so few that a step may hold reconstructions only and "
                f"nothing for the discriminators; set it to 0 or above {sequences}."
            )
        self.spatial_dims = spatial_dims
        self.slice_axis = slice_axis
        self.l1_weight = l1_weight
        self.perceptual_weight = perceptual_weight
        self.gradient_weight = gradient_weight
        self.self_weight = self_weight
        self.adversary = adversary
        self.adversarial_weight = adversarial_weight
        self.cycle_weight = cycle_weight
        self.pairs_per_subject = pairs_per_subject
        self.lesion_weight, self.lesion_head_weight = lesion_weight, lesion_head_weight
        self.perceptual = VGG19Loss(perceptual_weights) if perceptual_weights != "none" else None
        self.register_buffer("codes", torch.eye(sequences), persistent=False)

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weighted terms of a batch, and what the adversary is to be shown.

        The batch holds "image" [B, S, X, Y, Z]; where the truth is known better than the images that the network gets,
        as of simulated subjects, "reference" of the same shape; and for the terms of lesions "lesion" [B, 1, X, Y, Z],
        0 or 1. Of a network that takes series images are [B, C, X, Y, Z], see `TranslationNetwork`.
        """
        if batch["image"].shape[1] > len(self.codes):  # one for each frame
            return self._series_terms(network, batch)
        pairs = draw_pairs(
            batch["image"],
            batch.get("available"),
            include_self=self.self_weight > 0,
            include_missing=self.adversary is not None,
            pairs_per_subject=self.pairs_per_subject,
        )
        images, truths, lesions = (
            network_input(each, self.spatial_dims, self.slice_axis)
            for each in (pairs.images, pairs.truths(batch), pairs.lesions(batch))
        )
        # The lesions are told from all images; else those that no pair is made from are not encoded.
        used, row = (torch.arange(len(images)), pairs.row) if self.lesion_head_weight else pairs.encoded()
        rows = rows_by_target(row, pairs.target, len(self.codes))
        translated = network(images[used], self.codes[pairs.source[used]], rows, self.codes)
        made = translated.prediction
        # As the finished image will be: 0 where its source is air, so that nothing has to be learned about it.
        made = made * (images[pairs.row] > 0)
        terms = self.reconstruction(made, truths, pairs, lesions)
        if self.lesion_head_weight:
            features = translated.representation.features
            terms["lesion"] = self.lesion_head_weight * self._lesion_term(network, features, lesions)
        if self.adversary is None:
            return terms, {}
        cross = pairs.source[pairs.row] != pairs.target
        fake, j, row = made[cross], pairs.target[cross], pairs.row[cross]
        terms["adversarial"] = self.adversarial_weight * self.adversary.generator_loss(fake, j)
        # Eq. 3: X''_{i->j->i} against X_i, decoded in the order of i.
        order = pairs.source[row].argsort(stable=True)
        rows = rows_by_target(order, pairs.source[row][order], len(self.codes))
        back = network(fake, self.codes[j], rows, self.codes).prediction
        terms["cycle"] = self.cycle_weight * 2 * F.l1_loss(back, truths[row[order]])
        return terms, {"real": truths, "real_sequence": pairs.source, "fake": fake, "fake_sequence": j}

    def _series_terms(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Eq. 1 over all frames; a pair counts as much as another, however many it has."""
        layout = (self.spatial_dims, self.slice_axis)
        drawn = {"include_self": self.self_weight > 0, "pairs_per_subject": self.pairs_per_subject}
        drawn["include_missing"] = self.adversary is not None
        pairs = draw_series_pairs(batch["image"], unwrapped(network), **drawn)
        images = [series_input(each, *layout) for each in pairs.images]
        lesions = batch["lesion"] if "lesion" in batch else torch.zeros_like(batch["image"][:, :1])
        lesions = network_input(lesions[pairs.subject], *layout)  # (N, c, *s)
        values = batch["frame_values"] if unwrapped(network).is_told else None
        rows = rows_by_target(pairs.row, pairs.target, len(self.codes))
        sources = [self._code(i, pairs.subject[pairs.source == i], values) for i in pairs.encoded.tolist()]
        targets = [self._code(j, pairs.subject[each], values) for j, each in enumerate(rows)]
        translated = network(images, sources, rows, targets)
        row, truth = pairs.row[pairs.pair], network_input(pairs.truths, *layout)
        there = is_available(truth[:, None])[:, 0].nonzero()[:, 0].cpu()  # of the F frames
        made = translated.prediction * torch.cat([(each > 0).any(1) for each in images])[row]
        itself = pairs.source[pairs.row] == pairs.target
        frames = torch.bincount(pairs.pair[there], minlength=len(itself))  # 0 where the subject lacks the target
        paired = max(int((frames > 0).sum()), 1)
        weight = torch.where(itself, self.self_weight, 1.0) / (paired * frames.clamp(min=1))
        itself, weight = itself[pairs.pair[there]], weight[pairs.pair[there]].to(made)
        terms = self._differences(made[there], truth, there, lesions[row[there]], itself, weight)
        if self.lesion_head_weight:
            features = translated.representation.features[:, 0]
            terms["lesion"] = self.lesion_head_weight * self._lesion_term(network, features, lesions)
        if self.adversary is None:
            return terms, {}
        cross = pairs.source[pairs.row] != pairs.target
        fake, j = made[cross[pairs.pair]], pairs.target[pairs.pair][cross[pairs.pair]]
        terms["adversarial"] = self.adversarial_weight * self.adversary.generator_loss(fake, j)
        terms["cycle"] = self.cycle_weight * 2 * self._series_cycle(network, pairs, images, made, cross, values)
        real = torch.cat([each.flatten(0, 1) for each in images])
        i = torch.cat([torch.full((each.shape[:2].numel(),), k) for k, each in zip(pairs.encoded, images, strict=True)])
        known = is_available(real[:, None])[:, 0]
        return terms, {"real": real[known], "real_sequence": i[known.cpu()], "fake": fake, "fake_sequence": j}

    def _series_cycle(
        self,
        network: nn.Module,
        pairs: SeriesPairs,
        images: list[Tensor],
        made: Tensor,
        cross: Tensor,
        values: Tensor | None,
    ) -> Tensor:
        """Eq. 3 over the frames that the sources have; what was made of a sequence is a series of all its frames."""
        target, row = pairs.target[cross], pairs.row[cross]
        subject, wanted, count = pairs.subject[row], target.unique(), unwrapped(network).count
        frames = {j: made[(cross & (pairs.target == j))[pairs.pair]] for j in wanted.tolist()}
        fakes = [each.unflatten(0, (-1, count(j))) for j, each in frames.items()]
        order = pairs.source[row].argsort(stable=True)
        rows = rows_by_target(order, pairs.source[row][order], len(self.codes))
        sources = [self._code(j, subject[target == j], values) for j in wanted.tolist()]
        targets = [self._code(i, subject[which], values) for i, which in enumerate(rows)]
        back = network(fakes, sources, rows, targets).prediction
        each = [series for same in images for series in same]
        truth = torch.cat([each[k] for k in row[order].tolist()])
        known = is_available(truth[:, None])[:, 0]
        return F.l1_loss(back[known], truth[known])

    def _code(self, sequence: int, subject: Tensor, values: Tensor | None) -> Tensor:
        """[1, S], or with the values [B, S, T] of the subjects' frames [n, S + T]."""
        code = self.codes[sequence : sequence + 1]
        return code if values is None else torch.cat([code.expand(len(subject), -1), values[subject, sequence]], 1)

    def _lesion_term(self, network: nn.Module, features: Tensor, lesions: Tensor) -> Tensor:
        """Cross-entropy at the features' resolution, where a voxel is a lesion if one in it is."""
        logits = unwrapped(network).lesion_head(features)
        pool = F.adaptive_max_pool2d if self.spatial_dims == 2 else F.adaptive_max_pool3d
        truth = pool(lesions.amax(1, keepdim=True), logits.shape[2:])
        return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=logits.new_tensor(POSITIVE))

    def reconstruction(self, made: Tensor, truths: Tensor, pairs: Pairs, lesions: Tensor) -> dict[str, Tensor]:
        """Eq. 1, as the mean over the pairs in place of their sum, so that its size does not depend on their number."""
        paired = pairs.truth >= 0
        row = pairs.truth[paired]
        itself = pairs.source[pairs.row[paired]] == pairs.target[paired]  # on the CPU: see `Pairs`
        weight = (torch.where(itself, self.self_weight, 1.0) / max(len(row), 1)).to(made)
        return self._differences(made[paired], truths, row, lesions[row], itself, weight)

    def _differences(
        self, made: Tensor, truths: Tensor, row: Tensor, lesions: Tensor, itself: Tensor, weight: Tensor
    ) -> dict[str, Tensor]:
        """Of images [P, c, *s], each with the row [P] of its truth, its weight, and whether it is made from itself."""
        truth = truths[row]
        difference = 2 * (made - truth)
        counts = 1 + self.lesion_weight * lesions
        error = (counts * difference.abs()).flatten(1).mean(1)
        terms = {
            "l1": self.l1_weight * (weight * error)[~itself].sum(),
            "l1_self": self.l1_weight * (weight * error)[itself].sum(),
        }
        if self.gradient_weight:
            edges = sum(difference.diff(dim=axis).abs().flatten(1).mean(1) for axis in range(2, difference.ndim))
            terms["gradient"] = self.gradient_weight * (weight * edges).sum()
        if self.perceptual is not None and len(made):
            terms["perceptual"] = self.perceptual_weight * self.perceptual(made, truths, row)
        return terms
