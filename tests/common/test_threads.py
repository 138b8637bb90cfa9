"""Threads by what is free, by OMP_NUM_THREADS, or as they are asked for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from common import threads
from common.threads import choose_threads, cpus, free_cpus, taken


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # restored, whatever a test sets
    yield
    torch.set_num_threads(before)


def chosen(monkeypatch: pytest.MonkeyPatch, default: int, free: float, there: int = 8) -> tuple[int, str]:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(threads, "free_cpus", lambda: free)
    monkeypatch.setattr(threads, "cpus", lambda: there)
    torch.set_num_threads(default)
    said: list[str] = []
    number = choose_threads(say=said.append)
    assert torch.get_num_threads() == number
    return number, said[0]


@pytest.mark.parametrize(("default", "free", "number"), [(8, 8.0, 8), (8, 7.8, 8), (8, 7.1, 7), (4, 8.0, 4), (2, 0, 1)])
def test_as_many_as_are_free(default: int, free: float, number: int, monkeypatch: pytest.MonkeyPatch):
    found, said = chosen(monkeypatch, default, free)
    assert found == number and f"{free:.1f} of 8 CPUs are free; --threads N" in said


def test_a_wish_has_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    assert choose_threads("3", said.append) == torch.get_num_threads() == 3
    assert "3 threads: as asked for" in said[0]
    torch.set_num_threads(1)
    assert choose_threads(say=said.append) == 1 and "1 thread: as asked for" in said[1]


@pytest.mark.parametrize("threads", [0, -1, "two", "1.5", "", True])
def test_what_is_no_number_of_threads(threads: object):
    with pytest.raises(ValueError, match="must be a whole number from 1"):
        choose_threads(threads)


def test_every_command_takes_threads_for_itself_and_what_it_starts():
    assert taken(["demo", "--threads", "2", "--epochs", "3"]) == ["demo", "--epochs", "3"]
    assert torch.get_num_threads() == 2 and os.environ["OMP_NUM_THREADS"] == "2"
    assert taken(["--threads=1", "--epochs=3"]) == ["--epochs=3"] and torch.get_num_threads() == 1
    with pytest.raises(ValueError, match="threads is ''"):
        taken(["demo", "--threads"])


def test_busy_cpus_of_the_affinity_are_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stat, ticks = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 2})
    monkeypatch.setattr(threads, "_limits", lambda: [])
    busy_times = threads._busy_times
    monkeypatch.setattr(threads, "_busy_times", lambda: busy_times(stat))
    now = [0.0]

    def sleep(seconds: float) -> None:  # CPU 0 computes all the while, CPU 1 as well, CPU 2 for a tenth
        now[0] += seconds
        work = int(seconds * ticks)
        stat.write_text(f"cpu 9 9 9\ncpu0 {work} 0 0 0 0 0 0 0\ncpu1 {work} 0 0 0\ncpu2 0 0 {work // 10} 99 5 0 0 0\n")

    monkeypatch.setattr(threads.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(threads.time, "sleep", sleep)
    stat.write_text("cpu 9 9 9\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0\ncpu2 0 0 0 7 3 0 0 0\n")
    assert free_cpus() == pytest.approx(0.9)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    stat.write_text("cpu 9 9 9\ncpu0 0 0 0 0 0 0 0 0 0 0\ncpu1 0 0 0 0\ncpu2 0 0 0 7 3 0 0 0\n")
    assert free_cpus() == pytest.approx(0.45)


def test_a_process_that_computes_is_seen():
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        time.sleep(0.5)
        free = free_cpus()
        process.kill()
    assert 0 <= free < cpus()


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/a/b", {"a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, [1.5]),
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}, [0.5]),
        ("0::/gone", {"cpu.max": "200000 100000"}, [2.0]),  # as seen from inside a container
        (
            "4:memory:/x\n3:cpu,cpuacct:/docker/x",
            {"cpu,cpuacct/cpu.cfs_quota_us": "300000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            [3.0],
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("", {}, []),
    ],
)
def test_limits_of_containers(own: str, files: dict[str, str], limit: list[float], tmp_path: Path):
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    (tmp_path / "own").write_text(own + "\n" if own else "")
    assert list(threads._limits(tmp_path / "cgroup", tmp_path / "own")) == limit


def test_threads_wait_without_spinning_where_torch_is_not_loaded_yet():
    code = "import os, common.threads as t; t.choose_threads(1); print(os.environ['OMP_WAIT_POLICY'])"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    root = Path(__file__).parents[2]
    said = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert said.stdout.splitlines() == [
        "1 thread: as asked for; --threads N, or OMP_NUM_THREADS, changes it.",
        "passive",
    ]
