"""What ResViT's second training begins with: the first one's network, and a ViT-B/16 trained on ImageNet-21k."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .common.distributed import is_main_process
from .common.training.checkpoints import Resumed
from .network import ResViT

logger = logging.getLogger(__name__)
URL = "https://storage.googleapis.com/vit_models/imagenet21k/R50+ViT-B_16.npz"
LINEAR = {
    "out_proj": "MultiHeadDotProductAttention_1/out",
    "linear1": "MlpBlock_3/Dense_0",
    "linear2": "MlpBlock_3/Dense_1",
}


class Begun(Resumed):
    """As `Resumed`; but which blocks have a transformer is not what other weights had that a training begins with."""

    def __init__(self, folder: str | Path, init_weights: str | Path = "") -> None:
        super().__init__(folder, init_weights)
        if init_weights and not (Path(folder) / "last.pt").is_file():
            self.network = {name: value for name, value in self.network.items() if name != "transformers"}


def with_vit(network: ResViT, path: str | Path = "") -> ResViT:
    """The network with a ViT's weights in its transformer, token embeddings and positions; without a file as it is.

    Args:
        network: of the ViT's width.
        path: what Google published for `vit_jax`, R50+ViT-B_16.npz.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is of another transformer; or the network has none.
    """
    if not path:
        return network
    if network.transformer is None:
        raise ValueError(f"vit_weights is {path}, but this network has no transformer: leave one of them out.")
    if not Path(path).is_file():
        raise FileNotFoundError(f"vit_weights is '{path}', which is no file. Fetch {URL}, or leave it out.")
    try:
        with np.load(path, allow_pickle=False) as file:
            state = vit_state({name: torch.from_numpy(file[name]) for name in file.files})
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no ViT as vit_jax saves it ({error}). {URL} has one.") from None
    own = network.transformer.state_dict()
    if wrong := [name for name, value in own.items() if name not in state or state[name].shape != value.shape]:
        raise ValueError(
            f"{path} is of another transformer: {', '.join(wrong[:3])} differ. Give the network its sizes."
        )
    network.transformer.load_state_dict({name: state[name] for name in own})
    with torch.no_grad():
        for context in (block.context for block in network.art if block.has_transformer):
            context.patches.weight.copy_(state["patches.weight"])
            context.patches.bias.copy_(state["patches.bias"])
            size = context.positions.shape[2:]
            context.positions.copy_(F.interpolate(state["positions"], size, mode="bilinear", align_corners=True))
    if is_main_process():
        logger.info(f"The transformer begins as in {path}.")
    return network


def vit_state(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A vit_jax file's arrays by the names of `ViT`, and "patches.weight", "patches.bias" and "positions" [1, W, h, w].

    Raises:
        KeyError: one is not there.
    """
    layers = len({name.split("/")[1] for name in arrays if name.startswith("Transformer/encoderblock_")})
    width = arrays["Transformer/encoder_norm/scale"].numel()
    state = {
        "norm.weight": arrays["Transformer/encoder_norm/scale"],
        "norm.bias": arrays["Transformer/encoder_norm/bias"],
    }
    for k in range(layers):
        theirs = f"Transformer/encoderblock_{k}/"
        qkv = [theirs + f"MultiHeadDotProductAttention_1/{part}/" for part in ("query", "key", "value")]
        state[f"blocks.{k}.attn.qkv.weight"] = torch.cat([arrays[f"{part}kernel"].reshape(width, -1).T for part in qkv])
        state[f"blocks.{k}.attn.qkv.bias"] = torch.cat([arrays[f"{part}bias"].flatten() for part in qkv])
        for name, other in LINEAR.items():
            kernel = arrays[f"{theirs}{other}/kernel"]
            place = f"blocks.{k}." + (f"attn.{name}" if name == "out_proj" else f"mlp.{name}")
            state[f"{place}.weight"] = (kernel.reshape(-1, width) if kernel.ndim == 3 else kernel).T
            state[f"{place}.bias"] = arrays[f"{theirs}{other}/bias"]
        for name, other in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            state[f"blocks.{k}.{name}.weight"] = arrays[f"{theirs}{other}/scale"]
            state[f"blocks.{k}.{name}.bias"] = arrays[f"{theirs}{other}/bias"]
    state["patches.weight"] = arrays["embedding/kernel"].permute(3, 2, 0, 1)
    state["patches.bias"] = arrays["embedding/bias"]
    positions = arrays["Transformer/posembed_input/pos_embedding"][:, 1:]  # the first is the class token's
    side = round(positions.shape[1] ** 0.5)
    state["positions"] = positions.mT.unflatten(2, (side, side))
    return state
