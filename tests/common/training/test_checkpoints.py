"""Checkpoints that survive a kill, the best weights, and where a training goes on."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from mri_seq2seq.common.inference.weights import load_weights
from torch import nn

from common import files
from common.files import DiskFull
from common.inference.weights import sha256
from common.training import checkpoints
from common.training.checkpoints import Checkpoints, save_atomically, unwrapped
from common.training.lock import release
from mri_seq2seq.network import Seq2Seq

NAN = float("nan")


class Training:
    """An engine whose network's weight is the number of the epoch, with a score per epoch."""

    def __init__(self, folder: Path, scores: dict[int, float] | None = None, resume: bool = True) -> None:
        self.network, self.epochs, self.iterations = nn.Linear(1, 1, bias=False), [], []
        self.engine = Engine(lambda engine, batch: self.iterations.append(engine.state.iteration))
        self.evaluator = None if scores is None else Engine(lambda engine, batch: None)
        self.scores = scores
        if self.evaluator:  # begins as MONAI's do
            self.evaluator.state.best_metric = self.evaluator.state.best_metric_epoch = -1
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, self.validate)
        objects = {"network": self.network, "average": None}
        Checkpoints(str(folder), self.network, objects, self.evaluator, resume).attach(self.engine)

    def validate(self, engine: Engine) -> None:
        epoch = engine.state.epoch
        self.epochs.append(epoch)
        nn.init.constant_(self.network.weight, epoch)
        if self.evaluator and epoch in self.scores:
            state = self.evaluator.state
            if state.best_metric_epoch == -1 or self.scores[epoch] > state.best_metric:
                state.best_metric, state.best_metric_epoch = self.scores[epoch], epoch
            self.evaluator.fire_event(Events.COMPLETED)

    def run(self, epochs: int) -> Training:
        self.engine.run([0, 0, 0], max_epochs=epochs)
        return self


def epoch_of(path: Path) -> float:
    return torch.load(path, weights_only=True)["weight"].item()


def test_goes_on_after_the_last_epoch(tmp_path: Path):
    first = Training(tmp_path / "new").run(2)
    assert first.epochs == [1, 2] and epoch_of(tmp_path / "new" / "model.pt") == 2
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["last.pt", "model.json", "model.pt"]
    second = Training(tmp_path / "new")
    started_with = []
    second.engine.add_event_handler(Events.EPOCH_STARTED, lambda: started_with.append(second.network.weight.item()))
    second.run(4)
    assert second.epochs == [3, 4] and second.iterations == [*range(7, 13)] and started_with == [2, 3]
    assert epoch_of(tmp_path / "new" / "model.pt") == 4


def test_the_best_score_outlives_a_restart(tmp_path: Path):
    scores = {1: 1.0, 2: 3.0, 3: 2.0, 4: 2.5, 5: 4.0}
    for epochs, best in ((1, 1), (3, 2), (4, 2), (5, 5)):
        training = Training(tmp_path, scores).run(epochs)
        assert epoch_of(tmp_path / "model.pt") == best
        assert training.evaluator.state.best_metric == scores[best]
        assert torch.load(tmp_path / "last.pt", weights_only=True)["network"]["weight"].item() == epochs


def test_a_run_that_ends_before_the_first_validation_still_gives_weights(tmp_path: Path):
    Training(tmp_path, {2: 1.0}).run(1)
    assert epoch_of(tmp_path / "model.pt") == 1
    Training(tmp_path, {2: 1.0}).run(3)
    assert epoch_of(tmp_path / "model.pt") == 2


def test_a_score_that_is_no_number_is_never_the_best(tmp_path: Path):
    Training(tmp_path / "a", {1: NAN, 2: 1.0, 3: NAN}).run(3)
    assert epoch_of(tmp_path / "a" / "model.pt") == 2
    Training(tmp_path / "b", {1: NAN, 3: NAN}).run(3)
    assert epoch_of(tmp_path / "b" / "model.pt") == 3


