"""The command's verbs on every bundle, and the Python function: the bundles' own workflows from any folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from common import complete
from common.data.subjects import SPLITS, read_subjects
from common.workflows import bundle_folder, bundle_folders, complete_folder, evaluate, train

from .conftest import TINY_CRL

BUNDLES = ["mri_aldm", "mri_crl", "mri_cyclegan", "mri_mmgan", "mri_pgan", "mri_resvit", "mri_seq2seq"]
BUNDLES += ["mri_vq_seq2seq", "mri_wavelet_flow"]


@pytest.fixture
def patient(phantom_dir: Path) -> dict[str, str]:
    return read_subjects(phantom_dir)["test"][0]["images"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_bundles_are_known_and_seq2seq_is_meant():
    assert sorted(bundle_folders()) == [*BUNDLES]
    assert bundle_folder() == bundle_folders()["mri_seq2seq"]


RIVALS = ("mri_resvit", "mri_wavelet_flow", "mri_mmgan", "mri_pgan", "mri_cyclegan")
RIVALS = [pytest.param(name, marks=pytest.mark.full) for name in RIVALS]


@pytest.mark.parametrize("bundle", ["mri_seq2seq", "mri_vq_seq2seq", "mri_crl", *RIVALS])
def test_train_evaluate_and_complete_from_any_folder(
    bundle: str, tmp_path: Path, phantom_dir: Path, fse_dir: Path, tiny: dict[str, dict[str, Any]], capsys: Any
):
    settings = dict(TINY_CRL if bundle == "mri_crl" else tiny[bundle])
    data = fse_dir if bundle == "mri_crl" else phantom_dir
    (tmp_path / "tiny.json").write_text(json.dumps({key.replace("#", "::"): value for key, value in settings.items()}))
    for _ in range(2):
        train(bundle, str(data), "run", overlay="tiny.json", epochs=1)
    assert "Finished before, in run/models" in capsys.readouterr().out
    assert (tmp_path / "run" / "models" / "model.pt").is_file()
    evaluate(bundle, str(data), "run/scores", overlay="tiny.json", weights="run/models/model.pt")
    assert (tmp_path / "run" / "scores" / "scores_declared.json").is_file()
    subject = read_subjects(data)["test"][0]
    target = "T2" if bundle in ("mri_pgan", "mri_cyclegan") else list(subject["images"])[-1]
    complete_folder(str(data), "made", bundle=bundle, weights="run/models/model.pt", targets=target)
    made = nib.load(tmp_path / "made" / subject["subject"] / f"{subject['subject']}_{target}.nii.gz")
    assert np.array_equal(made.affine, nib.load(subject["images"][target]).affine)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.json", "run", "made"}


def test_one_subject_s_folder_gives_what_the_python_function_gives(
    tmp_path: Path, patient: dict[str, str], described_weights: Path
):
    given = {name: patient[name] for name in ("T1", "T2")}
    (tmp_path / "patient").mkdir()
    for name, file in given.items():
        (tmp_path / "patient" / f"{name}.nii.gz").symlink_to(file)
    complete_folder("patient", "made", weights=str(described_weights))
    level = logging.getLogger().level
    made = complete({**given, "T2": nib.load(given["T2"])}, weights=str(described_weights))
    assert sorted(made) == ["FLAIR", "T1Gd"] and logging.getLogger().level == level
    for name, image in made.items():
        written = nib.load(tmp_path / "made" / "patient" / f"patient_{name}.nii.gz")
        assert np.array_equal(image.get_fdata(), written.get_fdata())
        assert np.array_equal(image.affine, nib.load(given["T1"]).affine)


def test_the_python_function_says_what_is_wrong(patient: dict[str, str], tmp_path: Path, described_weights: Path):
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        complete({"T1": patient["T1"]}, weights=str(tmp_path / "none.pt"))
    with pytest.raises(ValueError, match="did you mean --targets"):
        complete({"T1": patient["T1"]}, weights=str(described_weights), target="T2")


def test_many_subjects_in_shares_and_what_is_done_is_left(
    tmp_path: Path, phantom_dir: Path, described_weights: Path, caplog: Any
):
    """Two jobs share the subjects; a third one does only what has changed since."""
    data = shutil.copytree(phantom_dir, tmp_path / "data")
    names = [entry["subject"] for split in SPLITS for entry in read_subjects(data)[split]]

    def made() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in Path("made").glob("*/*_FLAIR.nii.gz")}

    options = {"weights": str(described_weights), "targets": "FLAIR", "saver#pictures": False}
    complete_folder(str(data), "made", shard="1/2", **options)
    assert sorted(made()) == names[0::2]
    complete_folder(str(data), "made", shard="2/2", **options)
    before = made()
    assert sorted(before) == names
    source = Path(read_subjects(data)["test"][0]["images"]["T1"])
    source.touch()
    with caplog.at_level(logging.INFO):
        complete_folder(str(data), "made", **options)
    assert f"{len(names) - 1} of {len(names)} subjects are done" in caplog.text
    changed = {name for name, when in made().items() if when != before[name]}
    assert changed == {source.parent.name}, "whose T1 is another"
    with caplog.at_level(logging.INFO):
        complete_folder(str(data), "made", shard=f"1/{len(names)}", **options)
    assert "No subject is left to do" in caplog.text
    before = made()
    complete_folder(str(data), "made", shard=f"1/{len(names)}", again=True, **options)
    assert {name for name, when in made().items() if when != before[name]} == {names[0]}
    before = made()
    (tmp_path / "made" / names[1] / f"{names[1]}_FLAIR.nii.gz").unlink()
    complete_folder(str(data), "made", **options)
    assert {name for name, when in made().items() if when != before[name]} == {names[1]}, "whose image was gone"
    other = shutil.copytree(data, tmp_path / "other")
    before = made()
    complete_folder(str(other), "made", shard="1/2", **options)
    assert {name for name, when in made().items() if when != before[name]} == {*names[0::2]}, "other people's files"
    before = made()
    complete_folder(str(other), "made", shard="1/2", uncertainty=True, **options)
    assert {name for name, when in made().items() if when != before[name]} == {*names[0::2]}, "asked for more"
    with pytest.raises(ValueError, match="prepare all first"):
        complete_folder(str(data), "made", shard="1/2", prepare=True, **options)
    for wrong in ("0/2", "3/2", "2", "a/b"):
        with pytest.raises(ValueError, match="it must be K/N with K from 1 to N"):
            complete_folder(str(data), "made", shard=wrong, **options)


def as_by_one(data: Path, options: dict[str, Any]) -> None:
    """What was made in "made" is what one process makes of all subjects."""
    complete_folder(str(data), "alone", **options)
    files = sorted(path.relative_to("alone") for path in Path("alone").rglob("*.nii.gz"))
    assert files == sorted(path.relative_to("made") for path in Path("made").rglob("*.nii.gz")) and files
    for file in files:
        assert np.array_equal(nib.load("alone" / file).get_fdata(), nib.load("made" / file).get_fdata())


def test_two_processes_share_a_folder_at_the_same_time(phantom_dir: Path, described_weights: Path):
    words = [str(phantom_dir), "made", "--weights", str(described_weights), "--targets", "FLAIR", "--threads", "1"]
    command = [sys.executable, "-m", "common", "complete", *words, "--saver#pictures", "False", "--shard"]
    paths = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [subprocess.Popen([*command, f"{k}/2"], env=paths, stderr=subprocess.PIPE) for k in (1, 2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
    as_by_one(phantom_dir, {"weights": str(described_weights), "targets": "FLAIR", "saver#pictures": False})


@pytest.mark.full
def test_ray_shares_a_folder(phantom_dir: Path, described_weights: Path):
    ray = pytest.importorskip("ray", reason="ray is not installed")
    options = {"weights": str(described_weights), "targets": "FLAIR", "saver#pictures": False}
    paths = {"PYTHONPATH": str(Path(__file__).parents[2])}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": paths})
    try:
        task = ray.remote(num_cpus=1)(complete_folder)
        made = str(Path("made").absolute())
        ray.get([task.remote(str(phantom_dir), made, shard=f"{k}/2", **options) for k in (1, 2)])
    finally:
        ray.shutdown()
    as_by_one(phantom_dir, options)
