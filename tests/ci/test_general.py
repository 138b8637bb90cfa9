"""General weights: each person left out in turn, all of them for what is shipped, and a card that says how it went."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ci.general import EXACT, general_weights, lists_without_one
from common.data.subjects import read_subjects, write_subjects
from common.description import expected, read
from common.inference.weights import read_state, sha256
from common.workflows import bundle_folder, complete_folder


@pytest.fixture
def real(phantom_dir: Path, tmp_path: Path) -> Path:
    """Two persons, the second with two visits; they stand for real ones."""
    listed = read_subjects(phantom_dir)
    one, *visits = [listed[split][0] for split in ("training", "validation", "test")]
    for visit in visits:
        visit["person"] = "two"
        del visit["images"]["T1Gd"]
    splits = {"training": [one], "validation": [], "test": visits}
    write_subjects(
        tmp_path / "real" / "subjects.json", {**listed, **splits, "name": "clinic", "about": "Theirs, CC BY."}
    )
    return tmp_path / "real"


def test_all_visits_of_a_person_are_left_out_together(real: Path, tmp_path: Path):
    files = lists_without_one(real, tmp_path / "lists")
    two = read_subjects(files["two"])
    assert len(files) == 2 and [len(two[split]) for split in ("training", "validation", "test")] == [1, 0, 2]
    listed = read_subjects(real)
    write_subjects(real / "subjects.json", {**listed, "training": []})
    with pytest.raises(ValueError, match="has 1 person; one is left out in turn, so two are needed"):
        lists_without_one(real, tmp_path / "lists")


def test_weights_and_card(real: Path, tmp_path: Path, tiny: dict[str, dict[str, Any]]):
    sizes = {name.replace("#", "::"): value for name, value in tiny["mri_seq2seq"].items()}
    sizes |= {"roi_size": [32, 32, 3], "epochs": 1, "train": {"dataset": {"length": 4}}}
    sizes["train::dataset::length"] = sizes.pop("train")["dataset"]["length"]
    (tmp_path / "tiny.json").write_text(json.dumps(sizes))
    overlay = f"general,{os.path.relpath(tmp_path / 'tiny', bundle_folder('mri_seq2seq') / 'configs')}"
    work = tmp_path / "work"
    weights, card = general_weights("mri_seq2seq", real, "", work, overlay=overlay)
    described = read(weights)
    assert described["sha256"] == sha256(weights)
    assert described["trained_on"] == (
        "simulated subjects of 1 anatomy; then simulated subjects of 1 anatomy, and clinic, 3 subjects"
    )
    halves, whole = read_state(weights), read_state(work / "all" / "models" / "model.pt")
    assert all(v.dtype == torch.half for n, v in halves.items() if n not in EXACT and v.is_floating_point())
    assert all(
        torch.allclose(v.float(), whole[n].float(), atol=1e-3, rtol=1e-3, equal_nan=True) for n, v in halves.items()
    )
    assert expected(described, "FLAIR", ["T1", "T2"])["subjects"] == 3
    assert described["uncertainty"]["bounds"].keys() == {"T1", "T1Gd", "T2", "FLAIR"}
    text = card.read_text()
    assert "Theirs, CC BY." in text and f"`{sha256(weights)}`" in text
    for subject in ("phantom_000", "phantom_002", "phantom_003"):
        assert text.count(f"| {subject} | one source | psnr |") == 1
    before = (work / "model.pt").stat().st_mtime_ns
    general_weights("mri_seq2seq", real, "", work, overlay=overlay)
    assert (work / "model.pt").stat().st_mtime_ns > before and read(weights) == described, "nothing was made again"
    complete_folder(str(real), str(tmp_path / "out"), bundle="mri_seq2seq", weights=str(weights), targets="T1Gd")
    assert len(list((tmp_path / "out").glob("*/*_T1Gd_uncertainty.nii.gz"))) == 3, "it is calibrated, so it is written"
    assert not np.isnan(json.loads(next((tmp_path / "out").glob("*/*_T1Gd.json")).read_text())["scale"])
