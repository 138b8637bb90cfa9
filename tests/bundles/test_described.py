"""Weights describe themselves: who uses them, or goes on with their training, repeats no option and no overlay."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest
import torch
from monai.bundle import create_workflow

from common.data.subjects import read_subjects

from .conftest import TINY_CRL

BUNDLES = Path(__file__).parents[2] / "bundles"
# Options of a training that no default has, beside the tiny network's.
OWN: dict[str, dict[str, Any]] = {
    "mri_seq2seq": {"sequences": ["T2", "T1", "FLAIR"], "normalisation": "percentile", "network_def#norm": "branches"},
    "mri_vq_seq2seq": {"sequences": ["T2", "T1", "FLAIR"], "quantiser": "ema", "normalisation": "p99"},
    "mri_aldm": {"sequences": ["T2", "T1", "FLAIR"], "regularisation": "kl", "sampler": "flow"},
    "mri_crl": {"variant": "gain", "normalisation": "minmax", "held_out": ["FSE4"]},
    "mri_resvit": {"sequences": ["T2", "T1", "FLAIR"], "normalisation": "p99", "network_def#transformers": [2]},
    "mri_wavelet_flow": {"sequences": ["T2", "T1", "FLAIR"], "path": "displacement"},
    "mri_mmgan": {"sequences": ["T2", "T1", "FLAIR"], "network_def#dropout": 0.1},
    "mri_pgan": {"sequences": ["T2", "FLAIR"], "normalisation": "p99"},
    "mri_cyclegan": {"sequences": ["T2", "FLAIR"], "normalisation": "p99"},
}
RUNS = {
    "mri_seq2seq": [("inference",), ("inference", "differentiation"), ("inference", "export")],
    "mri_vq_seq2seq": [("inference",), ("inference", "differentiation"), ("inference", "encode")],
    "mri_aldm": [("inference",), ("inference", "differentiation")],
    "mri_crl": [("inference",), ("inference", "sweep"), ("inference", "grid")],
    "mri_resvit": [("inference",), ("inference", "differentiation"), ("inference", "export")],
    "mri_wavelet_flow": [("inference",), ("inference", "differentiation"), ("inference", "export")],
    "mri_mmgan": [("inference",), ("inference", "differentiation"), ("inference", "export")],
    "mri_pgan": [("inference",), ("inference", "export")],
    "mri_cyclegan": [("inference",), ("inference", "export")],
}
WRONG = {
    "mri_seq2seq": ({"normalisation": "p99_foreground"}, "normalisation 'percentile', now 'p99_foreground'"),
    "mri_vq_seq2seq": ({"quantiser": "gradient"}, "network_def#quantiser 'ema', now 'gradient'"),
    "mri_aldm": ({"network_def#channels": [256, 512, 512]}, r"network_def#channels [4, 8], now [256, 512, 512]"),
    "mri_crl": ({"variant": "attention"}, "network_def#variant 'gain', now 'attention'"),
    "mri_resvit": ({"network_def#transformers": [1]}, "network_def#transformers [2], now [1]"),
    "mri_wavelet_flow": ({"network_def#path": "flow"}, "network_def#path 'displacement', now 'flow'"),
    "mri_mmgan": ({"network_def#dropout": 0.2}, "network_def#dropout 0.1, now 0.2"),
    "mri_pgan": ({"sequences": ["FLAIR", "T2"]}, "sequences ['T2', 'FLAIR'], now ['FLAIR', 'T2']"),
    "mri_cyclegan": ({"normalisation": "p99_foreground"}, "normalisation 'p99', now 'p99_foreground'"),
}


def run(bundle: str, *names: str, **options: Any) -> Any:
    """With no option but those that are given."""
    root = BUNDLES / bundle
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a config can run any code
        workflow = create_workflow(
            config_file=[str(root / "configs" / f"{name}.json") for name in names],
            workflow_type="inference" if names[0] == "inference" else "train",
            logging_file=False,
            **{"bundle_root": str(root), **{k: str(v) if isinstance(v, Path) else v for k, v in options.items()}},
        )
    workflow.run()
    return workflow


def reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


def test_older_weights_keep_their_scaling(workflow, tiny_weights: Path, phantom_dir: Path, tmp_path: Path):
    """Of a version whose default was another rule, and which knew but the mean of the training's scales."""
    old = torch.load(tiny_weights, weights_only=True)
    del old["reference_spread"]
    torch.save(old, tmp_path / "model.pt")
    (tmp_path / "model.json").write_text(json.dumps({"normalisation": "p99_foreground"}))
    options = {"dataset_dir": phantom_dir, "output_dir": tmp_path / "out", "targets": "FLAIR", "split": "test"}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # what else the description lacks
        made = workflow("mri_seq2seq", "inference.json", weights=tmp_path / "model.pt", **options)
    made.run()
    assert made.parser.get_parsed_content("subjects").scaling["rule"] == "p99_foreground"
    sidecar = json.loads(next((tmp_path / "out").rglob("*.json")).read_text())
    assert sidecar["scale"] == 400 and sidecar["units"] == "normalised * scale + offset of the training subjects"


