"""The pictures of completed subjects, drawn from files alone."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.subjects import read_subjects, write_subjects
from common.evaluation import completed
from common.inference.saving import save_like


def test_truth_is_shown_at_its_own_scale(phantom_dir, tmp_path, monkeypatch):
    subjects = read_subjects(phantom_dir)
    patient = subjects["test"][0]
    name, truth = patient["subject"], patient["images"].pop("FLAIR")
    write_subjects(tmp_path / "subjects.json", {**subjects, "test": [{**patient, "withheld": {"FLAIR": truth}}]})
    folder = tmp_path / "done" / name
    half = nib.load(truth).get_fdata(dtype=np.float32) / 2  # a synthesised image has no scale of its own
    save_like(half, truth, folder / f"{name}_FLAIR.nii.gz")
    t1, flair = Path(patient["images"]["T1"]).name, Path(truth).name  # outside of the list's folder
    sidecar = {"subject": name, "target": "FLAIR", "grid": flair, "sources": {"T1": t1}}
    (folder / f"{name}_FLAIR.json").write_text(json.dumps(sidecar))
    (folder / f"{name}_FLAIR_uncertainty.json").write_text(json.dumps({**sidecar, "grid": "not drawn"}))
    (tmp_path / "done" / "noise_1").mkdir()
    (tmp_path / "done" / "noise_1" / "scores_declared.json").write_text("{}")
    shown = {}
    monkeypatch.setattr(completed, "completion_picture", lambda path, **images: shown.update(images, path=path))
    assert completed.draw_completed(str(tmp_path / "done"), str(tmp_path)) == [folder / f"{name}.png"]
    assert set(shown["sources"]) == {"T1"} and shown["spacing"] == (8, 8, 8)
    np.testing.assert_allclose(shown["synthesised"]["FLAIR"], shown["truth"]["FLAIR"], rtol=1e-5)


@pytest.mark.parametrize("content", ["{", "[1]", "<!DOCTYPE html>"])
def test_a_damaged_sidecar_is_named(phantom_dir, tmp_path, content: str):
    (tmp_path / "sub-1").mkdir()
    (tmp_path / "sub-1" / "sub-1_T1.json").write_text(content)
    with pytest.raises(ValueError, match=r"sub-1/sub-1_T1.json is damaged \(.*Run the inference of sub-1 again"):
        completed.draw_completed(str(tmp_path), str(phantom_dir))


def test_nothing_completed(phantom_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="output_dir of `run inference`"):
        completed.draw_completed(str(tmp_path), str(phantom_dir))