def test_files_are_written_at_most_so_often_and_after_the_last_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(0, 100000, 50))  # 50 s from one look at it to the next
    monkeypatch.setattr("common.training.checkpoints.time.monotonic", lambda: float(next(clock)))
    written = []
    monkeypatch.setattr(
        "common.training.checkpoints.save_atomically", lambda state, path: written.append(state["progress"]["epoch"])
    )
    engine, network = Engine(lambda engine, batch: None), nn.Linear(1, 1)
    Checkpoints(str(tmp_path), network, {"network": network}, save_minutes=2).attach(engine)
    engine.run([0], max_epochs=10)
    assert written[-1] == 10 and 2 <= len(written) <= 5 and written == sorted(set(written))


def test_none_is_left_out(tmp_path: Path):
    Training(tmp_path).run(1)
    assert set(torch.load(tmp_path / "last.pt", weights_only=True)) == {"network", "progress", "best", "described"}


def test_what_no_shape_shows_is_described_and_checked(tmp_path: Path):
    network = Seq2Seq(sequences=2, slices=1, channels=[4, 8], res_blocks=1, code_channels=4, bank_channels=2)
    engine = Engine(lambda engine, batch: None)
    Checkpoints(str(tmp_path), network, {"network": network}, settings={"sequences": ["T1", "T2"]}).attach(engine)
    engine.run([0], max_epochs=1)
    file, options = str(tmp_path / "model.pt"), {**network.options}
    load_weights(Seq2Seq(**options), file, settings={"sequences": ["T1", "T2"]})
    with pytest.raises(ValueError, match=r"trained with sequences \['T1', 'T2'\], now \['T2', 'T1'\]"):
        load_weights(Seq2Seq(**options), file, settings={"sequences": ["T2", "T1"]})
    with pytest.raises(ValueError, match=r"trained with network_def#norm 'everywhere', now 'branches'"):
        load_weights(Seq2Seq(**{**options, "norm": "branches"}), file)


def test_finished_training(tmp_path: Path):
    Training(tmp_path).run(2)
    again = Training(tmp_path)
    with pytest.raises(ValueError, match=r"last.pt has 2 epochs and --epochs is 2.*--epochs.*--ckpt_dir"):
        again.run(2)
    assert again.epochs == []


def test_no_resuming_by_accident(tmp_path: Path):
    Training(tmp_path, resume=False).run(1)
    with pytest.raises(FileExistsError, match=r"last.pt exists.*--resume true"):
        Training(tmp_path, resume=False).run(2)
    assert torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["epoch"] == 1


def test_a_kill_while_saving_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Training(tmp_path).run(1)

    def killed(state: dict, path: Path) -> None:
        Path(path).write_bytes(b"half of a file")
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(OSError, match="killed"):
            Training(tmp_path).run(2)
    assert (
        epoch_of(tmp_path / "model.pt") == torch.load(tmp_path / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    )
    assert Training(tmp_path).run(2).epochs == [2]


def test_saving_makes_folders_and_replaces(tmp_path: Path):
    path = tmp_path / "a" / "b" / "state.pt"
    for value in (1, 2):
        save_atomically({"value": value}, path)
        assert torch.load(path, weights_only=True) == {"value": value} and list(path.parent.iterdir()) == [path]


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "is_main_process", lambda: False)
    Training(tmp_path).run(1)
    assert list(tmp_path.iterdir()) == []


def test_compiled_networks_are_unwrapped():
    network = nn.Linear(1, 1)
    compiled = nn.Module()
    compiled._orig_mod = network
    assert unwrapped(compiled) is unwrapped(network) is network


