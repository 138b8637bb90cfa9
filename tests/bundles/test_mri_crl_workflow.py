"""Train, make images at wanted parameters, sweep, evaluate: the bundle's runs on the phantom's nine settings."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from ci import many_settings
from common.data.acquisition import four
from common.data.loading import LoadSubject
from common.data.mr_signal import FSE9
from common.data.normalisation import ScaleSequencesd
from common.data.phantom import make_phantom
from common.data.subjects import read_subjects, subject_items
from common.evaluation.report import report
from mri_crl.sweep import _save_gif

SETTINGS = [(each.tr, each.te, each.ti) for each in FSE9.values()]
SUBJECT = "phantom_003"


@pytest.fixture(scope="module")
def trained(crl, fse_dir: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crl_trained")
    crl("train.json", dataset_dir=fse_dir, ckpt_dir=folder, output_dir=folder / "eval").run()
    return folder


def made(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: nib.load(path).get_fdata() for path in folder.rglob("*.nii.gz")}


def test_training_sees_neither_the_held_out_settings_nor_their_range(trained: Path, fse_dir: Path):
    state = torch.load(trained / "last.pt", weights_only=True)
    weights = torch.load(trained / "model.pt", weights_only=True)
    assert state["progress"] == {"epoch": 2, "iteration": 2}
    assert all(torch.isfinite(value).all() for name, value in weights.items() if name != "reference_scale")
    known = torch.isfinite(weights["reference_scale"]).all(1)
    assert known.tolist() == [name not in ("FSE4", "FSE6") for name in FSE9]
    expected = torch.tensor(SETTINGS)[known]
    torch.testing.assert_close(weights["trained_range"], torch.stack([expected.amin(0), expected.amax(0)]))


def test_inference_at_names_parameters_and_a_sidecar(trained: Path, crl, fse_dir: Path, tmp_path: Path, caplog):
    (tmp_path / "wanted.json").write_text(json.dumps({"RepetitionTime": 5, "EchoTime": 0.05, "InversionTime": 1.2}))
    targets = ["FSE4", [8000, 100, 2000], [9000, 50, 0], str(tmp_path / "wanted.json")]
    settings = {"dataset_dir": fse_dir, "split": "test", "weights": trained / "model.pt"}
    crl("inference.json", output_dir=tmp_path / "out", targets=targets, **settings).run()
    names = ["FSE4", "TR8000_TE100_TI2000", "TR9000_TE50_TI0", "TR5000_TE50_TI1200"]
    images = made(tmp_path / "out")
    assert images.keys() == {f"{SUBJECT}_{name}.nii.gz" for name in names}
    acquired = nib.load(fse_dir / SUBJECT / f"{SUBJECT}_FSE1.nii.gz")
    for image in images.values():
        assert image.shape == acquired.shape and (image[acquired.get_fdata() == 0] == 0).all() and image.std() > 0
    sidecar = json.loads((tmp_path / "out" / SUBJECT / f"{SUBJECT}_TR5000_TE50_TI1200.json").read_text())
    assert [sidecar[field] for field in ("RepetitionTime", "EchoTime", "InversionTime")] == [5, 0.05, 1.2]
    assert sidecar["source_parameters"]["FSE9"]["EchoTime"] == 0.09878 and sidecar["target"] == "TR5000_TE50_TI1200"
    assert "FSE4" not in json.loads((tmp_path / "out" / SUBJECT / f"{SUBJECT}_FSE4.json").read_text())["sources"]
    (item,) = subject_items(fse_dir, "test", list(FSE9))
    scaled = ScaleSequencesd("image", rule="p99_foreground", per="subject")(
        LoadSubject(list(FSE9), settings=SETTINGS)(item)
    )
    assert sidecar["scale"] == pytest.approx(scaled["scale"][0].item(), rel=1e-5), "the subject's own"
    assert [text.split(" lies")[0] for text in caplog.messages if "lies outside" in text] == ["TR 9000 ms"]


def test_a_subject_s_own_parameters_are_used(trained: Path, crl, fse_dir: Path, tmp_path: Path):
    subjects = read_subjects(fse_dir)
    entry = subjects["test"][0]
    entry["images"] = {"FSE7": entry["images"]["FSE7"]}
    results = []
    for te in (104.2, 60.0):
        entry["parameters"] = {"FSE7": {"TR": 8142, "TE": te, "TI": 0}}
        (tmp_path / "one.json").write_text(json.dumps(subjects))
        settings = {"dataset_dir": fse_dir, "subject_list": tmp_path / "one.json", "split": "test"}
        output = {"weights": trained / "model.pt", "output_dir": tmp_path / str(te)}
        crl("inference.json", targets=[8000, 20, 0], **settings, **output).run()
        results.append(made(tmp_path / str(te))[f"{SUBJECT}_TR8000_TE20_TI0.nii.gz"])
    assert not np.allclose(*results, atol=1e-6)


def test_inference_fills_in_what_is_missing(trained: Path, crl, fse_dir: Path, tmp_path: Path):
    subjects = read_subjects(fse_dir)
    for name in ("FSE4", "FSE9"):
        subjects["test"][0]["images"].pop(name)
    (tmp_path / "some.json").write_text(json.dumps(subjects))
    settings = {"dataset_dir": fse_dir, "subject_list": tmp_path / "some.json", "split": "test"}
    crl("inference.json", weights=trained / "model.pt", output_dir=tmp_path / "out", **settings).run()
    assert made(tmp_path / "out").keys() == {f"{SUBJECT}_{name}.nii.gz" for name in ("FSE4", "FSE9")}


def test_sweep_writes_a_series_and_a_picture(trained: Path, crl, fse_dir: Path, tmp_path: Path):
    settings = {"dataset_dir": fse_dir, "split": "test", "weights": trained / "model.pt"}
    wanted = {"parameter": "TE", "start": 20, "stop": 100, "steps": 5, "at": "FSE5"}
    for _ in range(2):  # what it wrote itself, it replaces
        crl("inference.json", "sweep.json", output_dir=tmp_path / "out", **wanted, **settings).run()
    stem = tmp_path / "out" / SUBJECT / f"{SUBJECT}_sweep_TE"
    image = nib.load(f"{stem}.nii.gz")
    acquired = nib.load(fse_dir / SUBJECT / f"{SUBJECT}_FSE1.nii.gz")
    assert image.shape == (*acquired.shape, 5) and np.array_equal(image.affine, acquired.affine)
    assert image.header.get_zooms()[3] == 20 and image.header["sform_code"] == acquired.header["sform_code"]
    volumes = image.get_fdata()
    assert (volumes[acquired.get_fdata() == 0] == 0).all()
    assert all(np.abs(volumes[..., t] - volumes[..., t + 1]).max() > 0 for t in range(4))
    times = [each["EchoTime"] for each in json.loads(stem.with_suffix(".json").read_text())["volumes"]]
    assert times == [0.02, 0.04, 0.06, 0.08, 0.1]
    with Image.open(f"{stem}.gif") as picture:
        assert picture.n_frames == 5
    bare = {**wanted, **settings, "saver#pictures": False, "output_dir": tmp_path / "bare"}
    crl("inference.json", "sweep.json", **bare).run()
    assert not list((tmp_path / "bare").rglob("*.gif"))
    one = [8000, 40, 0]
    crl("inference.json", output_dir=tmp_path / "one", targets=one, **settings).run()
    np.testing.assert_allclose(made(tmp_path / "one")[f"{SUBJECT}_TR8000_TE40_TI0.nii.gz"], volumes[..., 1], rtol=1e-5)


@pytest.mark.parametrize("codes", ["RAS", "LPS"])
def test_a_frame_has_the_right_on_the_left_and_the_proportions_of_the_body(tmp_path: Path, codes: str):
    volumes = np.zeros((20, 30, 5, 2), dtype=np.float32)
    volumes[10:, 15:, :, :] = 1  # right and in front
    image = nib.Nifti1Image(volumes, np.diag([2, 1, 3, 1]))
    stored = nib.orientations.ornt_transform(*map(nib.orientations.axcodes2ornt, ("RAS", codes)))
    _save_gif(nib.as_closest_canonical(image.as_reoriented(stored)), ["TE 1 ms", "TE 2 ms"], -1, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as picture:
        frame = np.array(picture.convert("L"))[20:]
        assert frame.shape == (240, 320), "30 mm up, 40 mm across"
    assert frame[10:100, 40:140].min() > 250 and frame[10:100, 180:].max() == frame[140:, 40:].max() == 0


def test_error_over_a_grid_of_parameters(trained: Path, crl, fse_dir: Path, tmp_path: Path):
    settings = {"dataset_dir": fse_dir, "weights": trained / "model.pt", "output_dir": tmp_path}
    grid = {"tr": [1500, 6000], "te": [10, 50], "ti": [0, 2000]}
    crl("inference.json", "grid.json", **grid, **settings).run()
    with open(tmp_path / "grid.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["tr"], row["te"], row["ti"]) for row in rows][:3] == [
        ("1500.0", "10.0", "0.0"),
        ("1500.0", "50.0", "0.0"),
        ("6000.0", "10.0", "0.0"),
    ]
    assert len(rows) == 6 and {row["subject"] for row in rows} == {SUBJECT}
    assert (tmp_path / "grid.png").stat().st_size > 1000
    with pytest.raises(SystemExit, match="not of the phantom with seed 3"):
        crl("inference.json", "grid.json", seed=3, **grid, **settings).run()


def test_evaluating_scores_seen_and_unseen_settings(trained: Path, crl, fse_dir: Path, tmp_path: Path):
    settings = {"dataset_dir": fse_dir, "ckpt_dir": trained, "output_dir": tmp_path, "truth": "reference"}
    crl("train.json", "evaluate.json", multi_source=True, **settings).run()
    with open(tmp_path / "scores_declared.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    ours = {(row["source"], row["target"]) for row in rows}
    assert {(a, b) for a in FSE9 for b in FSE9 if a != b} <= ours
    assert json.loads((tmp_path / "scores_declared.json").read_text())["held_out"] == ["FSE4", "FSE6"]
    psnr = {(row["method"], row["source"], row["target"]): float(row["psnr"]) for row in rows}
    assert {method for method, source, _ in psnr if source in FSE9} == {"network", "copy", "map", "prior"}
    for name in FSE9:
        copy, physics = psnr["copy", "others", name], [psnr[each, "others", name] for each in ("fit", "prior")]
        assert min(physics) > copy + 3, "eight settings tell what a ninth looks like"
        assert ("between", "others", name) in psnr
    report(str(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert "Rivals from physics" in page and "<th>between</th>" in page


@pytest.mark.parametrize(
    "variant",
    [
        {"variant": "gain", "normalisation": "minmax", "scale_per": "image"},
        {"downsampling": 2, "roi_size": [32, 32, 1], "ema_decay": 0.5},
        {"slice_axis": -3, "roi_size": [1, 16, 16], "pairs_per_subject": 2, "self_weight": 0.5},
        {"acquisitions": {"FSE7": [8142, 104.2, 0], "FSE1": [2479, 9.62, 1055]}, "held_out": []},
        {"variant": "physical", "fusion": "features", "pairs_per_subject": 4},
    ],
    ids=["gain, min-max", "downsampling", "sagittal", "two settings", "physical"],
)
def test_variants_train_and_complete(crl, fse_dir: Path, tmp_path: Path, variant: dict):
    settings = {"dataset_dir": fse_dir, "ckpt_dir": tmp_path, "epochs": 1, **variant}
    crl("train.json", output_dir=tmp_path / "eval", **settings).run()
    use = {**settings, "weights": tmp_path / "model.pt", "split": "test", "output_dir": tmp_path / "out"}
    crl("inference.json", targets=["FSE7", [5000, 50, 0]], **use).run()
    images = made(tmp_path / "out")
    assert images.keys() == {f"{SUBJECT}_{name}.nii.gz" for name in ("FSE7", "TR5000_TE50_TI0")}
    assert all(np.isfinite(image).all() for image in images.values())


def trained_on_many(crl, tmp_path: Path, echoes: int = 0) -> tuple[dict[str, object], list[list[float]]]:
    """What `settings.json` trained in tmp_path was given, and all settings that it saw; some are gradient echoes."""
    make_phantom(tmp_path / "data", 4, sequences=5, gradient_echoes=echoes, spacing=8, one_gain=True)
    common = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "eval", "ckpt_dir": tmp_path, "epochs": 1}
    listing = read_subjects(tmp_path / "data")
    named = {name: [2000, 40, 0] for name in listing["sequences"]}
    overlays = ["settings.json", *["gradient_echoes.json"] * (echoes > 0)]
    crl("train.json", *overlays, **common, acquisitions=named).run()
    trained = [[*each.values()] for entry in listing["training"] for each in entry["parameters"].values()]
    return common, trained


@pytest.mark.parametrize("echoes", [0, 2], ids=["spin echoes", "both families"])
def test_many_settings_are_learned_and_scored_at_each_subject_s_own(crl, tmp_path: Path, echoes: int):
    common, trained = trained_on_many(crl, tmp_path, echoes)
    low, high = torch.load(tmp_path / "model.pt", weights_only=True)["trained_range"]
    trained = torch.tensor(four(trained))
    families = [trained[trained[:, 3] == 0], trained[trained[:, 3] > 0]] if echoes else [trained[:, :3]]
    torch.testing.assert_close(low.squeeze(), torch.stack([each.amin(0) for each in families]).squeeze())
    torch.testing.assert_close(high.squeeze(), torch.stack([each.amax(0) for each in families]).squeeze())
    crl("train.json", "evaluate.json", **{**common, "weights": tmp_path / "model.pt", "multi_source": True}).run()
    rows = list(csv.DictReader((tmp_path / "eval" / "scores_declared.csv").open(encoding="utf-8")))
    assert {row["method"] for row in rows} >= {"network", "fit", "between"} and len(
        {row["target"] for row in rows}
    ) == 5


def test_gradient_echoes_need_a_network_that_is_told_of_them(trained: Path, crl, fse_dir: Path, tmp_path: Path):
    options = {"weights": trained / "model.pt", "dataset_dir": fse_dir, "split": "test", "output_dir": tmp_path}
    with pytest.raises(SystemExit, match=r"phantom_003: .*TI 900, FA 9\), .*spin echoes only: train with"):
        crl("inference.json", targets=[2000, 3, 900, 9], **options).run()


@pytest.mark.full
@pytest.mark.parametrize("echoes", [0, 2], ids=["spin echoes", "both families"])
def test_the_table_of_unseen_settings(crl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, echoes: int):
    _, trained = trained_on_many(crl, tmp_path, echoes)
    for name, value in {"SUBJECTS": 2, "SETTINGS": 5, "SOURCES": 3, "COUNTS": (1, 3)}.items():
        monkeypatch.setattr(many_settings, name, value)
    many_settings.prepare(str(tmp_path / "data"), str(tmp_path / "new"))
    seen = read_subjects(tmp_path / "new" / "seen")["test"]
    assert len(seen) == 2 and all([*each.values()] in trained for each in seen[1]["parameters"].values())
    capsys.readouterr()
    many_settings.score(str(tmp_path / "new"), str(tmp_path / "model.pt"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    families = ["spin echoes", "gradient echoes"] if echoes else ["spin echoes"]
    rows = [[family, count] for family in families for count in ("1", "3")]
    assert [row[1:3] for row in table[2:] if row[0] == "unseen"] == rows
    assert [row[1:3] for row in table[2:] if row[0] == "seen"] == rows or echoes, "of which by chance"
    assert [bool(cell) for cell in table[2][3:]] == [True, False, False, True, False, True], "from one: prior, copy"
    assert [bool(cell) for cell in table[3][3:]] == [True, True, True, True, True, False]
    many_settings.sweep(str(tmp_path / "new"), str(tmp_path / "model.pt"), str(tmp_path / "sweep.png"))
    assert (tmp_path / "sweep.png").stat().st_size > 10_000
