"""How a command ends that could not finish: the last line is the reason, and Ctrl-C or SIGTERM are one line, too."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

MENDABLE = (ValueError, OSError, FloatingPointError, MemoryError)  # by the user, whom the message tells how
WRAPPERS = ("Failed to ", "applying transform ")  # how MONAI's messages begin that say what it was doing, not why
TRACEBACK = "\nOriginal Traceback"
CAUSED = "\n\nThe above exception was the direct cause"
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Terminated(KeyboardInterrupt):
    """SIGTERM, which unwinds like Ctrl-C: files that are being written are removed, processes that load are ended."""


def root_cause(error: BaseException) -> BaseException:
    """The error that MONAI's messages are wrapped around."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None and str(error).startswith(WRAPPERS):
        error = error.__cause__
    return error


def reason(error: BaseException) -> str:
    """Why, in one line; of what the user cannot mend, and of bugs, also where."""
    error = root_cause(error)
    said = str(error)
    mendable = isinstance(error, MENDABLE)
    if said.startswith("Caught ") and TRACEBACK in said:  # in a process that loads: its whole traceback
        lines = said.split(CAUSED)[0].splitlines()
        first = max(k for k, line in enumerate(lines) if line.startswith("  "))
        kind, _, said = "\n".join(lines[first + 1 :]).partition(": ")
        mendable = kind in {each.__name__ for each in (*MENDABLE, FileNotFoundError, PermissionError, EOFError)}
        return _line(said if mendable else f"{kind}: {said} (in a process that loads)", mendable)
    if mendable and said:
        return _line(said)
    found = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(found[-1].filename)}:{found[-1].lineno})" if found else ""
    return _line(f"{type(error).__name__}: {said}{place}", mendable=False)


def _line(text: str, mendable: bool = True) -> str:
    return " ".join(text.split()) + ("" if mendable else ". With --traceback the same command shows the way there.")


def stopped(error: KeyboardInterrupt, then: str = "") -> str:
    """What Ctrl-C or SIGTERM are answered with: `then` follows, or else the error's notes."""
    then = then or "".join(getattr(error, "__notes__", []))
    return f"stopped by {'SIGTERM' if isinstance(error, Terminated) else 'Ctrl-C'}.{then}"


def say(line: str) -> None:
    """On stderr, below all that was printed before."""
    bars = list(getattr(getattr(sys.modules.get("tqdm.std"), "tqdm", None), "_instances", ()))
    for bar in bars:
        bar.close()  # which would print itself once more, below the reason
    sys.stdout.flush()
    line = f"\n{line}" if bars else line
    print(line, file=sys.stderr, flush=True)


def _terminate(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise Terminated


def _without_traceback(record: logging.LogRecord) -> bool:
    """MONAI and ignite log what they raise again: its traceback, or of a process that loads the text of one."""
    record.exc_info = None
    if TRACEBACK in record.getMessage():
        record.msg, record.args = record.getMessage().splitlines()[0], None
    return True


def end_in_one_line(then: str = "", show: bool = False) -> None:
    """For this process, from now on.

    Args:
        then: follows "stopped by Ctrl-C.": what to do to go on.
        show: tracebacks, too.
    """

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            say(stopped(error, then))
        else:
            if show:
                sys.__excepthook__(kind, error, trace)
            say(f"error: {reason(error)}")
        if isinstance(error, Terminated):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)  # the status of a process that was terminated

    sys.excepthook = hook
    signal.signal(signal.SIGTERM, _terminate)
    if not show:
        for handler in logging.getLogger().handlers:
            handler.addFilter(_without_traceback)


@contextmanager
def ended_in_one_line(show: bool = False) -> Iterator[None]:
    """For the commands within: what the user can mend, and being stopped, is a line; bugs keep their traceback.

    Args:
        show: tracebacks of all.

    Raises:
        SystemExit: with status 2, or 130 and 143 of a command that was stopped.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        say(stopped(error))
        sys.exit(STATUS[signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT])
    except Exception as error:
        if show or not isinstance(root_cause(error), MENDABLE):
            raise
        say(f"error: {reason(error)}")
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with(status: int, name: str) -> None:
    """What a process that this one waited for says of itself, said by this one.

    Args:
        status: of the process; its own last line is the reason.
        name: of what it did.

    Raises:
        SystemExit: it failed.
    """
    if status < 0 and status != -signal.SIGTERM:
        raise SystemExit(f"error: `{name}` was ended by {signal.Signals(-status).name}. Was there too little memory?")
    if status:
        raise SystemExit(status if status > 0 else STATUS[signal.SIGTERM])
