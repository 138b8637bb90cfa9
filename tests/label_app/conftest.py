"""Tiny bundles for the server, and studies on grids that no axis of the world is parallel to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from common.data.subjects import read_subjects, write_subjects

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
