"""Codebook usage over an evaluation, counted wherever the quantiser is."""

from __future__ import annotations

import logging

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.blocks.vq import VectorQuantiser
from common.training.codebook import CodebookUse


def test_usage_of_each_evaluation(caplog: pytest.LogCaptureFixture):
    network = nn.Sequential(VectorQuantiser(4, 1))
    with torch.no_grad():
        network[0].codebook.copy_(torch.arange(4.0)[:, None])
    evaluator = Engine(lambda engine, batch: network(batch) and None)
    evaluator.network = network
    CodebookUse().attach(evaluator)
    images = [torch.tensor([[[[0.1, 2.2]]]]), torch.tensor([[[[0.0, 1.8]]]])]
    with caplog.at_level(logging.INFO):
        evaluator.run(images)
    assert evaluator.state.metrics == {"codebook_share": 0.5, "codebook_perplexity": pytest.approx(2)}
    assert "50% of 4 codes used, perplexity 2.0" in caplog.text
    network(images[0])  # outside an evaluation
    evaluator.run([torch.full((1, 1, 2, 2), 3.0)])
    assert evaluator.state.metrics == {"codebook_share": 0.25, "codebook_perplexity": pytest.approx(1)}


def test_without_a_quantiser_there_is_nothing_to_report():
    evaluator = Engine(lambda engine, batch: None)
    evaluator.network = nn.Identity()
    CodebookUse().attach(evaluator)
    evaluator.run([0])
    assert evaluator.state.metrics == {}
