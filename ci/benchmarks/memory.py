"""What ALDM's estimate of a training step says, beside what the step takes on this machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from pydoc import locate

import torch

from . import Row, Settings

WIDER = {"channels": (32, 64, 64), "codes": 256, "norm_groups": 8}  # than small.json, so that it can be seen
PARTS = {"autoencoder": 64, "spade": 96, "aldm": 128}  # method, and how large its volumes are


def resident() -> float:
    """GiB of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def step(method: str, size: int) -> tuple[float, float]:
    """GiB that a forward pass keeps: estimated, and seen."""
    memory = locate("mri_aldm.memory")
    torch.manual_seed(0)
    network = locate("mri_aldm.network.ALDM")(method=method, **WIDER)
    parts = {"autoencoder": network.autoencoder, "spade": network.translator, "aldm": network.denoiser}
    network.requires_grad_(False)
    parts[method].requires_grad_(True)
    volume = [size] * 3
    estimate = memory.activation_bytes(network, volume) / 2**30
    inputs = memory.example_step(network, volume)
    network(**memory.example_step(network, [32] * 3))  # what is made once is there
    before = resident()
    kept = network(**inputs)
    seen = resident() - before
    del kept
    return estimate, seen


def rows(settings: Settings) -> Iterator[Row]:
    if not Path("/proc/self/statm").is_file():
        return
    for method, size in PARTS.items():
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            estimate, seen = process.submit(step, method, size).result()
        yield Row(f"ALDM, {method}, {size}^3: kept for the backward pass, estimated beside seen", estimate, "GiB", seen)
