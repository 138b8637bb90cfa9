"""The matrix over all disturbances: what is run, what is averaged, what is written."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

from common.evaluation.disturbances import DISTURBANCES, Disturbd
from common.evaluation.robustness import Robustness, means
from common.evaluation.scores import ScoreTable

RUNS = [("none", 0), *[(name, level) for name in DISTURBANCES for level in (1, 2, 3)]]


def scores(convention: str, loss: float) -> ScoreTable:
    """Two sequences of one subject: 30 dB restored, 20 dB translated, less what the disturbance costs."""
    table = ScoreTable(convention)
    for source in ("T1", "T2"):
        for target in ("T1", "T2"):
            numbers = {"psnr": (30 if source == target else 20) - loss, "ssim": 0.9 - loss / 100}
            table.add("sub-1", "network", source, target, numbers)
            if source != target:
                table.add("sub-1", "copy", source, target, {"psnr": 99.0, "ssim": 0.99})
        table.add("sub-1", "network", "others", source, {"psnr": 77.0, "ssim": 0.77})
    table.add("sub-1", "network", "T1>T2", "T1", {"psnr": 66.0, "ssim": 0.66})
    return table


class Matrix:
    def __init__(self) -> None:
        self.output_dir, self.info, self.tables = Path("elsewhere"), {"truth": "images"}, {}


class Evaluator:
    """Costs a decibel per level; remembers what it was asked for."""

    def __init__(self, disturb: Disturbd, matrix: Matrix) -> None:
        self.disturb, self.matrix, self.runs = disturb, matrix, []

    def run(self) -> None:
        level = 0 if self.disturb.disturbance == "none" else self.disturb.level
        self.runs.append((self.disturb.disturbance, level, self.matrix.output_dir, dict(self.matrix.info)))
        self.matrix.tables = {name: scores(name, level) for name in ("declared", "published")}


@pytest.fixture
def done(tmp_path: Path, capsys: pytest.CaptureFixture) -> dict[str, Any]:
    disturb, matrix = Disturbd("image"), Matrix()
    evaluator = Evaluator(disturb, matrix)
    lines = Robustness(evaluator, str(tmp_path / "eval")).run()
    return {"lines": lines, "runs": evaluator.runs, "folder": tmp_path / "eval", "printed": capsys.readouterr().out}


def test_every_disturbance_has_its_run_and_folder(done: dict[str, Any]):
    names = ["none"] + [f"{name}_{level}" for name, level in RUNS[1:]]
    assert [(name, level, folder) for name, level, folder, _ in done["runs"]] == [
        (*run, done["folder"] / name) for run, name in zip(RUNS, names, strict=True)
    ]
    assert done["runs"][5][3] == {"truth": "images", "disturbance": "bias_field", "level": 2}, "for the scores' JSON"


def test_restored_and_translated_are_averaged(done: dict[str, Any]):
    assert len(done["lines"]) == 2 * 13
    with open(done["folder"] / "robustness.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 26 and {row["convention"] for row in rows} == {"declared", "published"}
    line = next(r for r in rows if (r["convention"], r["disturbance"], r["level"]) == ("declared", "noise", "3"))
    assert float(line["strength"]) == 0.1
    assert [float(line[of]) for of in ("restored_psnr", "translated_psnr")] == [27, 17]
    assert float(line["restored_ssim"]) == pytest.approx(0.87)
    assert rows[0]["disturbance"] == "none" and float(rows[0]["restored_psnr"]) == 30


def test_the_printed_table(done: dict[str, Any]):
    text = done["printed"]
    assert text.count("Convention ") == 2 and "Convention declared, PSNR (dB) / SSIM" in text
    assert [line.split() for line in text.splitlines() if line.startswith("motion")][1] == [
        *("motion", "2", "1", "28.00", "/", "0.880", "18.00", "/", "0.880")
    ]


def test_infinite_and_missing_numbers_stay_out():
    table = ScoreTable("declared")
    table.add("sub-1", "network", "T1", "T1", {"psnr": math.inf, "ssim": 1.0})
    table.add("sub-2", "network", "T1", "T1", {"psnr": 40.0, "ssim": math.nan})
    found = means(table)
    assert found["restored_psnr"] == 40 and found["restored_ssim"] == 1
    assert math.isnan(found["translated_psnr"]) and math.isnan(found["translated_ssim"])


def test_the_bundle_s_run(workflow, phantom_dir: Path, tiny_weights: Path, tmp_path: Path, monkeypatch):
    """One disturbance, through a data loader's own process, network and scores: each run sees what it should."""
    from common.evaluation import robustness

    monkeypatch.setattr(robustness, "LEVELS", (3,))
    monkeypatch.setattr(robustness, "DISTURBANCES", {"noise": DISTURBANCES["noise"]})
    settings = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path, "output_dir": tmp_path / "eval"}
    run = workflow(
        "mri_seq2seq",
        "train.json",
        "evaluate.json",
        "robustness.json",
        weights=tiny_weights,
        num_workers=1,
        **settings,
    )
    run.run()
    assert {path.name for path in (tmp_path / "eval").iterdir()} >= {"none", "noise_3", "robustness.csv"}
    tables = [ScoreTable.read(tmp_path / "eval" / name, "declared") for name in ("none", "noise_3")]
    psnr = [means(table)["restored_psnr"] for table in tables]
    assert round(psnr[0], 3) != round(psnr[1], 3) and all(map(math.isfinite, psnr))
    assert [table.info["disturbance"] for table in tables] == ["none", "noise"]
