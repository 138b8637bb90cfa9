"""Disturbed inputs: the same for every method, as strong as documented, and nothing else is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.evaluation.disturbances import DISTURBANCES, LEVELS, Disturbd

SHAPE = (24, 28, 20)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
EVERY = [(name, level) for name in DISTURBANCES for level in LEVELS]


@pytest.fixture
def data() -> dict[str, Any]:
    """A head of tissue around 0.3 with dark and bright parts, the same for T1 and FLAIR; T2 is missing."""
    x, y, z = (torch.linspace(-1, 1, size) for size in SHAPE)
    radius = (x[:, None, None] ** 2 + y[:, None] ** 2 + z**2).sqrt()
    head = torch.where(radius < 0.8, 0.3 + 0.1 * torch.cos(9 * radius), 0)
    head[10:13, 10:13, 8:12] = 0.001
    head[14:17, 10:13, 8:12] = 1.0
    image = MetaTensor(torch.stack([head, torch.zeros(SHAPE), head]), affine=AFFINE)
    available = torch.tensor([True, False, True])
    return {"subject": "sub-1", "image": image, "label": image.clone(), "available": available}


def disturbed(data: dict[str, Any], *options: Any) -> torch.Tensor:
    return Disturbd("image", *options)(data)["image"].as_tensor()


@pytest.mark.parametrize(("name", "level"), EVERY)
def test_air_label_and_missing_sequences_stay(data: dict[str, Any], name: str, level: int):
    before = data["image"].clone()
    made = Disturbd("image", name, level)(data)
    image = made["image"]
    assert torch.equal(image > 0, before > 0) and image[image > 0].min() >= 1e-3 and image.max() <= 1
    assert (image[1] == 0).all() and torch.isfinite(image).all()
    assert torch.equal(made["label"], before) and torch.equal(data["image"], before), "the input is not written to"
    assert torch.equal(image.affine, before.affine) and image.dtype == torch.float32
    for i in (0, 2):
        assert (image[i] - before[i]).abs().mean() > 1e-3


@pytest.mark.parametrize("name", DISTURBANCES)
def test_what_is_random_is_told_by_the_seed(data: dict[str, Any], name: str):
    first = disturbed(data, name, 2, 7)
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(disturbed(data, name, 2, 7), first)
    others = [disturbed(data, name, 2, 8), disturbed({**data, "subject": "sub-2"}, name, 2, 7)]
    assert all((other - first).abs().max() > 1e-3 for other in others)
    assert (first[0] - first[2]).abs().max() > 1e-3, "two sequences of a subject differ too"
    alone = {**data, "available": torch.tensor([False, False, True])}
    assert torch.equal(disturbed(alone, name, 2, 7)[2], first[2]), "and do not depend on what else there is"


@pytest.mark.parametrize("name", DISTURBANCES)
def test_a_higher_level_is_stronger(data: dict[str, Any], name: str):
    def error(level: int) -> float:
        made = [disturbed(data, name, level, seed) - data["image"].as_tensor() for seed in range(4)]
        return torch.stack(made).square().mean().item()

    assert error(1) < error(2) < error(3)


@pytest.mark.parametrize("level", LEVELS)
def test_noise_has_its_sigma(data: dict[str, Any], level: int):
    sigma = (0.02, 0.05, 0.1)[level - 1]
    tissue = (data["image"][0] > 0.15) & (data["image"][0] < 0.5)
    noise = (disturbed(data, "noise", level)[0] - data["image"][0].as_tensor())[tissue]
    assert noise.std().item() == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("level", LEVELS)
def test_bias_has_its_span_and_no_mean(data: dict[str, Any], level: int):
    bias = (0.2, 0.4, 0.6)[level - 1]
    data["image"] = torch.where(data["image"] > 0, 0.2, 0.0)  # nothing is clipped
    made = disturbed(data, "bias_field", level)[0]
    factor = made[made > 0] / 0.2
    assert (factor.max() / factor.min()).item() == pytest.approx((1 + bias) / (1 - bias), rel=1e-3)
    assert factor.log().mean().item() == pytest.approx(0, abs=1e-4)
    log = torch.where(made > 0, made, torch.nan).log()
    steps = torch.cat([log.diff(dim=axis).flatten() for axis in range(3)])
    assert steps[torch.isfinite(steps)].abs().max() < 0.25 * (factor.max() / factor.min()).log(), "smooth"


@pytest.mark.parametrize("level", LEVELS)
def test_a_spike_is_one_wave_of_its_amplitude(data: dict[str, Any], level: int):
    amplitude = (0.02, 0.05, 0.1)[level - 1]
    data["image"] = torch.where(data["image"] > 0, 0.4, 0.0)
    wave = (disturbed(data, "spike", level)[0] - 0.4)[data["image"][0] > 0]
    assert wave.abs().max().item() == pytest.approx(amplitude, rel=0.15)
    assert wave.std().item() == pytest.approx(amplitude / 2**0.5, rel=0.15)


def test_motion_keeps_the_image_in_its_place(data: dict[str, Any]):
    """The centre of mass does not move by half of what the head did, though every edge is blurred."""
    x = data["image"][0].as_tensor()
    made = disturbed(data, "motion", 3)[0]
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(size)) for size in SHAPE), indexing="ij"))
    centres = [(grid * image).flatten(1).sum(1) / image.sum() for image in (x, made)]
    assert (centres[0] - centres[1]).abs().max() < 0.5
    assert made.sum().item() == pytest.approx(x.sum().item(), rel=0.1)


def test_motion_is_in_mm():
    """The same head on voxels twice as large moves by half as many of them."""
    from common.evaluation.disturbances import Scan, _moved

    x = torch.zeros(15, 15, 15)
    x[6:9, 6:9, 6:9] = 1.0
    centres = []
    for spacing in (1.0, 2.0):
        moved = _moved(Scan(x, torch.full((3,), spacing)), 2.0, np.random.RandomState(0))
        grid = torch.stack(torch.meshgrid(*[torch.arange(15.0) - 7] * 3, indexing="ij"))
        centres.append((grid * moved).flatten(1).sum(1) / moved.sum())
    torch.testing.assert_close(centres[0], 2 * centres[1], rtol=0, atol=0.05)
    assert centres[0].norm().item() == pytest.approx(2, abs=0.1)


def test_none_changes_nothing(data: dict[str, Any]):
    assert Disturbd("image")(data)["image"] is data["image"]


def test_choosing_again(data: dict[str, Any]):
    disturb = Disturbd("image", "noise", 1)
    disturb.choose("spike", 3)
    assert torch.equal(disturb(data)["image"].as_tensor(), disturbed(data, "spike", 3))


@pytest.mark.parametrize(("options", "message"), [(("blur",), "'blur'.*none, noise, bias_field"), (("noise", 4), "4")])
def test_bad_options(options: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        Disturbd("image", *options)
    with pytest.raises(ValueError, match=message):
        Disturbd("image").choose(*options)
