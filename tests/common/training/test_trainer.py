"""One engine step by hand: the losses, the clipped gradient, the adversary, and stopping at NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from common.training.checkpoints import Checkpoints
from common.training.trainer import TranslationTrainer
from common.training.usual import ways_to_less_memory


def objective(network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    made = network(batch["image"])
    return {"first": 3 * made.mean(), "second": made.mean() * batch["factor"].mean()}, {"fake": made}


def trainer(factors: list[float], **options: Any) -> TranslationTrainer:
    network = nn.Linear(2, 1, bias=False)
    nn.init.ones_(network.weight)
    return TranslationTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(1, 2), "factor": torch.tensor([f]), "subject": "A"} for f in factors],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        objective=objective,
        **options,
    )


def test_outputs_hold_every_term():
    engine = trainer([1.0])
    engine.run()
    assert engine.state.output == [{"loss": 8.0, "first": 6.0, "second": 2.0}]
    assert engine.network.weight.tolist() == [[-3, -3]]  # 1 - (3 + 1)


def test_the_objective_knows_epoch_and_iteration():
    engine, seen = trainer([1.0, 1.0]), []
    engine.state.max_epochs = 2
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.append((objective.epoch, objective.iteration)))
    engine.run()
    assert seen == [(1, 1), (1, 2), (2, 3), (2, 4)]


@pytest.mark.parametrize(("clip_grad", "change"), [(0.0, 4 * 2**0.5), (100.0, 4 * 2**0.5), (1.0, 1.0), (0.01, 0.01)])
def test_clipping_bounds_the_step(clip_grad: float, change: float):
    engine = trainer([1.0], clip_grad=clip_grad)
    engine.run()
    assert (engine.network.weight - 1).norm().item() == pytest.approx(change, rel=1e-4)


class FixedAdversary:
    def __init__(self, norm: float = 1.0) -> None:
        self.shown: list[Tensor] = []
        self.norm = norm
        self.optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)

    def backward(self, fake: Tensor) -> tuple[Tensor, Tensor]:
        self.shown.append(fake.mean())
        return torch.tensor(7.0), torch.tensor(self.norm)


def test_the_adversary_is_shown_the_samples():
    adversary = FixedAdversary()
    engine = trainer([1.0, 1.0], adversary=adversary)
    engine.run()
    assert adversary.shown == [2.0, -6.0]
    assert engine.state.output == [{"loss": -24.0, "first": -18.0, "second": -6.0, "discriminator": 7.0}]


def test_an_adversary_without_samples_rests():
    adversary = FixedAdversary()
    engine = trainer([1.0], adversary=adversary)
    engine.objective = lambda network, batch: (objective(network, batch)[0], {})
    engine.run()
    assert not adversary.shown and "discriminator" not in engine.state.output[0]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_stops_before_a_loss_that_is_not_finite_touches_the_weights(bad: float):
    adversary = FixedAdversary()
    engine, weights = trainer([1.0, bad, 1.0], adversary=adversary), []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: weights.append(engine.network.weight.clone()))
    message = rf"epoch 1, iteration 2 \(first -18, second -?{bad:g}\).*last checkpoint is good"
    with pytest.raises(FloatingPointError, match=message):
        engine.run()
    assert len(weights) == 1 and torch.equal(engine.network.weight, weights[0])


def test_stops_before_a_gradient_that_is_not_finite_touches_the_weights():
    """The loss is finite, its derivative is not: sqrt at 0."""
    engine = trainer([1.0])
    before = engine.network.weight.clone()

    def flat(network: nn.Module, batch: dict) -> tuple[dict, dict]:
        return {"root": (0 * network(batch["image"])).sum().sqrt()}, {}

    engine.objective = flat
    with pytest.raises(FloatingPointError, match=r"gradient's norm is nan at epoch 1, iteration 1 \(root 0\)"):
        engine.run()
    assert torch.equal(engine.network.weight, before)


def test_the_discriminators_gradient_that_is_not_finite_stops_both():
    engine = trainer([1.0], adversary=FixedAdversary(float("nan")))
    before = engine.network.weight.clone()
    with pytest.raises(FloatingPointError, match=r"norm of the discriminators' gradient is nan at epoch 1"):
        engine.run()
    assert torch.equal(engine.network.weight, before)


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a device, but for the reading of a whole tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function._overloadpacket.__name__ in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero"):
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip_grad", [0.0, 1.0])
def test_a_step_reads_its_values_at_once(clip_grad: float, monkeypatch: pytest.MonkeyPatch):
    engine, read, tolist = trainer([1.0], adversary=FixedAdversary(), clip_grad=clip_grad), [], Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda values: read.append(len(values)) or tolist(values))
    with Waits() as waits:
        engine._iteration(engine, {"image": torch.ones(1, 2), "factor": torch.ones(1)})
    assert read == [6] and not waits.seen  # the loss, its two terms, the adversary's, and two norms


@pytest.mark.parametrize(("amp", "has", "kind"), [
    ("bf16", True, torch.bfloat16), ("bf16", False, torch.float32), ("fp16", True, torch.float32),
])  # fmt: skip
def test_a_cpu_has_bf16_or_full_precision(amp: str, has: bool, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    engine, kinds = trainer([1 / 3], amp=amp), []
    engine.network.register_forward_hook(lambda module, given, made: kinds.append(made.dtype))
    engine.run()
    assert kinds == [kind] and engine.network.weight.dtype == torch.float32
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if kind is torch.bfloat16 else {}
    torch.testing.assert_close(engine.network.weight, torch.full((1, 2), 1 - 10 / 3), **tolerance)


def test_unknown_amp():
    with pytest.raises(ValueError, match=r"'fp8'.*bf16, fp16"):
        trainer([1.0], amp="fp8")


def test_out_of_memory_names_the_options():
    def too_much(network: nn.Module, batch: dict[str, Tensor]) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    engine = trainer([1.0], less_memory=["a smaller --batch_size than 4", "--amp bf16"])
    engine.objective = too_much
    with pytest.raises(MemoryError, match=r"^Out of memory \(.*: a smaller --batch_size than 4, --amp bf16.$"):
        engine.run()


@pytest.mark.parametrize(("objective", "device", "amp", "batch_size", "ways"), [
    (nn.Identity(), "cpu", "", 1, ["--roi_size", "small.json"]),
    (nn.Identity(), "cuda", "", 4, ["--batch_size than 4", "--roi_size", "--amp bf16", "small.json"]),
    ("pairs", "cuda", "fp16", 1, ["--roi_size", "--pairs_per_subject", "small.json"]),
])  # fmt: skip
def test_only_options_that_still_lower_it_are_named(objective, device: str, amp: str, batch_size: int, ways: list[str]):
    if objective == "pairs":
        objective = nn.Identity()
        objective.pairs_per_subject = 0
    said = ways_to_less_memory(objective, torch.device(device), amp, batch_size, [64, 64, 1])
    assert len(said) == len(ways) and all(way in text for way, text in zip(ways, said, strict=True))


def test_a_federated_client_begins_with_the_servers_weights(tmp_path: Path, caplog):
    """Whatever an earlier training left in its folder; its own later rounds and a restart without a server go on."""

    def client() -> tuple[TranslationTrainer, list[float]]:
        engine, begun = trainer([1.0]), []
        Checkpoints(str(tmp_path), engine.network, {"model": engine.network}).attach(engine)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda: begun.append(engine.network.weight[0, 0].item()))
        return engine, begun

    client()[0].run()  # leaves a last.pt with weights of -3
    engine, begun = client()
    for number, given in ((1, 50.0), (2, 70.0)):
        engine.state.max_epochs = number
        engine.network.load_state_dict({"weight": torch.full((1, 2), given)})
        engine.run()
    assert begun == [50.0, 70.0] and engine.state.epoch == 2
    assert "last.pt is not taken up" in caplog.text
    engine, begun = client()
    engine.state.max_epochs = 3
    engine.run()
    assert begun == [66.0]
