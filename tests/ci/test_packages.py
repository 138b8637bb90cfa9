"""Which packages a bundle needs, and that it runs with those that its metadata name and no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import venv
from importlib.metadata import distribution
from pathlib import Path

import nibabel as nib
import pytest
from packaging.requirements import Requirement

from ci import package
from ci.packages import named_packages, needed_packages
from ci.verify import CHECKS, Bundle, bundles
from common.data.subjects import SPLITS, read_subjects

NAMES = sorted(bundles())


def test_what_is_imported_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A toy: its network is named by a configuration, its plots by none; common has the commands on data."""
    files = {
        "toy/configs/inference.json": '{"network_def": {"_target_": "toy.network.Net.as_described"}}',
        "toy/toy/network.py": "import torch\nfrom .common.blocks import conv\n",
        "toy/toy/plots.py": "import plotly.express\nfrom toy import network\n",
        "common/blocks.py": "import os.path\nfrom scipy.ndimage import label\n\n\ndef conv():\n    import einops\n",
        "common/__main__.py": "from .blocks import conv\nfrom .data import check\n",
        "common/data/check.py": "import nibabel as nib\n# DiffusionModelUNet\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("ci.packages.COMMON", tmp_path / "common")
    required, optional = needed_packages(tmp_path / "toy")
    assert required == {"torch", "scipy", "nibabel", "einops", "fire"} and optional == {"plotly"}


@pytest.mark.parametrize("name", NAMES)
def test_metadata_names_what_is_imported(name: str):
    required, optional = named_packages(json.loads((bundles()[name] / "configs" / "metadata.json").read_text()))
    assert needed_packages(bundles()[name]) == (required.keys(), optional.keys())
    assert {"scipy", "nibabel"} <= required.keys() and {"lpips", "nilearn", "torchvision"} <= optional.keys()
    assert ("einops" in required) == (name in ("mri_aldm", "mri_resvit", "mri_wavelet_flow"))


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bundle = Bundle(bundles()["mri_crl"], tmp_path)
    metadata = bundle.config("metadata")
    monkeypatch.setattr(bundle, "config", lambda _: metadata)
    scipy = metadata["required_packages_version"].pop("scipy")
    with pytest.raises(ValueError, match="scipy: imported; name it in required_packages_version"):
        CHECKS["packages"](bundle)
    metadata["required_packages_version"] |= {"scipy": scipy, "pandas": "3.1.1"}
    with pytest.raises(ValueError, match="pandas: required_packages_version names it, but nothing needs it"):
        CHECKS["packages"](bundle)
    del metadata["required_packages_version"]["pandas"]
    metadata["optional_packages_version"]["plotly"] = "5.0.0"
    with pytest.raises(ValueError, match=r"plotly 5.0.0: not the version in ci/constraints.txt"):
        CHECKS["version"](bundle)


def closure(names: set[str]) -> set[str]:
    """Distributions with all that they ask for."""
    found, waiting = set(), {re.sub(r"[-_.]+", "-", name).lower() for name in names}
    while waiting:
        found.add(name := waiting.pop())
        asked = [Requirement(text) for text in distribution(name).requires or []]
        needed = {each.name for each in asked if each.marker is None or each.marker.evaluate({"extra": ""})}
        waiting |= {re.sub(r"[-_.]+", "-", each).lower() for each in needed} - found
    return found


def environment(folder: Path, names: set[str]) -> Path:
    """An environment with these distributions, what they ask for, and no others: links to those installed here."""
    venv.create(folder, symlinks=os.name != "nt")
    [site] = folder.glob("lib/python*/site-packages")
    for name in closure(names):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] != ".."}:
            if not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    return folder / "bin" / "python"


def line(python: Path, folder: Path, module: str, *words: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    command = [str(python), "-W", "ignore", "-m", module, *words]
    result = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f"{command}\n{result.stderr[-3000:]}"


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_package_runs_with_what_its_metadata_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Download, list and inference of docs/deploy.md, and the check."""
    monkeypatch.setattr(package, "LIST", tmp_path / "model_info.json")
    bundle = Bundle(bundles()[name], tmp_path)
    weights = bundle.weights("inference", "small")
    [archive] = package.package(
        name, weights=str(weights), overlay=str(bundle.file("small")), output_dir=str(tmp_path / "dist")
    )
    required, optional = named_packages(bundle.config("metadata"))
    python = environment(tmp_path / "environment", set(required))
    absent = optional.keys() - closure(set(required))
    assert "lpips" in absent and subprocess.run([python, "-c", "import lpips"], capture_output=True).returncode
    scans = tmp_path / "scans"
    subjects = read_subjects(bundle.phantom)
    [patient] = subjects["test"]
    images = dict(patient["images"])
    target, _ = patient["images"].popitem()
    for each in (each for split in SPLITS for each in subjects[split]):
        (scans / each["subject"]).mkdir(parents=True)
        for sequence, file in each["images"].items():
            (scans / each["subject"] / f"{sequence}.nii.gz").symlink_to(file)
    folder, commands, names = tmp_path / name, f"{name}.common.data", json.dumps({each: each for each in images})
    line(
        python,
        tmp_path,
        "monai.bundle",
        "download",
        "--name",
        name,
        "--url",
        Path(archive).as_uri(),
        "--bundle_dir",
        ".",
    )
    options = ("--pattern", "{subject}/{sequence}.nii.gz", "--names", names, "--validation", "0", "--test", "0")
    line(python, folder, commands, "list", str(scans), *options)
    line(python, folder, commands, "check", str(scans))
    options = ("--dataset_dir", str(scans), "--output_dir", "out")
    line(python, folder, "monai.bundle", "run", "inference", "--config_file", "configs/inference.json", *options)
    [made] = (tmp_path / name / "out").rglob("*.nii.gz")
    assert made.name == f"{patient['subject']}_{target}.nii.gz" and nib.load(made).shape == nib.load(file).shape
