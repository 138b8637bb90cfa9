"""The comparison's files: numbers that can be read back, and a page that shows names as they are."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

from common.evaluation.compare import compare, figure
from common.evaluation.leaderboard import leaderboard
from common.evaluation.runs import read_runs

NAME = "<script>alert(1)</script>"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_files(results: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folders = [results("one", [20, 22, 27]), results("two", [24, 25, 26])]
    compare(*folders, names=("A", 2), output_dir=tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert sorted(path.name for path in out.iterdir()) == ["leaderboard.csv", "leaderboard.html", "tests.csv"]

    board = read(out / "leaderboard.csv")
    assert [(row["target"], row["name"], row["method"]) for row in board[:4]] == [
        ("all", "2", "network"),
        ("all", "A", "network"),
        ("all", "map", "map"),
        ("all", "copy", "copy"),
    ]
    assert {row["target"] for row in board} == {"all", "T1", "T2"} and len(board) == 12
    assert float(board[0]["psnr_mean"]) == 25 and float(board[0]["psnr_std"]) == 1 and board[0]["psnr_subjects"] == "3"

    tests = read(out / "tests.csv")
    assert [(row["metric"], row["first"], row["second"]) for row in tests] == [
        (metric, "A", "2") for metric in ("psnr", "ssim", "nmse")
    ]
    # Differences -4, -3 and 1: the positive rank sum is 1, and 4 of 2^3 sign patterns lie as far out on either side.
    assert float(tests[0]["difference"]) == -2 and float(tests[0]["p"]) == 0.5 and float(tests[0]["smallest_p"]) == 0.25

    printed = capsys.readouterr().out
    assert "25.00 ± 1.00*" in printed and "p = 0.5" in printed and "2/2^3 = 0.25" in printed
    assert printed.endswith(f"leaderboard.csv, tests.csv and leaderboard.html are in {out}.\n")


def test_the_page(results: Callable[..., Path], tmp_path: Path):
    folders = [
        results("one", [20, 22, 27], subjects=[NAME, "b", "c"]),
        results("two", [24, 25, 26], subjects=[NAME, "b", "c"]),
    ]
    compare(*folders, names=[NAME, "B & C"], output_dir=tmp_path)
    html = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    own = html.replace(get_plotlyjs(), "")
    assert len(own) < len(html)
    assert NAME not in own and "alert(1)</" not in own
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in own and "B &amp; C" in own
    assert not re.search(r"(src|href)\s*=|@import|url\(", own)
    assert own.count("<b>25.00 ± 1.00</b>") == 1 and own.count("plotly-graph-div") >= 3
    assert "Convention declared (in the brain)" in own and "2/2^3 = 0.25" in own and "abababababab<" in own


def test_the_chart(results: Callable[..., Path]):
    runs = read_runs([results("one", [20, 22, 27]), results("two", [24, 25, 26])])
    drawn = figure([line for line in leaderboard(runs) if line.target == "all"], "psnr")
    boxes = [trace for trace in drawn.data if trace.type == "box"]
    assert [(box.name, list(box.y), list(box.text)) for box in boxes] == [
        ("two", [24, 25, 26], ["a", "b", "c"]),
        ("one", [20, 22, 27], ["a", "b", "c"]),
    ]
    lines = {trace.name: (list(trace.y), trace.visible) for trace in drawn.data if trace.type == "scatter"}
    assert lines == {"map 20.00": ([20, 20], True), "copy 10.00": ([10, 10], "legendonly")}


def test_names_in_the_chart_are_text(results: Callable[..., Path]):
    folders = [results(name, [20, 22], subjects=["<b>", "c"]) for name in ("one", "two")]
    runs = read_runs(folders, names=["<i>", "B & C"])
    drawn = figure([line for line in leaderboard(runs) if line.target == "all"], "psnr")
    assert drawn.data[0].text[0] == "&lt;b&gt;" and drawn.data[0].name == "&lt;i&gt;"
    assert drawn.layout.xaxis.ticktext == ("&lt;i&gt;", "B &amp; C")


def test_refused_runs_leave_no_files(results: Callable[..., Path], tmp_path: Path):
    folders = [results("one", [20, 22]), results("two", [20, 22], truth="reference")]
    with pytest.raises(ValueError, match="truth is 'images' in one and 'reference' in two"):
        compare(*folders, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
