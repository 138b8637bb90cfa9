"""A packed bundle as a new user gets it: downloaded into an empty folder, and run there by one more line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel as nib
import pytest
import torch
from monai.bundle import download

from ci import package
from common.data.subjects import read_subjects, write_subjects
from common.inference.weights import load_weights, sha256

NAME = "mri_seq2seq"


@pytest.fixture(scope="module")
def dist(
    tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, dict[str, Any]], weights_of: Callable[[str], Path]
) -> Path:
    """A folder with a packed bundle that has tiny weights."""
    folder = tmp_path_factory.mktemp("dist")
    overlay = folder / "tiny.json"
    overlay.write_text(json.dumps({name.replace("#", "::"): value for name, value in tiny[NAME].items()}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "LIST", folder / "model_info.json")
        package.package(NAME, weights=str(weights_of(NAME)), overlay=str(overlay), output_dir=str(folder))
    return folder


@pytest.fixture(scope="module")
def address(dist: Path) -> Iterator[str]:
    """That folder, served on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=dist)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def bundle(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """`python -m monai.bundle` in a folder, with nothing of this repository at hand."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-W", "ignore", "-m", "monai.bundle", *words]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_downloaded_and_run(address: str, dist: Path, phantom_dir: Path, tmp_path: Path):
    [archive] = dist.glob("*.zip")
    url = f"{address}/{archive.name}"
    result = bundle(tmp_path, "download", "--name", NAME, "--url", url, "--bundle_dir", ".")
    assert result.returncode == 0, result.stderr[-3000:]
    subjects = read_subjects(phantom_dir)
    [patient] = subjects["test"]
    acquired = patient["images"].pop("FLAIR")
    write_subjects(tmp_path / "one.json", {**subjects, "training": [], "validation": []})
    data = ("--dataset_dir", str(phantom_dir), "--subject_list", str(tmp_path / "one.json"))
    line = ("run", "inference", "--config_file", "configs/inference.json", "--output_dir", "out")
    result = bundle(tmp_path / NAME, *line, *data)
    assert result.returncode == 0, result.stderr[-3000:]
    made = nib.load(tmp_path / NAME / "out" / patient["subject"] / f"{patient['subject']}_FLAIR.nii.gz")
    assert made.shape == nib.load(acquired).shape and (made.get_fdata() > 0).any()
    described = tmp_path / NAME / "models" / "model.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), "sha256": "0" * 64}))
    result = bundle(tmp_path / NAME, *line, *data)
    assert result.returncode and "Download it again" in result.stderr


def test_weights_beside_the_zip(address: str, dist: Path, weights_of: Callable[[str], Path], tmp_path: Path):
    """large_files.yml names them; MONAI fetches them, and inference says so where that was not done."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "LIST", tmp_path / "model_info.json")
        with pytest.raises(ValueError, match="--large needs --source"):
            package.package(NAME, weights=str(weights_of(NAME)), large=True)
        files = {"weights": str(weights_of(NAME)), "overlay": str(dist / "tiny.json")}
        [archive] = package.package(
            NAME, **files, source=f"{address}/large", large=True, output_dir=str(dist / "large")
        )
    ZipFile(archive).extractall(tmp_path)
    model = tmp_path / NAME / "models" / "model.pt"
    assert not model.exists()
    with pytest.raises(FileNotFoundError, match=r"Fetch them first .* download_large_files --bundle_path"):
        load_weights(torch.nn.Identity(), str(model))
    result = bundle(tmp_path, "download_large_files", "--bundle_path", NAME)
    assert result.returncode == 0, result.stderr[-3000:]
    assert sha256(model) == json.loads(model.with_suffix(".json").read_text())["sha256"]


def test_a_release_on_github(address: str, dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its address has the repository, the tag and `<name>_v<version>.zip`; only the host is another here."""
    asked = []

    def release(repo_owner: str, repo_name: str, tag_name: str, filename: str) -> str:
        asked.append(f"{repo_owner}/{repo_name}/{tag_name}/{filename}")
        return f"{address}/{filename}"

    monkeypatch.setattr("monai.bundle.scripts._get_git_release_url", release)
    [(full_name, entry)] = json.loads((dist / "model_info.json").read_text()).items()
    version = full_name.removeprefix(f"{NAME}_v")
    download(NAME, version=version, bundle_dir=str(tmp_path), source="github", repo="owner/repository/tag")
    assert asked == [f"owner/repository/tag/{full_name}.zip"] and entry["source"] == f"{full_name}.zip"
    assert (tmp_path / NAME / "models" / "model.json").is_file()


def test_layouts_of_zoo_and_hub(dist: Path, tmp_path: Path):
    """The zoo's zip has one folder of the bundle's name; the hub's snapshot is what is in that folder."""
    [archive] = dist.glob("*.zip")
    ZipFile(archive).extractall(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    for file in ("configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md", "LICENSE"):
        assert (tmp_path / NAME / file).is_file()
    (tmp_path / NAME).rename(tmp_path / "snapshot")
    code = "from monai.bundle import ConfigParser; p = ConfigParser(); p.read_config('configs/inference.json')"
    code += "; p['device'] = 'cpu'; print(type(p.get_parsed_content('network')).__name__)"
    line = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(line, cwd=tmp_path / "snapshot", capture_output=True, text=True)
    assert result.stdout == "Seq2Seq\n", result.stderr[-2000:]
