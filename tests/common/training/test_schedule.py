"""The learning rate at the first, a middle and the last step."""

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from common.training.schedule import polynomial_decay, step_decay


def scheduler(steps: int, **options) -> LambdaLR:
    return polynomial_decay(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), steps, **options)


def rates(schedule: LambdaLR, steps: int) -> list[float]:
    found = [schedule.get_last_lr()[0]]
    for _ in range(steps):
        schedule.optimizer.step()
        schedule.step()
        found.append(schedule.get_last_lr()[0])
    return found


@pytest.mark.parametrize(
    ("options", "middle", "end"),
    [
        ({}, 1e-6 + (0.1 - 1e-6) * 0.5**0.9, 1e-6),
        ({"power": 2, "end": 0.02}, 0.02 + 0.08 / 4, 0.02),
        ({"power": 1, "end": 0}, 0.05, 0),
    ],
)
def test_by_hand(options: dict, middle: float, end: float):
    found = rates(scheduler(8, **options), 10)
    assert found[0] == pytest.approx(0.1) and found[4] == pytest.approx(middle)
    assert found[8:] == pytest.approx([end] * 3)  # and stays there
    assert found == sorted(found, reverse=True)


def test_goes_on_from_its_state():
    whole, first, second = (scheduler(6) for _ in range(3))
    expected = rates(whole, 6)
    rates(first, 3)
    second.load_state_dict(first.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    assert rates(second, 3) == pytest.approx(expected[3:])


def test_a_longer_run_goes_on_along_its_own_decay():
    finished, longer = scheduler(4), scheduler(8)
    rates(finished, 4)
    longer.load_state_dict(finished.state_dict())
    longer.optimizer.load_state_dict(finished.optimizer.state_dict())
    assert rates(longer, 4)[1:] == pytest.approx(rates(scheduler(8), 8)[5:])


def test_a_step_decay_halves_and_a_resumed_one_keeps_its_own_length():
    schedule = step_decay(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), every=2)
    assert rates(schedule, 5) == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    longer = step_decay(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1), every=5)
    longer.load_state_dict(schedule.state_dict())
    assert rates(longer, 1)[-1] == pytest.approx(0.05), "epoch 6 of 5 per step"


def test_a_warm_up_rises_linearly_to_what_would_be_without_it():
    warm, plain = rates(scheduler(100, warmup=9), 20), rates(scheduler(100), 20)
    assert warm[:9] == pytest.approx([rate * (k + 1) / 10 for k, rate in enumerate(plain[:9])])
    assert warm[9:] == pytest.approx(plain[9:])
