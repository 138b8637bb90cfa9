"""Trainings that begin with other weights, and those that nothing validates."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.data.subjects import read_subjects, write_subjects
from common.training.beginning import begin_with
from common.training.checkpoints import Resumed


def network(width: int = 3) -> nn.Module:
    torch.manual_seed(width)
    return nn.ModuleDict({"first": nn.Linear(2, 2), "last": nn.Linear(2, width)})


def test_what_fits_is_taken_and_what_does_not_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    torch.save({**network().state_dict(), "old": torch.zeros(4)}, tmp_path / "model.pt")
    other = network(5)
    own = other["last"].weight.clone()
    with caplog.at_level(logging.INFO):
        left = begin_with(other, tmp_path / "model.pt")
    assert left == ["last.bias", "last.weight", "old"]
    assert torch.equal(other["first"].weight, network()["first"].weight) and torch.equal(other["last"].weight, own)
    assert "last.weight does not: 3x2 in the file, 5x2 in the network." in caplog.messages
    assert "old does not: 4 in the file, none in the network." in caplog.messages


def test_what_cannot_be_begun_with_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="--init_weights"):
        begin_with(network(), tmp_path / "none.pt")
    torch.save({"other": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"Nothing in .* fits this network"):
        begin_with(network(), tmp_path / "model.pt")
    torch.save(network().state_dict(), tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps({"sha256": "ab" * 32}))
    with pytest.raises(ValueError, match="has the sha256"):
        begin_with(network(), tmp_path / "model.pt")


def test_a_training_is_as_the_weights_say_and_goes_on_from_its_own(
    workflow: Callable[..., Any], phantom_dir: Path, described_weights: Path, tmp_path: Path
):
    folders = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path / "a", "output_dir": tmp_path / "a"}
    settings = {**folders, "init_weights": described_weights}
    begun = workflow("mri_seq2seq", "train.json", **settings, epochs=1)
    assert begun.parser.get_parsed_content("normalisation") == "p99_foreground", "those of the weights"
    begun.parser.get_parsed_content("train#trainer")
    given, own = (
        torch.load(described_weights, weights_only=True),
        begun.parser.get_parsed_content("network").state_dict(),
    )
    assert all(torch.equal(own[name], given[name]) for name in given)
    begun.run()
    described = json.loads((tmp_path / "a" / "model.json").read_text())
    assert described["trained_on"] == "unknown images; then phantom (simulated), 2 subjects"
    further = workflow("mri_seq2seq", "train.json", **settings, epochs=2)
    further.parser.get_parsed_content("train#trainer")
    fresh = further.parser.get_parsed_content("network").state_dict()
    assert any(not torch.equal(fresh[name], given[name]) for name in given), "last.pt is taken up in place of them"
    further.run()
    assert torch.load(tmp_path / "a" / "last.pt", weights_only=True)["progress"]["epoch"] == 2
    assert Resumed(tmp_path / "a", described_weights).found["sequences"] == ["T1", "T1Gd", "T2", "FLAIR"]


def test_without_validation_subjects_the_last_epoch_is_kept_and_that_is_said(
    workflow: Callable[..., Any], phantom_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    subjects = read_subjects(phantom_dir)
    subject_list = write_subjects(tmp_path / "list.json", {**subjects, "validation": []})
    folders = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "eval"}
    workflow("mri_seq2seq", "train.json", subject_list=subject_list, **folders).run()
    assert any("No validation subjects: model.pt is the last epoch's" in text for text in caplog.messages)
    last = torch.load(tmp_path / "models" / "last.pt", weights_only=True)
    best = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    assert last["progress"]["epoch"] == 2 and all(torch.equal(best[name], last["model"][name]) for name in best)
