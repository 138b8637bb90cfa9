"""Time of drawing a simulated subject on one core: `.venv/bin/python -m ci.benchmark_simulation [--anatomies DIR]`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from common.data.loaders import SeededItems
from common.data.simulation import SimulatedSubjects
from common.options import run_command


def benchmark(anatomies: str = "", roi_size: Sequence[int] = (128, 160, 3), items: int = 50) -> None:
    """Prints the median and the longest time of an item of four sequences, in ms of one core.

    Args:
        anatomies: a folder of label maps; by default MNI152.
        roi_size: of a crop.
        items: how many are timed.
    """
    torch.set_num_threads(1)
    drawn = SeededItems(SimulatedSubjects(["T1", "T1Gd", "T2", "FLAIR"], anatomies=anatomies, roi_size=roi_size))
    drawn[0]
    times = []
    for index in range(items):
        start = time.process_time()
        drawn[index]
        times.append(1000 * (time.process_time() - start))
    print(f"torch {torch.__version__}, 1 thread, 4 sequences of {'x'.join(map(str, roi_size))}, {items} subjects")
    print(f"median {statistics.median(times):.1f} ms, longest {max(times):.1f} ms")


if __name__ == "__main__":
    run_command(benchmark)
