"""Whether a subject's images are what they are called: each is made from each other, under every name it might have.

An image that is taken for another sequence than it is makes the others badly, and is made badly by them. So of all ways
to name a subject's images, the one by which they predict each other best should be the one that the list has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product
from typing import Any

import torch
from torch import Tensor

from ..data.preparation import Subjects
from ..translation import TranslationNetwork
from .inferers import plain

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
        image: [1, S, X, Y, Z], prepared as for inference.
        images: the n of its channels that are there.

    Returns:
        For an image taken for a sequence, and another one taken for a second: nan for the same image or name.
    """
    if network.has_series:
        raise ValueError("names are not compared by networks that have series among their sequences")
    count, middle = network.sequences, network.slices // 2
    given = [network.to_input(image[:, i]) for i in images]
    if network.spatial_dims == 2:
        rows = torch.linspace(len(given[0]) / 4, 3 * len(given[0]) / 4, SLICES).long()
        given = [stacks[rows] for stacks in given]
    found = torch.full((len(images), count, len(images), count), torch.nan)
    for a, s in product(range(len(images)), range(count)):
        representation = network.encode(given[a], network.codes[s : s + 1])
        for t in (t for t in range(count) if t != s):
            made = network.decode(representation, network.codes[t : t + 1])[:, middle]
            for b in (b for b in range(len(images)) if b != a):
                both = (given[a][:, middle] > 0) & (given[b][:, middle] > 0)
                pair = torch.stack([made[both], given[b][:, middle][both]])
                found[a, s, b, t] = torch.corrcoef(pair)[0, 1].nan_to_num() if both.any() else 0
    return found


def best_names(found: Tensor, labels: Sequence[int]) -> tuple[list[int], float]:
    """The names [n] by which images predict each other best, and by how much better than by their labels.

    Args:
        found: see `agreement`.
        labels: the names that they have.
    """
    n, count = found.shape[:2]
    pairs = [(a, b) for a in range(n) for b in range(n) if a != b]

    def fit(names: Sequence[int]) -> float:
        return torch.stack([found[a, names[a], b, names[b]] for a, b in pairs]).mean().item()

    best = max(permutations(range(count), n), key=fit)
    return list(best), fit(best) - fit(labels)


def wrong_labels(
    network: TranslationNetwork, subjects: Subjects, item: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """`doubts` of one of the subjects' items."""
    if sum(name in item["images"] for name in subjects.sequences) > 1:
        data = subjects.use()(item)
        labels = data["available"].nonzero()[:, 0].tolist()
        image = plain(data["image"])[None].to(network.codes.device)
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
