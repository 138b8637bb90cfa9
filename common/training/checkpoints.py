"""Checkpoints that survive a kill at any moment, and training that goes on from them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..options import switch

logger = logging.getLogger(__name__)


def is_main_process() -> bool:
    """Rank 0, or not distributed at all."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel or `torch.compile`."""
    network = network.module if isinstance(network, DistributedDataParallel) else network
    return getattr(network, "_orig_mod", network)


def save_atomically(state: Any, path: Path) -> None:
    """Written to a temporary name and renamed, so that a kill leaves the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
    """

    def __init__(
        self,
        folder: str,
        network: nn.Module,
        objects: dict[str, Any],
        evaluator: Engine | None = None,
        resume: bool | str = True,
    ) -> None:
        self.last, self.best = Path(folder) / "last.pt", Path(folder) / "model.pt"
        self.network = network
        self.objects = {name: thing for name, thing in objects.items() if thing is not None}
        self.evaluator = evaluator
        self.resume = switch(resume, "resume")

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.load)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def load(self, engine: Engine) -> None:
        """At the start: take up `last.pt`. A later round of a federated training has the server's weights instead."""
        if engine.state.epoch or not self.last.exists():
            return
        if not self.resume:
            raise FileExistsError(f"{self.last} exists. Pass --resume true to go on from it, or another --ckpt_dir.")
        state = torch.load(self.last, weights_only=True, map_location="cpu")
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
        engine.state.epoch, engine.state.iteration = epoch, state["progress"]["iteration"]
        if self.evaluator is not None and state["best"]:
            self.evaluator.state.best_metric = state["best"]["metric"]
            self.evaluator.state.best_metric_epoch = state["best"]["epoch"]
        logger.info(f"Going on after epoch {epoch} of {self.last}.")

    def save(self, engine: Engine) -> None:
        """After an epoch, on the main process alone."""
        if not is_main_process():
            return
        best = {}
        if self.evaluator is not None and getattr(self.evaluator.state, "best_metric_epoch", -1) > 0:
            best = {"metric": float(self.evaluator.state.best_metric), "epoch": self.evaluator.state.best_metric_epoch}
        never_validated = not best and engine.state.epoch == engine.state.max_epochs
        if self.evaluator is None or best.get("epoch") == engine.state.epoch or never_validated:
            self.best.with_suffix(".json").unlink(missing_ok=True)  # described the weights of a packaged bundle
            save_atomically(unwrapped(self.network).state_dict(), self.best)
        state = {
            name: (unwrapped(thing) if isinstance(thing, nn.Module) else thing).state_dict()
            for name, thing in self._everything(engine).items()
        }
        progress = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        save_atomically({**state, "progress": progress, "best": best}, self.last)

    def _everything(self, engine: Engine) -> dict[str, Any]:
        scaler = getattr(engine, "grad_scaler", None)
        return self.objects if scaler is None else {**self.objects, "grad_scaler": scaler}
