"""Methods trained and scored alike: the same number of steps, shared pairs, one page, and nothing done twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from common import benchmark as module
from common.benchmark import benchmark, training_costs

TINY: dict[str, Any] = {
    **{f"network_def#{name}": 4 for name in ("code_channels", "bank_channels")},
    **{"network_def#channels": [4, 8], "network_def#res_blocks": 1, "network_def#lstm_layers": 0},
    **{"network_def#codes": 16, "slices": 1, "roi_size": [16, 16, 1], "divisible": [4, 4, 1], "num_workers": 0},
    **{"perceptual_weights": "none", "device": "cpu", "overlay": "none"},
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in this process."""
    done: list[str] = []

    def here(function: Any, *args: Any, **kwargs: Any) -> Any:
        done.append(function.__name__)
        return function(*args, **kwargs)

    monkeypatch.setattr(module, "_in_process", here)
    return done


def test_two_methods_on_one_page(phantom_dir: Path, tmp_path: Path, calls: list[str], capsys):
    bundles, steps = "mri_seq2seq,mri_vq_seq2seq", 8
    benchmark(str(phantom_dir), str(tmp_path), bundles=bundles, steps=steps, **TINY)
    rows = list(csv.DictReader((tmp_path / "costs.csv").open(encoding="utf-8")))
    assert [row["name"] for row in rows] == bundles.split(",")
    for row in rows:
        assert abs(int(row["steps"]) - steps) <= 1, "whole epochs"
        assert float(row["subject_gmacs"]) > 0 < float(row["seconds_per_step"]) and float(row["subject_gib"]) > 0
    board = list(csv.DictReader((tmp_path / "leaderboard.csv").open(encoding="utf-8")))
    assert {row["name"] for row in board} == {*bundles.split(","), "copy", "map"}
    html = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert f"{steps} optimiser steps each" in html and "data:image/png;base64," in html
    assert calls == ["train", "evaluate", "use_costs"] * 2

    calls.clear()
    benchmark(str(phantom_dir), str(tmp_path), bundles=bundles, steps=steps, **TINY)
    assert calls == ["train"] * 2, "what is scored by these weights is not scored again"
    assert "Finished before" in capsys.readouterr().out

    calls.clear()
    with pytest.raises(ValueError, match="mri_seq2seq was made with truth 'images', now 'reference'"):
        benchmark(str(phantom_dir), str(tmp_path), bundles=bundles, steps=steps, truth="reference", **TINY)
    assert not calls


def test_one_that_fails_stops_no_other(phantom_dir: Path, tmp_path: Path, calls: list[str]):
    options = {**TINY, "network_def#codes": 0}
    with pytest.raises(ValueError, match="mri_vq_seq2seq failed"):
        benchmark(str(phantom_dir), str(tmp_path), bundles="mri_vq_seq2seq,mri_seq2seq", steps=2, **options)
    html = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    assert "mri_vq_seq2seq is not among them" in html


@pytest.mark.parametrize("error", [MemoryError("too little"), SystemExit(2), KeyError("theirs")])
def test_whatever_a_method_has_the_others_go_on(
    phantom_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
):
    tried: list[str] = []

    def fails(function: Any, bundle: str, **options: Any) -> None:
        tried.append(bundle)
        raise error

    monkeypatch.setattr(module, "_in_process", fails)
    with pytest.raises(ValueError, match=r"mri_seq2seq failed.*; mri_vq_seq2seq failed"):
        benchmark(str(phantom_dir), str(tmp_path), bundles="mri_seq2seq,mri_vq_seq2seq", steps=2, overlay="none")
    assert tried == ["mri_seq2seq", "mri_vq_seq2seq"]


def test_the_same_time(phantom_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second a step: half a minute is 30 steps, 15 epochs of two subjects."""
    asked: list[dict[str, Any]] = []

    def training(function: Any, *args: Any, **options: Any) -> None:
        asked.append(options)
        means = {"seconds_per_step": 0.5, "mean_seconds_per_step": 1.0}
        told = {"steps": 6, **means, "peak_gib": 1.0, "parameters": 3, "batch_size": 1}
        folder = Path(options["output_dir"])
        folder.mkdir(parents=True)
        (folder / "costs.json").write_text(json.dumps(told), encoding="utf-8")
        if len(asked) == 2:
            raise ValueError("enough")

    monkeypatch.setattr(module, "_in_process", training)
    with pytest.raises(ValueError, match="enough"):
        benchmark(str(phantom_dir), str(tmp_path), bundles="mri_seq2seq", minutes=0.5, overlay="none")
    assert [options["epochs"] for options in asked] == [3, 15]


def test_costs_of_several_trainings(tmp_path: Path):
    for name, steps, seconds in (("a", 10, 1.0), ("b", 30, 2.0)):
        (tmp_path / name).mkdir()
        means = {"seconds_per_step": seconds, "mean_seconds_per_step": 2 * seconds}
        told = {"steps": steps, **means, "peak_gib": seconds, "parameters": steps, "batch_size": 2}
        (tmp_path / name / "costs.json").write_text(json.dumps(told), encoding="utf-8")
    means = {"seconds_per_step": 1.75, "mean_seconds_per_step": 3.5}
    expected = {"steps": 40, **means, "step_gib": 2.0, "parameters": 40, "batch_size": 2}
    assert training_costs(tmp_path) == expected


def test_an_option_of_one_method_goes_before_that_of_all():
    contestants = [module.Contestant(name, Path(), ["small"]) for name in ("mri_seq2seq", "mri_vq_seq2seq")]
    given = module._given(contestants, {"mri_vq_seq2seq::learning_rate": 0.1, "learning_rate": 0.2, "amp": "bf16"})
    assert given == {
        "mri_seq2seq": {"learning_rate": 0.2, "amp": "bf16"},
        "mri_vq_seq2seq": {"learning_rate": 0.1, "amp": "bf16"},
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--steps 2000"),
        ({"steps": 3, "minutes": 1.0}, "--steps 2000"),
        ({"steps": 3, "learning_rat": 1.0}, "no option --learning_rat"),
        ({"steps": 3, "mri_pgan::learning_rate": 1.0}, "no option --mri_pgan::learning_rate of mri_seq2seq"),
        ({"steps": 3, "mri_seq2seq::epochs": 1}, "--mri_seq2seq::epochs: the benchmark sets that itself"),
        ({"steps": 3, "mri_seq2seq::seed": 1}, "--mri_seq2seq::seed: .* for all methods alike"),
        ({"steps": 3, "bundles": "mri_nothing"}, "There is no bundle 'mri_nothing'"),
        ({"steps": 3, "shown": "phantom_999"}, "shown is 'phantom_999'; it must be a test subject: phantom_003"),
        ({"steps": 3, "val_interval": 1}, "--val_interval: the benchmark sets that itself"),
    ],
)
def test_bad_options(phantom_dir: Path, tmp_path: Path, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        benchmark(str(phantom_dir), str(tmp_path / "out"), **{"bundles": "mri_seq2seq", **options})
    assert not (tmp_path / "out").exists()
