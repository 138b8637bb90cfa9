"""The table of `./ci/benchmark`: what its numbers are taken from, and who stands beside whom."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
import torch

from ci import benchmark as module
from ci.benchmark import benchmark
from ci.benchmarks import Row, Settings, turns


def test_ways_take_turns_and_the_first_one_is_not_counted(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0, 9, 9, 18, 18, 20, 20, 23, 23, 27, 27, 32])  # the process's seconds, before and after each
    monkeypatch.setattr("ci.benchmarks.time.process_time", lambda: float(next(clock)))
    called: list[str] = []
    medians = turns((lambda: called.append("plain"), lambda: called.append("here")), Settings(repeats=2))
    assert called == ["plain", "here"] * 3 and medians == [3, 4]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (Row("step", 2.0, "ms", 5.0), "| step | 5 | 2 | ms | 2.50 |"),
        (Row("boxes", 200.0, "a second", 100.0), "| boxes | 100 | 200 | a second | 2.00 |"),
        (Row("alone", 1.5, "GiB"), "| alone | | 1.5 | GiB | |"),
    ],
)
def test_the_ratio_is_how_much_better(row: Row, expected: str):
    assert module._line(row._asdict()) == expected


def test_another_revision_stands_beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys):
    """Of two rounds the medians; what the other revision could not measure has nothing beside it."""
    here, before = iter([[("a", 2.0), ("b", 1.0)], [("a", 4.0), ("b", 1.0)]]), iter([[("a", 6.0)], [("a", 12.0)]])

    def measured(tree: Path, parts, settings) -> dict[str, dict[str, object]]:
        found = next(here if tree == module.ROOT else before)
        return {name: Row(name, value, "ms")._asdict() for name, value in found}

    monkeypatch.setattr(module, "_measured", measured)
    monkeypatch.setattr(module, "_tree", lambda revision: contextlib.nullcontext(tmp_path))
    benchmark("startup", against="v0", rounds=2, output_file=str(tmp_path / "out.json"))
    printed = capsys.readouterr().out
    assert "| a | 9 | 3 | ms | 3.00 |" in printed and "| b | | 1 | ms | |" in printed
    assert {line["name"]: line["plain"] for line in json.loads((tmp_path / "out.json").read_text())} == {
        "a": 9,
        "b": None,
    }


@pytest.mark.parametrize(
    ("options", "message"), [({"size": "large"}, "small or paper"), ({"parts": ["speed"]}, "no part")]
)
def test_what_there_is_not(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        benchmark(*options.pop("parts", []), **options)


@pytest.mark.full
def test_help_is_timed_in_another_revision_too(capsys):
    benchmark("startup", repeats=1, against="HEAD")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| mri-contrast --help")]
    assert len(lines) == 1 and all(cell.strip() for cell in lines[0].split("|")[1:6])


@pytest.mark.full
def test_each_stage_is_counted_as_it_is_trained(monkeypatch: pytest.MonkeyPatch):
    """The steps of ALDM's second and third training, whose autoencoder takes no part: what its docs say of them."""
    from ci.benchmarks import scale

    monkeypatch.setattr(scale, "CLASSES", {})
    monkeypatch.setattr(scale, "crl_step", lambda settings: (torch.nn.Linear(1, 1), lambda: None))
    found = {name: (count, size) for name, count, size, _ in scale.costs()}
    assert found["mri_aldm, train"][0] == pytest.approx(4616, abs=1)
    assert found["mri_aldm, train_translation"] == pytest.approx((6 * 2302, 4 * 55.64e6), rel=0.01)
    assert found["mri_aldm, train_autoencoder"][0] == pytest.approx(3 * (60_595 + 142_809), rel=0.01)
