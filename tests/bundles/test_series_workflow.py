"""Train, complete and score subjects with series, on the phantom: from 3D to 4D, from 4D to 3D and from 4D to 4D."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.phantom import make_phantom
from common.data.subjects import read_subjects, write_subjects
from common.evaluation.contribution import rank_contributions
from common.evaluation.report import report
from common.evaluation.scores import ScoreTable
from common.inference.serving import complete_arrays

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
    workflow("mri_seq2seq", "train.json", "evaluate.json", keep=1, **settings, **LSTM).run()
    with open(tmp_path / "scores_declared.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 3 + 2 * 6 + 4, "every pair by the network; all but the reconstructions by the rivals"
    assert {row["target"] for row in rows if row["method"] == "curve"} == {"DCE", "DWI"}
    for row in rows:
        frames = [float(row[f"psnr_frame_{k}"]) for k in range(1, 7) if row[f"psnr_frame_{k}"]]
        assert len(frames) == {"T1": 0, "DCE": 6, "DWI": 4}[row["target"]]
        if frames:
            assert float(row["psnr"]) == pytest.approx(np.mean(frames))
        assert bool(row["enhancement_rmse"]) == (row["target"] == "DCE")
        assert bool(row["adc_error"]) == (row["target"] == "DWI")
    table = ScoreTable.read(tmp_path)
    assert list(table.groups()) == ["pairs, source != target", "pairs to a series"]
    assert "4 of 4 pairs to a series" in table.table() and "6 of 6 pairs, source" in table.table()
    assert [each.sequence for each in rank_contributions(table)] == NAMES
    report(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.S)[1]
    [shown] = json.loads(found)["subjects"]
    check_shown(shown, tmp_path / "volumes" / f"{shown['subject']}.npz")


def check_shown(shown: dict, kept: Path) -> None:
    """The viewer has every frame, and curves that are those of the volumes."""
    assert shown["sequences"] == NAMES and list(shown["series"]) == ["DCE", "DWI"]
    sheets = shown["planes"][0]["sheets"]
    assert [len(sheets["true"][j]) for j in (1, 2)] == [6, 4] and isinstance(sheets["source"][0], str)
    assert [len(sheets["synthesised"][0][j]) for j in (1, 2)] == [6, 4] and len(sheets["differentiation"][2]) == 4
    dce = shown["series"]["DCE"]
    assert dce["x"] == [0, 60, 120, 210, 300, 450] and dce["frames"][1] == "60 s"
    with np.load(kept) as volumes:
        brain, lesion = volumes["brain"], volumes["masks"][volumes["regions"].tolist().index("lesion")]
        for place, mask in (("brain", brain), ("lesion", lesion)):
            for curve, images in ((dce["true"], volumes["label"]), (dce["synthesised"]["DWI"], volumes["pred"][2])):
                means = images[1:7, mask].astype(float).mean(1)
                np.testing.assert_allclose(curve[place], means / means[0], atol=1e-4)


def test_maps_of_series_are_the_mean_over_frames_or_all(trained: Path, workflow, series_dir: Path, tmp_path: Path):
    paths = {"dataset_dir": series_dir, "weights": trained / "model.pt", "split": "test"}
    made = {}
    for per_frame in (False, True):
        output = {"output_dir": tmp_path / str(per_frame), "per_frame": per_frame}
        workflow("mri_seq2seq", "inference.json", "differentiation.json", **paths, **output, **LSTM).run()
        [file] = (tmp_path / str(per_frame)).glob("*/*_DCE_differentiation.nii.gz")
        made[per_frame] = nib.load(file)
        sidecar = json.loads(file.with_name(file.name.replace(".nii.gz", ".json")).read_text())
        assert ("mean over the frames" in sidecar["quantity"]) is not per_frame
        assert ("VolumeTiming" in sidecar) is per_frame and list(sidecar["sources"]) == ["T1", "DWI"]
    assert made[False].ndim == 3 and made[True].shape == (*made[False].shape, 6)
    every = made[True].get_fdata()
    np.testing.assert_allclose(made[False].get_fdata(), every.mean(3), rtol=1e-4, atol=1e-4 * every.max())
    assert np.ptp(every, axis=3).max() > 0


def test_an_exported_network_makes_of_arrays_what_inference_writes(
    trained: Path, workflow, series_dir: Path, tmp_path: Path
):
    subjects = read_subjects(series_dir)
    [patient] = subjects["test"]
    del patient["images"]["DCE"]
    write_subjects(tmp_path / "one.json", {**subjects, "training": [], "validation": []})
    options = {"dataset_dir": series_dir, "subject_list": tmp_path / "one.json", "output_dir": tmp_path / "out"}
    options |= {"weights": trained / "model.pt", "output_file": tmp_path / "model.ts", "device": "cpu"}
    made = workflow("mri_seq2seq", "inference.json", "export.json", **options, **LSTM)
    made.initialize()
    assert "as the network within" in made.parser.get_parsed_content("exported")
    made.parser.get_parsed_content("evaluator").run()
    written = nib.load(tmp_path / "out" / patient["subject"] / f"{patient['subject']}_DCE.nii.gz").get_fdata()
    images = {name: nib.load(file).get_fdata(dtype=np.float32) for name, file in patient["images"].items()}
    module, record = torch.jit.load(tmp_path / "model.ts"), tmp_path / "model.ts.json"
    affine = nib.load(patient["images"]["T1"]).affine
    arrays = complete_arrays(images, record, lambda image: module(torch.from_numpy(image)).detach().numpy(), affine)
    assert list(arrays) == ["DCE"] and arrays["DCE"].shape == written.shape
    np.testing.assert_allclose(arrays["DCE"], written, rtol=0, atol=1e-4 * written.max())
    assert "dims: [ -1, 11, -1, -1, -1 ]" in (tmp_path / "config.pbtxt").read_text()
    with pytest.raises(ValueError, match=r"DCE of up to 6 frames, DWI of up to 4 frames\) .*DWI \(.*, 5\)"):
        complete_arrays({"DWI": images["DWI"][..., [0, 1, 2, 3, 3]]}, record, print)


def test_other_bundles_refuse_series(workflow, series_dir: Path, tmp_path: Path):
    paths = {"dataset_dir": series_dir, "ckpt_dir": tmp_path, "output_dir": tmp_path}
    with pytest.raises(RuntimeError) as error:
        workflow("mri_vq_seq2seq", "train.json", **paths, sequences=["T1", "DCE"]).run()
    assert "DCE.nii.gz: not 3D: a series, shape (17, 20, 16, 6)" in reason(error.value)
