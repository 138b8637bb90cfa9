"""The user's own scans in the demonstration."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import demo
from common.data.subjects import read_subjects


def test_a_second_patient_does_not_join_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "DEMO", tmp_path / "demo")
    monkeypatch.setattr(demo, "train", lambda epochs: None)

    def complete(dataset_dir: Path, output_dir: Path) -> None:
        [entry] = read_subjects(dataset_dir)["training"]
        (output_dir / entry["subject"]).mkdir(parents=True)

    monkeypatch.setattr(demo, "complete", complete)
    monkeypatch.setenv("CALLED_FROM", str(tmp_path))
    for patient in ("first", "second"):
        (tmp_path / patient).mkdir()
        (tmp_path / patient / "T1.nii").touch()
        demo.demo(input=patient)
    found = read_subjects(tmp_path / "demo" / "own")["training"]
    assert [entry["subject"] for entry in found] == ["second"]
    assert [path.name for path in (tmp_path / "demo" / "own" / "completed").iterdir()] == ["second"]
    assert Path(found[0]["images"]["T1"]).samefile(tmp_path / "second" / "T1.nii")
