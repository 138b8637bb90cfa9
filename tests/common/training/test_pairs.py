"""Which pairs are drawn, from which images, and how often."""

import pytest
import torch
from torch import Tensor

from common.training.pairs import Pairs, draw_pairs, network_input, rows_by_target


def batch(available: list[list[int]]) -> Tensor:
    """Images [B, S, 2, 2, 2] whose value names subject and sequence."""
    present = torch.tensor(available, dtype=torch.bool)
    value = torch.arange(present.numel()).view(present.shape) / present.numel()
    return torch.where(present, value, -1.0)[(...,) + (None,) * 3].expand(-1, -1, 2, 2, 2)


def listed(pairs: Pairs, image: Tensor) -> list[tuple[int, int, int]]:
    """(subject, source, target) of every pair, told from the images; checks the true image on the way."""
    found = []
    for row, target, truth in zip(pairs.row, pairs.target, pairs.truth, strict=True):
        ((subject, source),) = (image[..., 0, 0, 0] == pairs.images[row, 0, 0, 0, 0]).nonzero().tolist()
        assert source == pairs.source[row] and subject == pairs.subject[row]
        true = pairs.images[truth, 0] if truth >= 0 else torch.full((2, 2, 2), -1.0)
        assert torch.equal(true, image[subject, target])
        found.append((subject, source, int(target)))
    return found


AVAILABLE = [[1, 0, 1], [1, 1, 1], [0, 1, 0]]


def test_truths_are_the_reference_where_there_is_one():
    image = batch(AVAILABLE)
    pairs = draw_pairs(image)
    assert pairs.truths({"image": image}) is pairs.images
    truths = pairs.truths({"image": image, "reference": image + 7})
    assert torch.equal(truths, pairs.images + 7)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("include_missing", [True, False])
def test_all_pairs(include_self: bool, include_missing: bool):
    image = batch(AVAILABLE)
    pairs = draw_pairs(image, include_self=include_self, include_missing=include_missing)
    expected = [
        (b, i, j)
        for j in range(3)
        for b in range(3)
        for i in range(3)
        if AVAILABLE[b][i] and (AVAILABLE[b][j] or include_missing) and (include_self or i != j)
    ]
    assert listed(pairs, image) == expected  # sorted by target, so that each target is decoded in one go
    assert pairs.images.shape == (6, 1, 2, 2, 2)  # every available image, once


@pytest.mark.parametrize("bound", [1, 2, 4, 9, 100])
def test_few_pairs_are_bounded_per_subject_and_repeatable(bound: int):
    image, drawn = batch(AVAILABLE), []
    for seed in (0, 0, *range(1, 20)):
        torch.manual_seed(seed)
        drawn.append(listed(draw_pairs(image, pairs_per_subject=bound), image))
        assert len(set(drawn[-1])) == len(drawn[-1])
        per_subject = [sum(b == subject for b, _, _ in drawn[-1]) for subject in range(3)]
        assert per_subject == [min(bound, 4), min(bound, 9), 1]
        assert [j for *_, j in drawn[-1]] == sorted(j for *_, j in drawn[-1])
    assert drawn[0] == drawn[1]
    everything = {(b, i, j) for b in range(3) for i in range(3) for j in range(3) if AVAILABLE[b][i] & AVAILABLE[b][j]}
    assert {pair for pairs in drawn for pair in pairs} == everything  # none is left out for good


def test_images_of_no_pair_are_left_out_in_order():
    image = batch(AVAILABLE)
    whole = draw_pairs(image, torch.tensor(AVAILABLE, dtype=torch.bool))
    used, row = whole.encoded()
    assert used.tolist() == list(range(6)) and torch.equal(row, whole.row)
    torch.manual_seed(0)
    few = draw_pairs(image, pairs_per_subject=1)
    used, row = few.encoded()
    assert 0 < len(used) <= 3 and used.tolist() == sorted(used.tolist())
    assert torch.equal(used[row], few.row) and len(few.images) == 6


def test_no_pair_left():
    with pytest.raises(ValueError, match="one sequence only"):
        draw_pairs(batch([[1, 0], [0, 1]]), include_self=False)


def test_rows_by_target():
    split = rows_by_target(torch.tensor([4, 0, 3, 1]), torch.tensor([0, 0, 2, 2]), 4)
    assert [rows.tolist() for rows in split] == [[4, 0], [], [3, 1], []]


def test_network_input():
    images = torch.rand(5, 1, 4, 6, 3)
    assert network_input(images, 3) is images
    assert torch.equal(network_input(images, 2)[:, 1], images[:, 0, :, :, 1]), "slices as channels"
    assert network_input(images, 2, -3).shape == (5, 4, 6, 3)
