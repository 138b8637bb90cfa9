"""How many threads a run computes with: as many as there are CPUs free at its start.

Threads that share their CPUs with others wait for each other, and all of it becomes slower than one thread alone
(docs/performance.md). torch is loaded by `choose_threads` only: before that the way in which its threads wait can
still be chosen.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SAMPLE = 0.3  # s, over which it is seen what CPUs do
SPARED = 0.3  # of a CPU that others may take before it is left to them
CHANGE = "--threads N, or OMP_NUM_THREADS, changes it"


def choose_threads(threads: int | str | None = None, say: Callable[[str], None] = print) -> int:
    """Sets the threads of torch in this process, and says in one line how many and how that is changed.

    Args:
        threads: as many; None are as many as OMP_NUM_THREADS says or else, at most torch's own default, as are free.
        say: takes the line.

    Raises:
        ValueError: it is no whole number from 1.
    """
    wanted = None if threads is None else _whole(threads)
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # who spins takes from others, and is waited for by its own
    import torch

    default = torch.get_num_threads()
    if wanted is not None:
        chosen, why = wanted, "as asked for"
    elif os.environ.get("OMP_NUM_THREADS"):
        chosen, why = default, "as asked for"
    else:
        free, there = free_cpus(), cpus()
        chosen = max(1, min(default, int(free + SPARED)))
        why = f"{free:.1f} of {there:g} CPUs {'are' if free != 1 else 'is'} free"
    torch.set_num_threads(chosen)
    say(f"{chosen} thread{'s' * (chosen != 1)}: {why}; {CHANGE}.")
    return chosen


def taken(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without --threads N, which is set for it and for the processes that it starts.

    Raises:
        ValueError: N is no whole number from 1.
    """
    left = list(arguments)
    for k, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == "--threads":
            value = value if equals else "".join(arguments[k + 1 : k + 2])
            os.environ["OMP_NUM_THREADS"] = str(_whole(value))
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(_whole(value))
            left[k : k + 1 + (not equals)] = []
    return left


def cpus() -> float:
    """That this process may use: by its affinity, and by the limits of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *_limits()])


def free_cpus() -> float:
    """Those of `cpus` that others leave now; among processes that train together on one machine, this one's share.

    It is seen for `SAMPLE` s what they do: a load average still counts the command before this one.
    """
    if (before := _busy_times()) is None:
        busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        allowed = os.cpu_count() or 1
    else:
        start = time.monotonic()
        time.sleep(SAMPLE)
        passed = (time.monotonic() - start) * os.sysconf("SC_CLK_TCK")
        busy, allowed = (sum(_busy_times()) - sum(before)) / passed, len(before)
    return max(min(cpus(), allowed - busy), 0.0) / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _whole(threads: int | str) -> int:
    number = int(str(threads)) if str(threads).isdecimal() else 0
    if number < 1:
        raise ValueError(f"threads is {threads!r}; it must be a whole number from 1.")
    return number


def _busy_times(stat: Path = Path("/proc/stat")) -> list[int] | None:
    """Of each CPU of the affinity, the ticks in which it was not idle; None where the system does not tell."""
    if not stat.is_file() or not hasattr(os, "sched_getaffinity"):
        return None
    rows = (line.split() for line in stat.read_text().splitlines() if line.startswith("cpu"))
    ticks = {name[3:]: [int(value) for value in values] for name, *values in rows}
    # user, nice, system, idle, iowait, irq, softirq, steal; what guests take is in user already
    return [sum(ticks[name][:8]) - sum(ticks[name][3:5]) for name in map(str, os.sched_getaffinity(0)) if name in ticks]


def _limits(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[float]:
    """CPUs that the process's control groups (version 1 or 2), and those above them, allow."""
    lines = own.read_text().splitlines() if own.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / controllers if controllers else root
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(root):
                break
            texts = _read(folder / "cpu.max")
            texts += _read(folder / "cpu.cfs_quota_us") + _read(folder / "cpu.cfs_period_us")
            if len(texts) == 2 and texts[0].isdecimal():  # "max" and -1 are no limit
                yield int(texts[0]) / int(texts[1])


def _read(file: Path) -> list[str]:
    return file.read_text().split() if file.is_file() else []


@contextmanager
def one_thread() -> Iterator[None]:
    """For what shall not depend, in its last bits, on how many threads there are: sums are taken in one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
