"""The user's own scans in the demonstration."""

from __future__ import annotations

from pathlib import Path

import pytest

from ci import demo


def test_a_second_patient_does_not_join_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "DEMO", tmp_path / "demo")
    monkeypatch.setattr(demo, "train", lambda epochs: None)
    given = []

    def complete(dataset_dir: Path, output_dir: Path, **options: str) -> None:
        (output_dir / dataset_dir.name).mkdir(parents=True)
        given.append((dataset_dir, options))

    monkeypatch.setattr(demo, "complete", complete)
    monkeypatch.setenv("CALLED_FROM", str(tmp_path))
    for patient in ("first", "second"):
        demo.demo(patient, grid="T1")
    assert given[1] == (tmp_path / "second", {"grid": "T1", "pattern": ""})
    assert [path.name for path in (tmp_path / "demo" / "own" / "completed").iterdir()] == ["second"]
