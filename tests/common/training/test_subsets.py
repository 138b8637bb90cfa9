"""Which sequences the others are made from."""

from __future__ import annotations

import pytest
import torch

from common.training.schedule import constant_then_linear
from common.training.subsets import draw_sources


@pytest.mark.parametrize(("fewest", "numbers"), [(1, {1, 2, 3}), (2, {2, 3}), (3, {3}), (9, {3})])
def test_each_number_of_sources_and_each_sequence_is_drawn_alike(fewest: int, numbers: set[int]):
    torch.manual_seed(0)
    sources, targets = draw_sources(torch.zeros(3000, 4, 1, 1, 1), fewest=fewest)
    counts = torch.bincount(sources.sum(1), minlength=5) / 3000
    assert {int(n) for n in counts.nonzero()[:, 0]} == numbers
    assert counts[list(numbers)].sub(1 / len(numbers)).abs().max() < 0.04
    assert torch.equal(sources, ~targets)
    assert sources.float().mean(0).sub(sources.float().mean()).abs().max() < 0.04


def test_what_is_missing_is_neither():
    image = torch.zeros(50, 4, 1, 1, 1)
    image[:, 1] = -1
    image[25:, 2] = -1
    sources, targets = draw_sources(image, fewest=3)
    assert not (sources & targets).any() and not (sources | targets)[:, 1].any()
    assert (sources[:25].sum(1) == 2).all() and (sources[25:].sum(1) == 1).all() and (targets.sum(1) == 1).all()


def test_a_single_sequence_is_an_error():
    image = torch.full((2, 3, 1, 1, 1), -1.0)
    image[:, 0], image[0, 1] = 0, 0
    with pytest.raises(ValueError, match="one sequence only"):
        draw_sources(image)


def test_the_rate_is_constant_and_then_falls_to_nothing():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    scheduler, rates = constant_then_linear(optimizer, 8), []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([2, 2, 2, 2, 2, 1.5, 1, 0.5, 0])
