"""Checkpoints that survive a kill at any moment, and training that goes on from them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from torch import nn

from ..description import Description, check_trained_alike, describe, description_file, differences, read, write
from ..distributed import is_main_process, unwrapped
from ..inference.weights import sha256
from ..options import switch

logger = logging.getLogger(__name__)


def save_atomically(state: Any, path: Path) -> None:
    """Written to a temporary name and renamed, so that a kill leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_finished(folder: str | Path, configs: Sequence[str | Path], **options: Any) -> bool:
    """Whether a training's `last.pt` has all the epochs that its configurations and options ask for."""
    last = Path(folder) / "last.pt"
    if not last.is_file():
        return False
    parser = ConfigParser()
    parser.read_config([str(file) for file in configs])
    parser.update({name: value for name, value in options.items() if name.endswith("epochs")})
    done = torch.load(last, weights_only=True, map_location="cpu", mmap=True)["progress"]["epoch"]
    return done >= parser.get_parsed_content("max_epochs")


class Resumed(Description):
    """What the training that goes on in a folder was begun with; of a new one nothing is known."""

    def __init__(self, folder: str | Path) -> None:
        last = Path(folder) / "last.pt"
        self.found = {}
        if last.is_file():
            state = torch.load(last, weights_only=True, map_location="cpu", mmap=True)
            self.found = state.get("described") or read(last.with_name("model.pt"))
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
    ) -> None:
        self.last, self.best = Path(folder) / "last.pt", Path(folder) / "model.pt"
        self.network = network
        self.objects = {name: thing for name, thing in objects.items() if thing is not None}
        self.evaluator = evaluator
        self.resume = switch(resume, "resume")
        self.settings = dict(settings or {})
        self.described = {**self.settings, **(described or {})}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.COMPLETED, self.forget_nan)

    def load(self, engine: Engine) -> None:
        """At the start: take up `last.pt`. A later round of a federated training has the server's weights instead."""
        if engine.state.epoch or not self.last.exists():
            return
        if not self.resume:
            raise FileExistsError(f"{self.last} exists. Pass --resume true to go on from it, or another --ckpt_dir.")
        state = torch.load(self.last, weights_only=True, map_location="cpu")
        options, begun = getattr(unwrapped(self.network), "options", {}), state.get("described", {})
        check_trained_alike(self.last, begun, options, self.settings)
        for change in differences(begun, self.described):
            logger.warning(f"{self.last} was begun with {change}.")
        epoch, wanted = state["progress"]["epoch"], engine.state.max_epochs
        if epoch >= wanted:
            raise ValueError(
                f"{self.last} has {epoch} epochs and max_epochs is {wanted}: this training is finished. "
                "Pass a larger --max_epochs to go on, or another --ckpt_dir to start anew."
            )
        for name, thing in self._everything(engine).items():
            if name not in state:
                raise ValueError(f"{self.last} has no '{name}': other options made it. Use another --ckpt_dir.")
            thing = unwrapped(thing) if isinstance(thing, nn.Module) else thing
            thing.load_state_dict(state[name])
        # Not the count of steps that is stored: an epoch may have another length now.
        engine.state.epoch, engine.state.iteration = epoch, epoch * engine.state.epoch_length
        if self.evaluator is not None and state["best"]:
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
        never_validated = not best and engine.state.epoch == engine.state.max_epochs
        if self.evaluator is None or best.get("epoch") == engine.state.epoch or never_validated:
            description_file(self.best).unlink(missing_ok=True)  # describes other weights
            save_atomically(unwrapped(self.network).state_dict(), self.best)
            write(self.best, unwrapped(self.network), sha256=sha256(self.best), **self.described)
        state = {
            name: (unwrapped(thing) if isinstance(thing, nn.Module) else thing).state_dict()
            for name, thing in self._everything(engine).items()
        }
        progress = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        described = describe(unwrapped(self.network), **self.described)
        save_atomically({**state, "progress": progress, "best": best, "described": described}, self.last)

    def _everything(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "grad_scaler", None)
        return self.objects if scaler is None else {**self.objects, "grad_scaler": scaler}
