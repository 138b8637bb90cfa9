"""What is said where an autoencoder does not fit the images."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from mri_aldm.reconstruction import CheckReconstruction, doubts, given_back


class Remembered(nn.Module):
    """Gives back what is bright as one image is, cut off above; everything else as grey."""

    def __init__(self, known: Tensor) -> None:
        super().__init__()
        self.known = 2 * known[None, None] - 1
        self.codes, self.decoding, self.slabs, self.autoencoder = torch.eye(1), "whole", 4, self

    def encode(self, image: Tensor, decoding: str, slabs: int) -> Tensor:
        return image

    def decode(self, latent: Tensor, decoding: str, slabs: int) -> Tensor:
        return latent if torch.allclose(latent, self.known, atol=1e-3) else torch.zeros_like(latent)


@pytest.fixture
def image() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.2 + 0.2 * torch.rand(12, 12, 12, generator=generator)


def test_how_much_is_given_back(image: Tensor):
    network = Remembered(image)
    assert given_back(network, image) == pytest.approx(1) and given_back(network, image.flip(0)) < 0
    mean = nn.Module()
    mean.autoencoder, mean.decoding, mean.slabs = mean, "whole", 4
    mean.encode = lambda x, *options: x
    mean.decode = lambda x, *options: torch.full_like(x, 2 * image.mean() - 1)
    assert given_back(mean, image) == pytest.approx(0, abs=1e-3), "its mean alone is nothing"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x, None),
        (
            lambda x: x.transpose(0, 2),
            "with axes 0 and 2 in each other's place it would be 100%: check its orientation",
        ),
        (lambda x: 2 * x, "0.5 times as bright it would be 100%: check --normalisation"),
        (lambda x: x.flip(1) + 0.1, "train stage 1 on images like this one, or for longer"),
    ],
)
def test_the_mistake_is_named(image: Tensor, change, said: str | None):
    missing = -torch.ones_like(image)
    found = doubts(Remembered(image), torch.stack([change(image), missing]), ["T1", "T2"])
    assert (found == []) if said is None else (len(found) == 1 and "varies in T1, less than 50%" in found[0])
    assert said is None or found[0].endswith(f"bring back the rest: {said}")


def test_a_training_says_it_once(image: Tensor, caplog: pytest.LogCaptureFixture):
    def items(split: str, required: bool) -> list[dict]:
        return [{"subject": "A"}, {"subject": "B"}]

    subjects = SimpleNamespace(items=items, use=lambda: lambda item: {"image": 2 * image[None]}, sequences=["T1"])
    engine = Engine(lambda *step: None)
    engine.network = Remembered(image)
    CheckReconstruction(subjects).attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0, 0], max_epochs=3)
    assert len(caplog.records) == 1 and caplog.records[0].message.startswith("A: the autoencoder gives back 0%")
