"""docs/new_method.md is true: the bundle that it lists is made in a copy of the repository, and everything is run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.data.subjects import read_subjects
from common.evaluation.scores import ScoreTable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "new_method.md").read_text()


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository with the page's bundle in it."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("common", "ci", "bundles/mri_seq2seq", "tests/data"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "models", "eval"))
    for name in ("LICENSE", "requirements.txt", "mri-contrast"):
        shutil.copyfile(ROOT / name, root / name)
    script = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, re.S))
    subprocess.run(["bash", "-euc", script], cwd=root, check=True)
    block = r"^`((?:mri_unet|configs|docs)/\S+)`[^`]*```(?:python|json|markdown)\n(.*?)```"
    listed = re.findall(block, PAGE, re.S | re.M)
    assert [name for name, _ in listed] == [
        *("mri_unet/network.py", "mri_unet/objective.py", "configs/train.json", "configs/inference.json"),
        *("configs/small.json", "docs/README.md"),
    ]
    for name, text in listed:
        (root / "bundles" / "mri_unet" / name).write_text(text)
    return root


def run(folder: Path, *words: object) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-W", "ignore", "-m", *map(str, words)]
    done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_its_configurations_are_short(copied: Path):
    files = (copied / "bundles" / "mri_unet" / "configs").glob("*.json")
    assert sum(len(file.read_text().splitlines()) for file in files) < 250


def test_it_trains_completes_evaluates_packs_and_is_verified(copied: Path, phantom_dir: Path, tmp_path: Path):
    bundle = copied / "bundles" / "mri_unet"
    small = str(["configs/train.json", "configs/small.json"])
    data, weights = ("--dataset_dir", phantom_dir), ("--ckpt_dir", tmp_path / "models")
    schedule = ("--epochs", 2, "--val_interval", 1, "--output_dir", tmp_path / "eval")
    run(bundle, "monai.bundle", "run", "training", "--config_file", small, *data, *weights, *schedule)
    subjects = read_subjects(phantom_dir)
    entry = subjects["test"][0]
    del entry["images"]["FLAIR"]
    (tmp_path / "lacking.json").write_text(json.dumps({**subjects, "training": [], "validation": []}))
    use = ("--subject_list", tmp_path / "lacking.json", "--output_dir", tmp_path / "out")
    path = ("--weights", tmp_path / "models" / "model.pt")
    run(bundle, "monai.bundle", "run", "inference", "--config_file", "configs/inference.json", *data, *use, *path)
    assert (tmp_path / "out" / entry["subject"] / f"{entry['subject']}_FLAIR.nii.gz").exists()
    files = str(["configs/train.json", "configs/evaluate.json"])
    scored = ("--output_dir", tmp_path / "scores", "--truth", "reference")
    run(bundle, "monai.bundle", "run", "evaluating", "--config_file", files, *data, *weights, *scored)
    assert len(ScoreTable.read(tmp_path / "scores").rows) == 40
    packed = ("--weights", tmp_path / "models" / "model.pt", "--output_dir", tmp_path / "dist")
    run(copied, "ci.package", "mri_unet", *packed)
    assert list((tmp_path / "dist").glob("mri_unet_v*.zip"))
    said = run(copied, "ci.verify", "mri_unet")
    assert [line.split()[0] for line in said.splitlines()] == ["ok"] * 10
