"""Means over subjects of means over pairs; what compares, and what the reader is told."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from common.evaluation.leaderboard import best, leaderboard, leaderboard_text, notes, supports
from common.evaluation.runs import Run, read_runs
from common.evaluation.significance import paired_tests


@pytest.fixture
def runs(results: Callable[..., Path]) -> list[Run]:
    return read_runs([results("one", [20, 22, 27]), results("two", [24, 25, 26])])


def compared(runs: list[Run]) -> list:
    lines = {line.name: line for line in leaderboard(runs) if line.target == "all"}
    return paired_tests({"psnr": {run.name: lines[run.name].values["psnr"] for run in runs}})


def test_means_by_hand(runs: list[Run]):
    lines = {(line.target, line.name): line for line in leaderboard(runs)}
    assert [key for key in lines if key[0] == "all"] == [("all", name) for name in ("two", "one", "map", "copy")]
    assert list(dict.fromkeys(target for target, _ in lines)) == ["all", "T1", "T2"]
    line = lines["all", "one"]
    assert line.values["psnr"] == {"a": 20, "b": 22, "c": 27} and line.mean("psnr") == 23
    assert line.std("psnr") == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert line.text("psnr") == "23.00 ± 3.61" and line.text("ssim") == "0.730 ± 0.036"
    assert lines["T2", "one"].mean("psnr") == 24 and lines["T1", "one"].mean("psnr") == 22
    assert lines["all", "map"].mean("psnr") == 20 and lines["all", "copy"].std("psnr") == 0


def test_the_best_of_each_metric(runs: list[Run]):
    lines = [line for line in leaderboard(runs) if line.target == "all"]
    assert best(lines, "psnr") == 25
    assert best(lines, "nmse") == pytest.approx(0.1 - 0.025), "the lowest"
    text = leaderboard_text(runs, leaderboard(runs), compared(runs)).splitlines()
    assert "Convention declared (in the brain)" in text[0] and "3 subjects" in text[0] and "2 pairs" in text[0]
    assert text[3].startswith("two") and text[3].count("*") == 3
    assert all("*" not in line for line in text[4:7])
    assert "PSNR (dB): one - two = -2.00, p = 0.5" in text


def test_methods_are_compared_inside_masks_too(runs: list[Run]):
    for value, run in enumerate(runs):
        for scores in run.scores.values():
            for of in scores.values():
                of |= {"psnr_plaque": value, "psnr_outside_plaque": 30, "psnr_volume": 30}
    lines = leaderboard(runs)
    assert list(lines[0].values) == ["psnr", "ssim", "nmse", "psnr_plaque"]
    assert best([line for line in lines if line.target == "all"], "psnr_plaque") == 1
    assert "PSNR (dB) in the plaque" in leaderboard_text(runs, lines, [])


def test_rivals_of_their_own_get_lines_of_their_own(results: Callable[..., Path]):
    folders = [results("one", [20, 22]), results("two", [21, 23], map_psnr=21), results("three", [19, 20])]
    names = [line.name for line in leaderboard(read_runs(folders)) if line.target == "all"]
    assert names == ["two", "one", "map of two", "map of one, three", "three", "copy"]


def test_what_is_not_finite_in_one_run_is_left_out_of_all(runs: list[Run]):
    runs[0].scores["network"]["a", "T1", "T2"]["psnr"] = math.inf
    runs[1].scores["network"]["b", "T1", "T2"]["ssim"] = math.nan
    assert len(supports(runs)["psnr"]) == len(supports(runs)["ssim"]) == 5 and len(supports(runs)["nmse"]) == 6
    lines = {(line.target, line.name): line for line in leaderboard(runs)}
    assert lines["all", "one"].values["psnr"]["a"] == 19 and lines["all", "two"].values["psnr"]["a"] == 23
    assert lines["T2", "two"].values["psnr"].keys() == {"b", "c"}
    assert "PSNR (dB): 1 of 6 values are not finite in every run; left out." in notes(
        runs, [*lines.values()], compared(runs)
    )


def test_a_rival_that_lacks_a_pair_has_no_mean(runs: list[Run]):
    for run in runs:
        del run.scores["map"]["b", "T1", "T2"]
    lines = {(line.target, line.name): line for line in leaderboard(runs)}
    assert lines["all", "map"].text("psnr") == lines["T2", "map"].text("psnr") == "-"
    assert lines["T1", "map"].text("psnr") == "19.00 ± 0.00"
    assert [name for target, name in lines if target == "all"][-1] == "map", "after those with a number"
    assert any(note.startswith("-: some of the pairs") for note in notes(runs, [*lines.values()], compared(runs)))


def test_lpips_only_where_all_runs_have_it(results: Callable[..., Path]):
    with_it = [results(name, [20, 22], lpips="aa") for name in ("one", "two")]
    assert list(supports(read_runs(with_it))) == ["psnr", "ssim", "nmse", "lpips"]
    assert list(supports(read_runs([*with_it, results("three", [20, 22])]))) == ["psnr", "ssim", "nmse"]


def test_runs_without_a_shared_metric(runs: list[Run]):
    for numbers in runs[0].scores["network"].values():
        numbers.clear()
    with pytest.raises(ValueError, match="one, two share no value of psnr"):
        leaderboard(runs)


@pytest.mark.parametrize(
    ("subjects", "names", "note"),
    [
        (5, "AB", "With 5 subjects p cannot fall below 2/2^5 = 0.0625, whatever the difference."),
        (6, "AB", None),
        (6, "ABC", "= 0.03125, and 0.09375 after the correction"),
        (8, "ABC", None),
    ],
)
def test_what_so_few_subjects_can_show(results: Callable[..., Path], subjects: int, names: str, note: str | None):
    runs = read_runs([results(name, [20 + k for k in range(subjects)]) for name in names])
    found = notes(runs, leaderboard(runs), compared(runs))
    assert note in found[0] if note else found == []
