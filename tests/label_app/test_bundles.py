"""What the server does with a bundle, without a server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.phantom import make_phantom
from common.data.subjects import write_subjects
from common.description import write
from common.inference.engine import root_cause
from label_app.bundles import ServedBundle
from label_app.options import training_options
from label_app.studies import Studies

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
EVIL = "$print('evaluated')"


@pytest.fixture
def studies(studies_dir: Path, tmp_path: Path) -> Studies:
    return Studies(studies_dir, tmp_path / "work")


@pytest.mark.parametrize(("subject", "image", "target"), [("phantom_002", "T2", None), ("phantom_003", "T1", "T2")])
def test_an_image_lies_on_the_chosen_ones_grid(
    served: ServedBundle, studies: Studies, workflow: Callable, tmp_path: Path, subject: str, image: str, target: str
):
    """Rotated and sheared, made from all of the subject's others, the same as by `run inference`."""
    entry = studies.entries[subject]
    path, sidecar = served.synthesise(studies, entry, image, target)
    made, like = nib.load(path), nib.load(entry["images"][image])
    target = target or "FLAIR"
    assert made.shape == like.shape and np.array_equal(made.affine, like.affine) and made.get_data_dtype() == np.float32
    assert list(sidecar["sources"]) == [name for name in entry["images"] if name != target]
    assert (sidecar["target"], sidecar["grid"]) == (target, os.path.relpath(entry["images"][image], studies.folder))
    listed = {"dataset_dir": studies.list.parent, "split": "all", "targets": [target]}
    workflow("mri_seq2seq", "inference.json", output_dir=tmp_path, weights=served.weights, **listed).run()
    alone = nib.load(tmp_path / subject / f"{subject}_{target}.nii.gz")
    assert np.array_equal(made.get_fdata(), alone.get_fdata()) and made.get_fdata().std() > 0
    path.unlink()


def test_chosen_sources(served: ServedBundle, studies: Studies):
    entry = studies.entries["phantom_003"]
    path, sidecar = served.synthesise(studies, entry, "T1Gd", "FLAIR", source="T1Gd,T2")
    assert list(sidecar["sources"]) == ["T1Gd", "T2"]
    path.unlink()
    with pytest.raises(ValueError, match="phantom_003's T1, which is not among the sources T2: choose"):
        served.synthesise(studies, entry, "T1", "FLAIR", source="T2")


def test_other_grids_are_refused_or_resampled(served: ServedBundle, studies: Studies):
    entry = studies.entries["phantom_003"]
    moved = nib.load(entry["images"]["T2"])
    nib.save(nib.Nifti1Image(moved.get_fdata()[:-2], moved.affine), entry["images"]["T2"])
    with pytest.raises(ValueError, match=r'T2 and T1 lie on different grids: shape .*"resample": true'):
        served.synthesise(studies, entry, "T1", "FLAIR")
    failed = served.complete(studies, served.output_dir, targets=["FLAIR"])
    assert list(failed) == ["phantom_003"] and "T2 and T1 lie on different grids" in failed["phantom_003"]
    assert len(list(served.output_dir.rglob("*.nii.gz"))) == 3, "the other subjects"
    path, sidecar = served.synthesise(studies, entry, "T2", "FLAIR", resample=True)
    assert nib.load(path).shape == nib.load(entry["images"]["T2"]).shape and len(sidecar["sources"]) == 3
    path.unlink()


