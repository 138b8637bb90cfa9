"""Demonstration weights: simulated, trained, scored, described and packed by one call."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from ci import package
from ci.weights import weights
from common.inference.weights import sha256
from common.workflows import bundle_folder


def test_weights_card_and_package_by_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phantom_dir: Path, tiny: dict[str, dict[str, Any]]
):
    monkeypatch.setattr(package, "LIST", tmp_path / "model_info.json")
    overlay = {name.replace("#", "::"): value for name, value in tiny["mri_seq2seq"].items()}
    (tmp_path / "tiny.json").write_text(json.dumps(overlay))
    name = os.path.relpath(tmp_path / "tiny", bundle_folder("mri_seq2seq") / "configs")
    options = {
        "work_dir": str(tmp_path / "work"),
        "output_dir": str(tmp_path / "dist"),
        "spacing": 8.0,
        "overlay": name,
    }
    archive = weights("mri_seq2seq", epochs=1, subjects=4, seed=3, dataset_dir=str(phantom_dir), **options)
    ZipFile(archive).extractall(tmp_path)
    packed = tmp_path / "mri_seq2seq"
    card = (packed / "docs" / "model_card.md").read_text()
    model = tmp_path / "work" / "models" / "model.pt"
    described = json.loads((packed / "models" / "model.json").read_text())
    assert described["sha256"] == sha256(model) and f"`{sha256(model)}`" in card
    assert described["network"]["channels"] == [4, 8]
    given = f"--dataset_dir DIR --overlay {name} --epochs 1 --subjects 4 --spacing 8.0 --seed 3"
    assert f"| `./ci/weights mri_seq2seq {given}` |" in card
    assert "phantom DIR 4 --seed 3 --validation 0.1 --test 0.3 --spacing 8.0`" in card
    assert "| 2 trained on, 1 to choose the epoch, 1 for the scores below |" in card and "| 1 epochs |" in card
    simulated, real = card.split("## Scores on real scans")
    for part, truth in ((simulated, "without bias and noise"), (real, "the acquired images")):
        assert "Convention `declared`, measured in the brain, 1 subjects" in part and truth in part
        assert "Mean over 12 of 12 pairs, source != target: network " in part and ", copy " in part and ", map " in part
    assert "Not for clinical use" in card
    with pytest.raises(ValueError, match=r"was begun with .*'seed': 3.* remove it, or name another --work_dir"):
        weights("mri_seq2seq", epochs=1, subjects=4, seed=4, **options)


def test_no_such_bundle():
    with pytest.raises(ValueError, match="There is no bundle 'mri_none'; there are: mri_aldm, mri_crl"):
        weights("mri_none")
