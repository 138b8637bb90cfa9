"""What `./ci/benchmark` measures, a module for each of its parts: `rows(settings)` gives the lines of the table."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(path) for path in sorted((ROOT / "bundles").glob("mri_*"))]


class Settings(NamedTuple):
    """Of all parts: the networks' `size` (small or paper), the `device`, how often each is timed, and a folder of label
    maps for simulated subjects ("" is MNI152)."""

    size: str = "small"
    device: str = "cpu"
    repeats: int = 5
    anatomies: str = ""


class Row(NamedTuple):
    """A line: what was measured, the value and its unit; `plain` is what the plain way takes in the same run."""

    name: str
    value: float
    unit: str
    plain: float | None = None


def turns(ways: tuple[Callable[[], object], ...], settings: Settings) -> list[float]:
    """The median seconds of each way; they take turns, so that what else the machine does meets them alike.

    On a CPU it is this process's own time, so that what else runs hardly counts. The first turn is not counted.
    """
    clock = time.process_time if settings.device == "cpu" else time.perf_counter
    spent: list[list[float]] = [[] for _ in ways]
    for _ in range(settings.repeats + 1):
        for way, times in zip(ways, spent, strict=True):
            start = clock()
            way()
            synchronise(settings.device)
            times.append(clock() - start)
    return [statistics.median(times[1:]) for times in spent]


def synchronise(device: str) -> None:
    """Waits for a GPU."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
