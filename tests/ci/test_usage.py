"""--help, before anything is installed or started."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("weights", "--seed (77)"),
        ("package", "Markdown about the weights"),
        ("demo", "of training; more is better"),
        ("verify", "a revision"),
        ("test", "--full adds what takes long"),
        ("label", "--install"),
        ("benchmark", "a git revision to measure beside this tree"),
    ],
)
@pytest.mark.parametrize(
    "line", [["--help"], ["mri_seq2seq", "-h"], ["mri_seq2seq", "--dataset_dir", "DIR", "--help", "more"]]
)
def test_help_anywhere_installs_and_starts_nothing(script: str, said: str, line: list[str], tmp_path: Path):
    for name in ("ci", "common"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command, alone = [tmp_path / "ci" / script, *line], {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=alone)
    assert done.returncode == 0 and done.stderr == "" and said in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"ci", "common"}
