"""The three trainings, what each takes from those before it, and one command for all.

    mri-contrast train mri_aldm DATA RUN [--overlay small] [any option of the trainings]

or, in the bundle's folder, `python -m mri_aldm.stages --dataset_dir DATA ...`. A training that is finished is passed
over, one that was killed goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from monai.data import DataLoader

from .common.data.loaders import SeededItems
from .common.description import check_trained_alike, describe, read
from .common.ending import end_with
from .common.inference.weights import load_weights, read_state
from .common.launch import check_known, known_options
from .common.options import run_command, switch, words
from .common.training.checkpoints import Resumed, is_finished
from .common.training.trainer import TranslationTrainer
from .common.training.usual import usual_trainer
from .common.workflows import config_file
from .latents import MeasureLatents
from .memory import MemoryEstimate, with_checkpointing
from .network import ALDM
from .reconstruction import CheckReconstruction

ROOT = Path(__file__).resolve().parents[1]
TRAININGS = {"autoencoder": "train_autoencoder", "translation": "train_translation", "diffusion": "train"}
AUTOENCODER = (  # its options
    *("channels", "res_blocks", "latent_channels", "codes", "regularisation", "norm_groups", "norm", "usual"),
)
BEFORE = {"norm": "everywhere", "usual": [0.5, 0.5]}  # what all weights had that do not say it
SPADE = ("sequences", "spade_channels", "spade_hidden", "spade_blocks", "spade_norm", "source_code")  # the translator's
FOLDERS = {"autoencoder": "autoencoder", "translation": "translation", "diffusion": ""}


class Begun(Resumed):
    """What a training that goes on was begun with; of a new one, what the trainings before it were.

    Args:
        folder: of the training's `last.pt`.
        earlier: the weights that it takes up, the latest first.
        init_weights: see `Resumed`.
    """

    def __init__(self, folder: str | Path, earlier: Sequence[str | Path] = (), init_weights: str | Path = "") -> None:
        super().__init__(folder, init_weights)
        for file in earlier:
            found = read(file)
            own = {name: value for name, value in found.pop("network", {}).items() if name in (*AUTOENCODER, *SPADE)}
            self.found = {**found, **self.found}
            self.network = {**own, **self.network}


def begin_translation(
    network: ALDM, autoencoder_weights: str, joint: bool | str = False, checkpointing: bool | str = False
) -> ALDM:
    """The network with stage 1's autoencoder, frozen; for a joint training as it is.

    Raises:
        FileNotFoundError, ValueError: there are no such weights, or they are of another network.
    """
    if not switch(joint, "joint"):
        network.requires_grad_(False)
        _take(network, ["autoencoder"], "autoencoder", autoencoder_weights)
        network.translator.requires_grad_(True)
    return with_checkpointing(network, checkpointing)


def begin_diffusion(
    network: ALDM, autoencoder_weights: str, translation_weights: str, checkpointing: bool | str = False
) -> ALDM:
    """The network with autoencoder and MS-SPADE (which lie in one file; without MS-SPADE, stage 1's), both frozen.

    Raises:
        FileNotFoundError, ValueError: there are no such weights, or they are of another network; or it has no
            diffusion to train.
    """
    if network.denoiser is None:
        raise ValueError(
            f"method is '{network.method}', which has no diffusion to train: train_translation.json finishes it."
        )
    network.requires_grad_(False)
    if network.translator is None:
        _take(network, ["autoencoder"], "autoencoder", autoencoder_weights)
    else:
        _take(network, ["autoencoder", "translator"], "translation", translation_weights)
    network.denoiser.requires_grad_(True)
    return with_checkpointing(network, checkpointing)


def _take(network: ALDM, parts: Iterable[str], stage: str, path: str) -> None:
    """Parts of a network, and the training images' scales, from the weights of a stage."""
    command = f"run training --config_file configs/{TRAININGS[stage]}.json ..."
    names = (*AUTOENCODER, *SPADE) if "translator" in parts else AUTOENCODER
    own, found = describe(network)["network"], read(path)
    options = {name: own[name] for name in names}
    if found.get("network"):
        found = {**found, "network": {**BEFORE, **found["network"]}}
    check_trained_alike(path, found, options, {})
    for part in parts:
        module = getattr(network, part)
        load_weights(module, path, prefix=f"{part}.", command=command, option=f"{stage}_weights").train()
    state = read_state(path)
    for name in ("reference_scale", "reference_spread"):
        getattr(network, name).copy_(state.get(name, getattr(network, name)))  # older weights lack the latter


def stage_trainer(
    *,
    network: ALDM,
    train_data_loader: DataLoader,
    crop_size: Sequence[int],
    samples: int,
    checkpointing: bool | str = False,
    train_handlers: Sequence[Any] = (),
    **options: Any,
) -> TranslationTrainer:
    """`usual_trainer` that says how much memory it needs and, where it trains on latents, measures these first.

    Args:
        crop_size: of the volumes of a step.
        samples: volumes, or pairs, of a step.
        checkpointing: whether `network` has it.
        others: see `usual_trainer`.
    """
    amp, ema_decay = options.get("amp", ""), options.get("ema_decay", 0.0)
    device = next(network.parameters()).device
    estimate = MemoryEstimate(network, crop_size, samples, device, amp, checkpointing, ema_decay)
    handlers: list[Any] = [estimate]
    dataset = train_data_loader.dataset
    dataset = dataset.dataset if isinstance(dataset, SeededItems) else dataset
    if getattr(dataset, "cache_dir", None):
        buffer = "translator.scale" if network.denoiser is None else "latent_scale"
        handlers += [CheckReconstruction(options["subjects"]), MeasureLatents(dataset, buffer)]
    handlers += train_handlers
    options |= {"train_handlers": handlers, "less_memory": estimate.ways}
    return usual_trainer(network=network, train_data_loader=train_data_loader, **options)


stage_trainer.passes_on = "usual_trainer"


def train_all(
    dataset_dir: str, ckpt_dir: str = "models", output_dir: str = "eval", overlay: str = "", **options: object
) -> None:
    """Trains autoencoder, MS-SPADE and diffusion, one after another.

    Args:
        dataset_dir: folder with the subject list.
        ckpt_dir: `autoencoder/`, `translation/` and `model.pt` of the diffusion go here.
        output_dir: curves, in a folder per training.
        overlay: names of configurations to lay over each of them, separated by commas, such as "small".
        options: as in `python -m monai.bundle run`, for each of the trainings that has them.

    Raises:
        ValueError: an option that none of the trainings has.
        SystemExit: one of them failed; those before it need not be repeated.
    """
    method, joint = str(options.get("method", "aldm")), switch(options.get("joint", False), "joint")
    named = {stage: [config, *words(overlay)] for stage, config in TRAININGS.items()}
    files = {stage: [str(config_file(ROOT, name)) for name in names] for stage, names in named.items()}
    known = [known_options(each, options) for each in files.values()]
    check_known(files["diffusion"], {name: options[name] for name in options.keys() - set().union(*known)})
    for stage in TRAININGS:
        folder = Path(ckpt_dir) / FOLDERS[stage]
        if (stage, method) in UNNEEDED or (stage == "autoencoder" and joint):
            continue
        if is_finished(folder, files[stage], **options):
            print(f"Finished before: {stage}, in {folder}. Another --ckpt_dir trains it anew.", flush=True)
            continue
        print(f"Training: {stage}", flush=True)
        paths = {"dataset_dir": dataset_dir, "ckpt_dir": folder, "output_dir": Path(output_dir) / stage}
        every = {"bundle_root": ROOT, **{name: Path(path).absolute() for name, path in paths.items()}}
        models = {name: Path(ckpt_dir).absolute() / name / "model.pt" for name in ("autoencoder", "translation")}
        earlier = {f"{name}_weights": path for name, path in models.items()}
        every |= known_options(files[stage], {**options, **earlier})
        if stage != "diffusion":
            every.pop("method", None)
        line = [word for name, value in every.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", str(files[stage]), *line]
        end_with(subprocess.run(command, cwd=ROOT).returncode, f"the training '{stage}'")


# What an ablation of Table 3 does without.
UNNEEDED = {("translation", "diffusion"), ("translation", "no_spade"), ("diffusion", "spade")}

if __name__ == "__main__":
    run_command(train_all)
