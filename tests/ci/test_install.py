"""Installed from a wheel: all that git has, nothing called `common` at the top, and the command runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]


def files(*folders: str) -> list[str]:
    """Of the repository, without what git ignores."""
    line = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a wheel would put into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # for what is built lies in the source's folder
    for name in files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(line, check=True, capture_output=True)
    ZipFile(next(folder.glob("*.whl"))).extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_all_and_nothing_called_common(site: Path):
    names = [f"mri_contrast/{name.removeprefix('common/')}" for name in files("common", "bundles")]
    held = {path.relative_to(site).as_posix() for path in site.glob("mri_contrast/**/*") if path.is_file()}
    assert held <= set(names), "nothing else"
    assert len(names) > 100 and [name for name in names if not (site / name).is_file()] == []
    assert sorted(path.name for path in site.iterdir() if path.suffix != ".dist-info") == ["mri_contrast"]


def test_the_command_completes_a_patient(site: Path, tmp_path: Path, phantom_dir: Path, described_weights: Path):
    alone = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "mri_contrast", "complete", phantom_dir, "made", "--weights", described_weights]
    done = subprocess.run([*line, "--targets", "FLAIR"], cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "made").glob("*/*_FLAIR.nii.gz"))) == 4
    code = "from mri_contrast import complete; import mri_contrast.workflows as w; print(sorted(w.bundle_folders()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=alone, capture_output=True, text=True)
    names = sorted(path.name for path in (ROOT / "bundles").iterdir())
    assert len(names) == 9 and done.stdout == f"{names}\n"
