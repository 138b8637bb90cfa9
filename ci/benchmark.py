"""Parameters, GMACs, median time and peak memory: `.venv/bin/python -m ci.benchmark [--small] [--device cuda]`.

Times are medians of `repeats` runs; memory is the peak of the process (CPU) or of the allocator (CUDA).
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import fire
import torch
from torch.utils.flop_counter import FlopCounterMode

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "mri_seq2seq"
sys.path.insert(0, str(BUNDLE))

from mri_seq2seq.common.inference.inferers import MatrixInferer, SlabInferer  # noqa: E402

from mri_seq2seq.network import Seq2Seq  # noqa: E402

Row = tuple[str, torch.nn.Module, Callable[[], object]]


def measure(call: Callable[[], object], device: str, repeats: int) -> tuple[float, float, float]:
    """GMACs (half of the counted FLOPs), median seconds and peak GiB of a call."""
    times = []
    counter = FlopCounterMode(display=False)
    for k in range(repeats):
        start = time.perf_counter()
        with nullcontext() if k else counter:  # counting takes time too: the median leaves it out
            call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else resident
    return counter.get_total_flops() / 2e9, statistics.median(times), peak


def print_rows(rows: list[Row], device: str, repeats: int) -> None:
    for name, module, call in rows:
        gmacs, seconds, peak = measure(call, device, repeats)
        parameters = sum(p.numel() for p in module.parameters()) / 1e6
        print(f"{name:28}{parameters:>10.2f} M{gmacs:>10.1f}{seconds:>10.3f}{peak:>10.2f}", flush=True)


@torch.inference_mode()
def benchmark(
    small: bool = False, device: str = "cpu", repeats: int = 5, subject: bool = True, matrix: int = 0
) -> None:
    """Prints a table of encode, decode, all four targets, a whole subject, and the 4 x 4 matrix of `run evaluating`.

    Args:
        small: the network of small.json in place of the paper's.
        device: "cpu" or "cuda".
        repeats: timed runs of each row; a whole subject and the matrix run once.
        subject: also complete one sequence of a 160x192x144 subject from three.
        matrix: depth of a 240x240 subject whose matrix, scores apart, is set beside its 4 encodings and 16 decodings.
    """
    overlay = json.loads((BUNDLE / "configs" / "small.json").read_text()) if small else {}
    options = {key.split("::")[1]: value for key, value in overlay.items() if key.startswith("network_def::")}
    network = Seq2Seq(**options).to(device).eval()
    size = "small" if small else "paper"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {size} size")
    print(f"{'':28}{'parameters':>12}{'GMACs':>10}{'median s':>10}{'peak GiB':>10}")
    print_rows(_slice_rows(network, device), device, repeats)
    if subject:
        volume = torch.rand(1, 4, 160, 192, 144, device=device)
        complete = partial(network.complete, sources=[0, 1, 2], targets=[3])
        print_rows([("subject, 3 sources, 1 target", network, lambda: SlabInferer(8)(volume, complete))], device, 1)
    if matrix:
        grid = torch.rand(1, 4, 240, 240, matrix, device=device)
        inferer = MatrixInferer(["T1", "T1Gd", "T2", "FLAIR"], SlabInferer(16))
        whole = (f"matrix, 240x240x{matrix}", network, lambda: inferer(grid, network))
        print_rows([whole, ("its 4 + 16", network, lambda: _encode_and_decode(network, grid))], device, 1)


def _slice_rows(network: Seq2Seq, device: str) -> list[Row]:
    image = torch.rand(1, 3, 192, 192, device=device)
    codes = [network.codes[j : j + 1] for j in range(4)]
    representation = network.encode(image, codes[0])
    frozen = network.freeze(0)
    return [
        ("encode 3x192x192", network.encoder, lambda: network.encode(image, codes[0])),
        ("decode, one target", network.decoder, lambda: network.decode(representation, codes[0])),
        ("decode, frozen target", frozen.decoder, lambda: frozen.decode(representation, codes[0])),
        ("encode, decode four", network, lambda: _all_targets(network, image, codes)),
    ]


def _all_targets(network: Seq2Seq, image: torch.Tensor, codes: list[torch.Tensor]) -> list[torch.Tensor]:
    representation = network.encode(image, codes[0])
    return [network.decode(representation, code) for code in codes]


def _encode_and_decode(network: Seq2Seq, grid: torch.Tensor) -> None:
    """Every slice of 4 sequences encoded and decoded to 4 targets, 16 slices at a time, and nothing else."""
    for i in range(4):
        for stacks in network.to_input(grid[:, i]).split(16):
            representation = network.encode(stacks, network.codes[i : i + 1])
            for j in range(4):
                network.decode(representation, network.codes[j : j + 1])


if __name__ == "__main__":
    fire.Fire(benchmark)
