"""What the augmentation may change, how far, and what it must leave as it is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from mri_vq_seq2seq.augmentation import IntensityAugmentation, TranslationAugmentation
from mri_vq_seq2seq.network import VQSeq2Seq

ALONE = {"gamma": {"noise": 0, "bias": 0}, "bias": {"gamma": (1, 1), "noise": 0}, "noise": {"gamma": (1, 1), "bias": 0}}


def images(count: int = 400, size: tuple[int, ...] = (12, 10)) -> Tensor:
    """Grey 0.5 with a margin of air."""
    made = torch.full((count, 1, *size), 0.5)
    made[:, :, 0] = 0
    return made


def augment(inputs: Tensor, seed: int = 0, **options) -> Tensor:
    torch.manual_seed(seed)
    return IntensityAugmentation(**options)(inputs)


@pytest.mark.parametrize("size", [(12, 10), (12, 10, 6)])
def test_half_are_left_alone_and_air_stays_air(size: tuple[int, ...]):
    inputs = images(size=size)
    kept = inputs.clone()
    made = augment(inputs)
    assert torch.equal(inputs, kept), "the truth stays clean"
    assert made.shape == inputs.shape and (made[:, :, 0] == 0).all()
    assert made[:, :, 1:].min() >= 0.001 and made.max() <= 1
    unchanged = (made == inputs).flatten(1).all(1).float().mean().item()
    assert unchanged == pytest.approx(0.5 + 0.5 * 0.5**3, abs=0.07), "not drawn, or drawn and none of the three"


def test_gamma_is_seen():
    made = augment(images(), **ALONE["gamma"])
    inside = made[:, 0, 1:].flatten(1)
    torch.testing.assert_close(inside, inside[:, :1].expand_as(inside))  # one exponent per image
    assert inside.min() == pytest.approx(0.5**1.5, abs=0.01) and inside.max() == pytest.approx(0.5**0.7, abs=0.01)


def test_the_bias_field_is_a_smooth_factor():
    made = augment(images(size=(32, 24)), **ALONE["bias"])
    field = made[:, 0, 1:] / 0.5
    largest = (field - 1).abs().flatten(1).amax(1)
    assert 0.19 < largest.max() <= 0.2 + 1e-6
    assert field.diff(dim=1).diff(dim=1).diff(dim=1).abs().max() < 1e-4, "of degree 2"
    assert field[largest > 0].std((1, 2)).min() > 0


def test_the_noise_is_as_wide_as_said():
    made = augment(images(size=(32, 24)), **ALONE["noise"])
    sigma = (made[:, 0, 1:] - 0.5).flatten(1).std(1)
    assert 0.045 < sigma.max() < 0.055
    drawn = sigma[sigma > 0]
    assert drawn.mean().item() == pytest.approx(0.025, abs=0.005) and len(drawn) == pytest.approx(100, abs=30)


def test_seeded_and_off():
    inputs = images(20)
    assert torch.equal(augment(inputs), augment(inputs)) and not torch.equal(augment(inputs), augment(inputs, seed=1))
    assert torch.equal(augment(inputs, probability=0.0), inputs)


def test_a_gamma_that_is_no_range():
    with pytest.raises(ValueError, match=r"gamma is \[1.5, 0.7\]"):
        IntensityAugmentation(gamma=(1.5, 0.7))


class Painter(nn.Module):
    """Paints an image with the sum of the code's values, and notes the codes."""

    def __init__(self) -> None:
        super().__init__()
        self.code_layer = SimpleNamespace(code_channels=8)
        self.codes: list[Tensor] = []

    def forward(self, image: Tensor, source: Tensor, rows: tuple[Tensor, ...], target: Tensor) -> SimpleNamespace:
        assert not torch.is_grad_enabled() and len(rows) == len(target) == len(image)
        self.codes += list(target)
        return SimpleNamespace(prediction=torch.stack([torch.full_like(x, -1.0) for x in image]))


def test_one_image_of_half_of_the_subjects_is_replaced():
    torch.manual_seed(0)
    subject = torch.arange(200).repeat_interleave(2)
    inputs, source, network = images(400), torch.eye(4)[torch.arange(400) % 4], Painter()
    made = TranslationAugmentation()(network, inputs, source, subject)
    replaced = (made != inputs).flatten(1).any(1)
    assert replaced.view(200, 2).sum(1).max() == 1, "never both"
    assert replaced.sum().item() == pytest.approx(100, abs=25) == len(network.codes)
    assert replaced[::2].sum().item() == pytest.approx(replaced.sum().item() / 2, abs=20), "either of the two"
    assert (made[:, :, 0] == 0).all() and (made[replaced][:, :, 1:] == 0.001).all(), "tissue never becomes air"
    codes = torch.stack(network.codes)
    assert codes.shape[1] == 8 and codes.min() >= 0 and codes.max() <= 1
    one_hot = (codes.max(1).values == 1) & (codes.sum(1) == 1)
    assert one_hot.sum().item() == pytest.approx(len(codes) / 2, abs=15)
    assert codes[one_hot].argmax(1).unique().tolist() == [0, 1, 2, 3], "to any of the sequences, and no other"


def test_a_translation_of_the_network_itself():
    torch.manual_seed(0)
    network = VQSeq2Seq(3, channels=(4, 8), res_blocks=1, codes=16, code_channels=8, bank_channels=4)
    inputs, source = torch.rand(2, 1, 8, 8), network.codes[:2]
    translate = TranslationAugmentation(probability=1.0)
    made = translate(network, inputs, source, torch.tensor([0, 1]))
    assert made.shape == inputs.shape and not made.requires_grad and not torch.equal(made, inputs)
    assert torch.equal(TranslationAugmentation(0.0)(network, inputs, source, torch.tensor([0, 1])), inputs)
