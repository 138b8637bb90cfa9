"""What a client is told: errors as texts with what to do, and nothing of where the server's files lie."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Iterable, Iterator

from fastapi import HTTPException
from monailabel.interfaces.exception import ImageNotFoundException, LabelNotFoundException, MONAILabelException
from nibabel.filebasedimages import ImageFileError

from common.inference.engine import root_cause

logger = logging.getLogger(__name__)
ENDPOINTS = {"activelearning", "batch", "datastore", "infer", "info", "logs", "model", "reload", "scoring"}
ENDPOINTS |= {"session", "static", "train"}  # what begins with these names an address, not a file
ABSENT = (FileNotFoundError, ImageNotFoundException, LabelNotFoundException)


@contextlib.contextmanager
def told_over_http() -> Iterator[None]:
    """Turns errors into answers with their text, which else would be "Internal Server Error"."""
    try:
        yield
    except HTTPException:
        raise
    except (Exception, SystemExit) as error:
        logger.exception("A request failed")
        cause = root_cause(error)
        text = cause.msg if isinstance(cause, MONAILabelException) else str(cause)
        raise HTTPException(_status(cause), text or type(cause).__name__) from error


def _status(error: BaseException) -> int:
    if isinstance(error, ABSENT):
        return 404
    asked_wrongly = isinstance(error, (ValueError, MONAILabelException, ImageFileError))
    return 400 if asked_wrongly or getattr(error, "errno", None) == errno.ENAMETOOLONG else 500


def without_paths(text: str, roots: Iterable[str]) -> str:
    """A text whose paths begin below the folder that they lie in.

    Args:
        text: of an answer.
        roots: folders of the server. Of a path elsewhere the file's name is left.
    """
    for root in sorted({root.rstrip("/") for root in roots} - {""}, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.-]){re.escape(root)}(?:/+|(?![\w.-]))", "", text)
    top = "|".join(re.escape(name) for name in sorted(set(os.listdir("/")) - ENDPOINTS, key=len, reverse=True))
    return re.sub(rf"(?<![\w./:-])/(?:{top})/(?:[^\s/\"'<>|:;,(){{}}\[\]\\]+/)*(?=[^\s/\"'])", "", text)
