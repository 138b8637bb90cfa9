"""What to do when memory runs out, in place of what the allocator says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "is killed by signal: Killed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether CUDA, PyTorch's CPU allocator, numpy or Python had no memory left, or the system ended a worker.

    What MONAI's messages about a transform are wrapped around counts, too.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS):
        return True
    return error.__cause__ is not None and is_out_of_memory(error.__cause__)


class TooLittleMemory(MemoryError):
    """Memory ran out; the message names the options that lower what is needed."""


@contextlib.contextmanager
def advising(ways: Sequence[str]) -> Iterator[None]:
    """Names, where memory runs out inside, the options that lower what is needed.

    Raises:
        TooLittleMemory: it did.

    Example:
        >>> with advising(["a smaller --slab than 16"]):
        ...     network(image)
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error) or isinstance(error, TooLittleMemory):
            raise
        while error.__cause__:
            error = error.__cause__
        said = str(error).strip().splitlines() or ["no more of it"]
        raise TooLittleMemory(f"Out of memory ({said[0].rstrip('.')}). To need less: {', '.join(ways)}.") from None
