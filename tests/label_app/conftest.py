"""Tiny bundles for the server, and studies on grids that no axis of the world is parallel to."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import pytest

from ci import package
from common.data.subjects import read_subjects, write_subjects
from label_app.bundles import ServedBundle

from .serving import NAMES, PYTHON, ROOT, Server

ROTATED = [[7.0, -3.0, 1.0, 20.0], [3.0, 7.0, -2.0, -35.0], [0.0, 2.0, 7.5, 11.0], [0, 0, 0, 1]]
SHEARED = [[-8.0, 2.5, 0.0, 90.0], [0.0, 8.0, 1.5, -80.0], [0.0, 0.0, 8.0, -60.0], [0, 0, 0, 1]]


@pytest.fixture(scope="session")
def overlay(tiny: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A configuration that makes a bundle's network tiny and its training short."""
    folder = tmp_path_factory.mktemp("overlays")

    def create(bundle: str) -> Path:
        path = folder / f"{bundle}.json"
        path.write_text(json.dumps({name.replace("#", "::"): value for name, value in tiny[bundle].items()}))
        return path

    return create


@pytest.fixture
def studies_dir(phantom_dir: Path, tmp_path: Path) -> Path:
    """The phantom: subject 2 on a rotated grid without its FLAIR, subject 3 on a sheared one."""
    return make_studies(phantom_dir, tmp_path / "studies")


@pytest.fixture
def served(overlay: Callable, weights_of: Callable, tmp_path: Path) -> ServedBundle:
    """Seq2Seq with random weights."""
    bundle = ServedBundle(ROOT / "bundles" / "mri_seq2seq", [str(overlay("mri_seq2seq"))], tmp_path / "work")
    bundle.trained.mkdir(parents=True)
    shutil.copyfile(weights_of("mri_seq2seq"), bundle.trained / "model.pt")
    return bundle


def make_studies(phantom_dir: Path, folder: Path) -> Path:
    shutil.copytree(phantom_dir, folder)
    subjects = read_subjects(folder)
    [rotated], [sheared] = subjects["validation"], subjects["test"]
    for entry, affine in ((rotated, ROTATED), (sheared, SHEARED)):
        for file in [*entry["images"].values(), *entry["masks"].values(), *entry["reference"].values()]:
            image = nib.load(file)
            nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), np.array(affine)), file)
    rotated["withheld"] = {"FLAIR": rotated["images"].pop("FLAIR")}
    write_subjects(folder / "subjects.json", subjects)
    return folder


@pytest.fixture(scope="session")
def bundles_dir(overlay: Callable, weights_of: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles, packed with random weights and unpacked."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "LIST", folder / "model_info.json")
        for name in NAMES:
            files = {"weights": str(weights_of(name)), "overlay": str(overlay(name))}
            [archive] = package.package(name, output_dir=str(folder), **files)
            ZipFile(archive).extractall(folder / "bundles")
    return folder / "bundles"


@pytest.fixture(scope="session")
def server(bundles_dir: Path, phantom_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Started as ci/label starts it, on a free port."""
    if not PYTHON.exists():
        pytest.skip("there is no .venv-label, MONAI Label's environment; `./ci/label --install` makes it")
    folder = tmp_path_factory.mktemp("server")
    studies = make_studies(phantom_dir, folder / "studies")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PYTHON), "-W", "ignore", "-m", "monailabel.main", "start_server", "--app", "label_app"]
    options = [
        "--uvicorn_app",
        "label_app.server:app",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--studies",
        str(studies),
        "--conf",
        "bundles_dir",
        str(bundles_dir),
    ]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "no_proxy": "127.0.0.1"}
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([*command, *options], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            server = Server(port, studies, studies / ".monailabel")
            for _ in range(1200):
                assert process.poll() is None, (folder / "log.txt").read_text()[-3000:]
                try:
                    server.json("GET", "/info/")
                    break
                except OSError:
                    time.sleep(0.25)
            yield server
        finally:
            process.terminate()
            process.wait(30)
