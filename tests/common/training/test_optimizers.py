"""A fused step is the plain one, also after a state that was stored without it; and the gradient's norm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from common.training.optimizers import fused, gradient_norm


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, begin: int, end: int) -> None:
    for k in range(begin, end):
        optimizer.zero_grad()
        model(torch.linspace(-1, 1, 12).view(4, 3) * (1 + k % 3)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_goes_on_as_the_plain_one_whose_state_it_takes_up(kind: type[torch.optim.Optimizer]):
    plain, ours = network(), network()
    one = kind(plain.parameters(), lr=0.01)
    steps(plain, one, 0, 20)
    ours.load_state_dict(plain.state_dict())
    other = fused(kind(ours.parameters(), lr=0.5))
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert other.param_groups[0]["fused"] is True and other.param_groups[0]["lr"] == 0.01
    steps(plain, one, 20, 40)
    steps(ours, other, 20, 40)
    for a, b in zip(plain.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    one.load_state_dict(copy.deepcopy(other.state_dict()))  # and back
    steps(plain, one, 40, 41)


def test_what_was_asked_for_stays_and_what_has_no_kernel_is_left():
    model = network()
    assert fused(torch.optim.Adam(model.parameters(), fused=False)).param_groups[0]["fused"] is False
    each = fused(torch.optim.Adam(model.parameters(), foreach=True))
    assert each.param_groups[0]["fused"] is None
    assert "fused" not in fused(torch.optim.Rprop(model.parameters())).param_groups[0]


@pytest.mark.parametrize("clip", [0.0, 0.1, 1e6])
def test_norm_as_torch_finds_and_clips_it(clip: float):
    ours, theirs = network(), network()
    for model in (ours, theirs):
        model[2].requires_grad_(False)  # has no gradient
        model(torch.ones(1, 3)).sum().backward()
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), clip or torch.inf)
    assert torch.equal(gradient_norm(ours, clip), expected)
    assert torch.equal(ours[0].weight.grad, theirs[0].weight.grad)
