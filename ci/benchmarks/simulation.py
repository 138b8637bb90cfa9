"""Subjects drawn as a training runs: the time of one on one core."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from common.data.loaders import SeededItems
from common.data.simulation import SimulatedSubjects

from . import Row, Settings, turns

ROI_SIZE = (128, 160, 3)


def rows(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    names = ["T1", "T1Gd", "T2", "FLAIR"]
    drawn = SeededItems(SimulatedSubjects(names, anatomies=settings.anatomies, roi_size=ROI_SIZE))
    places = iter(range(10_000))  # a turn draws another subject
    (seconds,) = turns((lambda: drawn[next(places)],), settings._replace(repeats=10 * settings.repeats))
    yield Row(f"a simulated subject, 4 x {'x'.join(map(str, ROI_SIZE))}", 1000 * seconds, "ms")
