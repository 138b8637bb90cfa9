"""A training that was killed and goes on equals one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, LrScheduleHandler, ValidationHandler, from_engine
from monai.inferers import SimpleInferer
from monai.transforms import Compose, RandFlipd
from torch import nn

from common.evaluation.validation import SynthesisMetric
from common.training.adversary import Adversary
from common.training.checkpoints import Checkpoints
from common.training.handlers import MovingAverage, ReferenceScale, Reseed
from common.training.schedule import polynomial_decay
from common.training.trainer import TranslationTrainer
from mri_seq2seq.network import Seq2Seq
from mri_seq2seq.objective import Seq2SeqObjective

CPU = torch.device("cpu")


class PatchMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.Conv2d(3, 1, 4, stride=2) for _ in range(2))

    def forward(self, image: torch.Tensor, sequence: torch.Tensor) -> list[torch.Tensor | None]:
        return [d(image[sequence == j]) if (sequence == j).any() else None for j, d in enumerate(self.each)]


def subjects() -> list[dict[str, torch.Tensor]]:
    """Four subjects [S, 16, 16, 3] with a bright square, the last without its second sequence."""
    draw, items = torch.Generator().manual_seed(0), []
    for n in range(4):
        image = torch.zeros(2, 16, 16, 3)
        image[:, 3:11, 5:12] = 0.2 + 0.8 * torch.rand(2, 8, 7, 3, generator=draw)
        if n == 3:
            image[1] = -1
        items.append({"image": image, "scale": torch.tensor([100.0 + n, 50.0]), "offset": torch.zeros(2)})
    return items


class Outcome(NamedTuple):
    losses: list[float]
    weights: dict[str, torch.Tensor]
    best: tuple[float, int]


def train(folder: Path, seed: int, adversarial: bool, killed_after: int | None = None) -> Outcome:
    """Four epochs of two steps; `seed` is that of the process, before anything is built."""
    torch.manual_seed(seed)
    network = Seq2Seq(2, channels=(4, 8), res_blocks=1, lstm_layers=1, code_channels=8, bank_channels=4)
    transform = Compose([RandFlipd("image", prob=0.5, spatial_axis=0)])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    adversary = Adversary(PatchMaps(), CPU, 1e-2) if adversarial else None
    average, schedule = MovingAverage(network, 0.5), polynomial_decay(optimizer, 4 * 2)
    validation = [{**item, "label": item["image"]} for item in subjects()[:2]]
    scored = from_engine(["pred", "label"])
    evaluator = SupervisedEvaluator(
        device=CPU,
        val_data_loader=DataLoader(Dataset(validation), batch_size=1),
        network=average.network,
        inferer=SimpleInferer(),
        key_val_metric={"psnr": IgniteMetricHandler(SynthesisMetric(), output_transform=scored)},
    )
    objects = {"model": network, "average": average, "optimizer": optimizer, "lr_scheduler": schedule}
    trainer = TranslationTrainer(
        device=CPU,
        max_epochs=4,
        train_data_loader=DataLoader(Dataset(subjects(), transform), batch_size=2, shuffle=True),
        network=network,
        optimizer=optimizer,
        objective=Seq2SeqObjective(2, pairs_per_subject=3, adversary=adversary),
        adversary=adversary,
        clip_grad=1.0,
        train_handlers=[
            Reseed(7, transform),
            LrScheduleHandler(schedule, epoch_level=False, print_lr=False),
            average,
            ReferenceScale([network, average.network]),
            ValidationHandler(validator=evaluator, interval=1),
            Checkpoints(str(folder), average.network, {**objects, "adversary": adversary}, evaluator),
        ],
    )
    losses = []

    def after_step() -> None:
        losses.append(trainer.state.output[0]["loss"])
        if killed_after is not None and trainer.state.iteration > 2 * killed_after:
            raise InterruptedError("killed")  # in the epoch after the last checkpoint

    trainer.add_event_handler(Events.ITERATION_COMPLETED, after_step)
    if killed_after is None:
        trainer.run()
    else:
        with pytest.raises(InterruptedError, match="killed"):
            trainer.run()
    state = torch.load(folder / "last.pt", weights_only=True)
    weights = {**state["model"], **state["average"], **state.get("adversary", {}).get("discriminators", {})}
    return Outcome(losses, weights, (evaluator.state.best_metric, evaluator.state.best_metric_epoch))


@pytest.mark.parametrize("adversarial", [False, True])
def test_a_killed_training_goes_on_as_if_nothing_happened(tmp_path: Path, adversarial: bool):
    whole = train(tmp_path / "whole", 0, adversarial)
    first = train(tmp_path / "halves", 0, adversarial, killed_after=2)
    second = train(tmp_path / "halves", 1, adversarial)
    assert len(whole.losses) == 8 and len(first.losses) == 5 and len(second.losses) == 4
    assert len(set(whole.losses)) == 8
    assert first.losses[:4] + second.losses == pytest.approx(whole.losses, abs=1e-10, rel=0)
    assert whole.weights.keys() == second.weights.keys()
    for name, weight in whole.weights.items():
        torch.testing.assert_close(second.weights[name], weight, atol=1e-10, rtol=0)
    assert second.best == pytest.approx(whole.best) and whole.best[1] > 0
    best = [torch.load(tmp_path / folder / "model.pt", weights_only=True) for folder in ("whole", "halves")]
    assert best[0].keys() == best[1].keys() and all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    reference = whole.weights["reference_scale"]
    torch.testing.assert_close(reference[:, 1], torch.zeros(2))
    assert 100 < reference[0, 0] < 103 and reference[1, 0] == pytest.approx(50)
