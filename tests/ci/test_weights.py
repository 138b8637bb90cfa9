"""Demonstration weights: simulated, trained, scored, described and packed by one call."""

from __future__ import annotations

import json
from pathlib import Path
from zipfile import ZipFile

import pytest

from ci import package
from ci.weights import weights
from common.inference.weights import sha256


def test_weights_card_and_package_by_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantom_dir: Path):
    monkeypatch.setattr(package, "LIST", tmp_path / "model_info.json")
    options = {"work_dir": str(tmp_path / "work"), "output_dir": str(tmp_path / "dist"), "spacing": 8.0}
    archive = weights("mri_seq2seq", epochs=1, subjects=4, seed=3, input=str(phantom_dir), **options)
    ZipFile(archive).extractall(tmp_path)
    packed = tmp_path / "mri_seq2seq"
    card = (packed / "docs" / "model_card.md").read_text()
    model = tmp_path / "work" / "models" / "model.pt"
    described = json.loads((packed / "models" / "model.json").read_text())
    assert described["sha256"] == sha256(model) and f"`{sha256(model)}`" in card
    assert json.loads((packed / "configs" / "inference.json").read_text())["network_def"]["channels"] == [16, 32]
    assert "| `./ci/weights mri_seq2seq --input DIR --epochs 1 --subjects 4 --spacing 8.0 --seed 3` |" in card
    assert "phantom DIR 4 --seed 3 --validation 0.1 --test 0.3 --spacing 8.0`" in card
    assert "| 2 trained on, 1 to choose the epoch, 1 for the scores below |" in card and "| 1 epochs |" in card
    simulated, real = card.split("## Scores on real scans")
    for part, truth in ((simulated, "without bias and noise"), (real, "the acquired images")):
        assert "Convention `declared`, measured in the brain, 1 subjects" in part and truth in part
        assert "Mean over 12 of 12 pairs, source != target: network " in part and ", copy " in part and ", map " in part
    assert "Not for clinical use" in card
    with pytest.raises(ValueError, match="was begun with .*'seed': 3.* remove it, or name another --work_dir"):
        weights("mri_seq2seq", epochs=1, subjects=4, seed=4, **options)


def test_no_such_bundle():
    with pytest.raises(ValueError, match="There is no bundle mri_none; there are: mri_aldm, mri_crl, mri_seq2seq"):
        weights("mri_none")
