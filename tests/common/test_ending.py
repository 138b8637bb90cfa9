"""The last line of what could not be finished."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from monai.bundle import ConfigParser
from torch.utils.data import DataLoader

from common.ending import _without_traceback, end_with, ended_in_one_line, reason


def made(config: object) -> Exception:
    with pytest.raises(RuntimeError, match="Failed to") as caught:
        ConfigParser({"piece": config}).get_parsed_content("piece")
    return caught.value


def test_monai_s_words_are_taken_off():
    assert reason(made("$int('three')")) == "invalid literal for int() with base 10: 'three'"
    component = {"_target_": "torch.optim.SGD", "params": "$[torch.zeros(1)]", "lr": -1}
    assert reason(made(component)) == "Invalid learning rate: -1"


def test_an_error_s_own_words_stay():
    """Where it says more than what it was caused by."""
    try:
        try:
            raise OSError("timed out")
        except OSError as error:
            raise ValueError("Could not download it:\nname\n  the file.") from error
    except ValueError as error:
        assert reason(error) == "Could not download it: name the file."


def test_of_a_bug_it_is_said_where():
    said = reason(made("$len(3)"))
    assert said.startswith("TypeError: object of type 'int' has no len() (<string>:1)") and "--traceback" in said


class Broken(torch.utils.data.Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        try:
            raise self.error
        except Exception as error:
            raise RuntimeError("applying transform <Load>") from error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ValueError("Subject A: T1.nii.gz cannot be read.\nCopy it again."),
            "Subject A: T1.nii.gz cannot be read. Copy",
        ),
        (FileNotFoundError(2, "No such file", "T1.nii"), "[Errno 2] No such file: 'T1.nii'"),
        (AttributeError("no shape"), "AttributeError: no shape (in a process that loads). With --traceback"),
    ],
)
def test_from_a_process_that_loads(error: Exception, said: str):
    with pytest.raises(RuntimeError, match="Caught") as caught:
        next(iter(DataLoader(Broken(error), num_workers=1)))
    assert reason(caught.value).startswith(said)
    record = logging.LogRecord("ignite", logging.ERROR, "", 0, f"Run ends: {caught.value}", (), (None, None, None))
    assert _without_traceback(record)
    assert (
        record.exc_info is None
        and record.getMessage() == "Run ends: Caught RuntimeError in DataLoader worker process 0."
    )


@pytest.fixture
def interruptible() -> Iterator[None]:
    """What is started in the background by a shell ignores Ctrl-C, and so do its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_command_ends_with_a_line_and_status_2(capsys: pytest.CaptureFixture):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, ended_in_one_line():
        raise made("$int('three')").__cause__
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: invalid literal for int() with base 10: 'three'\n"
    with pytest.raises(ValueError, match="x"), ended_in_one_line(show=True):
        raise ValueError("x")
    with pytest.raises(TypeError), ended_in_one_line():
        len(3)
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with pytest.raises(SystemExit) as end, ended_in_one_line():
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert end.value.code == status
    assert capsys.readouterr().err == "stopped by Ctrl-C.\nstopped by SIGTERM.\n"
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_process_that_was_waited_for():
    end_with(0, "it")
    with pytest.raises(SystemExit) as end:
        end_with(1, "it")
    assert end.value.code == 1, "its own last line stays the last"
    with pytest.raises(SystemExit, match=r"`it` was ended by SIGKILL. Was there too little memory\?"):
        end_with(-signal.SIGKILL, "it")


HOOKED = """
import logging, sys, time
from tqdm import tqdm
sys.path.insert(0, {root!r})
from common.ending import end_in_one_line
logging.basicConfig(stream=sys.stdout)
end_in_one_line(" Go on.", show={show})
bar = tqdm(range(3), leave=False)
next(iter(bar))
print("ready", flush=True)
try:
    {act}
except ValueError:
    logging.exception("Exception:")
    raise
"""


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("act", "show", "status", "last"),
    [
        ("raise ValueError('why')", False, 1, "error: why"),
        ("raise ValueError('why')", True, 1, "error: why"),
        ("time.sleep(60)", False, -signal.SIGTERM, "stopped by SIGTERM. Go on."),
        ("time.sleep(60)", False, -signal.SIGINT, "stopped by Ctrl-C. Go on."),
    ],
)
def test_a_process_ends_in_one_line(act: str, show: bool, status: int, last: str, pytestconfig: pytest.Config):
    code = HOOKED.format(root=str(pytestconfig.rootpath), act=act, show=show)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert isinstance(process.stdout, io.TextIOWrapper)
    said = ""
    while "ready" not in said:
        said += process.stdout.readline()
    if status < 0:
        process.send_signal(-status)
    said += process.stdout.read()
    assert process.wait(timeout=60) == status
    assert said.splitlines()[-1] == last
    assert ("Traceback" in said) is show
