"""Trainings in processes of their own: by command line, of several processes and agents, federated, killed, tracked."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events

from common.data.subjects import read_subjects
from common.launch import known_options

from .conftest import TINY_CRL

BUNDLES = Path(__file__).parents[2] / "bundles"
TRAININGS = [(path.parents[1].name, path.stem) for path in sorted(BUNDLES.glob("*/configs/train*.json"))]
TORCHRUN = ("-m", "torch.distributed.run")


@pytest.fixture
def data(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], dict[str, Any]]:
    """`data("mri_crl")`: settings of a tiny training on two subjects, with two more for validation."""
    tiny, weights_of = request.getfixturevalue("tiny"), request.getfixturevalue("weights_of")

    def create(bundle: str, training: str = "train") -> dict[str, Any]:
        folder = request.getfixturevalue("fse_dir" if bundle == "mri_crl" else "phantom_dir")
        subjects = read_subjects(folder)
        subjects["validation"] += subjects.pop("test")
        (tmp_path / "two.json").write_text(json.dumps(subjects))
        settings = {**(TINY_CRL if bundle == "mri_crl" else tiny[bundle])}
        if bundle == "mri_aldm" and training != "train_autoencoder":
            settings |= dict.fromkeys(("autoencoder_weights", "translation_weights"), str(weights_of(bundle)))
        configs = BUNDLES / bundle / "configs"  # ALDM's three trainings have options of their own
        settings = known_options([configs / f"{training}.json", configs / "multi_gpu_train.json"], settings)
        return {**settings, "dataset_dir": str(folder), "subject_list": str(tmp_path / "two.json")}

    return create


def start(
    bundle: str, folder: Path, *files: str, launcher: tuple[str, ...] = (), **overrides: object
) -> subprocess.Popen:
    """A training by MONAI's command line, in a process of its own and in the bundle's folder."""
    settings = {"ckpt_dir": folder, "output_dir": folder / "eval", **overrides}
    options = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, *launcher, "-m", "monai.bundle", "run", "training"]
    configs = str([f"configs/{file}" for file in files])
    return subprocess.Popen(
        [*command, "--config_file", configs, *options],
        cwd=BUNDLES / bundle,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: Any, **options: Any) -> None:
    """What `start` starts, to its end."""
    process = start(*arguments, **options)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-3000:]


FIRST = {"mri_aldm": "train_autoencoder.json"}  # of several trainings, the one that needs no other's weights
SMALL = {"mri_seq2seq": [32, 32, 3], "mri_vq_seq2seq": [32, 32, 1], "mri_aldm": [32, 32, 24]}


@pytest.mark.parametrize("bundle", ["mri_seq2seq", "mri_vq_seq2seq", "mri_aldm"])
def test_command_line(bundle: str, phantom_dir: Path, tmp_path: Path):
    small = {"dataset_dir": phantom_dir, "epochs": 1, "val_interval": 1, "roi_size": SMALL[bundle]}
    run(bundle, tmp_path, FIRST.get(bundle, "train.json"), "small.json", **small)
    weights = torch.load(tmp_path / "model.pt", weights_only=True)
    first = "autoencoder.encoder.blocks.0.conv" if bundle == "mri_aldm" else "encoder.0.conv"
    assert weights[f"{first}.weight"].shape[0] == 16, "small.json's width"
    assert torch.isfinite(weights["reference_scale"]).all()


RECORD = (
    "$torch.save([@validate#evaluator.state.metrics, [p.sum().item() for p in @network.parameters()]], "
    "@output_dir + '/rank%d.pt' % torch.distributed.get_rank())"
)


def check_ranks(folder: Path, epochs: int) -> None:
    """Two processes have seen a subject each, and ended with the same metrics and weights."""
    first, second = (torch.load(folder / "eval" / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first == second and np.isfinite(list(first[0].values())).all(), "metrics and parameters of both ranks"
    state = torch.load(folder / "last.pt", weights_only=True)
    assert state["progress"] == {"epoch": epochs, "iteration": epochs}, "a step each"
    assert not any(name.startswith("module.") for name in torch.load(folder / "model.pt", weights_only=True))


@pytest.mark.parametrize(
    ("run_id", "files", "option", "last"),
    [
        (
            "training",
            ["train", "small"],
            "--max_epoch=3",
            "option --max_epoch of configs/train.json; did you mean --epochs",
        ),
        (
            "inference",
            ["inference"],
            "--outputdir=x",
            "option --outputdir of configs/inference.json; did you mean --outp",
        ),
        ("evaluating", ["train", "evaluate"], "--ckpt_dir=none", "No weights at none/model.pt. Train first (python -m"),
    ],
)
def test_the_last_line_is_the_reason(run_id: str, files: list[str], option: str, last: str, phantom_dir: Path):
    """Of a misspelt option, met before anything is read, and of what is wrong later."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file"]
    line = [*command, str([f"configs/{name}.json" for name in files]), "--dataset_dir", str(phantom_dir), option]
    done = subprocess.run(line, cwd=BUNDLES / "mri_seq2seq", capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and last in done.stderr.splitlines()[-1]


def test_a_training_that_is_terminated_says_how_to_go_on(phantom_dir: Path, tmp_path: Path):
    small = {"dataset_dir": phantom_dir, "epochs": 1000, "roi_size": SMALL["mri_seq2seq"]}
    process = start("mri_seq2seq", tmp_path, "train.json", "small.json", **small)
    while not (tmp_path / "last.pt").exists() and process.poll() is None:
        time.sleep(0.1)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM and "Traceback" not in errors
    assert (
        errors.splitlines()[-1]
        == "stopped by SIGTERM. The same command goes on after the last epoch that was finished."
    )


@pytest.mark.full
@pytest.mark.parametrize(("bundle", "training"), TRAININGS)
def test_two_processes_and_again(bundle: str, training: str, data: Callable[..., dict[str, Any]], tmp_path: Path):
    """Each sees one of the two training subjects and one of two for validation; a second command goes on."""
    settings = {**data(bundle, training), "training": ["$@train#trainer.run()", RECORD]}
    launcher = (*TORCHRUN, "--standalone", "--nproc_per_node=2")
    for epochs in (1, 2):
        settings["epochs"] = epochs
        run(bundle, tmp_path, f"{training}.json", "multi_gpu_train.json", launcher=launcher, **settings)
        check_ranks(tmp_path, epochs)


@pytest.mark.full
def test_two_agents(data: Callable[..., dict[str, Any]], tmp_path: Path):
    """As on two nodes: an agent each, which meet at an address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ("--rdzv_id=x", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}")
    settings = {**data("mri_seq2seq"), "epochs": 1, "training": ["$@train#trainer.run()", RECORD]}
    launcher = (*TORCHRUN, "--nnodes=2", "--nproc_per_node=1", *meeting)
    configs = "train.json", "multi_gpu_train.json"
    agents = [start("mri_seq2seq", tmp_path, *configs, launcher=launcher, **settings) for _ in range(2)]
    for agent in agents:
        _, errors = agent.communicate(timeout=600)
        assert agent.returncode == 0, errors[-3000:]
    check_ranks(tmp_path, 1)


@pytest.mark.full
@pytest.mark.parametrize(("bundle", "training"), TRAININGS)
def test_federated(bundle: str, training: str, data: Callable[..., dict[str, Any]], tmp_path: Path):
    """Two rounds of two clients with a subject each, whose weights are averaged in between; one's folder was used."""
    from monai.fl.client import MonaiAlgo
    from monai.fl.utils.constants import ExtraItems
    from monai.fl.utils.exchange_object import ExchangeObject

    settings = data(bundle, training)
    subjects = json.loads(Path(settings["subject_list"]).read_text())
    begun: list[dict[str, torch.Tensor]] = []
    clients = []
    for k, subject in enumerate(subjects["training"]):
        folder = tmp_path / f"client{k}"
        folder.mkdir()
        (folder / "one.json").write_text(json.dumps({**subjects, "training": [subject]}))
        if k:  # what an earlier training left, and nothing here could go on from
            torch.save({"progress": {"epoch": 7}, "best": {}, "described": {}}, folder / "last.pt")
        own = {"subject_list": str(folder / "one.json"), "ckpt_dir": str(folder), "output_dir": str(folder / "eval")}
        options = {**settings, **own, "bundle_root": str(BUNDLES / bundle)}
        algo = MonaiAlgo(
            str(BUNDLES / bundle),
            config_train_filename=f"configs/{training}.json",
            config_evaluate_filename=None,
            train_kwargs=options,
            send_weight_diff=False,
        )
        algo.initialize({ExtraItems.CLIENT_NAME: f"client{k}"})
        algo.trainer.add_event_handler(
            Events.EPOCH_STARTED,
            lambda trainer: begun.append({n: v.clone() for n, v in trainer.network.state_dict().items()}),
        )
        clients.append(algo)
    weights = {name: value.clone() for name, value in clients[0].get_weights().weights.items()}
    for number in (1, 2):
        made = []
        for algo in clients:
            algo.train(ExchangeObject(weights={name: value.numpy() for name, value in weights.items()}))
            made.append(algo.get_weights().weights)  # the network's own tensors
            trained = [n for n, p in algo.trainer.network.named_parameters() if p.requires_grad]
            assert all(torch.equal(begun[-1][name], weights[name]) for name in trained), "it began with the server's"
            assert algo.trainer.state.epoch == number
        assert any(not torch.equal(made[0][name], made[1][name]) for name in trained)
        weights = {name: ((value + made[1][name]) / 2).to(value.dtype) for name, value in made[0].items()}
    assert all(torch.isfinite(weights[name]).all() for name in trained)


@pytest.mark.full
def test_tracking_by_mlflow(data: Callable[..., dict[str, Any]], tmp_path: Path):
    pytest.importorskip("mlflow", reason="requirements-mlflow.txt is not installed")
    options = {**data("mri_seq2seq"), "epochs": 1, "tracking": "mlflow", "experiment_name": "trial"}
    run("mri_seq2seq", tmp_path, "train.json", **options)
    [database] = (tmp_path / "eval").rglob("*.db")
    with sqlite3.connect(database) as found:
        assert ("trial",) in found.execute("select name from experiments").fetchall()
        assert {key for (key,) in found.execute("select key from latest_metrics")} >= {"train_loss", "val_psnr"}


@pytest.mark.full
def test_killed_and_started_again(phantom_dir: Path, tmp_path: Path):
    """SIGKILL in the middle, and the same command once more: the weights of a run that nothing disturbed."""
    arguments = {
        "dataset_dir": phantom_dir,
        "epochs": 12,
        "val_interval": 4,
        "roi_size": SMALL["mri_seq2seq"],
        "ema_decay": 0.9,
    }
    configs = ("train.json", "small.json")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    process = start("mri_seq2seq", killed, *configs, **arguments)
    while not (killed / "last.pt").exists() and process.poll() is None:
        time.sleep(0.1)
    process.kill()
    process.communicate()
    done = torch.load(killed / "last.pt", weights_only=True)["progress"]["epoch"]
    assert 0 < done < 12, "it was killed in the middle"
    for folder in (killed, whole):
        run("mri_seq2seq", folder, *configs, **arguments)
    first, second = (torch.load(folder / "model.pt", weights_only=True) for folder in (killed, whole))
    assert all(torch.equal(first[name], second[name]) for name in second)
