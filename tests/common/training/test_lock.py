"""One training at a time in a folder; whoever is dead holds nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.training import lock
from common.training.lock import NAME, hold, release

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="there are no POSIX locks here")

HOLDER = """
import os, sys, time
from common.training.lock import hold
hold(sys.argv[1])
child = os.fork()  # as the processes that load data are
if not child:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[subprocess.Popen, int]]:
    """Another process that holds the folder, and a child of it."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    yield process, child
    process.kill()
    os.kill(child, signal.SIGKILL)
    process.communicate()


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path, other: tuple[subprocess.Popen, int]):
    process, _ = other
    with pytest.raises(BlockingIOError) as caught:
        hold(tmp_path)
    who = f"process {process.pid} on {socket.gethostname()}"
    said = str(caught.value)
    assert said.startswith(f"Another training runs in {tmp_path}: {who}.") and "--ckpt_dir" in said and "\n" not in said
    hold(tmp_path / "..")  # another folder is another training's
    release(tmp_path / "..")
    process.kill()  # without a chance to tidy up, and while its child lives
    process.wait()
    assert (tmp_path / NAME).exists()
    hold(tmp_path)
    assert (tmp_path / NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"
    release(tmp_path)
    assert not (tmp_path / NAME).exists()


def test_a_process_follows_itself(tmp_path: Path):
    """As the rounds of a federated training, and a training after one that failed."""
    for _ in range(2):
        hold(tmp_path)
        hold(str(tmp_path) + "/.")
        release(tmp_path)
    release(tmp_path)  # held no more


def test_a_disk_without_locks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog):
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    hold(tmp_path)
    assert "No locks available" in caplog.text and "one training at a time" in caplog.text
