"""An epoch of a small training as a user runs it: loader, step and checkpoint."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import workflows
from common.data.phantom import make_phantom

from . import Row, Settings

EPOCHS = 4  # the first is not counted


def rows(settings: Settings) -> Iterator[Row]:
    yield Row("mri_seq2seq small, epoch of 8 subjects: loader, step, checkpoint", epoch(), "s")


def epoch() -> float:
    """Seconds that each further epoch takes of `mri-contrast train ... --overlay small`, checkpoint included."""
    with tempfile.TemporaryDirectory() as folder:
        make_phantom(Path(folder) / "data", subjects=8, spacing=3, validation=0, test=0)
        marks = []
        for epochs in (1, EPOCHS):
            begun = time.perf_counter()
            options = {"epochs": epochs, "val_interval": 100, "device": "cpu"}
            workflows.train("mri_seq2seq", f"{folder}/data", f"{folder}/{epochs}", overlay="small", **options)
            marks.append(time.perf_counter() - begun)
    return (marks[1] - marks[0]) / (EPOCHS - 1)
