"""Parameters, GMACs, median time and peak memory: `.venv/bin/python -m ci.benchmark [BUNDLE] [--small]`.

Times are medians of `repeats` runs; memory is the peak so far of the process (CPU) or of the allocator (CUDA).
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
sys.path[:0] = [str(BUNDLES / "mri_seq2seq"), str(BUNDLES / "mri_vq_seq2seq")]

from mri_seq2seq.common.inference.inferers import MatrixInferer, SlabInferer  # noqa: E402
from mri_seq2seq.common.translation import TranslationNetwork  # noqa: E402

from common.options import run_command  # noqa: E402
from mri_seq2seq.network import Seq2Seq  # noqa: E402
from mri_seq2seq.objective import Seq2SeqObjective  # noqa: E402
from mri_vq_seq2seq.network import VQSeq2Seq  # noqa: E402
from mri_vq_seq2seq.objective import VQSeq2SeqObjective  # noqa: E402

Row = tuple[str, torch.nn.Module, Callable[[], object]]
SCHEDULE = {"contrastive_start": 0, "sampling_start": 0, "translation_start": -1}  # the last is drawn at random
METHODS = {
    "mri_seq2seq": (Seq2Seq, Seq2SeqObjective(4)),
    "mri_vq_seq2seq": (VQSeq2Seq, VQSeq2SeqObjective(4, **SCHEDULE)),
}


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
        print(f"  {name:30}{parameters:>10.2f} M{gmacs:>10.1f}{seconds:>10.3f}{peak:>10.2f}", flush=True)


def benchmark(
    bundle: str = "", small: bool = False, device: str = "cpu", repeats: int = 5, subject: bool = True, matrix: int = 0
) -> None:
    """Prints a table of encode, decode, all four targets, a training step (without VGG19), a whole subject, and the
    4 x 4 matrix of `run evaluating`.

    Args:
        bundle: mri_seq2seq or mri_vq_seq2seq; both by default.
        small: the networks of small.json in place of the papers'.
        device: "cpu" or "cuda".
        repeats: timed runs of each row; a whole subject and the matrix run once.
        subject: also complete one sequence of a 160x192x144 subject from three.
        matrix: depth of a 240x240 subject whose matrix, scores apart, is set beside its 4 encodings and 16 decodings.
    """
    size = "small" if small else "paper"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {size} size")
    print(f"{'':32}{'parameters':>12}{'GMACs':>10}{'median s':>10}{'peak GiB':>10}")
    for name in [bundle] if bundle else METHODS:
        print(name)
        kind, objective = METHODS[name]
        network = kind(**small_options(name) if small else {}).to(device)
        print_rows([training_row(network, objective.to(device), device)], device, repeats)
        with torch.inference_mode():
            print_rows(_slice_rows(network.eval(), device), device, repeats)
            print_rows(list(_subject_rows(network, device, subject, matrix)), device, 1)


def small_options(bundle: str) -> dict[str, object]:
    overlay = json.loads((BUNDLES / bundle / "configs" / "small.json").read_text())
    return {key.split("::")[1]: value for key, value in overlay.items() if key.startswith("network_def::")}


def training_row(
    network: TranslationNetwork, objective: torch.nn.Module, device: str, in_plane: Sequence[int] = (192, 192)
) -> Row:
    """All that one slice or stack of a subject with two sequences costs, forwards and backwards."""
    image = torch.rand(1, 4, *in_plane, network.slices, device=device)
    image[:, 2:] = -1

    def step() -> None:
        network.zero_grad(set_to_none=True)
        torch.stack(list(objective(network, {"image": image})[0].values())).sum().backward()

    return "training step, 2 sequences", network, step


def _slice_rows(network: TranslationNetwork, device: str) -> list[Row]:
    image = torch.rand(1, network.slices, 192, 192, device=device)
    codes = [network.codes[j : j + 1] for j in range(4)]
    representation = network.encode(image, codes[0])
    frozen = network.freeze(0)
    return [
        (f"encode {network.slices}x192x192", network.encoder, lambda: network.encode(image, codes[0])),
        ("decode, one target", network.decoder, lambda: network.decode(representation, codes[0])),
        ("decode, frozen target", frozen.decoder, lambda: frozen.decode(representation, codes[0])),
        ("encode, decode four", network, lambda: _all_targets(network, image, codes)),
    ]


def _subject_rows(network: TranslationNetwork, device: str, subject: bool, matrix: int) -> Iterator[Row]:
    if subject:
        volume = torch.rand(1, 4, 160, 192, 144, device=device)
        complete = partial(network.complete, sources=[0, 1, 2], targets=[3])
        yield "subject, 3 sources, 1 target", network, lambda: SlabInferer(8)(volume, complete)
    if matrix:
        grid = torch.rand(1, 4, 240, 240, matrix, device=device)
        inferer = MatrixInferer(["T1", "T1Gd", "T2", "FLAIR"], SlabInferer(16))
        yield f"matrix, 240x240x{matrix}", network, lambda: inferer(grid, network)
        yield "its 4 + 16", network, lambda: _encode_and_decode(network, grid)


def _all_targets(network: TranslationNetwork, image: torch.Tensor, codes: list[torch.Tensor]) -> list[torch.Tensor]:
    representation = network.encode(image, codes[0])
    return [network.decode(representation, code) for code in codes]


def _encode_and_decode(network: TranslationNetwork, grid: torch.Tensor) -> None:
    """Every slice of 4 sequences encoded and decoded to 4 targets, 16 slices at a time, and nothing else."""
    for i in range(4):
        for stacks in network.to_input(grid[:, i]).split(16):
            representation = network.encode(stacks, network.codes[i : i + 1])
            for j in range(4):
                network.decode(representation, network.codes[j : j + 1])


if __name__ == "__main__":
    run_command(benchmark)
