"""Eq. 4 by hand on three sequences, its ranks, and what is refused."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from common.evaluation.contribution import adjacency, contribution, formula, rank_contributions
from common.evaluation.scores import ScoreTable

PSNR = {  # of two subjects per pair
    ("T1", "T2"): (30, 30),
    ("T1", "FLAIR"): (26, 28),
    ("T2", "T1"): (24, 24),
    ("T2", "FLAIR"): (22, 24),
    ("FLAIR", "T1"): (20, 22),
    ("FLAIR", "T2"): (18, 20),
}


@pytest.fixture
def table() -> ScoreTable:
    """SSIM is PSNR / 100, LPIPS 1 - PSNR / 100: the three z-scores agree up to LPIPS's sign."""
    table = ScoreTable()
    for (source, target), values in PSNR.items():
        for subject, psnr in zip("ab", values, strict=True):
            numbers = {"psnr": psnr, "ssim": psnr / 100, "lpips": 1 - psnr / 100}
            table.add(subject, "network", source, target, numbers)
            table.add(subject, "map", source, target, {"psnr": 99.0, "ssim": 1.0, "lpips": 0.0})
    for source, target in (("T1", "T1"), ("others", "T1"), ("T1>T2", "FLAIR")):
        table.add("a", "network", source, target, {"psnr": 90.0, "ssim": 0.9, "lpips": 0.1})
    table.info["sequences"] = ["T1", "T2", "FLAIR", "T1Gd"]  # the network knows one more than the test set has
    return table


def changed(table: ScoreTable, change: Callable[[dict[str, Any]], bool | None]) -> ScoreTable:
    """The table with every row changed, without those for which the change says False."""
    result = ScoreTable()
    for row in table.rows:
        if change(row) is not False:
            key = [row.pop(name) for name in ("subject", "method", "source", "target")]
            result.add(*key, row)
    result.info = table.info
    return result


def test_by_hand(table: ScoreTable):
    # The twelve values sum to 288, their mean is 24; the squared deviations are
    # 36 + 36 + 4 + 16 + 0 + 0 + 4 + 0 + 16 + 4 + 36 + 16 = 168, so the population's deviation is sqrt(14).
    std = math.sqrt(14)
    expected = 3 / std * np.array([[0, 6, 3], [0, 0, -1], [-3, -5, 0]])
    names, matrix = adjacency(table)
    assert names == ["T1", "T2", "FLAIR"] and formula(table) == "PSNR + SSIM - LPIPS"
    assert matrix == pytest.approx(expected, abs=1e-6)
    # C_t: rows' sums 9, -1, -8; C_d: minus the columns' -3, 1, 2; each over S = 3 and times 3 / sqrt(14).
    first, second, third = rank_contributions(table)
    assert first == ("T1", pytest.approx(9 / std), 1, pytest.approx(3 / std), 1)
    assert second == ("T2", pytest.approx(-1 / std), 2, pytest.approx(-1 / std), 2)
    assert third == ("FLAIR", pytest.approx(-8 / std), 3, pytest.approx(-2 / std), 3)


def test_without_lpips(table: ScoreTable):
    table = changed(table, lambda row: row.update(lpips=math.nan))
    assert formula(table) == "PSNR + SSIM, without LPIPS"
    assert rank_contributions(table)[0].totipotency == pytest.approx(6 / math.sqrt(14))


def test_rows_that_are_not_finite_stay_out(table: ScoreTable):
    table.add("c", "network", "T1", "T2", {"psnr": math.inf, "ssim": 1.0, "lpips": 0.0})
    table.add("c", "network", "T2", "T1", {"psnr": 50.0, "ssim": math.nan, "lpips": 0.0})
    assert rank_contributions(table)[0].totipotency == pytest.approx(9 / math.sqrt(14))


def test_a_metric_that_never_varies_counts_nothing(table: ScoreTable):
    table = changed(table, lambda row: row.update(ssim=0.9))
    assert rank_contributions(table)[0].totipotency == pytest.approx(6 / math.sqrt(14))


def test_equal_sequences_share_a_rank():
    table = ScoreTable()
    for source, target in (("T1", "T2"), ("T2", "T1")):
        table.add("a", "network", source, target, {"psnr": 20.0, "ssim": 0.5})
    assert [(c.totipotency_rank, c.differentiation_rank) for c in rank_contributions(table)] == [(1, 1), (1, 1)]


def test_too_little_is_refused(table: ScoreTable):
    def gap(row: dict[str, Any]) -> bool:
        return (row["source"], row["target"]) != ("T2", "FLAIR")

    rank_contributions(changed(table, lambda row: gap(row) or row["subject"] == "a"))
    with pytest.raises(ValueError, match="No subject has a score from T2 to FLAIR; evaluate"):
        rank_contributions(changed(table, gap))
    with pytest.raises(ValueError, match=r"two or more sequences; the scores have \['T1'\]"):
        rank_contributions(changed(table, lambda row: row["source"] == row["target"]))
    with pytest.raises(ValueError, match="the scores have no ssim"):
        rank_contributions(changed(table, lambda row: row.pop("ssim") is not None))


def test_the_files(table: ScoreTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table.write(tmp_path, table.info)
    contribution(tmp_path)
    with (tmp_path / "contribution_declared.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["sequence"] for row in rows] == ["T1", "T2", "FLAIR"]
    assert float(rows[0]["totipotency"]) == pytest.approx(9 / math.sqrt(14))
    assert rows[2]["differentiation_rank"] == "3" and rows[0]["metrics"] == "PSNR + SSIM - LPIPS"
    picture = imread(tmp_path / "contribution_declared.png")
    assert picture.shape[0] == 480 and picture[..., :3].std() > 0.1
    assert not list(tmp_path.glob(".*"))
    printed = capsys.readouterr().out
    assert "convention declared" in printed and "PSNR + SSIM - LPIPS, 2 subjects" in printed
    assert "T1          2.405     1    0.802     1" in printed


def test_results_that_are_not_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no scores under the convention 'aldm'"):
        contribution(tmp_path, "aldm")
