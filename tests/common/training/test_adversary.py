"""Least squares by hand with discriminators whose verdict is known, and one step of real ones."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from common.training.adversary import Adversary, SameRate, SequenceDiscriminators

CPU = torch.device("cpu")


class Bias(nn.Module):
    """Gives each sequence's image its mean plus one learnt value per sequence."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, image: Tensor, sequence: Tensor) -> list[Tensor | None]:
        means = image.flatten(1).mean(1)
        return [means[sequence == j] + v if (sequence == j).any() else None for j, v in enumerate(self.values)]


def grey(*values: float) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


@pytest.mark.parametrize(("value", "expected"), [(0.0, 0.25), (0.5, 0.0), (-2.0, 6.25)])
def test_generator_loss_by_hand(value: float, expected: float):
    loss = Adversary(Bias([9.0, value]), CPU).generator_loss(grey(0.5), torch.tensor([1]))
    assert loss.item() == pytest.approx(expected)  # (0.5 + value - 1)^2


def test_generator_loss_is_the_mean_over_sequences():
    adversary = Adversary(Bias([0.0, 0.0]), CPU)
    # (0.5 - 1)^2 for the first, ((0 - 1)^2 + (1 - 1)^2) / 2 for the second.
    assert adversary.generator_loss(grey(0, 0.5, 1), torch.tensor([1, 0, 1])).item() == pytest.approx(0.375)


@pytest.mark.parametrize(
    ("real", "fake", "expected"),
    [
        (([0.75], [0]), ([0.5], [0]), 0.0625 + 0.25),
        (([0.75], [0]), ([0.5], [1]), (0.0625 + 0.25) / 2),  # two sequences seen, each from one side
        (([1.0, 0.5], [0, 0]), ([-2.0], [0]), 0.125 + 4),  # no activation softens a verdict below 0
    ],
)
def test_discriminator_step_by_hand(real: tuple, fake: tuple, expected: float):
    adversary = Adversary(Bias([0.0, 0.0]), CPU)
    loss, norm = adversary.backward(grey(*real[0]), torch.tensor(real[1]), grey(*fake[0]), torch.tensor(fake[1]))
    assert (
        norm == sum(p.grad.square().sum() for p in adversary.discriminators.parameters() if p.grad is not None).sqrt()
    )
    assert loss.item() == pytest.approx(expected) and not loss.requires_grad


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (32, 24)), (3, (32, 24, 24))])
def test_only_the_discriminators_of_the_sequences_seen_learn(spatial_dims: int, size: tuple[int, ...]):
    torch.manual_seed(0)
    adversary = Adversary(SequenceDiscriminators(3, spatial_dims, 1, channels=4), CPU)
    before = [[p.clone() for p in d.parameters()] for d in adversary.discriminators.each]
    fake = torch.rand(2, 1, *size, requires_grad=True)
    adversary.backward(torch.rand(2, 1, *size), torch.tensor([0, 2]), fake, torch.tensor([2, 2]))
    adversary.optimizer.step()
    changed = [
        all(not torch.equal(p, old) for p, old in zip(d.parameters(), olds, strict=True))
        for d, olds in zip(adversary.discriminators.each, before, strict=True)
    ]
    assert changed == [True, False, True] and fake.grad is None


def test_generator_step_leaves_no_gradient_in_the_discriminators():
    adversary = Adversary(SequenceDiscriminators(2, 2, 1, channels=4), CPU)
    fake = torch.rand(2, 1, 32, 32, requires_grad=True)
    adversary.generator_loss(fake, torch.tensor([0, 1])).backward()
    assert (fake.grad.flatten(1).abs().sum(1) > 0).all()
    assert all(p.grad is None and p.requires_grad for p in adversary.discriminators.parameters())


def steps(adversary: Adversary, number: int, fake: float = 0.25) -> list[float]:
    losses, zero = [], torch.tensor([0])
    for _ in range(number):
        losses.append(adversary.backward(grey(1), zero, grey(fake), zero)[0].item())
        adversary.optimizer.step()
    return losses


def test_learns_to_tell_black_from_white():
    adversary = Adversary(Bias([-5.0]), CPU, learning_rate=0.1)
    losses = steps(adversary, 200, 0)
    assert losses[-1] < 1e-2 < 1 < losses[0]


def test_goes_on_from_its_state():
    whole, first, second = (Adversary(Bias([value]), CPU, 0.1) for value in (3.0, 3.0, 0.0))
    expected = steps(whole, 6)
    steps(first, 3)
    second.load_state_dict(first.state_dict())
    assert steps(second, 3) == pytest.approx(expected[3:], abs=1e-10)


def test_it_learns_at_the_network_s_rate_where_asked_for():
    adversary, rates = Adversary(Bias([0.0]), CPU, learning_rate=9.0), []
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)

    def step(engine: Engine, batch: int) -> None:
        rates.append(adversary.optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()

    engine = Engine(step)
    SameRate(adversary, optimizer).attach(engine)
    SameRate(None, optimizer).attach(engine)
    engine.run(range(3))
    assert rates == [1.0, 0.75, 0.5]


def test_discriminators_of_another_width():
    wide, narrow = (Adversary.of_sequences(1, 2, 1, CPU, channels=c).discriminators for c in (64, 8))
    first = [next(each.parameters()) for each in (wide, narrow)]
    assert [len(each) for each in first] == [64, 8]
