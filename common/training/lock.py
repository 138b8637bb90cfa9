"""One training at a time in a folder of checkpoints: two would overwrite each other's."""

from __future__ import annotations

import errno
import logging
import os
import socket
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

logger = logging.getLogger(__name__)
NAME = "training.lock"
_held: dict[Path, IO[str]] = {}  # by this process, whose later trainings in the same folder follow its earlier ones


def hold(folder: str | Path) -> None:
    """Locks a folder for this process until `release`, or until it ends, however that comes.

    The lock is the system's (POSIX, with a file server that has locks on NFS, too), not the file's being there: what a
    killed process leaves never blocks, nor do its children. The file says who holds it.

    Raises:
        BlockingIOError: another process does.
    """
    file = Path(folder).resolve() / NAME
    if fcntl is None or file in _held:
        return
    while True:
        handle = open(file, "a+", encoding="utf-8")  # noqa: SIM115  # open as long as the lock is held
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            holder = handle.read().strip()
            handle.close()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError(
                    f"Another training runs in {folder}: {holder or 'a process that does not say which'}. Wait for it "
                    "or stop it, or pass another --ckpt_dir."
                ) from None
            logger.warning(f"{folder} is on a disk without locks ({error.strerror}): run one training at a time there.")
            return
        if file.exists() and os.path.samestat(os.fstat(handle.fileno()), file.stat()):
            break
        handle.close()  # it was released, and removed, in between
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    handle.flush()
    _held[file] = handle


def release(folder: str | Path) -> None:
    """Lets another process train in the folder; the lock's file goes, too."""
    file = Path(folder).resolve() / NAME
    if handle := _held.pop(file, None):
        file.unlink(missing_ok=True)  # while it is locked: who opened it meanwhile sees that it is another file
        handle.close()
