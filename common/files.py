"""Files that are whole or not there, and folders that can hold them: whatever is written, is written by `replacing`."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HOST = re.sub(r"\W", "-", socket.gethostname().split(".")[0])
# Older versions named no host. The suffix keeps this from what a user may have called .2021.
SUFFIXES = "pt|ts|onnx|json|csv|html|png|gif|npz|nii|gz|zip|yml|md|sha256"
TEMPORARY = re.compile(rf"\.(\d{{1,9}})(?:@([^.]+))?\..+\.(?:{SUFFIXES})")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DAY = 24 * 60 * 60


class NotWritten(OSError):
    """A file or a folder could not be written; the message says which, why, and what to do."""


class DiskFull(NotWritten):
    """It could not be written for want of room, and so will be all that comes after it."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A name beside `path` to write to, in a folder that is made if need be; at the end it takes the place of `path`.

    So a reader meets the old file or the new one, never half of one. Nothing stays where the writing fails, and what
    processes that were killed have left in the folder is removed.

    Raises:
        NotWritten: as the file system says; of this file, what was there before still is.

    Example:
        >>> with replacing("out/scores.json") as partial:
        ...     partial.write_text("{}")
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}@{HOST}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except NotWritten:  # of a file inside, which is named already
        raise
    except OSError as error:
        raise _not_written(path, error) from None
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error) and "unexpected pos" not in str(error):
            raise
        raise _not_written(path, OSError(errno.ENOSPC, "not all of it could be written")) from None


def write_text(path: str | os.PathLike, text: str) -> None:
    """UTF-8, whole or not at all, line ends as they are."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


def prepare_folder(folder: str | os.PathLike, option: str, needed: float = 0, of: str = "") -> None:
    """Makes sure that a folder can be written to, before there is anything to lose; removes leftovers in it.

    Args:
        folder: made if need be.
        option: that names it, for the message.
        needed: bytes that it must have room for.
        of: what needs them.

    Raises:
        NotWritten: it is a file or read-only, or its disk has too little room.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # permissions alone do not tell of a disk that is mounted read-only
            pass
    except OSError as error:
        reason = "it, or a folder above it, is a file" if isinstance(error, _FILES) else error.strerror
        raise NotWritten(f"{option} {folder} cannot be written to: {reason}. Pass another --{option}.") from None
    for each in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        remove_leftovers(each)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskFull(
            f"{option} {folder} has {_size(free)} free, but {of} may need {_size(needed)}. Make room, or pass another "
            f"--{option}."
        )


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files of `replacing` whose process lives no more; of another machine, after a day."""
    for path in folder.glob(".*"):
        if (found := TEMPORARY.fullmatch(path.name)) and path.is_file():
            own = found[2] in (None, HOST)
            with contextlib.suppress(OSError):  # another process has removed it
                if not is_alive(int(found[1])) if own else path.stat().st_mtime < time.time() - DAY:
                    path.unlink()


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs; where nobody can ask without ending it, it is taken to."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def what_it_is(path: str | os.PathLike) -> str:
    """What a damaged file's first bytes show it to be, in words that can follow "it is"; "" if they do not."""
    with open(path, "rb") as file:
        head = file.read(200).lstrip()
    if not head:
        return "empty"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs, whose file `git lfs pull` fetches"
    if head[:100].lower().startswith((b"<!doctype html", b"<html")):
        return "a web page, such as that of a login"
    return ""


_FILES = (FileExistsError, NotADirectoryError)


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _not_written(path: Path, error: OSError) -> NotWritten:
    full = error.errno in FULL
    advice = "Make room on its disk" if full else "Name a place that can be written to"
    kind = DiskFull if full else NotWritten
    return kind(f"{path} is not written: {error.strerror or error}. {advice}; what stood there before still does.")
