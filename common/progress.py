"""Signs of life of long work: tqdm's bars, and where nobody watches (a log file) a plain line of them now and then."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 10  # between two lines at least, and so long nothing is said
SHARE = 0.05  # of the time gone: the lines of a training of days do not fill its log
PLAIN = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}{unit}, {elapsed} gone, {remaining} left{postfix}"


class Lines:
    """A stream that takes a bar, which is drawn anew in place, as plain lines that are some time apart."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.begun = self.said = time.monotonic()
        self.waiting = self.shown = ""

    def write(self, text: str) -> None:
        """A bar's text; a line's end alone closes it."""
        if line := text.replace("\x1b[A", "").strip():
            self.waiting = line
            now = time.monotonic()
            if now - self.said >= max(SECONDS, SHARE * (now - self.begun)):
                self._say(now)
        elif "\n" in text and self.shown not in ("", self.waiting):
            self._say(time.monotonic())

    def flush(self) -> None:
        self.stream.flush()

    def _say(self, now: float) -> None:
        print(self.waiting, file=self.stream, flush=True)
        self.said, self.shown = now, self.waiting


def bar(iterable: Iterable | None = None, *, unit: str, **options: Any) -> tqdm:
    """`tqdm` on a terminal, else `Lines`; of several processes that train together, only the first one's is seen.

    Args:
        iterable, options: as for `tqdm`: total, desc, leave ...
        unit: what is counted, such as "subjects".

    Example:
        >>> for subject in bar(subjects, desc="checking", unit="subjects"):
        ...     check(subject)
    """
    own = {"disable": os.environ.get("RANK", "0") != "0", "dynamic_ncols": True, "unit": f" {unit}"}
    if not sys.stderr.isatty():
        own |= {"file": Lines(sys.stderr), "bar_format": PLAIN, "mininterval": 1, "position": 0}
    return tqdm(iterable, **own | options)


def log_above_bars() -> None:
    """On a terminal, what is logged from now on takes the bars' place, and their next step draws them below."""
    for handler in logging.getLogger().handlers if sys.stderr.isatty() else ():
        handler.addFilter(_cleared)


def _cleared(record: logging.LogRecord) -> bool:
    for shown in list(getattr(tqdm, "_instances", ())):
        shown.clear()
    return True
