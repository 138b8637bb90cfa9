"""The scale of a missing image: by hand, for every subset of sources, and where training knew little."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from common.inference.weights import load_weights
from common.scales import PRIOR_DEVIATION, PRIOR_SUBJECTS, Scales, moments
from common.translation import TranslationNetwork

MEAN = torch.tensor([[100.0, 0.0], [200.0, 10.0], [400.0, 0.0]])
SPREAD = torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.4, 0.1], [0.2, 0.1, 0.3]])


def estimated(scale: torch.Tensor, available: torch.Tensor | None = None) -> Scales:
    available = torch.ones(scale.shape, dtype=torch.bool) if available is None else available
    return Scales.estimated(moments(scale, torch.zeros_like(scale), available))


def subjects(count: int, together: float, alone: float) -> torch.Tensor:
    """Scales [count, 4] about 100: gains of the deviation `together` in all images, `alone` in each."""
    generator = torch.Generator().manual_seed(0)
    gains = together * torch.randn(count, 1, generator=generator) + alone * torch.randn(count, 4, generator=generator)
    return 100 * gains.exp()


def test_the_conditional_mean_by_hand():
    scales = Scales(MEAN, SPREAD)
    one = scales.given(torch.tensor([1.0, 400.0, 1.0]), [1])
    torch.testing.assert_close(one[:, 0], MEAN[:, 0] * torch.tensor([2 ** (0.3 / 0.4), 2.0, 2 ** (0.1 / 0.4)]))
    torch.testing.assert_close(one[:, 1], torch.tensor([0.0, 20.0, 0.0]))  # an offset is multiplied as its scale is
    # Of two: [[.4, .1], [.1, .3]] has the inverse [[.3, -.1], [-.1, .4]] / .11.
    two = scales.given(torch.tensor([1.0, 400.0, 1200.0]), [1, 2])
    surprise = [math.log(2), math.log(3)]
    weights = [(0.3 * 0.3 - 0.1 * 0.2) / 0.11, (-0.1 * 0.3 + 0.4 * 0.2) / 0.11]
    assert two[0, 0].item() == pytest.approx(100 * math.exp(weights[0] * surprise[0] + weights[1] * surprise[1]))
    assert two[1:, 0].tolist() == pytest.approx([400, 1200]), "what is known stays"


def test_whatever_subset_there_is():
    scales, expected = Scales(MEAN, SPREAD), torch.tensor([math.nan, 300.0, 350.0])
    for size in range(4):
        for sources in itertools.permutations(range(3), size):
            usual = scales.given(MEAN[:, 0], sources)
            torch.testing.assert_close(usual, MEAN)  # an ordinary subject is ordinary, whatever is known of it
    first, second = (scales.given(expected, order) for order in ([1, 2], [2, 1]))
    torch.testing.assert_close(first, second)
    assert first.isfinite().all(), "the missing one's is not read"


def test_moments_add_up_and_lacking_images_add_nothing():
    scale = subjects(9, 0.5, 0.2)
    available = torch.rand(9, 4, generator=torch.Generator().manual_seed(1)) < 0.7
    parts = [moments(scale[k], torch.zeros_like(scale[k]), available[k]) for k in (slice(0, 4), slice(4, 9))]
    whole = estimated(scale, available)
    torch.testing.assert_close(Scales.estimated(sum(parts)).spread, whole.spread)
    spoilt = estimated(torch.where(available, scale, math.nan), available)
    torch.testing.assert_close(spoilt.spread, whole.spread)
    assert torch.linalg.eigvalsh(whole.spread).min() > 0
    for j in range(4):
        logs = scale[available[:, j], j].double().log()
        assert whole.mean[j, 0].item() == pytest.approx(logs.mean().exp().item())


def test_ten_times_the_gain_is_ten_times_the_scale_where_gains_go_together():
    scales = estimated(subjects(100, 1.0, 0.05))
    usual = scales.given(scales.mean[:, 0], [0, 1, 3])[2, 0]
    bright = scales.given(10 * scales.mean[:, 0], [0, 1, 3])[2, 0]
    assert (bright / usual).item() == pytest.approx(10, rel=0.03)
    alone = estimated(subjects(300, 0.0, 0.5))
    assert alone.given(2 * alone.mean[:, 0], [0])[2, 0].item() == pytest.approx(alone.mean[2, 0].item(), rel=0.1)


def test_without_subjects_it_is_what_is_assumed_of_scanners():
    one = estimated(torch.tensor([[100.0, 50.0]]))
    prior = PRIOR_DEVIATION**2 * torch.tensor([[2.0, 1.0], [1.0, 2.0]]) * PRIOR_SUBJECTS / (PRIOR_SUBJECTS + 1)
    torch.testing.assert_close(one.spread.float(), prior)
    assert one.given(torch.tensor([400.0, 1.0]), [0])[1, 0].item() == pytest.approx(100), "half of it, in logarithms"


def test_what_training_never_saw_is_neither_known_nor_used():
    scale, available = subjects(5, 0.3, 0.1), torch.tensor([[True, True, True, False]] * 5)
    scales = estimated(scale, available)
    assert scales.mean[3].isnan().all() and scales.spread.isfinite().all()
    assert scales.informative([3, 0]) == [0]
    found = scales.given(torch.tensor([50.0, 1.0, 1.0, 9e9]), [0, 3])
    torch.testing.assert_close(found[:3], scales.given(torch.tensor([50.0, 1.0, 1.0, 1.0]), [0])[:3])
    torch.testing.assert_close(scales.given(scale[0], [3])[:3], scales.mean[:3])


def test_older_weights_have_the_mean(tmp_path):
    network = TranslationNetwork(3)
    network.reference_scale.copy_(MEAN)
    network.reference_spread.copy_(SPREAD)
    state = network.state_dict()
    torch.save(state, tmp_path / "new.pt")
    del state["reference_spread"]
    torch.save(state, tmp_path / "old.pt")
    old, new = (load_weights(TranslationNetwork(3), str(tmp_path / f"{age}.pt")).scales() for age in ("old", "new"))
    assert torch.equal(new.spread, SPREAD) and torch.equal(new.mean, MEAN)
    assert old.informative([0, 1, 2]) == []
    assert torch.equal(old.given(10 * MEAN[:, 0], [0, 1]), MEAN)
    assert torch.equal(new.given(10 * MEAN[:, 0], [0]), Scales(MEAN, SPREAD).given(10 * MEAN[:, 0], [0]))


def test_scales_that_always_went_together_are_one():
    """Their covariance has no inverse."""
    scales = Scales(torch.tensor([[100.0, 0.0], [200.0, 0.0], [300.0, 0.0]]), torch.full((3, 3), 0.5))
    found = scales.given(torch.tensor([200.0, 400.0, 1.0]), [0, 1])
    assert found[2, 0].item() == pytest.approx(600, rel=1e-6)
