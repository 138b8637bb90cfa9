"""The pictures of completed subjects, drawn from files alone."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from common.__main__ import main
from common.data.subjects import read_subjects, write_subjects
from common.evaluation import completed
from common.inference import products
from common.inference.nifti import save_like


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
    monkeypatch.setattr(products, "draw", lambda path, *what, **more: shown.update(what=what, path=path, **more))
    drawn = completed.draw_completed(str(tmp_path / "done"), str(tmp_path), slice=11)
    assert drawn == [shown["path"]] == [folder / f"{name}.png"]
    columns, rows = shown["what"]
    assert [(c.name, c.role.split(",")[0]) for c in columns] == [
        ("T1", "acquired"),
        ("FLAIR", "synthesised"),
        ("FLAIR", "true"),
        ("FLAIR", "|error|"),
    ]
    assert columns[2].role == "true, withheld" and [row.label for row in rows] == ["axial 11"]
    np.testing.assert_allclose(shown["spacing"], 8)
    np.testing.assert_allclose(columns[1].volume, columns[2].volume, rtol=1e-5)
    assert "trained on: not stated" in shown["notes"][-1]


def test_the_command_has_a_slice(phantom_dir, tmp_path, monkeypatch, capsys):
    patient = read_subjects(phantom_dir)["test"][0]
    name, flair = patient["subject"], patient["images"]["FLAIR"]
    folder = tmp_path / name
    save_like(nib.load(flair).get_fdata(dtype=np.float32), flair, folder / f"{name}_FLAIR.nii.gz")
    sidecar = {"subject": name, "target": "FLAIR", "grid": f"{name}/{name}_T1.nii.gz"}
    sidecar |= {"sources": {"T1": f"{name}/{name}_T1.nii.gz"}, "weights_sha256": "1"}
    (folder / f"{name}_FLAIR.json").write_text(json.dumps(sidecar))
    stale = {**sidecar, "weights_sha256": "2"}  # an earlier run's
    (folder / f"{name}_FLAIR_uncertainty.json").write_text(json.dumps(stale))
    sizes = []
    for options in ((), ("--slice", "12"), ("--plane", "sagittal")):
        monkeypatch.setattr("sys.argv", ["mri-contrast", "picture", str(tmp_path), str(phantom_dir), *options])
        main()
        assert capsys.readouterr().out.strip() == str(folder / f"{name}.png")
        sizes.append(imread(folder / f"{name}.png").shape[0])
    assert sizes[0] > sizes[1] and sizes[0] > sizes[2]


@pytest.mark.parametrize("content", ["{", "[1]", "<!DOCTYPE html>"])
def test_a_damaged_sidecar_is_named(phantom_dir, tmp_path, content: str):
    (tmp_path / "sub-1").mkdir()
    (tmp_path / "sub-1" / "sub-1_T1.json").write_text(content)
    with pytest.raises(ValueError, match=r"sub-1/sub-1_T1.json is damaged \(.*Run the inference of sub-1 again"):
        completed.draw_completed(str(tmp_path), str(phantom_dir))


def test_nothing_completed(phantom_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="output_dir of `run inference`"):
        completed.draw_completed(str(tmp_path), str(phantom_dir))
