"""A training with all that usually accompanies it, from the pieces that a method chooses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader
from monai.engines import Evaluator
from monai.handlers import LrScheduleHandler, TensorBoardStatsHandler, ValidationHandler
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ..data.preparation import Subjects
from ..description import read
from ..distributed import is_main_process, unwrapped
from ..files import prepare_folder
from ..options import switch
from .adversary import Adversary
from .beginning import begin_with
from .checkpoints import Checkpoints
from .costs import StepCosts
from .handlers import MovingAverage, ReferenceScale, Reseed, TrainingProgress
from .optimizers import fused
from .trainer import TranslationTrainer

logger = logging.getLogger(__name__)


def usual_trainer(
    *,
    network: nn.Module,
    objective: nn.Module,
    lr_scheduler: LRScheduler,
    train_data_loader: DataLoader,
    evaluator: Evaluator,
    max_epochs: int,
    adversary: Adversary | None = None,
    ema_decay: float = 0.0,
    amp: str = "",
    clip_grad: float = 0.0,
    compile: bool | str = False,
    less_memory: Sequence[str] | None = None,
    init_weights: str = "",
    deterministic: bool | str = False,
    **accompanied: Any,
) -> TranslationTrainer:
    """A `TranslationTrainer` with `usual_handlers`.

    Args:
        network, lr_scheduler: on the device that it is trained on, and with its optimiser.
        evaluator, ema_decay: it scores the averaged weights, see `MovingAverage`.
        objective, adversary, amp, clip_grad, compile: see `TranslationTrainer`.
        less_memory: see `TranslationTrainer`; None names the options that all trainings have.
        init_weights: file of the weights that a new training begins with, see `begin_with`.
        deterministic: cuDNN takes algorithms that give the same to the bit; else the fastest for the sizes at hand.
        accompanied: the other arguments of `usual_handlers`; what is `described` has "trained_on" where the images are
            not those that `subjects` tells of.
    """
    _choose_algorithms(switch(deterministic, "deterministic"))
    if init_weights and not (Path(accompanied["ckpt_dir"]) / "last.pt").is_file():
        begin_with(unwrapped(network), init_weights)
    average, dataset = MovingAverage(network, ema_decay), train_data_loader.dataset
    step = {"clip_grad": clip_grad, "amp": amp}
    chosen = {"batch_size": train_data_loader.batch_size, "ema_decay": ema_decay, **step}
    accompanied["described"] = {
        "trained_on": _trained_on(dataset, accompanied["subjects"], init_weights),
        **(accompanied.get("described") or {}),
        "training": {**training_options(objective, lr_scheduler), **chosen},
    }
    evaluator.network = average.network
    device = next(network.parameters()).device
    randomness = dataset if hasattr(dataset, "set_random_state") else dataset.transform
    sizes = {"batch_size": train_data_loader.batch_size, "roi_size": accompanied["subjects"].roi_size}
    less_memory = ways_to_less_memory(objective, device, amp, **sizes) if less_memory is None else less_memory
    return TranslationTrainer(
        device=device,
        max_epochs=max_epochs,
        train_data_loader=train_data_loader,
        network=network,
        optimizer=fused(lr_scheduler.optimizer),
        non_blocking=True,
        objective=objective.to(device),
        adversary=adversary,
        **step,
        compile=compile,
        less_memory=less_memory,
        train_handlers=usual_handlers(average, lr_scheduler, evaluator, randomness, adversary=adversary, **accompanied),
    )


def _choose_algorithms(deterministic: bool) -> None:
    """cuDNN's; MONAI's `set_determinism`, which draws the seed, leaves the slow ones chosen."""
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, not deterministic


def _trained_on(dataset: Any, subjects: Subjects, init_weights: str) -> str:
    """In words, what the training's images are, after what the weights saw that it begins with."""
    drawn = getattr(getattr(dataset, "dataset", dataset), "trained_on", "")
    before = read(init_weights).get("trained_on", "unknown images") if init_weights else ""
    now = drawn or subjects.called()
    return before if before and before.split("; then ")[-1] == now else f"{before}; then {now}" if before else now


