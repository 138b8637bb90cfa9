"""Train, complete a subject, evaluate: a bundle's three runs on the phantom."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.loading import LoadSubject
from common.data.normalisation import ScaleSequencesd
from common.data.subjects import read_subjects, subject_items, write_subjects
from common.evaluation.report import report

NAMES = ["T1", "T1Gd", "T2", "FLAIR"]


TOGETHER = ("mri_resvit", "mri_wavelet_flow", "mri_mmgan")  # which see all sources at once
RIVALS = [pytest.param(name, marks=pytest.mark.full) for name in TOGETHER]


@pytest.fixture(scope="module", params=["mri_seq2seq", "mri_vq_seq2seq", "mri_aldm", *RIVALS])
def bundle(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def trained(workflow, bundle: str, phantom_dir: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    workflow(bundle, "train.json", dataset_dir=phantom_dir, ckpt_dir=folder, output_dir=folder / "eval").run()
    return folder


def mean_scale(dataset_dir: Path) -> torch.Tensor:
    """Geometric mean over the training subjects, straight from their files."""
    steps = LoadSubject(NAMES), ScaleSequencesd("image", sequences=NAMES)
    items = subject_items(dataset_dir, "training", NAMES)
    return torch.stack([steps[1](steps[0](item))["scale"] for item in items]).log().mean(0).exp()


def test_training_writes_weights_state_and_curves(trained: Path, bundle: str, phantom_dir: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    state = torch.load(trained / "last.pt", weights_only=True)
    weights = torch.load(trained / "model.pt", weights_only=True)
    assert state["progress"] == {"epoch": 2, "iteration": 4} and state["best"]["epoch"] in (1, 2)
    assert weights.keys() == state["model"].keys()
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    torch.testing.assert_close(weights["reference_scale"][:, 0], mean_scale(phantom_dir), rtol=1e-4, atol=0)
    assert (weights["reference_scale"][:, 1] == 0).all()
    tags: dict[str, int] = {}
    for file in (trained / "eval").glob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        tags |= {tag: len(events.Scalars(tag)) for tag in events.Tags()["scalars"]}
        tags |= {tag: len(events.Images(tag)) for tag in events.Tags()["images"]}
    term = {"mri_aldm": "diffusion", "mri_wavelet_flow": "velocity"}.get(bundle, "l1")
    assert tags["loss"] == tags[term] == 4 and tags["val_psnr"] == 2
    assert any("synthesised" in tag for tag in tags)


def test_inference_fills_in_the_withheld_sequence(
    trained: Path, workflow, bundle: str, phantom_dir: Path, tmp_path: Path
):
    subjects = read_subjects(phantom_dir)
    entry = subjects["test"][0]
    entry["withheld"] = {"FLAIR": entry["images"].pop("FLAIR")}
    (tmp_path / "withheld.json").write_text(json.dumps(subjects))
    settings = {"dataset_dir": phantom_dir, "subject_list": tmp_path / "withheld.json", "split": "test"}
    output = {"weights": trained / "model.pt", "output_dir": tmp_path / "out"}
    workflow(bundle, "inference.json", **settings, **output).run()
    subject = entry["subject"]
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert written == {f"{subject}/{subject}{end}" for end in ("_FLAIR.nii.gz", "_FLAIR.json", ".png")}
    made = nib.load(tmp_path / "out" / subject / f"{subject}_FLAIR.nii.gz")
    acquired = nib.load(entry["withheld"]["FLAIR"])
    assert made.shape == acquired.shape and np.array_equal(made.affine, acquired.affine)
    voxels = made.get_fdata()
    air = np.max([nib.load(file).get_fdata() for file in entry["images"].values()], axis=0) <= 0
    assert (voxels[air] == 0).all() and (voxels[~air] > 0).all()
    sidecar = json.loads((tmp_path / "out" / subject / f"{subject}_FLAIR.json").read_text())
    assert list(sidecar["sources"]) == NAMES[:3] and sidecar["bundle"] == bundle
    assert sidecar["units"] == "normalised * scale + offset predicted from those of T1, T1Gd, T2"
    assert sidecar["scale"] == pytest.approx(mean_scale(phantom_dir)[3].item(), rel=0.3), "gains vary by 20 %"


def test_uncertainty_lies_beside_the_image(
    workflow, bundle: str, weights_of, phantom_dir: Path, tmp_path: Path, caplog
):
    """FLAIR of three sources has a spread, that of one source none."""
    if bundle in TOGETHER:
        pytest.skip("all sources are seen at once: there is one image, and no spread")
    subjects = read_subjects(phantom_dir)
    first, second = subjects["training"][:2]
    del first["images"]["FLAIR"]
    second["images"] = {"T2": second["images"]["T2"]}
    (tmp_path / "few.json").write_text(json.dumps({**subjects, "training": [first, second]}))
    settings = {"dataset_dir": phantom_dir, "subject_list": tmp_path / "few.json", "split": "training"}
    output = {"weights": weights_of(bundle), "output_dir": tmp_path / "out", "targets": "FLAIR"}
    workflow(bundle, "inference.json", uncertainty="true", **settings, **output).run()
    written = {path.name for path in (tmp_path / "out").rglob("*.nii.gz")}
    names = [f"{first['subject']}_FLAIR", f"{second['subject']}_FLAIR", f"{first['subject']}_FLAIR_uncertainty"]
    assert written == {f"{name}.nii.gz" for name in names}
    assert f"{second['subject']}: FLAIR is made from T2 alone" in caplog.text
    image, spread = (nib.load(tmp_path / "out" / first["subject"] / f"{names[k]}.nii.gz") for k in (0, 2))
    assert np.array_equal(spread.affine, nib.load(first["images"]["T1"]).affine) and spread.shape == image.shape
    made, deviation = image.get_fdata(), spread.get_fdata()
    assert (deviation[made == 0] == 0).all() and deviation.max() > 0 and deviation.max() < made.max()
    sidecar = json.loads((tmp_path / "out" / first["subject"] / f"{names[2]}.json").read_text())
    assert list(sidecar["sources"]) == NAMES[:3] and sidecar["scale"] == 400
    workflow(bundle, "inference.json", **settings, **{**output, "output_dir": tmp_path / "plain"}).run()
    plain = nib.load(tmp_path / "plain" / first["subject"] / f"{names[0]}.nii.gz").get_fdata()
    if bundle == "mri_vq_seq2seq":  # whose image is then the mean of the samples that the spread is of
        assert 0 < np.abs(made - plain).mean() < deviation.mean()
    else:
        np.testing.assert_allclose(made, plain, rtol=1e-5)


def test_evaluating_scores_the_test_subject(trained: Path, workflow, bundle: str, phantom_dir: Path, tmp_path: Path):
    settings = {"dataset_dir": phantom_dir, "ckpt_dir": trained, "output_dir": tmp_path, "truth": "reference"}
    workflow(bundle, "train.json", "evaluate.json", **settings).run()
    with open(tmp_path / "scores_declared.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40 and {row["subject"] for row in rows} == {"phantom_003"}
    assert all(np.isfinite(float(row[metric])) for row in rows for metric in ("ssim", "nmse"))
    assert json.loads((tmp_path / "scores_declared.json").read_text())["truth"] == "reference"
    if bundle == "mri_aldm":
        own = {row["target"]: row["psnr"] for row in rows if row["source"] == row["target"]}
        assert all(row["ceiling_psnr"] == own[row["target"]] for row in rows if row["method"] == "network")
        assert not any(row["ceiling_psnr"] for row in rows if row["method"] != "network")


def test_evaluating_others_subjects(trained: Path, workflow, bundle: str, phantom_dir: Path, tmp_path: Path):
    """A list without training subjects has scores, but no intensity map to compare them with."""
    subjects = {**read_subjects(phantom_dir), "training": [], "validation": []}
    write_subjects(tmp_path / "others.json", subjects)
    settings = {"dataset_dir": phantom_dir, "ckpt_dir": trained, "output_dir": tmp_path}
    with pytest.warns(UserWarning, match="scores without the intensity map"):
        workflow(bundle, "train.json", "evaluate.json", **settings, subject_list=str(tmp_path / "others.json")).run()
    with open(tmp_path / "scores_declared.csv", newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"network", "copy"}
    report(str(tmp_path))
    assert "No pair was scored" in (tmp_path / "report.html").read_text()


SAGITTAL = {"slice_axis": -3, "ema_decay": 0.5, "clip_grad": 1.0, "divisible": [1, 2, 2]}
VARIANTS = {
    "mri_seq2seq": {
        "3D": {"spatial_dims": 3, "roi_size": [16, 16, 16], "divisible": [2, 2, 2]},
        "2D": {"slices": 1, "roi_size": [16, 16, 1]},
        "sagittal": {**SAGITTAL, "roi_size": [3, 16, 16]},
        "unpaired": {
            **{"unpaired": True, "roi_size": [32, 32, 3], "batch_size": 2, "samples_per_subject": 2},
            "self_weight": 0.0,
        },
        "3D unpaired": {
            **{"spatial_dims": 3, "unpaired": True, "roi_size": [32, 32, 32], "divisible": [2, 2, 2]},
            **{"batch_size": 2, "pairs_per_subject": 5},
        },
        "two sequences": {
            **{"sequences": ["T2", "T1"], "normalisation": "percentile", "pairs_per_subject": 2, "cache_rate": 0.0}
        },
    },
    "mri_vq_seq2seq": {
        "3D": {"spatial_dims": 3, "roi_size": [16, 16, 16], "divisible": [2, 2, 2], "sampling_start": 0},
        "2.5D": {"slices": 3, "roi_size": [16, 16, 3], "quantiser": "ema", "contrastive_start": 0},
        "sagittal": {**SAGITTAL, "roi_size": [1, 16, 16], "translation_start": 0, "network_def#revive_after": 1},
        "Seq2Seq": {"quantiser": "none", "consistency_weight": 0.0, "intensity_probability": 0.0, "cache_rate": 0.0},
        "two sequences": {"sequences": ["T2", "T1"], "batch_size": 2, "repeats": 2, "pairs_per_subject": 2},
    },
    "mri_aldm": {
        "flow": {"sampler": "flow", "ema_decay": 0.5, "checkpointing": "true", "decoding": "split"},
        "no SPADE": {"method": "no_spade", "samples": 2, "pairs_per_subject": 0},
    },
    "mri_resvit": {"adversary": {"adversarial_weight": 1.0, "batch_size": 2, "sequences": ["T2", "T1", "FLAIR"]}},
    "mri_wavelet_flow": {"displacement": {"path": "displacement", "ema_decay": 0.5}},
}


@pytest.mark.parametrize(("bundle", "name"), [(bundle, name) for bundle in VARIANTS for name in VARIANTS[bundle]])
def test_variants_train_complete_and_evaluate(workflow, phantom_dir: Path, tmp_path: Path, bundle: str, name: str):
    variant = VARIANTS[bundle][name]
    settings = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path, "epochs": 1, **variant}
    workflow(bundle, "train.json", output_dir=tmp_path / "eval", **settings).run()
    use = {**settings, "weights": tmp_path / "model.pt", "split": "test"}
    workflow(bundle, "inference.json", output_dir=tmp_path / "out", targets="all", **use).run()
    images = {path.name: nib.load(path).get_fdata() for path in (tmp_path / "out").rglob("*.nii.gz")}
    names = variant.get("sequences", NAMES)
    assert images.keys() == {f"phantom_003_{name}.nii.gz" for name in names}
    assert all(np.isfinite(image).all() and image.std() > 0 for image in images.values())
    workflow(bundle, "train.json", "evaluate.json", output_dir=tmp_path / "eval", **use).run()
    count = len(names)
    assert (tmp_path / "eval" / "scores_declared.csv").read_text().count("\n") == 1 + 3 * count * (count - 1) + count


def test_a_training_too_short_to_be_validated_leaves_weights(workflow, bundle: str, phantom_dir: Path, tmp_path: Path):
    settings = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path, "output_dir": tmp_path / "eval"}
    workflow(bundle, "train.json", val_interval=5, **settings).run()
    assert (tmp_path / "model.pt").exists()
