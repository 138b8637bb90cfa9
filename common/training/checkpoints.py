"""Checkpoints that survive a kill at any moment, and training that goes on from them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from torch import nn
from torch.utils._pytree import tree_leaves

from ..description import Description, check_trained_alike, describe, differences, read, write
from ..distributed import is_main_process, unwrapped
from ..files import prepare_folder, replacing
from ..inference.weights import read_state, sha256
from ..options import switch
from .lock import hold, release

logger = logging.getLogger(__name__)


def save_atomically(state: Any, path: Path) -> None:
    """Written to a temporary name and renamed, so that a kill leaves the old file or the new one, never half of one."""
    with replacing(path) as partial:
        torch.save(state, partial)


def read_last(path: Path, *, whole: bool = True) -> dict[str, Any]:
    """What `Checkpoints` wrote to a `last.pt`; of one that is not read whole, only what is looked at.

    Raises:
        ValueError: it is damaged, or another program's.
    """
    advice = "Remove it to begin anew, or put a copy of it there to go on"
    state = read_state(path, f"{advice}.", whole=whole)
    parts = [state.get(name, {}) for name in ("progress", "described", "best")]
    if not all(isinstance(part, dict) for part in parts) or not isinstance(parts[0].get("epoch"), int):
        raise ValueError(f"{path} is no checkpoint of a training here: it holds {', '.join(state)}. {advice}.")
    return state


def is_finished(folder: str | Path, configs: Sequence[str | Path], **options: Any) -> bool:
    """Whether a training's `last.pt` has all the epochs that its configurations and options ask for."""
    last = Path(folder) / "last.pt"
    if not last.is_file():
        return False
    parser = ConfigParser()
    parser.read_config([str(file) for file in configs])
    parser.update({name: value for name, value in options.items() if name.endswith("epochs")})
    return read_last(last, whole=False)["progress"]["epoch"] >= parser.get_parsed_content("epochs")


class Resumed(Description):
    """What the training that goes on in a folder was begun with; of a new one, what the weights were that it begins
    with.

    Args:
        folder: of `last.pt`.
        init_weights: file of those weights, if there are any.
    """

    def __init__(self, folder: str | Path, init_weights: str | Path = "") -> None:
        last = Path(folder) / "last.pt"
        self.found = read(init_weights) if init_weights else {}
        if last.is_file():
            self.found = read_last(last, whole=False).get("described") or read(last.with_name("model.pt"))
        self.network = self.found.get("network", {})