usual_trainer.passes_on = "usual_handlers"  # so that a misspelt argument is met before the data are read


def ways_to_less_memory(
    objective: nn.Module, device: torch.device, amp: str, batch_size: int, roi_size: Sequence[int]
) -> list[str]:
    """The options that lower what a training step needs."""
    ways = [f"a smaller --batch_size than {batch_size}"] if batch_size > 1 else []
    ways += [f"a smaller --roi_size than {roi_size}"]
    ways += ["fewer --pairs_per_subject (0 takes all)"] if getattr(objective, "pairs_per_subject", 1) != 1 else []
    ways += ["--amp bf16"] if device.type == "cuda" and not amp else []
    return [*ways, "a smaller network (an overlay such as small.json)"]


def training_options(objective: nn.Module, lr_scheduler: LRScheduler) -> dict[str, Any]:
    """The objective's numbers and words, and the optimiser's: what a training that goes on should have again."""
    own = {name: value for name, value in vars(objective).items() if name not in ("training", "epoch", "iteration")}
    chosen = {**own, **lr_scheduler.optimizer.defaults}
    return {
        name: value
        for name, value in chosen.items()
        if not name.startswith("_") and isinstance(value, (bool, int, float, str))
    }


def usual_handlers(
    average: MovingAverage,
    lr_scheduler: LRScheduler,
    evaluator: Evaluator,
    randomness: Any,
    *,
    subjects: Subjects,
    ckpt_dir: str,
    output_dir: str,
    val_interval: int = 1,
    epoch_level: bool = False,
    seed: int = 0,
    resume: bool | str = True,
    adversary: Adversary | None = None,
    agreed: Mapping[str, Any] | None = None,
    described: Mapping[str, Any] | None = None,
    save_minutes: float = 0.0,
    train_handlers: Sequence[Any] = (),
) -> list[Any]:
    """In every epoch: randomness by the epoch's number alone, the learning rate's schedule, the weights' average, the
    scale of the training's images, `train_handlers`, validation, a progress bar, checkpoints, curves, costs.

    Args:
        average, lr_scheduler: of the network's weights; the latter counts steps, or with `epoch_level` epochs.
        evaluator: runs every `val_interval` epochs, if it has subjects; else the last weights are kept.
        randomness: of the training's images: what `set_random_state` seeds all of.
        subjects: whose preparation the weights' description tells.
        ckpt_dir, output_dir: of checkpoints, and of curves and costs.
        seed, resume, described, save_minutes: see `Reseed` and `Checkpoints`.
        agreed: what else weights must be used with, beside what `subjects` tell.
        train_handlers: a method's own, in every process.
    """
    if is_main_process():
        prepare_folder(output_dir, "output_dir")
    network = average.trained
    if not (validates := len(evaluator.data_loader) > 0):
        logger.warning("No validation subjects: model.pt is the last epoch's weights, which nothing has chosen.")
    objects = {"optimizer": lr_scheduler.optimizer, "lr_scheduler": lr_scheduler, "adversary": adversary}
    checkpoints = Checkpoints(
        ckpt_dir,
        average.network,
        {"model": network, "average": average, **objects},
        evaluator if validates else None,
        resume,
        {**subjects.trained_alike, **(agreed or {})},
        {**subjects.sizes, **(described or {})},
        save_minutes,
    )
    validation = ValidationHandler(validator=evaluator, epoch_level=True, interval=val_interval)
    return [
        Reseed(seed, randomness),
        LrScheduleHandler(lr_scheduler, epoch_level=epoch_level, print_lr=False),
        average,
        ReferenceScale([network, average.network]),
        *train_handlers,
        *([validation] if validates else []),
        TrainingProgress(),
        checkpoints,
        *_written(network, output_dir),
    ]


def _written(network: nn.Module, output_dir: str) -> list[Any]:
    """Curves of the losses, and costs, by the main process alone."""
    if not is_main_process():
        return []
    losses = {"output_transform": lambda output: output[0], "epoch_log": False}
    return [TensorBoardStatsHandler(log_dir=output_dir, **losses), StepCosts(network, output_dir)]
