"""The three trainings, what each takes from those before it, and one command for all.

    python -m mri_aldm.stages --dataset_dir DIR [--overlays small] [any option of the trainings]

It is run in the bundle's folder. A training that is finished is passed over, one that was killed goes on.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from .common.inference.weights import check_trained_alike, load_weights
from .common.options import run_command, switch
from .network import ALDM

TRAININGS = {"autoencoder": "train_autoencoder", "translation": "train_translation", "diffusion": "train"}
AUTOENCODER = ("channels", "res_blocks", "latent_channels", "codes", "regularisation", "norm_groups")  # its options
FOLDERS = {"autoencoder": "autoencoder", "translation": "translation", "diffusion": ""}


def begin_translation(network: ALDM, autoencoder_path: str, joint: bool | str = False) -> ALDM:
    """The network with stage 1's autoencoder, frozen; for a joint training as it is.

    Raises:
        FileNotFoundError, ValueError: there are no such weights, or they are of another network.
    """
    if not switch(joint, "joint"):
        network.requires_grad_(False)
        _take(network, ["autoencoder"], "autoencoder", autoencoder_path)
        network.translator.requires_grad_(True)
    return network


def begin_diffusion(network: ALDM, autoencoder_path: str, translation_path: str) -> ALDM:
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
        _take(network, ["autoencoder"], "autoencoder", autoencoder_path)
    else:
        _take(network, ["autoencoder", "translator"], "translation", translation_path)
    network.denoiser.requires_grad_(True)
    return network


def _take(network: ALDM, parts: Iterable[str], stage: str, path: str) -> None:
    """Parts of a network, and the training images' scale, from the weights of a stage."""
    command = f"run training --config_file configs/{TRAININGS[stage]}.json ..."
    options = network.options if "translator" in parts else {name: network.options[name] for name in AUTOENCODER}
    check_trained_alike(path, options, {})
    for part in parts:
        module = getattr(network, part)
        load_weights(module, path, prefix=f"{part}.", command=command, option=f"{stage}_path").train()
    network.reference_scale.copy_(torch.load(path, weights_only=True, map_location="cpu")["reference_scale"])


def trained_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Those of a network that are not frozen."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def train_all(
    dataset_dir: str, ckpt_dir: str = "models", output_dir: str = "eval", overlays: str = "", **options: object
) -> None:
    """Trains autoencoder, MS-SPADE and diffusion, one after another.

    Args:
        dataset_dir: folder with the subject list.
        ckpt_dir: `autoencoder/`, `translation/` and `model.pt` of the diffusion go here.
        output_dir: curves, in a folder per training.
        overlays: names of configurations to lay over each of them, separated by commas, such as "small".
        options: of all trainings, as in `python -m monai.bundle run`.

    Raises:
        SystemExit: one of them failed; those before it need not be repeated.
    """
    method = str(options.get("method", "aldm"))
    for stage, config in TRAININGS.items():
        folder = Path(ckpt_dir) / FOLDERS[stage]
        if (stage, method) in UNNEEDED:
            continue
        if (folder / "finished").exists():
            print(f"Finished before: {stage}. To train it anew, remove {folder / 'finished'}", flush=True)
            continue
        print(f"Training: {stage}", flush=True)
        extra = overlays.split(",") if isinstance(overlays, str) else list(overlays)
        files = str([f"configs/{name}.json" for name in [config, *filter(None, extra)]])
        every = {"dataset_dir": dataset_dir, "ckpt_dir": folder, "output_dir": Path(output_dir) / stage, **options}
        for earlier in ("autoencoder", "translation"):
            every[f"{earlier}_path"] = Path(ckpt_dir) / earlier / "model.pt"
        if stage != "diffusion":
            every.pop("method", None)
        words = [word for name, value in every.items() for word in (f"--{name}", str(value))]
        line = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", files, *words]
        if subprocess.run(line).returncode:
            raise SystemExit(
                f"The training '{stage}' failed; the reason stands above. The same command goes on from it."
            )
        (folder / "finished").touch()


# What an ablation of Table 3 does without.
UNNEEDED = {("translation", "diffusion"), ("translation", "no_spade"), ("diffusion", "spade")}

if __name__ == "__main__":
    run_command(train_all)