def test_neither_weights_nor_their_description_stand_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The disk is full when the description is written: the earlier pair stays, or there is none."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for epochs, there in ((1, []), (2, ["last.pt", "model.json", "model.pt"])):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_text", fail)
            with pytest.raises(DiskFull, match=r"model.json is not written: No space left"):
                Training(tmp_path).run(epochs)
        release(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == there
        Training(tmp_path).run(epochs)
        assert json.loads((tmp_path / "model.json").read_text())["sha256"] == sha256(tmp_path / "model.pt")


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    if how == "another type":
        torch.save([torch.zeros(1)], path)
    elif how == "weights alone":
        torch.save({"weight": torch.zeros(1)}, path)
    elif how == "another epoch":
        torch.save({**torch.load(path, weights_only=True), "progress": {"epoch": "1"}}, path)
    elif how == "python":
        torch.save({"progress": path}, path)
    elif how == "one bit":
        at = whole.index(torch.ones(1).numpy().tobytes(), whole.index(b"/data/0"))  # the weight itself
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    else:
        contents = {"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"x"}
        contents |= {
            "web": b"<!DOCTYPE html><title>Log in</title>",
            "lfs": b"version https://git-lfs.github.com/spec/v1",
        }
        path.write_bytes(contents[how])


DAMAGES = {
    "empty": "it is empty",
    "truncated": "it ends after",
    "web": "it is a web page",
    "lfs": "git lfs pull",
    "text": "no file of PyTorch's",
    "python": "Python objects, which are never loaded",
    "another type": "a list",
    "weights alone": "no checkpoint of a training here: it holds weight",
    "another epoch": "no checkpoint of a training here",
    "one bit": "the checksum of",
}


@pytest.mark.parametrize(("how", "said"), DAMAGES.items())
def test_a_damaged_checkpoint_is_named_and_what_to_do(tmp_path: Path, how: str, said: str):
    Training(tmp_path).run(1)
    damage(tmp_path / "last.pt", how)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ValueError, match=r"last.pt .*Remove it to begin anew, or put a copy") as caught:
        Training(tmp_path).run(2)
    assert said in str(caught.value) and "weights_only" not in str(caught.value) and caught.value.__cause__ is None
    assert (tmp_path / "last.pt").read_bytes() == before
    if how != "one bit":  # where only the epoch is looked at, not all is read
        with pytest.raises(ValueError, match=r"last.pt .*Remove it to begin anew"):
            checkpoints.Resumed(tmp_path)


def test_a_part_that_does_not_fit_is_named(tmp_path: Path):
    Training(tmp_path).run(1)
    state = torch.load(tmp_path / "last.pt", weights_only=True)
    torch.save({**state, "network": {"weight": 3}}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"The 'network' of .*last.pt does not fit this training .*--ckpt_dir"):
        Training(tmp_path).run(2)


def test_too_little_room_is_known_before_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Three copies of the weights and, after its first step, of Adam's two moments."""
    network = nn.Linear(100, 100, bias=False)
    size, free = 40_000, [0]
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: files.shutil._ntuple_diskusage(1e9, 0, free[0]))
    made = {"model": network, "optimizer": torch.optim.Adam(network.parameters())}
    for free[0], enough in ((6.9 * size, False), (7.1 * size, True)):
        engine, epochs = Engine(lambda engine, batch: None), []
        Checkpoints(str(tmp_path), network, made).attach(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, epochs.append)
        if enough:
            engine.run([0], max_epochs=1)
        else:
            with pytest.raises(DiskFull, match=r"ckpt_dir .* free, but model.pt and last.pt may need 0.28 MB"):
                engine.run([0], max_epochs=1)
            assert not epochs and list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_before_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Training(tmp_path).run(1)
    assert not (tmp_path / "training.lock").exists(), "it is held no longer than the training takes"

    def refuse(folder: Path) -> None:
        raise BlockingIOError("Another training runs")

    monkeypatch.setattr(checkpoints, "hold", refuse)
    second = Training(tmp_path)
    with pytest.raises(BlockingIOError, match="Another training"):
        second.run(2)
    assert second.epochs == []
