"""ConvLSTM against its equations, and its shortcut for the first time point."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from common.blocks.convlstm import ConvLSTM, ConvLSTMCell


def by_hand(lstm: ConvLSTM, x: Tensor) -> Tensor:
    """Shi et al. 2015 without peepholes, gate by gate: x [B, T, C, *spatial]."""
    channels, conv = x.shape[2], (F.conv2d if x.ndim == 5 else F.conv3d)
    for cell in lstm.cells:
        hidden = memory = torch.zeros_like(x[:, 0])
        states = []
        for t in range(x.shape[1]):
            gates = []
            for k in range(4):
                rows = slice(k * channels, (k + 1) * channels)
                weight, bias = cell.conv.weight[rows], cell.conv.bias[rows]
                of_input = conv(x[:, t], weight[:, :channels], bias, padding=1)
                gates.append(of_input + conv(hidden, weight[:, channels:], padding=1))
            memory = torch.sigmoid(gates[1]) * memory + torch.sigmoid(gates[0]) * torch.tanh(gates[3])
            hidden = torch.sigmoid(gates[2]) * torch.tanh(memory)
            states.append(hidden)
        x = torch.stack(states, 1)
    return x


@pytest.mark.parametrize("size", [(6, 5), (4, 5, 3)])
@pytest.mark.parametrize("frames", [1, 3])
@torch.no_grad()
def test_stack_equals_its_equations(size: tuple[int, ...], frames: int):
    torch.manual_seed(0)
    lstm, x = ConvLSTM(len(size), 3, layers=2), torch.randn(2, frames, 3, *size)
    made = lstm(x)
    assert made.shape == x.shape
    torch.testing.assert_close(made, by_hand(lstm, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.no_grad()
def test_first_step_equals_the_full_cell_from_zero(spatial_dims: int):
    torch.manual_seed(0)
    cell, x = ConvLSTMCell(spatial_dims, 2, 4), torch.randn(2, 2, *[5] * spatial_dims)
    zero = torch.zeros(2, 4, *x.shape[2:])
    for made, expected in zip(cell.first(x), cell(x, zero, zero), strict=True):
        torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_later_frames_remember_and_earlier_ones_do_not_foresee():
    torch.manual_seed(0)
    lstm, x = ConvLSTM(2, 3), torch.randn(1, 3, 3, 5, 5)
    changed = x.clone()
    changed[:, 1] += 1
    before, after = lstm(x), lstm(changed)
    torch.testing.assert_close(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 2], after[:, 2], atol=1e-4)


def test_one_time_point_costs_three_of_eight_parts():
    with torch.device("meta"):
        cell, x = ConvLSTMCell(2, 16, 16), torch.empty(1, 16, 8, 8)
    costs = []
    for step in (lambda: cell.first(x), lambda: cell(x, x, x)):
        with FlopCounterMode(display=False) as counter:
            step()
        costs.append(counter.get_total_flops())
    assert 0 < costs[0] < 0.4 * costs[1]
