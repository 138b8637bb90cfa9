"""What is written, on whose grid, and what is never overwritten."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from common.inference import saving
from common.inference.nifti import save_like
from common.inference.saving import SaveCompleted
from common.inference.weights import sha256
from common.scales import Scales

NAMES = ["T1", "T2", "FLAIR"]
SHAPE = (5, 4, 3)
AFFINE = np.array([[-0.9, 0.1, 0, 40], [0.1, 0.9, 0, -50], [0, 0, 3, 7], [0, 0, 0, 1]])
IMAGE = np.linspace(0, 700, 60, dtype=np.float32).reshape(SHAPE)


def write(path: Path, dtype: type = np.float32, value: float = 1.0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.full(SHAPE, value, dtype), AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"] = 5
    nib.save(image, path)
    return str(path)


@pytest.fixture
def subject(tmp_path: Path) -> dict[str, Any]:
    """T2 and FLAIR of three are there; predicted are 0.5, 0.25 and 0.125, and a layer of air."""
    images = {name: write(tmp_path / "data" / "sub-7" / f"sub-7_{name}.nii.gz") for name in NAMES[1:]}
    pred = torch.tensor([0.5, 0.25, 0.125]).view(3, 1, 1, 1).repeat(1, *SHAPE)
    pred[:, 0] = 0
    available = torch.tensor([False, True, True])
    data = {"subject": "sub-7", "images": images, "grid_file": images["T2"], "available": available, "pred": pred}
    return {**data, "scale": torch.tensor([1.0, 300.0, 1200.0])}


@pytest.fixture
def saver(tmp_path: Path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "metadata.json").write_text(json.dumps({"name": "mri_any", "version": "1.2.3"}))
    scale = torch.tensor([[400.0, 20.0], [200.0, 0.0], [800.0, 0.0]])

    def make(
        targets: Any = None,
        output_dir: str = "out",
        scale: torch.Tensor = scale,
        spread: torch.Tensor | None = None,
        pictures: bool | str = False,
    ) -> SaveCompleted:
        files = (str(tmp_path / "model.pt"), str(tmp_path / "metadata.json"))
        scales = Scales(scale, torch.zeros(3, 3) if spread is None else spread)
        return SaveCompleted(str(tmp_path / output_dir), NAMES, targets, scales, *files, pictures=pictures)

    return make


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint8, np.float64])
@pytest.mark.parametrize("name", ["out.nii.gz", "out.nii"])
def test_voxels_are_float32_whatever_the_acquired_image_has(tmp_path: Path, dtype: type, name: str):
    like = write(tmp_path / "like.nii.gz", dtype)
    save_like(IMAGE, like, tmp_path / "new" / name)
    image = nib.load(tmp_path / "new" / name)
    assert image.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(image.dataobj), IMAGE), "to the bit"
    assert np.array_equal(image.affine, nib.load(like).affine)
    assert image.header.get_xyzt_units() == ("mm", "sec") and image.header["cal_max"] == 0
    assert files(tmp_path / "new") == [name], "no temporary file stays"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_is_written_of_a_bad_image(tmp_path: Path, bad: float):
    like = write(tmp_path / "like.nii.gz")
    spoilt = IMAGE.copy()
    spoilt[1, 2, 1] = bad
    for image, message in ((spoilt, "NaN or infinite"), (IMAGE[:-1], r"\(4, 4, 3\).*\(5, 4, 3\)")):
        with pytest.raises(ValueError, match=message):
            save_like(image, like, tmp_path / "out.nii.gz")
    assert files(tmp_path) == ["like.nii.gz"]


def test_the_grid_s_own_file_is_not_overwritten(tmp_path: Path):
    like = write(tmp_path / "like.nii.gz")
    with pytest.raises(ValueError, match="acquired image"):
        save_like(IMAGE, like, tmp_path / "." / "like.nii.gz")
    assert nib.load(like).get_fdata().max() == 1


def test_the_missing_target_has_the_training_subjects_units(subject: dict[str, Any], saver, tmp_path: Path):
    saver()({**subject, "folder": str(tmp_path / "data")})
    assert files(tmp_path / "out") == ["sub-7/sub-7_T1.json", "sub-7/sub-7_T1.nii.gz"]
    voxels = nib.load(tmp_path / "out/sub-7/sub-7_T1.nii.gz").get_fdata()
    assert (voxels[0] == 0).all() and (voxels[1:] == 0.5 * 400 + 20).all()
    sidecar = json.loads((tmp_path / "out/sub-7/sub-7_T1.json").read_text())
    created, note = sidecar.pop("created"), sidecar.pop("note")
    assert created.endswith("+00:00") and "not acquired" in note and "Not for clinical use" in note
    assert sidecar == {
        "subject": "sub-7",
        "target": "T1",
        "sources": {"T2": "sub-7/sub-7_T2.nii.gz", "FLAIR": "sub-7/sub-7_FLAIR.nii.gz"},
        "grid": "sub-7/sub-7_T2.nii.gz",
        "bundle": "mri_any",
        "bundle_version": "1.2.3",
        "weights": "model.pt",
        "weights_sha256": sha256(tmp_path / "model.pt"),
        "trained_on": "not stated",
        "units": "normalised * scale + offset of the training subjects",
        "scale": 400,
        "offset": 20,
    }


def test_the_scale_is_predicted_from_the_sources(subject: dict[str, Any], saver, tmp_path: Path):
    """T2 and FLAIR have 1.5 times the scale of training, and gains go together: so has T1."""
    subject["pred"] = torch.cat([subject["pred"], subject["pred"] / 10])
    saver(["T1", "T2"], spread=torch.ones(3, 3) + 1e-6 * torch.eye(3))(subject)
    found = {name: json.loads((tmp_path / f"out/sub-7/sub-7_{name}.json").read_text()) for name in ("T1", "T2")}
    assert found["T1"]["units"] == "normalised * scale + offset predicted from those of T2, FLAIR"
    assert (found["T1"]["scale"], found["T1"]["offset"]) == pytest.approx((600, 30), rel=1e-4)
    assert found["T2"]["units"].endswith("predicted from those of FLAIR"), "its own is not what it is made from"
    assert nib.load(tmp_path / "out/sub-7/sub-7_T1.nii.gz").get_fdata().max() == pytest.approx(330, rel=1e-4)
    spread = json.loads((tmp_path / "out/sub-7/sub-7_T1_uncertainty.json").read_text())
    assert spread["units"] == "normalised * scale predicted from those of T2, FLAIR"
    assert nib.load(tmp_path / "out/sub-7/sub-7_T1_uncertainty.nii.gz").get_fdata().max() == pytest.approx(30, rel=1e-4)


def test_targets_without_a_scale_and_sources(subject: dict[str, Any], saver, tmp_path: Path):
    saver("all", scale=torch.full((3, 2), torch.nan))(subject)
    assert len(files(tmp_path / "out")) == 6
    sidecars = {name: json.loads((tmp_path / f"out/sub-7/sub-7_{name}.json").read_text()) for name in NAMES}
    assert {name: list(sidecar["sources"]) for name, sidecar in sidecars.items()} == {
        "T1": ["T2", "FLAIR"],
        "T2": ["FLAIR"],
        "FLAIR": ["T2"],
    }
    assert sidecars["T2"]["scale"] is None and sidecars["T2"]["units"] == "normalised, 0 to 1"
    assert nib.load(tmp_path / "out/sub-7/sub-7_T2.nii.gz").get_fdata().max() == 0.25
    saver("all")(subject)  # what a former run synthesised may be replaced
    assert nib.load(tmp_path / "out/sub-7/sub-7_FLAIR.nii.gz").get_fdata().max() == 100


def test_what_no_training_image_showed_is_not_made(subject: dict[str, Any], saver, tmp_path: Path, caplog):
    scale = torch.tensor([[torch.nan, torch.nan], [200.0, 0.0], [800.0, 0.0]])
    saver("all", scale=scale)(subject)
    assert {Path(file).name for file in files(tmp_path / "out")} == {
        f"sub-7_{name}{end}" for name in NAMES[1:] for end in (".json", ".nii.gz")
    }
    assert "trained without any T1" in caplog.text
    with pytest.raises(ValueError, match="trained without any T1, which targets names"):
        saver(["T2", "T1"], scale=scale)


def test_an_unknown_target_is_known_at_once(saver):
    with pytest.raises(ValueError, match=r"T3.*T1, T2, FLAIR"):
        saver("T3")


def test_the_only_sequence_is_its_own_source(subject: dict[str, Any], saver, tmp_path: Path):
    saver("FLAIR")({**subject, "available": torch.tensor([False, False, True])})
    assert list(json.loads((tmp_path / "out/sub-7/sub-7_FLAIR.json").read_text())["sources"]) == ["FLAIR"]


def test_a_nan_prediction_is_an_error_and_no_file(subject: dict[str, Any], saver, tmp_path: Path):
    subject["pred"][0, 1:] = torch.nan
    with pytest.raises(ValueError, match=r"sub-7_T1.nii.gz has NaN"):
        saver()(subject)
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("target", ["T2", "FLAIR"])
def test_an_acquired_image_is_not_overwritten(subject: dict[str, Any], saver, tmp_path: Path, target: str):
    with pytest.raises(ValueError, match=rf"sub-7_{target}.nii.gz is an acquired image.*--output_dir"):
        saver(target, "data")(subject)
    assert len(files(tmp_path / "data")) == 2 and nib.load(subject["images"][target]).get_fdata().max() == 1


def test_an_acquired_image_that_the_list_withholds_is_not_overwritten(subject: dict[str, Any], saver, tmp_path: Path):
    withheld = write(tmp_path / "data" / "sub-7" / "sub-7_T1.nii.gz", value=9)
    with pytest.raises(ValueError, match=r"sub-7_T1.nii.gz.*--output_dir"):
        saver(None, "data")(subject)
    assert nib.load(withheld).get_fdata().max() == 9


def test_the_uncertainty_is_scaled_without_the_offset(subject: dict[str, Any], saver, tmp_path: Path):
    subject["pred"] = torch.cat([subject["pred"], subject["pred"] / 10])
    saver(["T1", "T2"])(subject)
    ends = (".json", ".nii.gz")
    assert files(tmp_path / "out") == sorted(
        f"sub-7/sub-7_T{k}{of}{end}" for k in "12" for of in ("", "_uncertainty") for end in ends
    )
    voxels = nib.load(tmp_path / "out/sub-7/sub-7_T1_uncertainty.nii.gz").get_fdata()
    assert (voxels[0] == 0).all() and np.allclose(voxels[1:], 0.05 * 400)
    assert np.allclose(nib.load(tmp_path / "out/sub-7/sub-7_T2_uncertainty.nii.gz").get_fdata().max(), 0.025 * 200)
    image, spread = (
        json.loads((tmp_path / f"out/sub-7/sub-7_T1{end}.json").read_text()) for end in ("", "_uncertainty")
    )
    assert "quantity" not in image and "standard deviation" in spread["quantity"]
    assert spread["units"] == "normalised * scale of the training subjects" and spread["scale"] == 400
    for name in ("subject", "target", "sources", "grid", "bundle", "bundle_version", "weights_sha256", "note"):
        assert spread[name] == image[name]


def test_no_file_without_a_spread(subject: dict[str, Any], saver, tmp_path: Path, caplog):
    subject["pred"] = torch.cat([subject["pred"], torch.full_like(subject["pred"], torch.nan)])
    saver("T1")({**subject, "available": torch.tensor([False, True, False])})
    assert files(tmp_path / "out") == ["sub-7/sub-7_T1.json", "sub-7/sub-7_T1.nii.gz"]
    assert "sub-7: T1 is made from T2 alone; without a spread" in caplog.text


def test_a_calibrated_uncertainty_is_a_bound_that_one_source_has_too(subject: dict[str, Any], saver, tmp_path: Path):
    bounds = {"T1": {"one": 0.5, "several": [0.03, 2.0]}}
    told = {"share": 0.68, "of": "3 persons", "bounds": bounds}
    (tmp_path / "model.json").write_text(json.dumps({"uncertainty": told}))
    spread = torch.full_like(subject["pred"], 0.02)
    subject["pred"] = torch.cat([subject["pred"], spread])
    saver("T1")(subject)
    path = tmp_path / "out/sub-7/sub-7_T1_uncertainty.nii.gz"
    inside = nib.load(tmp_path / "out/sub-7/sub-7_T1.nii.gz").get_fdata() > 0
    voxels = nib.load(path).get_fdata()
    assert np.allclose(voxels[inside], 400 * 0.05) and (voxels[~inside] == 0).all()
    sidecar = json.loads(path.with_name("sub-7_T1_uncertainty.json").read_text())
    assert sidecar["quantity"] == "68% of voxels are off by less, as they were in 3 persons"
    subject["pred"][3:] = torch.nan
    saver("T1")({**subject, "available": torch.tensor([False, True, False])})
    assert np.allclose(nib.load(path).get_fdata()[inside], 400 * 0.5)


def test_a_picture_is_drawn_by_default_and_says_what_the_weights_saw(subject, saver, tmp_path: Path, monkeypatch):
    notes: list[str] = []
    monkeypatch.setattr("common.inference.products.draw", lambda *_, **more: notes.extend(more["notes"]))
    (tmp_path / "model.json").write_text(json.dumps({"trained_on": "phantom (simulated), 12 subjects"}))
    saver(pictures="true")(subject)
    sidecar = json.loads((tmp_path / "out/sub-7/sub-7_T1.json").read_text())
    assert sidecar["trained_on"] == "phantom (simulated), 12 subjects"
    assert "trained on: phantom (simulated), 12 subjects" in notes[0]


def test_the_picture_stands_beside_the_images(subject: dict[str, Any], saver, tmp_path: Path):
    subject["pred"] = torch.cat([subject["pred"], subject["pred"] / 10])
    saver(["T1", "T2"], pictures=True)(subject)
    assert len(files(tmp_path / "out")) == 9 and "sub-7/sub-7.png" in files(tmp_path / "out")


def test_without_matplotlib_a_word_and_the_images(subject: dict[str, Any], saver, tmp_path: Path, monkeypatch, caplog):
    for name in ("products", "pictures"):
        monkeypatch.delitem(sys.modules, f"common.inference.{name}", raising=False)
        monkeypatch.delattr(f"common.inference.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(saving, "drawing", functools.cache(saving.drawing.__wrapped__))
    save = saver(pictures=True)
    save(subject)
    save(subject)
    assert files(tmp_path / "out") == ["sub-7/sub-7_T1.json", "sub-7/sub-7_T1.nii.gz"]
    assert caplog.text.count("No pictures are drawn beside the images: matplotlib is not installed") == 1


def test_the_expected_score_of_the_given_sources_is_told(subject, saver, tmp_path: Path, caplog):
    alone = {"psnr": [17.14, 1.2], "ssim": [0.5, 0.1], "subjects": 5}
    table = {"convention": "declared", "region": "in the brain", "of": "scans, test subjects"}
    described = {"expected": {**table, "scores": {"T1": {"T2+FLAIR": alone, "T2": {**alone, "psnr": [15, 1]}}}}}
    write_again = saver("T1,T2")
    (tmp_path / "model.json").write_text(json.dumps(described))
    with caplog.at_level("INFO"):
        write_again(subject)
    assert "T1 from T2, FLAIR: expect 17.1 dB +- 1.2 (declared, in the brain, 5 subjects)" in caplog.messages
    said = {name: json.loads((tmp_path / "out" / "sub-7" / f"sub-7_{name}.json").read_text()) for name in ("T1", "T2")}
    assert said["T1"]["expected"] == {**alone, **table} and "expected" not in said["T2"]
