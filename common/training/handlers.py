"""Ignite handlers that every method's training uses."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..distributed import is_distributed, is_main_process, unwrapped
from ..layout import is_available
from ..progress import bar
from ..scales import Scales, moments
from ..translation import TranslationNetwork


class Reseed:
    """Seeds torch, numpy, random and the transforms at the start of every epoch with seed + epoch + rank.

    A run that was killed and goes on draws what the uninterrupted one would have drawn, and no random state needs
    to be stored.
    """

    def __init__(self, seed: int, transform: Any = None) -> None:
        self.seed = seed
        self.transform = transform

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        rank = torch.distributed.get_rank() if is_distributed() else 0
        seed = self.seed + engine.state.epoch + 100_003 * rank  # far apart, so that no rank repeats another's epoch
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        if self.transform is not None:
            self.transform.set_random_state(seed)


class ReferenceScale:
    """Keeps in the network which scales the training images had, for sequences that have none of their own.

    A batch holds "scale" and "offset" [B, C] (`common.data.normalisation`), and "image", or "available" [B, C] where it
    has none; a scale that is nan says nothing. The frames of a series have one. After an epoch the `Scales` of the
    subjects seen are stored in `network.reference_scale` [S, 2] and `network.reference_spread` [S, S].
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks: list[TranslationNetwork] = [unwrapped(network) for network in networks]

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.store)

    def start(self, engine: Engine) -> None:
        self.seen: list[Tensor] = []  # [B, 3, S] each

    def update(self, engine: Engine) -> None:
        batch = engine.state.batch
        available = is_available(batch["image"]) if "image" in batch else batch["available"]
        said = torch.stack([batch["scale"].cpu().double(), batch["offset"].cpu().double()], 1)
        network = self.networks[0]
        if network.has_series:
            said = torch.stack([network.channels(said.mT, j)[:, 0] for j in range(network.sequences)], 2)
            available = network.available(batch["image"])
        available = available.cpu()[:, None] & said.isfinite().all(1, keepdim=True)  # (B, 1, S)
        self.seen.append(torch.cat([torch.where(available, said, 0), available], 1))

    def store(self, engine: Engine) -> None:
        # A subject counts once, however many crops there were of it, or little data would look like much.
        scale, offset, available = torch.cat(self.seen).unique(dim=0).unbind(1)
        total = moments(scale, offset, available > 0)
        if is_distributed():
            total = total.to(self.networks[0].codes.device)
            torch.distributed.all_reduce(total)
        scales = Scales.estimated(total)
        for network in self.networks:
            network.reference_scale.copy_(scales.mean)
            network.reference_spread.copy_(scales.spread)


class MovingAverage:
    """An exponential moving average of a network's weights, updated after every step; validated and saved in its place.

    Attach it to the trainer. With `decay` 0 nothing is averaged and `network` is the trained one. After n steps the
    decay is at most (1 + n) / (10 + n), so that the network as it began is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float = 0.0) -> None:
        self.trained = network
        self.average = AveragedModel(unwrapped(network), multi_avg_fn=_averaging(decay)) if decay else None
        self.network = self.average.module if self.average else network

    def attach(self, engine: Engine) -> None:
        if self.average is not None:
            engine.add_event_handler(
                Events.ITERATION_COMPLETED, lambda: self.average.update_parameters(unwrapped(self.trained))
            )

    def state_dict(self) -> dict:
        return self.average.state_dict() if self.average else {}

    def load_state_dict(self, state: dict) -> None:
        if self.average is not None and state:  # else it starts as a copy of the network at the next step
            self.average.load_state_dict(state)


def _averaging(decay: float) -> Callable[..., None]:
    def update(averaged: list[Tensor], current: list[Tensor], steps: Tensor) -> None:
        n = int(steps)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, steps)

    return update


class TrainingProgress:
    """One bar for a whole training, with the time that is left of all its epochs, validation included, and the loss."""

    def attach(self, engine: Engine) -> None:
        engine.logger.setLevel(logging.WARNING)  # which would say of every epoch that it is complete
        if is_main_process():
            engine.add_event_handler(Events.EPOCH_STARTED, self.start)
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
            engine.add_event_handler(Events.COMPLETED, self.close)
        self.bar = None

    def start(self, engine: Engine) -> None:
        """Where a training goes on, the bar does, too."""
        state = engine.state
        if self.bar is None:
            total = state.max_epochs * state.epoch_length
            self.bar = bar(total=total, initial=state.iteration, unit="steps", desc="training", smoothing=0)
        self.bar.set_description_str(f"epoch {state.epoch} of {state.max_epochs}")

    def update(self, engine: Engine) -> None:
        self.bar.set_postfix(loss=f"{engine.state.output[0]['loss']:.4g}", refresh=False)
        self.bar.update(engine.state.iteration - self.bar.n)

    def close(self, engine: Engine) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class SampleImages:
    """Middle slices of the first validation subject, true above synthesised, to TensorBoard.

    Attach it to the evaluator. Images are [1, S, X, Y, Z] in [0, 1], sliced as the network slices them.
    """

    def __init__(self, log_dir: str) -> None:
        self.log_dir = log_dir
        self.shown: Tensor | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.keep)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def keep(self, engine: Engine) -> None:
        if engine.state.iteration != 1:
            return
        output, axis = engine.state.output[0], unwrapped(engine.network).slice_axis
        rows = []
        for volume in (output["label"], output["pred"]):
            plane = volume.select(axis, volume.shape[axis] // 2).clamp(0, 1).cpu()  # (S, X, Y)
            rows.append(torch.rot90(torch.cat(list(plane), 0)))
        self.shown = torch.cat(rows, 0)[None]

    def write(self, engine: Engine) -> None:
        if self.shown is None or not is_main_process():
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.log_dir) as writer:
            writer.add_image("validation: true above synthesised", self.shown, engine.state.epoch)