class Checkpoints:
    """Writes `last.pt` after every epoch and `model.pt` after the best; goes on from `last.pt` where there is one.

    Attach it as the last handler, so that what it saves is what the next epoch starts from. Random state is not
    stored: `Reseed` makes every epoch's randomness a function of its number.

    Args:
        folder: where the two files are.
        network: whose weights are `model.pt` (an average of weights, if one is kept, else the trained network).
        objects: what a resumed run needs, by name: anything with `state_dict` and `load_state_dict`. None is left out.
        evaluator: whose best key metric decides on `model.pt`; None saves it after every epoch.
        resume: False refuses to start where `last.pt` lies.
        settings: of the configuration, that weights must be used with; they stand in `model.json`.
        described: what else of it stands there, for whoever uses the weights and does not say otherwise. A training
            that goes on says which of these differ from those that it was begun with.
        save_minutes: files are written at most that often, and after the last epoch; a training that was stopped goes
            on from what was written last.
    """

    def __init__(
        self,
        folder: str,
        network: nn.Module,
        objects: dict[str, Any],
        evaluator: Engine | None = None,
        resume: bool | str = True,
        settings: Mapping[str, Any] | None = None,
        described: Mapping[str, Any] | None = None,
        save_minutes: float = 0.0,
    ) -> None:
        self.last, self.best = Path(folder) / "last.pt", Path(folder) / "model.pt"
        self.network = network
        self.objects = {name: thing for name, thing in objects.items() if thing is not None}
        self.evaluator = evaluator
        self.resume = switch(resume, "resume")
        self.settings = dict(settings or {})
        self.described = {**self.settings, **(described or {})}
        self.save_minutes, self.saved = float(save_minutes), time.monotonic()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, lambda: release(self.last.parent))
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self.forget_nan)

    def start(self, engine: Engine) -> None:
        """Before the first epoch: the folder is locked and has room, and `last.pt` is taken up where there is one."""
        if is_main_process():
            if self.best.exists() and not self.last.exists():
                raise FileExistsError(
                    f"{self.best} lies there without the last.pt of its training, which would overwrite it. Pass "
                    f"another --ckpt_dir, and --init_weights {self.best} to begin with it."
                )
            things = self._everything(engine).values()
            model, last = _bytes(unwrapped(self.network).state_dict()), sum(map(_eventual_bytes, things))
            there = sum(path.stat().st_size for path in (self.best, self.last) if path.is_file())
            # A file is replaced by one that is complete: for a moment there are two.
            prepare_folder(self.last.parent, "ckpt_dir", model + 2 * last - there, "model.pt and last.pt")
            hold(self.last.parent)
        self.load(engine)

    def load(self, engine: Engine) -> None:
        """Takes up `last.pt`, but not in place of weights that were given: a federated round has the server's."""
        if engine.state.epoch or not self.last.exists():
            return
        if not self.resume:
            raise FileExistsError(f"{self.last} exists. Pass --resume true to go on from it, or another --ckpt_dir.")
        if getattr(engine, "weights_given", False):
            logger.warning(
                f"{self.last} is not taken up, since the network was given other weights, and is replaced after the "
                "first epoch. Options that it describes are in use where no other was given."
            )
            return
        state = read_last(self.last)
        options, begun = getattr(unwrapped(self.network), "options", {}), state.get("described", {})
        check_trained_alike(self.last, begun, options, self.settings)
        for change in differences(begun, self.described):
            logger.warning(f"{self.last} was begun with {change}.")
        epoch, wanted = state["progress"]["epoch"], engine.state.max_epochs
        if epoch >= wanted:
            raise ValueError(
                f"{self.last} has {epoch} epochs and --epochs is {wanted}: this training is finished. "
                "Pass a larger --epochs to go on, or another --ckpt_dir to start anew."
            )
        for name, thing in self._everything(engine).items():
            if name not in state:
                raise ValueError(f"{self.last} has no '{name}': other options made it. Use another --ckpt_dir.")
            thing = unwrapped(thing) if isinstance(thing, nn.Module) else thing
            try:
                thing.load_state_dict(state[name])
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                raise ValueError(
                    f"The '{name}' of {self.last} does not fit this training ({reason}). Give the options that it was "
                    "begun with, or another --ckpt_dir to begin anew."
                ) from None
        # Not the count of steps that is stored: an epoch may have another length now.
        engine.state.epoch, engine.state.iteration = epoch, epoch * engine.state.epoch_length
        if self.evaluator is not None and state.get("best"):
            self.evaluator.state.best_metric = state["best"]["metric"]
            self.evaluator.state.best_metric_epoch = state["best"]["epoch"]
        logger.info(f"Going on after epoch {epoch} of {self.last}.")

    def forget_nan(self, evaluator: Engine) -> None:
        """MONAI takes a first score that is not a number for the best, and no later one is greater."""
        if math.isnan(evaluator.state.best_metric):
            logger.warning("The validation's score is not a number: are there subjects with two of the sequences?")
            evaluator.state.best_metric = evaluator.state.best_metric_epoch = -1

    def save(self, engine: Engine) -> None:
        """After an epoch, on the main process alone."""
        if not is_main_process():
            return
        best = {}
        if self.evaluator is not None and getattr(self.evaluator.state, "best_metric_epoch", -1) > 0:
            best = {"metric": float(self.evaluator.state.best_metric), "epoch": self.evaluator.state.best_metric_epoch}
        is_last = engine.state.epoch == engine.state.max_epochs
        is_due = is_last or time.monotonic() >= self.saved + 60 * self.save_minutes
        if best.get("epoch") == engine.state.epoch or (is_due and self.evaluator is None) or (is_last and not best):
            self._save_best()
        if not is_due:
            return
        self.saved = time.monotonic()
        state = {
            name: (unwrapped(thing) if isinstance(thing, nn.Module) else thing).state_dict()
            for name, thing in self._everything(engine).items()
        }
        progress = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        described = describe(unwrapped(self.network), **self.described)
        save_atomically({**state, "progress": progress, "best": best, "described": described}, self.last)

    def _save_best(self) -> None:
        """The weights, and what describes them before they take their place: they never stand without it."""
        network = unwrapped(self.network)
        with replacing(self.best) as partial:
            torch.save(network.state_dict(), partial)
            write(self.best, network, sha256=sha256(partial), **self.described)
        logger.info(f"written: {self.best}")

    def _everything(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "grad_scaler", None)
        return self.objects if scaler is None else {**self.objects, "grad_scaler": scaler}


def _bytes(state: Any) -> int:
    """Of the tensors in a state dict, however deep."""
    return sum(leaf.nbytes for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor))


def _eventual_bytes(thing: Any) -> int:
    """Of what will be saved of it: an optimiser that has not begun will keep two moments of each parameter, as Adam."""
    thing = unwrapped(thing) if isinstance(thing, nn.Module) else thing
    optimizer = thing if isinstance(thing, torch.optim.Optimizer) else getattr(thing, "optimizer", None)
    moments = 0
    if optimizer is not None and not optimizer.state:
        moments = 2 * sum(p.nbytes for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
    return _bytes(thing.state_dict()) + moments
