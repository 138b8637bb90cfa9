"""A training with all that usually accompanies it, from the pieces that a method chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.data import DataLoader
from monai.engines import Evaluator
from monai.handlers import LrScheduleHandler, TensorBoardStatsHandler, ValidationHandler
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ..data.preparation import Subjects
from ..distributed import is_main_process
from .adversary import Adversary
from .checkpoints import Checkpoints
from .handlers import MovingAverage, ReferenceScale, Reseed, TrainingProgress
from .trainer import TranslationTrainer


def usual_trainer(
    *,
    network: nn.Module,
    objective: nn.Module,
    lr_scheduler: LRScheduler,
    train_data_loader: DataLoader,
    evaluator: Evaluator,
    val_interval: int,
    subjects: Subjects,
    ckpt_dir: str,
    output_dir: str,
    adversary: Adversary | None = None,
    ema_decay: float = 0.0,
    epoch_level: bool = False,
    seed: int = 0,
    resume: bool | str = True,
    described: Mapping[str, Any] | None = None,
    train_handlers: Sequence[Any] = (),
    **options: Any,
) -> TranslationTrainer:
    """A `TranslationTrainer` and its handlers.

    In every epoch: randomness that depends on the epoch's number alone, the learning rate's schedule, an average of the
    weights, the scale of the training's images, `train_handlers`, validation, a progress bar, checkpoints and curves.

    Args:
        network: on the device that it is trained on.
        objective, adversary: see `TranslationTrainer`.
        lr_scheduler: counts steps, or with `epoch_level` epochs.
        evaluator: scores the averaged weights, every `val_interval` epochs.
        subjects: whose preparation the weights' description tells.
        ckpt_dir, output_dir: of checkpoints, and of curves.
        ema_decay: of the average, see `MovingAverage`.
        seed: see `Reseed`.
        resume, described: see `Checkpoints`.
        train_handlers: a method's own, attached in every process.
        options: as for `TranslationTrainer`.
    """
    average = MovingAverage(network, ema_decay)
    evaluator.network = average.network
    objects = {"model": network, "average": average, "optimizer": lr_scheduler.optimizer, "lr_scheduler": lr_scheduler}
    told = {**subjects.sizes, **(described or {})}
    handlers = [
        Reseed(seed, train_data_loader.dataset.transform),
        LrScheduleHandler(lr_scheduler, epoch_level=epoch_level, print_lr=False),
        average,
        ReferenceScale([network, average.network]),
        *train_handlers,
        ValidationHandler(validator=evaluator, epoch_level=True, interval=val_interval),
        TrainingProgress(),
        Checkpoints(
            ckpt_dir,
            average.network,
            {**objects, "adversary": adversary},
            evaluator,
            resume,
            settings=subjects.trained_alike,
            described=told,
        ),
    ]
    if is_main_process():
        curves = TensorBoardStatsHandler(log_dir=output_dir, output_transform=lambda out: out[0], epoch_log=False)
        handlers.append(curves)
    device = next(network.parameters()).device
    return TranslationTrainer(
        device=device,
        network=network,
        objective=objective.to(device),
        optimizer=lr_scheduler.optimizer,
        train_data_loader=train_data_loader,
        adversary=adversary,
        train_handlers=handlers,
        **options,
    )
