"""Bars in place of silence, and in a log a plain line of them now and then."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from common import progress
from common.progress import Lines, bar, log_above_bars


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def drawn(clock: list[float], seconds: int, leave: bool = True) -> list[str]:
    """Lines of a bar that is drawn once a second, as tqdm does it."""
    stream = io.StringIO()
    lines = Lines(stream)
    for k in range(seconds):
        clock[0] = float(k + 1)
        lines.write(f"\r{k + 1} s")
    lines.write("\n" if leave else "\r")
    return stream.getvalue().splitlines()


def test_what_is_short_says_nothing_in_a_log(clock: list[float]):
    assert drawn(clock, 9) == []


@pytest.mark.parametrize(("leave", "said"), [(True, ["10 s", "20 s", "25 s"]), (False, ["10 s", "20 s"])])
def test_a_line_every_ten_seconds_and_the_last_one(leave: bool, said: list[str], clock: list[float]):
    assert drawn(clock, 25, leave) == said


def test_the_last_line_stands_once(clock: list[float]):
    assert drawn(clock, 20) == ["10 s", "20 s"]


def test_days_make_few_lines(clock: list[float]):
    said = drawn(clock, 200_000)
    assert 150 < len(said) < 250 and said[-1] == "200000 s"


def test_nested_bars_in_a_log_are_lines_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(progress, "SECONDS", 0)
    monkeypatch.setattr(progress, "SHARE", 0)
    for _ in bar(range(2), desc="outer", unit="subjects", mininterval=0):
        list(bar(range(3), desc="inner", unit="slabs", leave=False, mininterval=0))
    said = capsys.readouterr().err
    assert "\r" not in said and "\x1b" not in said and "\n\n" not in said
    lines = said.splitlines()
    assert lines[0].startswith("outer: 0 %, 0 of 2 subjects, 00:00 gone")
    assert lines[-1].startswith("outer: 100 %, 2 of 2 subjects")
    assert sum(line.startswith("inner: 67 %, 2 of 3 slabs") for line in lines) == 2


def test_a_terminal_gets_bars_and_what_is_logged_wipes_them(monkeypatch: pytest.MonkeyPatch):
    stream, log = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    handler = logging.StreamHandler(log)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    log_above_bars()
    with bar(total=2, desc="scoring", unit="subjects") as shown:
        shown.update()
        before = stream.tell()
        logging.getLogger("a").warning("said")
        assert stream.getvalue()[before:].strip("\r ") == "" and len(stream.getvalue()) > before
    assert log.getvalue() == "said\n" and "| 0/2 [" in stream.getvalue()


def test_one_of_several_processes_shows_a_bar(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    assert bar(range(2), unit="subjects").disable
    monkeypatch.setenv("RANK", "0")
    assert not bar(range(2), unit="subjects").disable
