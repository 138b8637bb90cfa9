"""The validation number by hand, and what does not count."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler, from_engine

from common.evaluation import conventions
from common.evaluation.conventions import CONVENTIONS, brain_mask, score
from common.evaluation.validation import SynthesisMetric

SHAPE = (6, 5, 4)


def by_hand(pred: torch.Tensor, truth: torch.Tensor) -> float:
    """PSNR in the truth's foreground, both mapped by its 0.5th and 99.5th percentile there and clipped to [0, 1]."""
    brain = truth.numpy() > 0
    p, t = pred.numpy()[brain].astype(float), truth.numpy()[brain].astype(float)
    low, high = np.percentile(t, (0.5, 99.5))
    p, t = (((x - low) / (high - low)).clip(0, 1) for x in (p, t))
    return 10 * math.log10(1 / np.mean((p - t) ** 2))


def draw(seed: int, missing: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(1, 3, *SHAPE, generator=generator) * 0.8 + 0.1
    truth[:, :, 0] = 0
    pred = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    truth[:, missing] = -1
    return pred, truth


def aggregate(*subjects: tuple[torch.Tensor, torch.Tensor], **options: object) -> float:
    metric = SynthesisMetric(**options)
    for pred, truth in subjects:
        metric(pred, truth)
    return metric.aggregate()


def test_known_answer():
    truth = torch.linspace(0.2, 0.6, 120).view(1, 1, *SHAPE).repeat(1, 2, 1, 1, 1)
    low, high = np.percentile(truth[0, 0], (0.5, 99.5))
    middle = (truth > low + 0.05) & (truth < high - 0.05)  # clipped nowhere
    pred = torch.where(middle, truth + 0.05, truth)
    mse = (0.05 / (high - low)) ** 2 * middle.float().mean().item()
    assert aggregate((pred, truth)) == pytest.approx(10 * math.log10(1 / mse), abs=1e-3)


def test_mean_over_what_each_subject_has():
    one, two = draw(1, []), draw(2, [1])
    values = [by_hand(one[0][0, j], one[1][0, j]) for j in range(3)] + [
        by_hand(two[0][0, j], two[1][0, j]) for j in (0, 2)
    ]
    assert max(values) - min(values) > 0.1
    assert aggregate(one, two) == pytest.approx(np.mean(values), abs=1e-3)
    together = (torch.cat([one[0], two[0]]), torch.cat([one[1], two[1]]))
    assert aggregate(together) == pytest.approx(np.mean(values), abs=1e-3)


def test_a_subject_with_one_sequence_has_nothing_to_score():
    full, single = draw(1, []), draw(2, [0, 2])
    assert aggregate(full, single) == pytest.approx(aggregate(full))
    assert math.isnan(aggregate(single))


def test_what_was_made_of_a_missing_sequence_and_of_air_does_not_count():
    pred, truth = draw(1, [1])
    other = pred.clone()
    other[:, 1] = 0.3
    other[:, :, 0] = 0.9
    assert aggregate((other, truth)) == pytest.approx(aggregate((pred, truth)))
    other[:, 0, 1] += 0.05
    assert aggregate((other, truth)) != pytest.approx(aggregate((pred, truth)))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_any_number_of_any_convention(convention):
    """The mean of what `score` gives, in the brain that is found in the truth."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(1, 2, 16, 15, 14, generator=generator)
    truth[..., :3] = 0
    pred = 0.9 * truth + 0.1 * torch.rand(truth.shape, generator=generator)
    rows = [score(p, t, brain_mask(t), convention=convention) for p, t in zip(pred[0], truth[0], strict=True)]
    for number in rows[0]:
        value = aggregate((pred, truth), convention=convention, number=number)
        assert value == pytest.approx(np.mean([row[number] for row in rows]))


def test_lpips_in_validation():
    value = aggregate(draw(1, []), number="lpips", lpips=lambda pred, target, brain: brain.float().mean().item())
    assert value == pytest.approx(1 - 1 / SHAPE[0])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_psnr_costs_no_ssim(monkeypatch, convention):
    monkeypatch.delattr(conventions, "ssim_map")
    assert math.isfinite(aggregate(draw(1, []), convention=convention))


def test_in_an_ignite_engine():
    metric = SynthesisMetric("aldm", "nmse")
    one, two = draw(1, []), draw(2, [1])
    engine = Engine(lambda engine, batch: [{"pred": pred, "label": truth} for pred, truth in zip(*batch, strict=True)])
    IgniteMetricHandler(metric, output_transform=from_engine(["pred", "label"])).attach(engine, "nmse")
    engine.run([one, two])
    assert engine.state.metrics["nmse"] == pytest.approx(aggregate(one, two, convention="aldm", number="nmse"))


def test_unknown_numbers_are_refused_before_training():
    with pytest.raises(ValueError, match="'nobody'"):
        SynthesisMetric("nobody")
    with pytest.raises(ValueError, match=r"'crl' has no number 'nmse', only psnr, ssim$"):
        SynthesisMetric("crl", "nmse")
