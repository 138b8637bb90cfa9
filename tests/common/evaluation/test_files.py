"""What is written can be read, and nothing half-written stays."""

from __future__ import annotations

import csv
from pathlib import Path

from common.evaluation.files import write_csv


def test_rows_round_trip(tmp_path: Path):
    path = tmp_path / "rows.csv"
    path.write_text("an earlier file that is longer than the new one, and is replaced as a whole\n" * 9)
    write_csv(path, ["name", "value"], [("a,b", 0.1 + 0.2), ("sub-ü", float("nan"))])
    with path.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["name", "value"], ["a,b", "0.30000000000000004"], ["sub-ü", "nan"]]
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.csv"]
