"""Train, complete and score subjects with series, on the phantom: from 3D to 4D, from 4D to 3D and from 4D to 4D."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.phantom import make_phantom
from common.data.subjects import read_subjects, write_subjects
from common.evaluation.report import report

NAMES = ["T1", "DCE", "DWI"]
LSTM = {"network_def#lstm_layers": 1, "sequences": NAMES}


def reason(error: BaseException) -> str:
    while error.__cause__:
        error = error.__cause__
    return str(error)


@pytest.fixture(scope="module")
def series_dir(tmp_path_factory) -> Path:
    """One of the two training subjects lacks DWI, and one frame of DCE, which it has in a file per frame."""
    folder = tmp_path_factory.mktemp("series")
    make_phantom(folder, subjects=4, sequences=NAMES, spacing=12, seed=0)
    subjects = read_subjects(folder)
    images = subjects["training"][1]["images"]
    del images["DWI"]
    image = nib.load(images["DCE"])
    files = [str(folder / f"dce_{k}.nii.gz") for k in range(image.shape[3])]
    for file, frame in zip(files, nib.four_to_three(image), strict=True):
        nib.save(frame, file)
    images["DCE"] = [None if k == 2 else file for k, file in enumerate(files)]
    write_subjects(folder / "subjects.json", subjects)
    return folder


@pytest.fixture(scope="module")
def trained(workflow, series_dir: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    paths = {"dataset_dir": series_dir, "ckpt_dir": folder, "output_dir": folder / "eval"}
    workflow("mri_seq2seq", "train.json", **paths, **LSTM).run()
    return folder


def test_training_describes_the_frames(trained: Path):
    described = json.loads((trained / "model.json").read_text())
    assert described["sequences"] == NAMES and described["network"]["frames"] == [1, 6, 4]
    assert described["frames"]["DWI"] == {"b_values": [0, 150, 800, 1500]}
    weights = torch.load(trained / "model.pt", weights_only=True)
    assert weights["reference_scale"].shape == (3, 2) and weights["reference_scale"].isfinite().all()


def test_a_missing_series_is_written_in_4d(trained: Path, workflow, series_dir: Path, tmp_path: Path):
    subjects = read_subjects(series_dir)
    first, second = subjects["test"][0], subjects["validation"][0]
    del first["images"]["DCE"]
    second["images"] = {"DCE": second["images"]["DCE"]}  # from 4D alone
    write_subjects(tmp_path / "fewer.json", {**subjects, "test": [first, second], "validation": []})
    settings = {"dataset_dir": series_dir, "subject_list": tmp_path / "fewer.json", "split": "test"}
    output = {"weights": trained / "model.pt", "output_dir": tmp_path / "out"}
    workflow("mri_seq2seq", "inference.json", **settings, **output, **LSTM).run()
    a, b = first["subject"], second["subject"]
    names = {f"{a}/{a}_DCE", f"{b}/{b}_T1", f"{b}/{b}_DWI"}
    endings = {"": (".nii.gz", ".json"), "DWI": (".nii.gz", ".json", ".bval")}
    expected = {name + end for name in names for end in endings.get(name[-3:], endings[""])}
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == expected | {f"{a}/{a}.png", f"{b}/{b}.png"}

    grid = nib.load(first["images"]["T1"])
    dce = nib.load(tmp_path / "out" / a / f"{a}_DCE.nii.gz")
    assert dce.shape == (*grid.shape, 6) and np.array_equal(dce.affine, grid.affine)
    assert dce.header.get_zooms()[3] == 90 and dce.header.get_xyzt_units() == ("mm", "sec")
    voxels = dce.get_fdata()
    assert (voxels[grid.get_fdata() <= 0] == 0).all() or voxels.max() > 0
    assert np.abs(np.diff(voxels, axis=3)).max() > 0, "frames differ"
    sidecar = json.loads((tmp_path / "out" / a / f"{a}_DCE.json").read_text())
    assert sidecar["VolumeTiming"] == [0, 60, 120, 210, 300, 450] and list(sidecar["sources"]) == ["T1", "DWI"]

    dwi = nib.load(tmp_path / "out" / b / f"{b}_DWI.nii.gz")
    source = nib.load(second["images"]["DCE"])
    assert dwi.shape == (*source.shape[:3], 4) and np.array_equal(dwi.affine, source.affine)
    assert dwi.header.get_xyzt_units() == ("mm", "unknown")
    assert (tmp_path / "out" / b / f"{b}_DWI.bval").read_text() == "0 150 800 1500\n"
    assert nib.load(tmp_path / "out" / b / f"{b}_T1.nii.gz").shape == source.shape[:3]


def test_wanted_frames_of_a_series(trained: Path, workflow, series_dir: Path, tmp_path: Path):
    subjects = read_subjects(series_dir)
    del subjects["test"][0]["images"]["DCE"]
    write_subjects(tmp_path / "fewer.json", subjects)
    settings = {"dataset_dir": series_dir, "subject_list": tmp_path / "fewer.json", "split": "test"}
    output = {"weights": trained / "model.pt", **LSTM}
    made = {}
    for name, targets in (("whole", "DCE"), ("some", "DCE:4,DCE:2"), ("one", "DCE:2")):
        workflow(
            "mri_seq2seq", "inference.json", **settings, **output, output_dir=tmp_path / name, targets=targets
        ).run()
        made[name] = nib.load(next((tmp_path / name).rglob("*_DCE.nii.gz")))
    np.testing.assert_array_equal(made["some"].get_fdata(), made["whole"].get_fdata()[..., [1, 3]])
    np.testing.assert_array_equal(made["one"].get_fdata(), made["whole"].get_fdata()[..., [1]])
    assert made["some"].header.get_zooms()[3] == 150 and made["one"].shape[3] == 1
    sidecar = json.loads(next((tmp_path / "some").rglob("*_DCE.json")).read_text())
    assert sidecar["VolumeTiming"] == [60, 210] and sidecar["series_frames"] == [2, 4]
    with pytest.raises(RuntimeError) as error:
        workflow("mri_seq2seq", "inference.json", **settings, **output, output_dir=tmp_path, targets="DCE:7").run()
    assert "targets has DCE:7, but this network makes 6 of DCE" in reason(error.value)


def test_a_network_that_is_told_times_makes_those_that_are_asked_for(
    workflow, series_dir: Path, tmp_path: Path, recwarn
):
    subjects = read_subjects(series_dir)
    subjects["training"][0]["frames"]["DCE"] = {"times": [0, 50, 90, 150, 300, 400]}
    subjects["test"][0]["frames"]["DWI"] = {"b_values": [0, 500, 1000, 2000]}
    del subjects["test"][0]["images"]["DCE"]
    write_subjects(tmp_path / "other.json", subjects)
    data = {"dataset_dir": series_dir, "subject_list": tmp_path / "other.json"}
    paths = {"ckpt_dir": tmp_path, "output_dir": tmp_path / "eval"}
    told = {"frame_codes": "value", "network_def#code_channels": 8}
    workflow("mri_seq2seq", "train.json", **data, **paths, **LSTM, **told).run()
    described = json.loads((tmp_path / "model.json").read_text())
    assert described["network"]["frame_values"][1] == [0, 50 / 600, 0.15, 0.25, 0.5, 400 / 600]
    assert described["frames"]["DCE"] == {"times": [0, 50, 90, 150, 300, 400]}
    asked = {"frames": {"DCE": {"times": [0, 45, 100]}, "DWI": described["frames"]["DWI"]}}
    output = {"weights": tmp_path / "model.pt", "output_dir": tmp_path / "out", "split": "test"}
    output |= {**LSTM, "network_def#code_channels": 8}
    run = workflow("mri_seq2seq", "inference.json", **data, **output, **asked)
    run.run()
    network = run.parser.get_parsed_content("network")
    np.testing.assert_allclose(network.codes[:, 3:], [[0] * 4, [0, 0.075, 1 / 6, 0], [0, 0.5, 1, 2]], rtol=1e-6)
    dce = next((tmp_path / "out").rglob("*_DCE.nii.gz"))
    assert nib.load(dce).shape[3] == 3 and nib.load(dce).header.get_zooms()[3] == 50
    assert not any("times or b values are not" in str(each.message) for each in recwarn)
    with pytest.raises(RuntimeError) as error:
        workflow("mri_seq2seq", "inference.json", **data, **output, frames={"DCE": {"count": 3}}).run()
    assert "neither times nor b values are known" in reason(error.value)


def test_series_are_scored_by_frame(trained: Path, workflow, series_dir: Path, tmp_path: Path):
    settings = {"dataset_dir": series_dir, "ckpt_dir": trained, "output_dir": tmp_path, "truth": "reference"}
    workflow("mri_seq2seq", "train.json", "evaluate.json", **settings, **LSTM).run()
    with open(tmp_path / "scores_declared.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3 + 2 * 6, "every pair by the network, and all but the reconstructions by the rivals"
    for row in rows:
        frames = [float(row[f"psnr_frame_{k}"]) for k in range(1, 7) if row[f"psnr_frame_{k}"]]
        assert len(frames) == {"T1": 0, "DCE": 6, "DWI": 4}[row["target"]]
        if frames:
            assert float(row["psnr"]) == pytest.approx(np.mean(frames))
        assert bool(row["enhancement_rmse"]) == (row["target"] == "DCE")
        assert bool(row["adc_error"]) == (row["target"] == "DWI")
    report(tmp_path)
    assert "DCE" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_other_bundles_refuse_series(workflow, series_dir: Path, tmp_path: Path):
    paths = {"dataset_dir": series_dir, "ckpt_dir": tmp_path, "output_dir": tmp_path}
    with pytest.raises(RuntimeError) as error:
        workflow("mri_vq_seq2seq", "train.json", **paths, sequences=["T1", "DCE"]).run()
    assert "DCE.nii.gz: not 3D: a series, shape (17, 20, 16, 6)" in reason(error.value)