def test_no_expression_reaches_a_configuration(served: ServedBundle, studies: Studies, capsys):
    """Configurations evaluate what begins with $: over HTTP only what is known gets into them."""
    entry = studies.entries["phantom_003"]
    for bad in (EVIL, "@sequences", ["T1", "T2"], [EVIL], {"a": 1}, "PD", 3):
        with pytest.raises(ValueError, match=r'"target" is .*; mri_seq2seq makes T1, T1Gd, T2, FLAIR'):
            served.synthesise(studies, entry, "T1", bad)
    with pytest.raises(ValueError, match=r'"source" has .*; mri_seq2seq knows'):
        served.synthesise(studies, entry, "T1", "T2", source=EVIL)
    with pytest.raises(ValueError, match=r'"split" is .*; it must be one of training, validation, test or all'):
        served.score(studies, EVIL)
    for bad in (EVIL, [1], {}):
        with pytest.raises(ValueError, match="must all be numbers"):
            training_options({"epochs": bad})
    assert training_options({"epochs": "3", "ckpt_dir": "/", "network": EVIL}) == {"epochs": 3}
    assert "evaluated" not in capsys.readouterr().out


def test_what_is_missing_must_be_one(served: ServedBundle, studies: Studies):
    with pytest.raises(ValueError, match='phantom_003 lacks nothing: say which image is wanted with "target"'):
        served.synthesise(studies, studies.entries["phantom_003"], "T1", "missing")


def test_a_subject_with_nothing_to_make_it_from(served: ServedBundle, studies: Studies):
    entry = {"subject": "other", "images": {"PD": "pd.nii"}}
    with pytest.raises(
        ValueError, match="other has PD, none of which mri_seq2seq knows: it makes images from T1, T1Gd"
    ):
        served.synthesise(studies, entry, "PD", "T2")


RIVALS = ("mri_resvit", "mri_wavelet_flow", "mri_mmgan", "mri_pgan", "mri_cyclegan")
RIVALS = [pytest.param(name, marks=pytest.mark.full) for name in RIVALS]


@pytest.mark.parametrize("name", ["mri_seq2seq", "mri_vq_seq2seq", "mri_aldm", *RIVALS])
def test_trained_here_and_used_at_once(name: str, overlay: Callable, studies: Studies, tmp_path: Path):
    """From none, then from the present weights, by every stage that the bundle has."""
    bundle = ServedBundle(BUNDLES / name, [str(overlay(name))], tmp_path / "work")
    entry, target = studies.entries["phantom_002"], "T2" if name in ("mri_pgan", "mri_cyclegan") else None
    if not bundle.weights.exists():  # a bundle may come with some
        with pytest.raises(
            FileNotFoundError, match=f'{name} has no weights: .* POST /train/{name} with the body {{"pre'
        ):
            bundle.synthesise(studies, entry, "T1", target)
        with pytest.raises(FileNotFoundError, match="no weights"):
            bundle.train(studies)
    bundle.train(studies, pretrained=False, epochs=1)
    first = torch.load(bundle.weights, weights_only=True)
    path, before = bundle.synthesise(studies, entry, "T1", target)
    path.unlink()
    bundle.train(studies, learning_rate=1e-9, epochs=1)
    second = torch.load(bundle.weights, weights_only=True)
    path, after = bundle.synthesise(studies, entry, "T1", target)
    path.unlink()
    assert before["weights_sha256"] != after["weights_sha256"]
    trained = [key for key in first if key.endswith("weight") and first[key].is_floating_point()]
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in trained), "it went on from the first"
    assert sorted(path.name for path in bundle.trained.iterdir()) == ["eval", "model.json", "model.pt"]


def test_a_training_that_fails_leaves_the_weights(served: ServedBundle, studies: Studies):
    before = served.weights.read_bytes()
    with pytest.raises(RuntimeError) as caught:
        served.train(studies, learning_rate=1e30)
    assert "Training stops before the weights are touched" in str(root_cause(caught.value))
    assert served.weights.read_bytes() == before
    studies.subjects["validation"] = []
    with pytest.raises(ValueError, match=r"has no validation subject. From three people on"):
        served.train(studies)


def test_scores(served: ServedBundle, studies: Studies):
    scores = served.score(studies, "test")
    assert len(scores) == 40 and json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert (served.scores_dir / "scores_declared.csv").exists()