RIVALS = ("mri_resvit", "mri_wavelet_flow", "mri_mmgan", "mri_pgan", "mri_cyclegan")
RIVALS = [pytest.param(name, marks=pytest.mark.full) for name in RIVALS]


@pytest.fixture(scope="module", params=[*list(OWN)[:4], *RIVALS])
def bundle(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def data(bundle: str, request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue("fse_dir" if bundle == "mri_crl" else "phantom_dir")


@pytest.fixture(scope="module")
def options(bundle: str, tiny: dict[str, dict[str, Any]], data: Path) -> dict[str, Any]:
    """Of a short training."""
    others = TINY_CRL if bundle == "mri_crl" else tiny[bundle]
    return {**others, **OWN[bundle], "dataset_dir": data, "epochs": 1, "val_interval": 1}


@pytest.fixture(scope="module")
def trained(bundle: str, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("described")
    stages = {"autoencoder": "train_autoencoder", "translation": "train_translation"} if bundle == "mri_aldm" else {}
    paths = {f"{stage}_weights": folder / stage / "model.pt" for stage in stages}
    for stage, config in {**stages, "": "train"}.items():
        run(bundle, config, ckpt_dir=folder / stage, output_dir=folder / "eval", **options, **paths)
    return folder


def test_the_description(trained: Path, bundle: str, options: dict[str, Any]):
    described = json.loads((trained / "model.json").read_text())
    for name, value in OWN[bundle].items():
        assert described.get(name, described["network"].get(name.removeprefix("network_def#"))) == value, name
    assert described["roi_size"] == options["roi_size"]


def test_uses_need_no_option(trained: Path, bundle: str, data: Path, tmp_path: Path):
    subjects = read_subjects(data)
    entry = subjects["test"][0]
    missing = list(entry["images"])[-1]
    entry["withheld"] = {missing: entry["images"].pop(missing)}
    (tmp_path / "withheld.json").write_text(json.dumps(subjects))
    common = {"dataset_dir": data, "weights": trained / "model.pt", "split": "test"}
    for names in RUNS[bundle]:
        out = tmp_path / names[-1]
        listed = {} if "grid" in names else {"subject_list": tmp_path / "withheld.json"}
        more = {"output_file": tmp_path / "model.ts"} if "export" in names else {}
        workflow = run(bundle, *names, output_dir=out, **common, **listed, **more)
        if "export" in names:
            assert "as the network" in workflow.parser.get_parsed_content("exported")
        elif "grid" in names:
            assert (out / "grid.csv").exists()
        else:
            assert list(out.rglob("*.nii.gz")), names
    made = tmp_path / "inference" / entry["subject"] / f"{entry['subject']}_{missing}.nii.gz"
    assert nib.load(made).get_fdata().std() > 0


def test_evaluating_needs_no_option(trained: Path, bundle: str, data: Path, tmp_path: Path):
    evaluation = run(bundle, "train", "evaluate", dataset_dir=data, ckpt_dir=trained, output_dir=tmp_path)
    scores = json.loads((tmp_path / "scores_declared.json").read_text())
    for name in ("sequences", "normalisation", "variant", "quantiser", "regularisation", "sampler", "held_out"):
        assert scores.get(name) == OWN[bundle].get(name, scores.get(name)), name
    assert evaluation.parser.get_parsed_content("validate#evaluator").matrix.tables["declared"].rows


@pytest.mark.parametrize("files", [("inference",), ("train", "evaluate")], ids=" ".join)
def test_another_option_is_refused_with_both_values(trained: Path, bundle: str, data: Path, tmp_path: Path, files):
    """The default that the training did not have, too."""
    option, message = WRONG[bundle]
    paths = {"weights": trained / "model.pt", "ckpt_dir": trained, "output_dir": tmp_path, "dataset_dir": data}
    with pytest.raises(RuntimeError) as error:
        run(bundle, *files, **paths, **option)
    assert message in reason(error.value)


def test_a_training_goes_on_without_its_options(
    trained: Path, bundle: str, options: dict[str, Any], data: Path, tmp_path: Path
):
    """As it would have with them; and says which other one it is given."""
    weights = []
    schedule = ("epochs", "val_interval", "batch_size", "num_workers", "learning_rate", "perceptual_weights")
    schedule = (*schedule, "crop_size", "visits_per_epoch", "repeats", "slab", "adversarial_weight")
    fewer = {name: value for name, value in options.items() if name in schedule}
    stages = ("autoencoder", "translation") if bundle == "mri_aldm" else ()
    earlier = {f"{stage}_weights": trained / stage / "model.pt" for stage in stages}
    for name, given in (("with", options), ("without", {**fewer, "dataset_dir": data})):
        shutil.copytree(trained, tmp_path / name, ignore=shutil.ignore_patterns("eval", "autoencoder", "translation"))
        folders = {"ckpt_dir": tmp_path / name, "output_dir": tmp_path / "eval", **earlier}
        run(bundle, "train", **{**given, "epochs": 2}, **folders)
        weights.append(torch.load(tmp_path / name / "last.pt", weights_only=True)["model"])
    assert all(torch.equal(value.nan_to_num(), weights[1][name].nan_to_num()) for name, value in weights[0].items())
    option, message = WRONG[bundle]
    with pytest.raises((RuntimeError, ValueError)) as error:
        run(bundle, "train", **{**fewer, "dataset_dir": data, "epochs": 3}, **folders, **option)
    assert message in reason(error.value)


def test_what_else_differs_from_the_training_that_goes_on_is_said(
    workflow, phantom_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folders = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path, "output_dir": tmp_path / "eval"}
    workflow("mri_seq2seq", "train.json", epochs=1, gradient_weight=3.0, clip_grad=1.0, **folders).run()
    caplog.clear()
    workflow("mri_seq2seq", "train.json", epochs=2, roi_size=[32, 32, 3], **folders).run()
    said = [line.split("was begun with ")[1] for line in caplog.messages if "was begun with" in line]
    assert said == [
        "roi_size [16, 16, 3], now [32, 32, 3].",
        "gradient_weight 3.0, now 0.0.",
        "clip_grad 1.0, now 0.0.",
    ]


def test_a_setting_that_was_trained_on_is_never_called_unseen(crl, fse_dir: Path, tmp_path: Path):
    folders = {"dataset_dir": fse_dir, "ckpt_dir": tmp_path, "output_dir": tmp_path / "eval"}
    crl("train.json", epochs=1, **folders).run()
    for files, options in ((("train.json",), {"epochs": 2}), (("train.json", "evaluate.json"), {})):
        with pytest.raises((RuntimeError, ValueError)) as error:
            crl(*files, held_out=["FSE1"], **options, **folders).run()
        assert "held_out ['FSE4', 'FSE6'], now ['FSE1']" in reason(error.value)


def test_without_a_description_the_configuration_s_own_values_hold(
    trained: Path, bundle: str, options: dict[str, Any], data: Path, tmp_path: Path
):
    shutil.copyfile(trained / "model.pt", tmp_path / "model.pt")
    paths = {"weights": tmp_path / "model.pt", "output_dir": tmp_path / "out", "split": "test", "targets": "all"}
    needed = {name: value for name, value in options.items() if name not in ("epochs", "val_interval")}
    run(bundle, "inference", **paths, **needed)
    assert list((tmp_path / "out").rglob("*.nii.gz"))
