"""What a training costs: its steps, the time and the memory that they take."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import nn

from ..files import write_text

FILE = "costs.json"


def peak_gib() -> float:
    """The most memory that this process has had so far: of CUDA's allocator where it was used, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**30
    if sys.platform == "win32":
        return float("nan")
    import resource

    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


class StepCosts:
    """Writes `<output_dir>/costs.json` after every epoch.

    "steps" of the whole training; "seconds_per_step", the median of this run, and "mean_seconds_per_step", the wait for
    the batch included and validation not; "peak_gib" after a step (`peak_gib`), of CUDA without validation;
    "parameters" that are trained; "batch_size".

    Args:
        network: what is trained.
        output_dir: a folder that is there.
    """

    def __init__(self, network: nn.Module, output_dir: str | Path) -> None:
        self.network, self.file = network, Path(output_dir) / FILE
        self.seconds: list[float] = []
        self.begun = self.peak = 0.0

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.forget)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.end)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def forget(self, engine: Engine) -> None:
        """What validation took on a GPU."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def begin(self, engine: Engine) -> None:
        self.begun = time.perf_counter()

    def end(self, engine: Engine) -> None:
        self.seconds.append(time.perf_counter() - self.begun)
        self.peak = max(self.peak, peak_gib())

    def write(self, engine: Engine) -> None:
        trained = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        told = {
            "steps": engine.state.iteration,
            "seconds_per_step": statistics.median(self.seconds),
            "mean_seconds_per_step": statistics.fmean(self.seconds),
            "peak_gib": self.peak,
            "parameters": trained,
            "batch_size": engine.state.dataloader.batch_size,
        }
        write_text(self.file, json.dumps(told, indent=2) + "\n")
