"""Whether a subject's images are what they are called: each is made from each other, under every name it might have.

An image that is taken for another sequence than it is makes the others badly, and is made badly by them. So of all ways
to name a subject's images, the one by which they predict each other best should be the one that the list has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor

from ..data.preparation import Subjects
from ..translation import TranslationNetwork
from .inferers import available_sequences, plain

SLICES = 4  # of a 2D network's, from the middle half of what is shown
# How much better, in mean correlation, other names must fit before a label is doubted. Of five real scans under all
# wrong names, a swap of T1 and T1Gd came to 0.01 to 0.03, every other one to more than 0.07.
MARGIN = 0.05
# Mean correlation of an image and what others make of it, and of the others and what it makes of them. Of five scans
# of four patients no image was below 0.5, one of another person, laid over theirs by its centre, at most 0.31 (five).
UNLIKE = 0.35


@torch.no_grad()
def agreement(network: TranslationNetwork, image: Tensor, images: Sequence[int]) -> Tensor:
    """How well each image makes each other under all names: correlations where both show tissue, [n, S, n, S].

    A 2D network is asked for a few slices; a 3D one for the whole.

    Args:
        network: of S sequences, on the image's device.
        image: [1, C, X, Y, Z], prepared as for inference.
        images: the n of the sequences that are there.

    Returns:
        For an image taken for a sequence, and another one taken for a second: nan for the same image or name, and for
        a series taken for a sequence that is none, or the other way round.
    """
    count = network.sequences
    given = [network.sequence_input(image, i) for i in images]
    if network.spatial_dims == 2:
        rows = torch.linspace(len(given[0]) / 4, 3 * len(given[0]) / 4, SLICES).long()
        given = [stacks[rows] for stacks in given]
    shown = [_frames(network, stacks) for stacks in given]
    kind = [network.count(s) > 1 for s in range(count)]
    found = torch.full((len(images), count, len(images), count), torch.nan)
    for a, s in product(range(len(images)), range(count)):
        if kind[s] != kind[images[a]]:
            continue
        most = (max(network.frames),) if network.has_series else ()
        representation = network.encode(given[a], network.codes[s : s + 1], *most)
        tissue = (shown[a] > 0).any(1, keepdim=True)
        for t in (t for t in range(count) if t != s):
            frames = (network.count(t),) if network.has_series else ()
            made = _frames(network, network.decode(representation, network.codes[t : t + 1], *frames))
            for b in (b for b in range(len(images)) if b != a and kind[t] == kind[images[b]]):
                found[a, s, b, t] = _correlation(made, shown[b], tissue)
    return found


def _frames(network: TranslationNetwork, images: Tensor) -> Tensor:
    """What a network takes or gives, of 2.5D the middle slices: [N, T, *spatial]."""
    return (images if network.has_series else images[:, None])[:, :, network.slices // 2]


def _correlation(made: Tensor, true: Tensor, tissue: Tensor) -> Tensor:
    """Of the frames [N, T, *spatial] that both have, in the tissue [N, 1, *spatial] of all."""
    count = min(made.shape[1], true.shape[1])
    made, true = made[:, :count], true[:, :count]
    both = tissue & (true > 0)
    return torch.corrcoef(torch.stack([made[both], true[both]]))[0, 1].nan_to_num() if both.any() else torch.tensor(0.0)


def best_names(found: Tensor, labels: Sequence[int]) -> tuple[list[int], float]:
    """The names [n] by which images predict each other best, and by how much better than by their labels.

    Args:
        found: see `agreement`.
        labels: the names that they have.
    """
    n, count = found.shape[:2]
    pairs = [(a, b) for a in range(n) for b in range(n) if a != b]

    def fit(names: Sequence[int]) -> float:
        mean = torch.stack([found[a, names[a], b, names[b]] for a, b in pairs]).mean().item()
        return -math.inf if math.isnan(mean) else mean

    best = max(permutations(range(count), n), key=fit)
    return list(best), fit(best) - fit(labels)


def wrong_labels(
    network: TranslationNetwork, subjects: Subjects, item: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """`doubts` of one of the subjects' items."""
    if sum(name in item["images"] for name in subjects.sequences) > 1:
        data = subjects.use()(item)
        image = plain(data["image"])[None].to(network.codes.device)
        labels = available_sequences(image, network)
        yield from doubts(agreement(network, image, labels), labels, subjects.sequences)


def doubts(found: Tensor, labels: Sequence[int], names: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Sequence, code and reason, from a subject's `agreement`."""
    best, gain = best_names(found, labels)
    if gain > MARGIN:
        for label, seems in zip(labels, best, strict=True):
            if label != seems:
                reason = f"seems to be a {names[seems]}: by such names the images predict each other better"
                yield names[label], "WRONG_NAME", f"{reason} (correlation +{gain:.2f}); look at it"
    for a, label in enumerate(labels if len(labels) > 2 else ()):
        others = [b for b in range(len(labels)) if b != a]
        both = [found[k, best[k], m, best[m]] for b in others for k, m in ((a, b), (b, a))]
        if (like := torch.stack(both).mean().item()) < UNLIKE:
            reason = f"agrees with none of the others (correlation {like:.2f}); another person's, or not registered?"
            yield names[label], "OTHER_PERSON", reason
