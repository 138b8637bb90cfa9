"""The losses of CRL, Eq. 4 and 5 of Xiong et al. (MICCAI 2024)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.distributed import is_distributed, unwrapped
from .common.training.pairs import draw_pairs, network_input, rows_by_target


class StructuralSimilarity(nn.Module):
    """SSIM_s: the structural term of SSIM, cov(a, b) / (std(a) std(b) + c), in a Gaussian window.

    SSIM has c in the numerator, too, and so calls two flat windows alike. Features learn to be flat then: all anatomy
    was gone after 500 steps on the phantom. Here a flat window counts 0. Each channel is first brought to a standard
    deviation of 1, so that c means the same for all, and the term does not depend on the features' size.

    Args:
        size, sigma: of the window, in pixels of the features; SSIM's are 11 and 1.5.
        constant: c, below which a window is flat.
    """

    def __init__(self, size: int = 11, sigma: float = 1.5, constant: float = 1e-4) -> None:
        super().__init__()
        place = torch.arange(size) - (size - 1) / 2
        self.register_buffer("window", torch.softmax(-(place**2) / (2 * sigma**2), 0), persistent=False)
        self.constant = constant

    def forward(self, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Features [N, C, H, W] and the rows of P pairs, `first` [P] and `second` [P], to the means [P].

        Raises:
            ValueError: the features are smaller than the window.
        """
        if min(features.shape[2:]) < len(self.window):
            raise ValueError(
                f"The common features, {tuple(features.shape[2:])} pixels, are smaller than the structural term's "
                f"window, {len(self.window)}: raise roi_size, lower downsampling, or set structure_weight to 0."
            )
        with torch.autocast(features.device.type, enabled=False):  # a variance is a small difference of large numbers
            x = features.float()
            x = (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-6)
            mean = self._smooth(x)
            std = (self._smooth(x * x) - mean * mean).clamp(min=1e-8).sqrt()
            # unbind, since the gradient of every x[i] would be as large as all of x.
            images = list(zip(x.unbind(), mean.unbind(), std.unbind(), strict=True))
            similarity = []
            for i, j in zip(first.tolist(), second.tolist(), strict=True):  # one by one: a pair's maps are large
                (a, mean_a, std_a), (b, mean_b, std_b) = images[i], images[j]
                covariance = self._smooth(a * b) - mean_a * mean_b
                similarity.append((covariance / (std_a * std_b + self.constant)).mean())
            return torch.stack(similarity)

    def _smooth(self, x: Tensor) -> Tensor:
        """The window's mean around every pixel that has a whole window: [..., C, H, W] to [..., C, H - 10, W - 10]."""
        channels = x.shape[-3]
        along = self.window.expand(channels, 1, -1)
        return F.conv2d(F.conv2d(x, along[..., None], groups=channels), along[:, :, None], groups=channels)


class CRLObjective(nn.Module):
    """Eq. 5: L1 over the available pairs, and Eq. 4, that the common features of a subject's images look alike.

    Both sums of the paper are means here, so that their size does not depend on how many settings there are.

    Args:
        slice_axis: of the network, to lay a batch out as its input.
        structure_weight: lambda of Eq. 5.
        self_weight: of the pairs whose source is their target, beside 1 for the others; 0 leaves them out, as the
            paper does.
        pairs_per_subject: as many pairs are drawn at random per subject and step; 0 takes all.
        fusion: the network's. With "features" a target is made from the drawn pair's source and, at random, from none
            to all of the subject's others.
        variant, scale_per: the network's, and that of the images.

    Raises:
        ValueError: one signal equation is to explain images that have a scale each.
    """

    def __init__(
        self,
        *,
        slice_axis: int = -1,
        structure_weight: float = 0.1,
        self_weight: float = 0.0,
        pairs_per_subject: int = 0,
        fusion: str = "images",
        variant: str = "attention",
        scale_per: str = "subject",
    ) -> None:
        super().__init__()
        if variant == "physical" and scale_per != "subject":
            raise ValueError(
                f"variant is 'physical' and scale_per '{scale_per}': PD, T1 and T2 explain images of one scale only; "
                "leave out --scale_per image, or take another variant."
            )
        self.fuses = fusion == "features"
        self.slice_axis = slice_axis
        self.structure_weight = structure_weight
        self.self_weight = self_weight
        self.pairs_per_subject = pairs_per_subject
        self.similarity = StructuralSimilarity()

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "image" [B, S, X, Y, 1] and "parameters" [B, S, 4] to the weighted terms."""
        drawn = {"include_self": self.self_weight > 0, "pairs_per_subject": self.pairs_per_subject}
        pairs = draw_pairs(batch["image"], batch.get("available"), **drawn)
        images = network_input(pairs.images, 2, self.slice_axis)
        # On the CPU, where it is looked at; (N, P)
        parameters = unwrapped(network).told(batch["parameters"][pairs.subject, pairs.source].cpu())
        # What is decoded together has the same parameters, which need not be that of the same sequence.
        wanted, setting = torch.unique(parameters, dim=0, return_inverse=True)
        target, order = setting[pairs.truth].sort(stable=True)
        row, truth = pairs.row[order], pairs.truth[order]
        parameters, wanted, tissue = parameters.to(images), wanted.to(images), images[row] > 0
        if self.fuses:
            together = drawn_together(row, truth, pairs.subject).to(images.device)
            predicted = rows_by_target(torch.arange(len(row)), target, len(wanted))
            inputs = {"parameters": parameters, "together": together, "predicted": predicted, "wanted": wanted}
            made, representation = network(images, step="from_several", **inputs)
            tissue = (together.to(images) @ (images > 0).to(images).flatten(1)).view_as(tissue) > 0
        else:
            made, representation = network(images, parameters, rows_by_target(row, target, len(wanted)), wanted)
        if is_distributed():
            share_range(unwrapped(network).trained_range)
        # As the finished image will be: 0 where its source is air, so that nothing has to be learned about it.
        error = (made * tissue - images[truth]).abs().flatten(1).mean(1)
        weight = torch.where(row == truth, self.self_weight, 1.0).to(error)
        terms = {"l1": (weight * error).sum() / weight.sum()}
        same = (pairs.subject[:, None] == pairs.subject).triu(1)
        if self.structure_weight and same.any():
            terms["structure"] = (
                -self.structure_weight * self.similarity(representation.common, *same.nonzero().T).mean()
            )
        return terms, {}


def drawn_together(row: Tensor, truth: Tensor, subject: Tensor) -> Tensor:
    """Which of N images each of P targets is made from, bool [P, N]: its `row` [P], and of the same subject's others,
    but for its `truth` [P], each by a chance that is drawn once for the target. `subject` is [N].
    """
    chosen = torch.rand(len(row), len(subject)) < torch.rand(len(row), 1)
    chosen &= subject[row][:, None] == subject
    chosen[torch.arange(len(row)), truth] = False
    chosen[torch.arange(len(row)), row] = True
    return chosen


def share_range(trained_range: Tensor) -> None:
    """Smallest and largest parameters, in place, over all processes: each sees subjects of its own."""
    torch.distributed.all_reduce(trained_range[0], torch.distributed.ReduceOp.MIN)
    torch.distributed.all_reduce(trained_range[1], torch.distributed.ReduceOp.MAX)
