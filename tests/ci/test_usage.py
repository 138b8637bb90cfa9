"""--help, before anything is installed or started."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("weights", "seed: int=77"),
        ("package", "card: Markdown about the weights"),
        ("demo", "epochs: of training; more is better"),
        ("verify", "changed: a revision"),
        ("test", "--full adds what takes long"),
        ("label", "--install"),
    ],
)
@pytest.mark.parametrize(
    "line", [["--help"], ["mri_seq2seq", "-h"], ["mri_seq2seq", "--input", "DIR", "--help", "more"]]
)
def test_help_anywhere_installs_and_starts_nothing(script: str, said: str, line: list[str], tmp_path: Path):
    shutil.copytree(ROOT / "ci", tmp_path / "ci", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([tmp_path / "ci" / script, *line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "" and said in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["ci"]