def test_parameters_for_a_target(tmp_path: Path):
    """CRL takes times in place of a name."""
    make_phantom(tmp_path / "studies", subjects=3, spacing=(8, 8, 16), sequences="fse9", one_gain=True)
    (tmp_path / "tiny.json").write_text(
        json.dumps({"network_def::features": 8, "network_def::res_blocks": 1, "network_def::heads": 2, "slab": 16})
    )
    bundle = ServedBundle(BUNDLES / "mri_crl", ["small", str(tmp_path / "tiny.json")], tmp_path / "work")
    studies = Studies(tmp_path / "studies", tmp_path / "work")
    bundle.train(studies, pretrained=False, epochs=1)
    entry = studies.entries["phantom_001"]
    path, sidecar = bundle.synthesise(studies, entry, "FSE1", [8000, "100", 2000])
    assert sidecar["target"] == "TR8000_TE100_TI2000" and len(sidecar["sources"]) == 9
    path.unlink()
    with pytest.raises(ValueError, match="float"):
        bundle.synthesise(studies, entry, "FSE1", [8000, EVIL, 2000])


def test_no_such_bundle_or_overlay(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"There is no bundle in .*mri_none; set --conf bundles_dir"):
        ServedBundle(tmp_path / "mri_none", [], tmp_path)
    with pytest.raises(FileNotFoundError, match="mri_crl has no configuration 'none' in its configs/"):
        ServedBundle(BUNDLES / "mri_crl", ["none"], tmp_path)


def test_a_missing_series_comes_back_in_4d(tiny_network: Callable, tmp_path: Path):
    """From an image of the studies: one file of all frames on its grid; a series of them is a source as any other."""
    names, frames = ["T1", "DCE"], {"DCE": {"times": [0, 60, 120]}}
    served = ServedBundle(BUNDLES / "mri_seq2seq", [], tmp_path / "work")
    served.trained.mkdir(parents=True)
    network = tiny_network("mri_seq2seq", sequences=2, frames=[1, 3], lstm_layers=1)
    network.reference_scale.copy_(torch.tensor([[100.0, 0.0]] * 2))
    torch.save(network.state_dict(), served.trained / "model.pt")
    sizes = {"roi_size": [16, 16, 3], "divisible": [2, 2, 1], "normalisation": "p99_foreground"}
    write(served.trained / "model.pt", network, sequences=names, frames=frames, **sizes)
    folder, affine = tmp_path / "studies", np.diag([-2.0, 3.0, 4.0, 1.0])
    voxels = np.random.default_rng(0).uniform(1, 9, (18, 20, 7, 3)).astype(np.float32)
    voxels[:3] = 0
    for name in ("P0/T1.nii.gz", "P1/DCE.nii.gz"):
        (folder / name).parent.mkdir(parents=True)
        nib.save(nib.Nifti1Image(voxels if "DCE" in name else voxels[..., 0], affine), folder / name)
    entries = [{"subject": "P0", "images": {"T1": "P0/T1.nii.gz"}}]
    entries += [{"subject": "P1", "images": {"DCE": "P1/DCE.nii.gz"}, "frames": frames}]
    write_subjects(folder / "subjects.json", {"sequences": names, "training": [], "validation": [], "test": entries})
    studies = Studies(folder, tmp_path / "work")
    path, sidecar = served.synthesise(studies, studies.entries["P0"], "T1", None)
    made = nib.load(path)
    assert made.shape == voxels.shape and np.array_equal(made.affine, affine)
    assert made.header.get_zooms()[3] == 60 and np.ptp(made.get_fdata(), axis=3).max() > 0
    assert sidecar["VolumeTiming"] == [0, 60, 120] and sidecar["target"] == "DCE"
    path.unlink()
    path, sidecar = served.synthesise(studies, studies.entries["P1"], "DCE", "missing")
    assert nib.load(path).shape == voxels.shape[:3] and list(sidecar["sources"]) == ["DCE"]
    path.unlink()
