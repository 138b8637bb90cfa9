"""One thread or all of them, idle and beside a busy process, the threads spinning or asleep while they wait.

The settings of a line take turns, so that what else the machine does meets them alike. Times are medians of a training
step, beside one thread's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import product
from multiprocessing import get_context

from . import Row, Settings
from .networks import training_step

TOGETHER = {"small": 4, "paper": 1}  # steps that are timed together
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
def _step(size: str) -> Callable[[], None]:
    return training_step("mri_seq2seq", Settings(size))


def seconds(size: str, threads: int) -> float:
    """Of a training step, in a process of `waiting`."""
    import torch

    torch.set_num_threads(threads)
    step, count = _step(size), TOGETHER[size]
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def rows(settings: Settings) -> Iterator[Row]:
    with ExitStack() as stack:
        pools = {policy: stack.enter_context(waiting(policy)) for policy in ("", "passive")}
        counts = sorted({1, os.cpu_count() // 2 or 1, os.cpu_count()})
        ways = [(threads, policy) for threads in counts for policy in (pools if threads > 1 else [""])]
        for load, repeats in product((0, 1), [settings.repeats]):
            times: dict[tuple[int, str], list[float]] = {way: [] for way in ways}
            with busy(load):
                for _ in range(repeats + 1):
                    for threads, policy in ways:
                        times[threads, policy].append(pools[policy].submit(seconds, settings.size, threads).result())
            medians = {way: statistics.median(each[1:]) for way, each in times.items()}
            beside = f"beside {load} busy process{'es' * (load != 1)}"
            for (threads, policy), median in medians.items():
                name = f"step of {threads} thread{'s' * (threads > 1)} {policy}".strip()
                yield Row(f"{name}, {beside}", 1000 * median, "ms", 1000 * medians[ways[0]])
