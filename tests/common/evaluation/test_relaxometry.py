"""Rivals from physics, on signals whose PD, T1 and T2 are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.data.mr_signal import FSE9, TISSUES, Acquisition, spin_echo
from common.evaluation.relaxometry import PHYSICS, between, fit, prior

SETTINGS = [(each.tr, each.te, each.ti) for each in FSE9.values()]
UNSEEN = (6000.0, 70.0, 1500.0)


def images(settings: list, gain: float = 0.7, noise: float = 0.0) -> torch.Tensor:
    """[K, 4, 30]: 30 voxels each of liquor, grey and white matter and lesion, each with its own T1 and T2."""
    rng = np.random.default_rng(3)
    tissues = np.array([TISSUES[name][:3] for name in ("csf", "grey_matter", "white_matter", "lesion")])
    varied = tissues[:, None] * np.exp(0.05 * rng.standard_normal((4, 30, 3)))
    t1, t2, pd = np.moveaxis(varied, -1, 0)
    made = gain * np.stack([spin_echo(pd, t1, t2, Acquisition(*each)) for each in settings])
    return torch.as_tensor(np.abs(made + noise * rng.standard_normal(made.shape)))


def off(made: torch.Tensor, truth: torch.Tensor) -> float:
    return float((made - truth).abs().mean() / truth.mean())


@pytest.mark.parametrize("wanted", [UNSEEN, (500.0, 10.0, 0.0), (9000.0, 120.0, 2481.0)])
def test_a_fit_recovers_any_other_setting(wanted: tuple):
    assert off(fit(images(SETTINGS), SETTINGS, wanted), images([wanted])[0]) < 0.03
    few = [SETTINGS[k] for k in (0, 4, 6)]
    assert off(fit(images(few), few, (8000.0, 40.0, 0.0)), images([(8000.0, 40.0, 0.0)])[0]) < 0.02


def test_a_fit_of_two_settings_is_refused():
    with pytest.raises(ValueError, match="2 settings; it takes 3"):
        fit(images(SETTINGS[:2]), SETTINGS[:2], UNSEEN)


@pytest.mark.parametrize("gain", [0.3, 1.0, 3.0])
def test_the_prior_makes_one_setting_do(gain: float):
    """Whatever unit the images are in; better than the image itself, and than knowing nothing but the mean."""
    source, wanted = [(500.0, 10.0, 0.0)], (4000.0, 100.0, 0.0)
    given, truth = images(source, gain, noise=0.005 * gain), images([wanted], gain)[0]
    made = prior(given, source, wanted)
    assert made[0].mean() > made[1].mean() > made[2].mean(), "liquor, grey and white matter, in T2's order"
    assert off(made, truth) < 0.6 * min(off(given[0], truth), off(truth.mean().expand_as(truth), truth))


def test_the_prior_steadies_two_noisy_settings():
    """More settings tell more."""
    errors = []
    for count in (1, 2, 4):
        settings = [SETTINGS[k] for k in (4, 0, 6, 3)[:count]]
        errors.append(off(prior(images(settings, noise=0.02), settings, UNSEEN), images([UNSEEN])[0]))
    assert errors[0] > errors[1] > errors[2]
    three = [SETTINGS[k] for k in (0, 4, 6)]
    noisy, truth = images(three, noise=0.05), images([UNSEEN])[0]
    assert off(prior(noisy, three, UNSEEN), truth) < off(fit(noisy, three, UNSEEN), truth)


def test_between_two_settings():
    a, b, far = (1000.0, 10.0, 0.0), (1000.0, 90.0, 0.0), (9000.0, 50.0, 2000.0)
    given = torch.tensor([1.0, 3.0, 9.0])[:, None].expand(3, 5)
    middle = 10 * np.expm1((np.log1p(1.0) + np.log1p(9.0)) / 2)  # of the logarithms
    torch.testing.assert_close(between(given, [a, b, far], (1000.0, middle, 0.0)), torch.full((5,), 2.0))
    torch.testing.assert_close(between(given, [far, a, b], (1000.0, 300.0, 0.0)), given[2], msg="never beyond")
    assert torch.equal(between(given[:1], [a], b), given[0])


@pytest.mark.parametrize("name", PHYSICS)
def test_an_acquired_setting_is_what_was_acquired_and_air_stays_air(name: str):
    given = images(SETTINGS)
    given[:, 0, :5] = 0
    made = PHYSICS[name](given, SETTINGS, SETTINGS[6])
    assert made.shape == given.shape[1:] and not made[0, :5].any()
    assert off(made, given[6]) < 0.02
    assert not PHYSICS[name](torch.zeros(9, 2, 2), SETTINGS, UNSEEN).any()
