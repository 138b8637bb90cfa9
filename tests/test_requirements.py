"""What the code imports is listed, in the file of those who need it, and what is listed is needed."""

from __future__ import annotations

import ast
import functools
import re
import sys
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OWN = {"common", "ci", "tests", "label_app", *(path.name for path in (ROOT / "bundles").iterdir())}
SLICER = {"qt", "slicer", "MONAILabelLib", "MRIContrastLib"}  # what 3D Slicer brings, and the module's own
LISTED = {
    "common bundles": ("requirements.txt", "requirements-onnx.txt", "requirements-prepare.txt"),
    "ci": ("requirements.txt", "tests/requirements.txt"),
    "tests": (
        *("requirements.txt", "tests/requirements.txt"),
        *("requirements-mlflow.txt", "requirements-prepare.txt", "requirements-downstream.txt"),
    ),
    "label_app": ("requirements.txt", "label_app/requirements.txt", "label_app/requirements-no-deps.txt"),
}
USERS = {
    "requirements.txt": "common bundles",
    "requirements-onnx.txt": "common bundles",
    "requirements-mlflow.txt": "tests",
    "requirements-prepare.txt": "common",
    "requirements-downstream.txt": "tests",
    "tests/requirements.txt": "tests ci common",
}
ELSEWHERE = {"ray"}  # what users have if they have it; its test is skipped without
NEEDED_BY = {  # without an import here: where the need stands
    "einops": ("common/blocks/*.py", "DiffusionModelUNet"),
    "pyyaml": ("ci/package.py", "large_files.yml"),  # MONAI's download_large_files reads it
    "tensorboard": ("common/training/*.py", "TensorBoardStatsHandler"),
    "pytest-xdist": ("ci/test", "-n 2"),
    "ruff": ("ci/test", "ruff check"),
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def listed(*files: str) -> set[str]:
    lines = [line.split("#")[0].strip() for file in files for line in (ROOT / file).read_text().splitlines()]
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines if line}


@functools.cache
def imported(folders: str) -> dict[str, str]:
    """Distributions, each with a file that imports it; a module that is not installed stands for its own."""
    known, found = {"nrrd": ["pynrrd"], **packages_distributions()}, {}  # that one is in the server's environment only
    for path in (path for folder in folders.split() for path in sorted((ROOT / folder).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "importorskip":
                modules = [node.args[0].value]
            for name in {module.split(".")[0] for module in modules} - OWN - SLICER - sys.stdlib_module_names:
                owners = known.get(name, [name])  # several have a part of mlflow, one of them its name
                owners = [name] if name in owners else owners
                found |= {normal(each): path.relative_to(ROOT).as_posix() for each in owners}
    return found


@pytest.mark.parametrize("folders", LISTED)
def test_what_is_imported_is_listed(folders: str):
    found = imported(folders)
    missing = found.keys() - listed(*LISTED[folders]) - ELSEWHERE
    assert not missing, {name: found[name] for name in missing}


@pytest.mark.parametrize("file", USERS)
def test_what_is_listed_is_needed(file: str):
    unused = listed(file) - imported(USERS[file]).keys()
    shown = {name for name, (files, text) in NEEDED_BY.items() if any(text in p.read_text() for p in ROOT.glob(files))}
    assert not unused - shown


def test_what_the_server_s_files_list_is_what_monai_label_asks_for():
    """They stand in for the dependencies that cannot be installed with it."""
    environments = ROOT.glob(".venv-label/lib/python*/site-packages")
    found = [path for site in environments for name in ("monailabel", "pydicom_seg") for path in site.glob(f"{name}-*")]
    metadata = [path / "METADATA" for path in found if (path / "METADATA").exists()]
    if not metadata:
        pytest.skip("There is no .venv-label: ./ci/label --install makes it")
    asked = {name for path in metadata for name in re.findall(r"^Requires-Dist: ([\w.-]+)", path.read_text(), re.M)}
    asked |= {re.match(r"[\w.-]+", each)[0] for each in requires("monai")}  # monailabel asks for MONAI's extras
    own = {"monailabel", "pydicom-seg", *imported("label_app")}
    assert (
        not listed("label_app/requirements.txt", "label_app/requirements-no-deps.txt") - set(map(normal, asked)) - own
    )


def test_tested_versions_satisfy_the_ranges():
    """Every range has a tested version within it."""
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "ci" / "constraints.txt").read_text(), re.M))
    tested = {normal(name): number for name, number in tested.items()}
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if match := re.match(r"([\w.-]+)>=([\d.]+)$", line):
            lowest, number = (
                [int(part) for part in re.findall(r"\d+", v)] for v in (match[2], tested[normal(match[1])])
            )
            assert number >= lowest, line
            assert version(match[1])
