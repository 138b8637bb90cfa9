"""Codebook usage over an evaluation, counted wherever the quantiser is."""

from __future__ import annotations

import logging

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.blocks.vq import VectorQuantiser
from common.training.codebook import CodebookUse


class Autoencoder(nn.Module):
    """A position's latent is four times the largest of its 2 x 2 voxels; the codes are 0, 1, 2 and 3."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.quantiser = nn.MaxPool2d(2), VectorQuantiser(4, 1)
        with torch.no_grad():
            self.quantiser.codebook.copy_(torch.arange(4.0)[:, None])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.quantiser(2 * (self.encoder(2 * image - 1) + 1)).values


def in_blocks(*values: float) -> torch.Tensor:
    """A row of blocks of 2 x 2 voxels, [1, 1, 2, 2 n]."""
    return torch.tensor(values).repeat_interleave(2).repeat(2, 1)[None, None]


def test_usage_of_each_evaluation(caplog: pytest.LogCaptureFixture):
    network = Autoencoder()
    evaluator = Engine(lambda engine, batch: (network(batch), None)[1])
    evaluator.network = network
    CodebookUse().attach(evaluator)
    images = [in_blocks(value, 0.5) for value in (0.01, 0.02)]
    with caplog.at_level(logging.INFO):
        evaluator.run(images)
    assert evaluator.state.metrics == {"codebook_share": 0.5, "codebook_perplexity": pytest.approx(2)}
    assert "50% of 4 codes used, perplexity 2.0" in caplog.text
    network(images[0])  # outside an evaluation
    evaluator.run([torch.full((1, 1, 4, 4), 0.75)])
    assert evaluator.state.metrics == {"codebook_share": 0.25, "codebook_perplexity": pytest.approx(1)}


def test_air_and_padding_use_no_code():
    network = Autoencoder()
    evaluator = Engine(lambda engine, batch: (network(batch), None)[1])
    evaluator.network = network
    CodebookUse().attach(evaluator)
    image = torch.zeros(1, 1, 8, 8)  # code 0 everywhere
    image[..., 2, 4], image[..., 3, 6] = 0.25, 0.75
    evaluator.run([image])
    assert evaluator.state.metrics == {"codebook_share": 0.5, "codebook_perplexity": pytest.approx(2)}
    evaluator.run([torch.zeros(1, 1, 8, 8)])
    assert evaluator.state.metrics == {"codebook_share": 0, "codebook_perplexity": 1}


def test_without_a_quantiser_there_is_nothing_to_report():
    evaluator = Engine(lambda engine, batch: None)
    evaluator.network = nn.Identity()
    CodebookUse().attach(evaluator)
    evaluator.run([0])
    assert evaluator.state.metrics == {}
