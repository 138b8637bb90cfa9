import csv
import json

import pytest

from common.downstream.pages import Statement, chart, curve_figure, interval_figure, verdict, write_experiment


def test_an_experiment_is_a_page_a_table_and_a_record(tmp_path):
    statements = [
        Statement("Seq2Seq, Fig. 4", "maps help <b>", True, "by 0.1"),
        Statement("Seq2Seq", "more", None, "too few"),
    ]
    curves = {"with <maps>": {1000: [0.5, 0.7], 3000: [0.9]}}
    sections = [("Accuracy", chart(curve_figure(curves, "samples", "accuracy")))]
    rows = [{"arm": "maps", "accuracy": 0.6}, {"arm": "none", "accuracy": 0.5}]
    page = write_experiment(
        tmp_path, "letters", "Letters", about="a < b", statements=statements, sections=sections, rows=rows,
        settings={"seeds": [0, 1]}, more={"note": 1},
    )  # fmt: skip
    text = page.read_text()
    assert "Here: seen." in text and "Here: cannot be told." in text and "measures synthesis" in text
    assert "<b>" not in text.split("maps help ")[1][:4] and "with <maps>" not in text
    record = json.loads((tmp_path / "letters.json").read_text())
    assert record["rows"] == rows and record["settings"] == {"seeds": [0, 1]} and record["note"] == 1
    assert record["statements"][0]["seen"] is True and "torch" in record["versions"]
    with open(tmp_path / "letters.csv") as file:
        assert [*csv.DictReader(file)] == [{name: str(value) for name, value in row.items()} for row in rows]


def test_a_part_that_shows_a_statement_does_not_refute_it():
    assert verdict([True, True], [True, False]) is True
    assert verdict([True, False], [True, False]) is None  # worse, but by little; and not told
    assert verdict([True, False], [False, True]) is False


def test_figures_show_means_and_ends():
    [line] = curve_figure({"maps": {1000: [0.5, 0.7, 0.9]}}, "samples", "accuracy").data
    assert line.y[0] == pytest.approx(0.7) and line.error_y.array[0] == pytest.approx(0.2)
    [points] = interval_figure({"a": (0.5, 0.4, 0.7)}, "AUC", 0.5).data
    assert (points.error_x.arrayminus[0], points.error_x.array[0]) == pytest.approx((0.1, 0.2))
