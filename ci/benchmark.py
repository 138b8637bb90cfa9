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
from pathlib import Path

import fire
import torch
from torch.utils.flop_counter import FlopCounterMode

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "mri_seq2seq"
sys.path.insert(0, str(BUNDLE))

from mri_seq2seq.common.inference.inferers import SlabInferer  # noqa: E402

from mri_seq2seq.network import Seq2Seq  # noqa: E402


def measure(call: Callable[[], object], device: str, repeats: int) -> tuple[float, float, float]:
    """GMACs (half of the counted FLOPs), median seconds and peak GiB of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else resident
    return counter.get_total_flops() / 2e9, statistics.median(times), peak


@torch.inference_mode()
def benchmark(small: bool = False, device: str = "cpu", repeats: int = 5, subject: bool = True) -> None:
    """Prints a table of encode, decode, all four targets, and a whole subject.

    Args:
        small: the network of small.json in place of the paper's.
        device: "cpu" or "cuda".
        repeats: timed runs of each row.
        subject: also complete one sequence of a 160x192x144 subject from three (one run).
    """
    overlay = json.loads((BUNDLE / "configs" / "small.json").read_text()) if small else {}
    options = {key.split("::")[1]: value for key, value in overlay.items() if key.startswith("network_def::")}
    network = Seq2Seq(**options).to(device).eval()
    image = torch.rand(1, 3, 192, 192, device=device)
    code = network.codes[:1]
    representation = network.encode(image, code)
    codes = [network.codes[j : j + 1] for j in range(4)]
    frozen = network.freeze(0)
    volume = torch.rand(1, 4, 160, 192, 144, device=device)
    rows: list[tuple[str, torch.nn.Module, Callable[[], object]]] = [
        ("encode 3x192x192", network.encoder, lambda: network.encode(image, code)),
        ("decode, one target", network.decoder, lambda: network.decode(representation, code)),
        ("decode, frozen target", frozen.decoder, lambda: frozen.decode(representation, code)),
        ("encode, decode four", network, lambda: _all_targets(network, image, codes)),
    ]
    size = "small" if small else "paper"
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {size} size")
    print(f"{'':28}{'parameters':>12}{'GMACs':>10}{'median s':>10}{'peak GiB':>10}")
    if subject:
        inferer = SlabInferer(slices=8, progress=True)
        complete = lambda slab: network.complete(slab, [0, 1, 2], [3])  # noqa: E731
        rows.append(("subject, 3 sources, 1 target", network, lambda: inferer(volume, complete)))
    for name, module, call in rows:
        gmacs, seconds, peak = measure(call, device, repeats if "subject" not in name else 1)
        parameters = sum(p.numel() for p in module.parameters()) / 1e6
        print(f"{name:28}{parameters:>10.2f} M{gmacs:>10.1f}{seconds:>10.3f}{peak:>10.2f}", flush=True)


def _all_targets(network: Seq2Seq, image: torch.Tensor, codes: list[torch.Tensor]) -> list[torch.Tensor]:
    representation = network.encode(image, codes[0])
    return [network.decode(representation, code) for code in codes]


if __name__ == "__main__":
    fire.Fire(benchmark)
