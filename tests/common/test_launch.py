"""What a run was given: every option and every key of an overlay is known, used, or refused with the nearest name."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import create_workflow

from common.launch import check_known, how_to_go_on, known_options, merged

CONFIGS = Path(__file__).parents[2] / "bundles" / "mri_seq2seq" / "configs"
BUNDLES = sorted(CONFIGS.parents[1].glob("mri_*"))


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in BUNDLES:
        monkeypatch.syspath_prepend(folder)


def check(*files: str | Path, **options: Any) -> None:
    check_known([CONFIGS / file for file in files], options)


@pytest.mark.parametrize(
    ("file", "option", "answer"),
    [
        ("train.json", "max_epoch", "--max_epoch of .*train.json; did you mean --epochs"),
        ("train.json", "normalization", "did you mean --normalisation"),
        ("inference.json", "target", "did you mean --targets"),
        ("inference.json", "outputdir", "did you mean --output_dir"),
        ("train.json", "congif_file", "did you mean --config_file"),
        ("train.json", "override", "There is no option --override"),
        ("train.json", "network_def#depht", "--network_def#depht of .*; there are: .*res_blocks"),
        ("train.json", "network_def#res_block", "did you mean --network_def#res_blocks"),
        ("train.json", "objective#l1_weigth", "did you mean --objective#l1_weight"),
        ("train.json", "train#trainer#max_epoch", "did you mean --train#trainer#max_epochs"),
        ("train.json", "train#random_transforms#0#porb", "did you mean --train#random_transforms#0#prob"),
        ("train.json", "split", "belongs to evaluate.json, inference.json"),
        ("inference.json", "epochs", "belongs to general.json, series.json, small.json, train.json"),
        ("train.json", "experiment_name", "There is no option --experiment_name"),
    ],
)
def test_a_misspelt_option_is_refused_with_the_nearest_name(file: str, option: str, answer: str):
    with pytest.raises(ValueError, match=answer):
        check(file, **{option: 3})


@pytest.mark.parametrize(
    ("files", "run_id", "options", "answer"),
    [
        (["train.json"], "training", {}, " The same command goes on after the last epoch that was finished."),
        (["train.json"], "run", {}, " The same command goes on after the last epoch that was finished."),
        (["train.json"], "run", {"resume": False}, ""),
        (["train.json", "evaluate.json"], "evaluating", {}, " What is written stays, and is whole. The same comm"),
        (["inference.json"], "inference", {}, " What is written stays, and is whole. The same command begins anew."),
    ],
)
def test_what_the_same_command_does_after_a_run_that_was_stopped(files, run_id: str, options: dict, answer: str):
    said = how_to_go_on(merged([CONFIGS / file for file in files], options), run_id)
    assert said.startswith(answer) and bool(said) is bool(answer)


@pytest.mark.parametrize("name", ["epochs", "learning_rate", "slab"])
def test_text_where_a_number_belongs_is_refused(name: str):
    with pytest.raises(ValueError, match=f"{name} is 'abc'; it must be a number, such as "):
        check("train.json", **{name: "abc"})
    check("train.json", **{name: "$2 + 1"})


@pytest.mark.parametrize(
    "options",
    [
        {"train#trainer#epoch_level": True},  # an argument that no configuration gives
        {"validate#evaluator#key_val_metric": {}},
        {"optimizer#weight_decay": 0.1},
        {"objective#_disabled_": True},
        {"mine": 1e-3, "learning_rate": "@mine"},
        {"tracking": "mlflow", "experiment_name": "trial"},
        {"run_id": "again", "again": "$@train#trainer.run()"},
        {"args_file": "args.json", "meta_file": "metadata.json", "logging_file": False, "traceback": True},
    ],
)
def test_what_is_wanted(options: dict[str, Any]):
    check("train.json", **options)


def test_an_overlay_changes_what_is_there_or_adds_what_is_used(tmp_path: Path):
    file = tmp_path / "mine.json"
    for overlay in (
        {"section": {"rate": 1e-3}, "learning_rate": "@section#rate"},
        {"section": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()"}, "optimizer": "%section"},
        {"mine": "%run"},
        {"uncertainty": True, "epochs": 2},  # one overlay for training and inference
        {"+train#handlers": [], "imports": ["$import os"], "_note": "mine"},
    ):
        file.write_text(json.dumps(overlay))
        check("train.json", file)
    for overlay, answer in (
        ({"optimiser": {"_target_": "torch.optim.SGD"}}, "mine.json: there is no 'optimiser' .*did you mean optimizer"),
        ({"+train#handler": []}, r"no '\+train#handler' .* did you mean train#handlers"),
        ({"network_def::res_block": 1}, "did you mean network_def#res_blocks"),
        ({"section": {"rate": 1}}, "A new key must be used by another, as @NAME or %NAME"),
    ):
        file.write_text(json.dumps(overlay))
        monais = warnings.catch_warnings(action="ignore")  # that there is nothing to extend
        with monais, pytest.raises(ValueError, match=answer):
            check("train.json", file)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_every_overlay_of_a_bundle_goes_with_its_configuration(bundle: Path):
    over = {
        "evaluate": ["train"],
        "robustness": ["train", "evaluate"],
        "multi_gpu_train": ["train"],
        "small": ["train"],
        "general": ["train"],
    }
    for file in (bundle / "configs").glob("*.json"):
        if file.name not in ("metadata.json", "tensorrt.json") and not file.name.startswith(("train", "inference")):
            files = [*over.get(file.stem, ["inference"]), file.stem]
            check_known([bundle / "configs" / f"{name}.json" for name in files], {})
    for first in ("inference", *(file.stem for file in (bundle / "configs").glob("train*.json"))):
        check_known([bundle / "configs" / f"{first}.json", bundle / "configs" / "small.json"], {})


def test_what_is_run_is_named():
    with pytest.raises(ValueError, match=r"no 'trainig' to run in .*train.json; did you mean training\?"):
        check("train.json", run_id="trainig")
    with pytest.raises(ValueError, match=r"no 'evaluating' to run in .*train.json; it belongs to evaluate.json"):
        check("train.json", run_id="evaluating")


def test_options_of_several_configurations():
    """A program may give all of them to each; a command passes on what each has."""
    check_known([CONFIGS / "inference.json"], {"epochs": 3}, command=False)
    with pytest.raises(ValueError, match="did you mean --epochs"):
        check_known([CONFIGS / "inference.json"], {"max_epoch": 3}, command=False)
    assert known_options([CONFIGS / "inference.json"], {"epochs": 3, "slab": 4, "run_id": "x"}) == {
        "slab": 4,
        "run_id": "x",
    }


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda folder: folder.name)
def test_it_is_checked_when_a_workflow_is_made(bundle: Path, reason_of: Callable[..., str], tmp_path: Path):
    """In every complete configuration, by arguments and by a file of them; nothing is made of the process."""
    (tmp_path / "args.json").write_text(json.dumps({"outputdir": "x"}))
    hook = sys.excepthook
    for file in (bundle / "configs").glob("*.json"):
        if file.name.startswith(("train", "inference")):
            for given in ({"outputdir": "x"}, {"args_file": str(tmp_path / "args.json")}):
                said = reason_of(create_workflow, config_file=str(file), logging_file=False, **given)
                assert said.endswith("; did you mean --output_dir?"), said
    assert sys.excepthook is hook


@pytest.fixture
def reason_of() -> Callable[..., str]:
    from common.ending import reason

    def call(function: Callable, **options: Any) -> str:
        with pytest.warns(UserWarning), pytest.raises(RuntimeError) as caught:
            function(**options)
        return reason(caught.value)

    return call
