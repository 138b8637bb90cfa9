"""Which sequence is translated to which in a training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..layout import is_available
from ..translation import TranslationNetwork


class Pairs(NamedTuple):
    """N available images, each to be encoded once, and P pairs of one of them with a wanted sequence.

    Images [N, 1, X, Y, Z], whose `subject` [N] of the batch they are and which sequence, `source` [N]; per pair, sorted
    by target, the image's `row` [P], the wanted sequence `target` [P], and the row of the true image, `truth` [P], -1
    where the subject does not have it. The indices are on the CPU, so that grouping them does not wait for the device.
    """

    images: Tensor
    subject: Tensor
    source: Tensor
    row: Tensor
    target: Tensor
    truth: Tensor

    def encoded(self) -> tuple[Tensor, Tensor]:
        """The rows [M] of the images that any pair is made from, in order, and which of these each pair's is [P]."""
        return self.row.unique(return_inverse=True)

    def truths(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the images shall look like [N, 1, X, Y, Z]: the batch's "reference" [B, S, X, Y, Z], or as they are.

        A simulated subject has one (`common.data.simulation`), free of noise and at one setting of each sequence.
        """
        return batch["reference"][self.subject, self.source][:, None] if "reference" in batch else self.images

    def lesions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Where each image shows a lesion [N, 1, X, Y, Z], 0 or 1: the batch's "lesion" [B, 1, X, Y, Z], or nowhere."""
        return batch["lesion"][self.subject] if "lesion" in batch else torch.zeros_like(self.images)


def draw_pairs(
    image: Tensor,
    available: Tensor | None = None,
    *,
    include_self: bool = True,
    include_missing: bool = False,
    pairs_per_subject: int = 0,
) -> Pairs:
    """All pairs of a batch [B, S, X, Y, Z], or a random few (torch's CPU generator draws them).

    Args:
        available: the batch's [B, S], on the CPU; None is looked for in the images, which waits for their device.
        include_self: pairs whose target is their source.
        include_missing: pairs whose target the subject does not have.
        pairs_per_subject: at most so many per subject, drawn at random; 0 is all.

    Raises:
        ValueError: no pair is left, as when every subject of the batch has one sequence only.
    """
    available = (is_available(image) if available is None else available).cpu()
    subject, source = available.nonzero(as_tuple=True)
    row_of = torch.full(available.shape, -1)
    row_of[subject, source] = torch.arange(len(subject))
    wanted = torch.ones(len(subject), available.shape[1], dtype=torch.bool) if include_missing else available[subject]
    if not include_self:
        wanted[torch.arange(len(subject)), source] = False
    target, row = wanted.T.nonzero(as_tuple=True)
    if pairs_per_subject:
        shuffled = torch.randperm(len(row))
        owner = subject[row[shuffled]]
        rank = (owner[:, None] == owner[None]).tril(-1).sum(1)  # how many of the same subject come before
        kept = shuffled[rank < pairs_per_subject].sort().values
        row, target = row[kept], target[kept]
    if not len(row):
        raise ValueError("No pair to train on: every subject of this batch has one sequence only and self_weight is 0.")
    return Pairs(image[subject, source][:, None], subject, source, row, target, row_of[subject[row], target])


class SeriesPairs(NamedTuple):
    """As `Pairs`, of networks that take series: what is encoded, and what shall be decoded, are lists of frames.

    `images` has, for each of the sequences that are `encoded` [K], the images of it that are sources, [n, T, X, Y, Z],
    missing frames -1: N images in all, whose `subject` [N] and `source` [N] these are. Pairs are sorted by target:
    `row` [P], `target` [P].
    Of all their frames, one after the other, F in all: `pair` [F], and the true image `truths` [F, 1, X, Y, Z], -1
    where it is missing.
    """

    images: list[Tensor]
    encoded: Tensor
    subject: Tensor
    source: Tensor
    row: Tensor
    target: Tensor
    pair: Tensor
    truths: Tensor


def draw_series_pairs(
    image: Tensor,
    network: TranslationNetwork,
    *,
    include_self: bool = True,
    include_missing: bool = False,
    pairs_per_subject: int = 0,
) -> SeriesPairs:
    """`draw_pairs` of a batch [B, C, X, Y, Z]: a sequence is as often drawn whatever the number of its frames.

    What no drawn pair starts from is not encoded.
    """
    available = network.available(image).cpu()
    chosen = {"include_self": include_self, "include_missing": include_missing}
    drawn = draw_pairs(available[:, :, None], available, **chosen, pairs_per_subject=pairs_per_subject)
    used, _ = drawn.encoded()
    used = used[drawn.source[used].argsort(stable=True)]  # by source, so that each is encoded in one batch
    row = torch.full_like(drawn.source, -1).scatter(0, used, torch.arange(len(used)))[drawn.row]
    source, subject = drawn.source[used], drawn.subject[used]
    encoded = source.unique()
    images = [network.channels(image, i)[subject[source == i]] for i in encoded.tolist()]
    owner, frames = drawn.subject[drawn.row], [network.count(j) for j in drawn.target.tolist()]
    pair = torch.arange(len(frames)).repeat_interleave(torch.tensor(frames))
    each = zip(owner.tolist(), drawn.target.tolist(), strict=True)
    truths = torch.cat([network.channels(image, j)[b] for b, j in each])[:, None]
    return SeriesPairs(images, encoded, subject, source, row, drawn.target, pair, truths)


def network_input(images: Tensor, spatial_dims: int, slice_axis: int = -1) -> Tensor:
    """Images [N, 1, X, Y, Z] as the network takes them: 2D and 2.5D have the few slices of a sample as channels."""
    return images if spatial_dims == 3 else images.squeeze(1).movedim(slice_axis, 1)


def series_input(images: Tensor, spatial_dims: int, slice_axis: int = -1) -> Tensor:
    """The same of series [N, T, X, Y, Z]: [N, T, slices, X, Y], or [N, T, 1, X, Y, Z]."""
    return network_input(images.flatten(0, 1)[:, None], spatial_dims, slice_axis).unflatten(0, images.shape[:2])


def rows_by_target(row: Tensor, target: Tensor, sequences: int) -> tuple[Tensor, ...]:
    """Splits rows [P], sorted by target [P], into one tensor per sequence, some of them empty."""
    return row.split(torch.bincount(target, minlength=sequences).tolist())
