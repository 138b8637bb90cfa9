"""Whoever knows MONAI changes a piece from the command line or by an overlay (docs/configuration.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import RandGaussianNoised

BUNDLE = "mri_seq2seq"


@pytest.fixture
def changed(workflow, phantom_dir: Path, tmp_path: Path):
    """`changed(overlay, **options)`: the training, with an overlay laid over it."""

    def create(overlay: dict[str, Any], *files: str, **options: Any):
        (tmp_path / "mine.json").write_text(json.dumps(overlay))
        folders = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval"}
        options = {**folders, "epochs": 1, **options}
        return workflow(BUNDLE, "train.json", *files, str(tmp_path / "mine.json"), **options)

    return create


def test_another_random_transform(changed):
    noise = {"_target_": "RandGaussianNoised", "keys": "image", "prob": 1.0}
    training = changed({"+train#random_transforms": [noise]})
    steps = training.parser.get_parsed_content("train#preprocessing").transforms
    assert sum(isinstance(step, RandGaussianNoised) for step in steps) == 1
    training.run()


def test_another_handler(changed, tmp_path: Path):
    saver = {"_target_": "CheckpointSaver", "save_dir": str(tmp_path / "mine"), "save_dict": {"net": "@network"}}
    changed({"+train#handlers": [{**saver, "save_final": True}]}).run()
    assert list((tmp_path / "mine").glob("*.pt"))
    stats = {"_target_": "MetricsSaver", "save_dir": str(tmp_path / "metrics"), "metrics": "*"}
    changed({"+validate#handlers": [stats]}, ckpt_dir=tmp_path / "other").run()
    assert (tmp_path / "metrics" / "metrics.csv").exists()


@pytest.mark.parametrize("deterministic", [False, True])
def test_cudnn_is_fast_or_the_same_to_the_bit(changed, monkeypatch: pytest.MonkeyPatch, deterministic: bool):
    for flag in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, flag, getattr(torch.backends.cudnn, flag))  # given back afterwards
    options = {"train#trainer#deterministic": str(deterministic)} if deterministic else {}
    training = changed({}, **options)
    training.initialize()
    training.parser.get_parsed_content("train#trainer")
    assert torch.backends.cudnn.deterministic is deterministic
    assert torch.backends.cudnn.benchmark is not deterministic


def test_another_data_set(changed, tmp_path: Path):
    kept = {"_target_": "PersistentDataset", "cache_dir": str(tmp_path / "cache")}
    dataset = {**kept, "data": "$@subjects.items('training')", "transform": "@train#preprocessing"}
    changed({"train#dataset": dataset}).run()
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 2


LOSS = """
import torch
import torch.nn.functional as F
from mri_seq2seq.common.training.pairs import draw_pairs, network_input, rows_by_target


class Squared(torch.nn.Module):
    def __init__(self, sequences):
        super().__init__()
        self.register_buffer("codes", torch.eye(sequences), persistent=False)

    def forward(self, network, batch):
        pairs = draw_pairs(batch["image"], include_self=False)
        images = network_input(pairs.images, 2, -1)
        rows = rows_by_target(pairs.row, pairs.target, len(self.codes))
        made = network(images, self.codes[pairs.source], rows, self.codes).prediction
        return {"squared": F.mse_loss(made, images[pairs.truth])}, {}
"""


def test_another_loss(changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_loss.py").write_text(LOSS)
    monkeypatch.syspath_prepend(tmp_path)
    training = changed({"objective": {"_target_": "my_loss.Squared", "sequences": "$len(@sequences)"}})
    training.run()
    assert training.trainer.state.output[0].keys() == {"loss", "squared"}
    training = changed({"objective#l1_weight": 0.0}, ckpt_dir=tmp_path / "other", unpaired=False)
    training.run()
    assert training.trainer.state.output[0]["l1"] == 0


def test_another_optimiser_metric_and_inferer(changed):
    optimizer = {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": "@learning_rate"}
    metric = {
        "val_nmse": {
            "_target_": "IgniteMetricHandler",
            "metric_fn": {
                "_target_": "mri_seq2seq.common.evaluation.validation.SynthesisMetric",
                "convention": "aldm",
                "number": "nmse",
            },
            "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
        }
    }
    inferer = {
        "_target_": "mri_seq2seq.common.inference.inferers.CompletionInferer",
        "sequences": "@sequences",
        "targets": ["T2"],
    }
    worse = {"validate#evaluator#metric_cmp_fn": "$lambda current, best: current < best"}
    change = {"optimizer": optimizer, "validate#evaluator#key_val_metric": metric, **worse}
    training = changed({**change, "validate#inferer": inferer, "validate#evaluator#inferer": "@validate#inferer"})
    training.run()
    assert isinstance(training.trainer.optimizer, torch.optim.SGD)
    assert set(training.evaluator.state.metrics) == {"val_nmse"}
