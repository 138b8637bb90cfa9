"""What is counted while subjects are completed: subjects, windows, steps of sampling."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from monai.inferers import SlidingWindowInferer
from torch import nn
from tqdm import tqdm

from common.inference import progress
from common.inference.progress import SubjectProgress, WholeInferer, WindowInferer, count_windows


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[tqdm]:
    made: list[tqdm] = []

    def bar(**options: Any) -> tqdm:
        made.append(tqdm(**options, file=io.StringIO(), mininterval=0))
        return made[-1]

    monkeypatch.setattr(progress, "bar", bar)
    return made


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 8, 5), (20, 13, 8), (3, 30, 16), (12, 12, 12)])
@pytest.mark.parametrize("overlap", [0.5, 0.25])
def test_windows_are_as_many_as_monai_takes(size: Sequence[int], overlap: float, bars: list[tqdm]):
    calls = []

    def network(window: torch.Tensor) -> torch.Tensor:
        calls.append(bars[0].n)
        return window + 1

    image, options = torch.rand(1, 2, *size), {"overlap": overlap, "mode": "gaussian"}
    made = WindowInferer((8, 8, 8), **options)(image, network)
    assert torch.equal(made, SlidingWindowInferer((8, 8, 8), **options)(image, lambda window: window + 1))
    assert calls == list(range(bars[0].total)) and bars[0].n == bars[0].total == count_windows(size, (8, 8, 8), overlap)


def test_steps_of_each_image_are_counted_anew(bars: list[tqdm]):
    module = nn.Identity()

    def network(image: torch.Tensor) -> torch.Tensor:
        for k in range(1, 8):
            image = module(image)
            assert bars[0].n == (k - 1) % 5 + 1
        return image

    image = torch.rand(1, 1, 4, 4, 4)
    assert torch.equal(WholeInferer((module, 5))(image, network), image)
    assert not module._forward_hooks and bars[0].total == 5
    assert torch.equal(WholeInferer()(image, lambda each: each), image) and len(bars) == 1


def test_subjects_and_what_is_done_with_them(bars: list[tqdm]):
    seen = []
    engine = Engine(lambda *_: seen.append((bars[0].n, bars[0].desc)))
    engine.add_event_handler(Events.GET_BATCH_COMPLETED, lambda: seen.append((bars[0].n, bars[0].desc)))
    SubjectProgress("completing").attach(engine)
    engine.run([0, 1])
    assert seen == [(0, "loading"), (0, "completing"), (1, "loading"), (1, "completing")]
    assert bars[0].n == bars[0].total == 2 and bars[0].disable, "closed"
    engine.run([0, 1, 2])
    assert len(bars) == 2 and bars[1].n == 3
