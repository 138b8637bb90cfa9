"""Handlers on a bare engine: seeds, reference scales, averaged weights, pictures."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.transforms import Compose, RandGaussianNoise
from torch import Tensor, nn

from common.training.handlers import MovingAverage, ReferenceScale, Reseed, SampleImages
from common.translation import TranslationNetwork


def draws(seed: int, epochs: int) -> list[tuple[float, ...]]:
    """What torch, numpy, random and a transform draw in each epoch."""
    transform, found = Compose([RandGaussianNoise(prob=1)]), []

    def step(engine: Engine, batch: int) -> None:
        noise = transform(torch.zeros(1)).item()
        found.append((torch.rand(1).item(), np.random.rand(), random.random(), noise))

    engine = Engine(step)
    Reseed(seed, transform).attach(engine)
    engine.run([0], max_epochs=epochs)
    return found


def test_each_epoch_has_draws_of_its_own():
    found = draws(0, 4)
    assert found == draws(0, 6)[:4]
    assert found[0] == draws(-1, 2)[1]  # a function of the epoch, not of what was drawn before
    for kind in zip(*found, *draws(100, 2), strict=True):
        assert len(set(kind)) == 6


def test_ranks_draw_differently(monkeypatch: pytest.MonkeyPatch):
    found = draws(0, 4)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for rank in (1, 2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        found += draws(0, 4)
    assert len(set(found)) == 12


def trained_on(*epochs: list[dict[str, Tensor]]) -> TranslationNetwork:
    networks, engine = [TranslationNetwork(3), TranslationNetwork(3)], Engine(lambda engine, batch: None)
    ReferenceScale(networks).attach(engine)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: engine.set_data(epochs[engine.state.epoch - 1]))
    engine.run(epochs[0], max_epochs=len(epochs))
    for a, b in zip(networks[0].scales(), networks[1].scales(), strict=True):
        assert torch.equal(a.nan_to_num(), b.nan_to_num())
    return networks[0]


def reference_scale(*epochs: list[dict[str, Tensor]]) -> Tensor:
    return trained_on(*epochs).reference_scale


def batch(scale: list[list[float]], offset: list[list[float]], available: list[list[int]]) -> dict[str, Tensor]:
    image = torch.where(torch.tensor(available, dtype=torch.bool), 0.5, -1.0)
    return {"image": image[..., None].expand(-1, -1, 4), "scale": torch.tensor(scale), "offset": torch.tensor(offset)}


def test_reference_scale_by_hand():
    first = batch([[100.0, 5.0, 1.0]], [[10.0, 1.0, 0.0]], [[1, 1, 0]])
    second = batch([[400.0, 1.0, 1.0], [100.0, 1.0, 1.0]], [[40.0, 0.0, 0.0], [10.0, 0.0, 0.0]], [[1, 0, 0]] * 2)
    found = reference_scale([first, second])
    torch.testing.assert_close(found[:2], torch.tensor([[100 * math.cbrt(4), 20], [5, 1]]))
    assert found[2].isnan().all()  # never seen
    # Only the last epoch counts, and what stands where a sequence is missing does not.
    third = batch([[7.0, 0.0, 0.0], [7.0, 3.0, 0.0]], [[2.0, 9.0, 9.0], [2.0, 1.0, 9.0]], [[1, 0, 0], [1, 1, 0]])
    found = reference_scale([first], [third])
    torch.testing.assert_close(found[:2], torch.tensor([[7.0, 2.0], [3.0, 1.0]]))
    assert found[2].isnan().all()


def test_the_spread_of_scales_counts_subjects_not_crops():
    bright = batch([[1000.0, 100.0, 1.0]], [[0.0, 0.0, 0.0]], [[1, 1, 0]])
    dark = batch([[10.0, 1.0, 1.0]], [[0.0, 0.0, 0.0]], [[1, 1, 0]])
    once = trained_on([bright, dark])
    found = once.reference_spread
    scatter = 2 * math.log(10) ** 2
    expected = torch.tensor([[scatter + 4 * 0.18, scatter + 4 * 0.09], [scatter + 4 * 0.09, scatter + 4 * 0.18]]) / 6
    torch.testing.assert_close(found[:2, :2], expected)
    assert torch.equal(trained_on([bright, dark, dark, bright, dark]).reference_spread, found)


def test_reference_scale_of_batches_without_images():
    whole = batch([[100.0, 5.0, 1.0]], [[10.0, 1.0, 0.0]], [[1, 1, 0]])
    latents = {**whole, "available": torch.tensor([[True, True, False]])}
    del latents["image"]
    torch.testing.assert_close(reference_scale([latents]), reference_scale([whole]), equal_nan=True)


def averaged(average: MovingAverage, weights: list[float]) -> float:
    """The average after the trained weights went through these values."""
    engine = Engine(lambda engine, value: nn.init.constant_(average.trained.weight, value))
    average.attach(engine)
    engine.run(weights, max_epochs=1)
    return average.network.weight.item()


def test_moving_average_by_hand():
    average = MovingAverage(nn.Linear(1, 1, bias=False), decay=0.9)
    assert averaged(average, [1.0, 2.0, 5.0]) == pytest.approx(
        (1 * 2 / 11 + 2 * 9 / 11) * 3 / 12 + 5 * 9 / 12
    )  # (1 + n) / (10 + n)
    assert average.trained.weight.item() == 5


def test_a_moving_average_comes_to_its_decay():
    average = MovingAverage(nn.Linear(1, 1, bias=False), decay=0.5)
    averaged(average, [1.0] * 20)
    assert averaged(average, [2.0]) == pytest.approx(1.5)


def test_moving_average_goes_on_from_its_state():
    whole, first, second = (MovingAverage(nn.Linear(1, 1, bias=False), decay=0.9) for _ in range(3))
    expected = averaged(whole, [1.0, 2.0, 5.0, 3.0])
    averaged(first, [1.0, 2.0])
    second.load_state_dict(first.state_dict())
    assert averaged(second, [5.0, 3.0]) == pytest.approx(expected)


def test_an_average_may_begin_when_a_training_goes_on():
    average = MovingAverage(nn.Linear(1, 1, bias=False), decay=0.9)
    average.load_state_dict(MovingAverage(nn.Linear(1, 1, bias=False)).state_dict())
    assert averaged(average, [1.0, 2.0]) == pytest.approx(1 * 2 / 11 + 2 * 9 / 11)


def test_no_decay_is_the_network_itself():
    network = nn.Linear(1, 1, bias=False)
    average = MovingAverage(network)
    assert average.network is network and average.state_dict() == {}
    assert averaged(average, [1.0, 2.0]) == 2
    average.load_state_dict({})


@pytest.mark.parametrize(("slice_axis", "size"), [(-1, (2 * 5, 2 * 4)), (-3, (2 * 3, 2 * 5))])
def test_sample_images_are_of_the_first_subject(tmp_path: Path, slice_axis: int, size: tuple[int, int]):
    engine = Engine(lambda engine, value: [{k: torch.full((2, 4, 5, 3), v) for k, v in value.items()}])
    engine.network = TranslationNetwork(2, slice_axis=slice_axis)
    samples = SampleImages(str(tmp_path))
    samples.attach(engine)
    engine.run([{"label": 0.5, "pred": 2.0}, {"label": 0.0, "pred": 0.0}], max_epochs=1)
    assert samples.shown.shape == (1, *size)
    true, made = samples.shown[0].chunk(2)
    assert (true == 0.5).all() and (made == 1).all()
    assert len(list(tmp_path.iterdir())) == 1
