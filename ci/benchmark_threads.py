"""One thread or all of them, idle and beside a busy process: `.venv/bin/python -m ci.benchmark_threads`.

Each row is one load and size of network; its settings take turns, so that what else the machine does meets them alike.
Times are medians of a training step, and each is divided by the row's first one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import product
from multiprocessing import get_context

import torch

from ci.benchmark import METHODS, small_options, training_row
from common.options import run_command

NAME = "mri_seq2seq"
SIZES = {"small": ((96, 112), 4), "paper": ((192, 192), 1)}  # size in plane, and steps that are timed together
BUSY = "while True: pass"


@contextmanager
def waiting(policy: str) -> Iterator[ProcessPoolExecutor]:
    """A process whose threads wait for each other by an OMP_WAIT_POLICY, which it reads when torch is loaded."""
    os.environ["OMP_WAIT_POLICY"] = policy
    if not policy:
        del os.environ["OMP_WAIT_POLICY"]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(os.getpid).result()  # starts it now, with this environment
        yield pool


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Beside so many processes that compute."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


@cache
def _step(size: str):
    kind, objective = METHODS[NAME]
    return training_row(kind(**small_options(NAME) if size == "small" else {}), objective, "cpu", SIZES[size][0])[2]


def seconds(size: str, threads: int) -> float:
    """Of a training step, in a process of `waiting`."""
    torch.set_num_threads(threads)
    step, count = _step(size), SIZES[size][1]
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def benchmark_threads(repeats: int = 5, processes: int = 1, sizes: str = "small,paper") -> None:
    """Prints a Markdown table: a row per load and size of network, a column per number of threads and way to wait.

    Args:
        repeats: how often each setting has its turn; the first is not counted.
        processes: that are busy beside it.
        sizes: small (small.json) and paper.
    """
    with ExitStack() as stack:
        pools = {policy: stack.enter_context(waiting(policy)) for policy in ("", "passive")}
        counts = sorted({1, os.cpu_count() // 2 or 1, os.cpu_count()})
        settings = [(threads, policy) for threads in counts for policy in (pools if threads > 1 else [""])]
        names = [f"{threads} thread{'s' * (threads > 1)} {policy}".strip() for threads, policy in settings]
        print(f"torch {torch.__version__}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} before; s, (ratio)")
        print(f"| | {' | '.join(names)} |\n|---|{'---|' * len(names)}", flush=True)
        for load, size in product((0, processes), sizes.split(",")):
            times = {setting: [] for setting in settings}
            with busy(load):
                for _ in range(repeats + 1):
                    for threads, policy in settings:
                        times[threads, policy].append(pools[policy].submit(seconds, size, threads).result())
            medians = [statistics.median(each[1:]) for each in times.values()]
            cells = [f"{median:.3g} ({median / medians[0]:.2f})" for median in medians]
            print(f"| {size}, {load} busy | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run_command(benchmark_threads)
