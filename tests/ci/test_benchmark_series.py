"""What series cost grows linearly with their frames, in memory as in operations."""

from __future__ import annotations

import pytest
import torch

from ci.benchmarks.series import PeakMemory, Seq2Seq, count, step


def test_peak_memory():
    held = torch.zeros(256)  # 1 KiB
    with PeakMemory([held]) as memory:
        first = torch.ones(1024)
        view, second = first[:10], held + 1
        del first
        assert memory.now == 6 * 1024, "a view keeps all that it shows"
        del view
        third = second + held
    assert memory.peak == 6 * 1024 and memory.now == 3 * 1024 and len(third) == 256


@pytest.mark.parametrize("pair", [([0], [0]), ([0], [1]), ([1], [0])], ids=["4D to 4D", "4D to 3D", "3D to 4D"])
def test_cost_grows_linearly_with_frames(pair: tuple[list[int], list[int]]):
    def cost(frames: int) -> tuple[float, float]:
        small = {"channels": (8, 16), "res_blocks": 1, "lstm_layers": 1, "code_channels": 4, "bank_channels": 2}
        network = Seq2Seq(2, frames=(frames, 1), **small)
        return count(network, lambda: step(network, (32, 32), *pair))

    for four, eight, twelve in zip(*(cost(frames) for frames in (4, 8, 12)), strict=True):  # GMACs, then GiB
        assert twelve - eight == pytest.approx(eight - four, rel=0.05) and four < eight < 2.2 * four
