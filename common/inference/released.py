"""Weights that the authors' code of Seq2Seq and VQ-Seq2Seq has trained, carried over: fiy2W/mri_seq2seq, publications.

Their file has tensors alone. How their loader shows images to the network stands here, and goes into the description
beside the weights, so that inference does it, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..description import description_file, write
from ..files import replacing
from ..options import words
from ..translation import TranslationNetwork
from .weights import differing_shapes, read_state, sha256

SEQUENCES = ("T1", "T1Gd", "T2", "FLAIR")  # in the order of their codes
# An image as SimpleITK's array: rows lead to the back, columns to the left; of 240 x 240 the middle.
SHOWN = {"normalisation": "p99", "axes": "PLS", "crop": [192, 192, -1]}
TRAINED_ON = "not stated in the authors' file; in their papers BraTS 2021"

PARTS = {"fc": "mix", "param": "bank", "fc_bias": "bias_mix", "b": "bias_bank"}
RENAMES = [
    (r"encoder\.conv\.(\d+)\.0", r"encoder.\1.conv"),
    (r"style_fc\.0", "code_layer.linear"),
    (r"decoder\.convs\.", "decoder.up."),
    (r"decoder\.conv_last\.", "decoder.last."),
    (r"enc_convlstm\.cell_list", "encoder_lstm.cells"),
    (r"dec_convlstm\.cell_list", "decoder_lstm.cells"),
    (r"quantize_conv", "to_latent"),
    (r"quantize_deconv", "from_latent"),
    (r"quantize\.embedding\.weight", "quantiser.codebook"),
]
# Tensors that are always there, and whose else a file is that has others.
NEEDED = ("encoder.conv.0.0.weight", "style_fc.0.weight", "decoder.conv_last.param")
ELSE = {
    "encoder.0.conv.weight": "They have this project's names already: pass them as --weights",
    "module.encoder.conv.0.0.weight": "Save the state dict of `net.module`, not of the parallel wrapper",
    "imnet.layers.0.weight": "They are CRL's (mri_crl)",
}


def rename(name: str, downsamplings: int = 3) -> str:
    """The name here of one of their tensors; `downsamplings` is how many plain convolutions lead."""
    residual = re.fullmatch(r"encoder\.res\.(\d+)\.conv_block\.([15])\.(weight|bias)", name)
    if residual:
        block, conv, kind = residual.groups()
        return f"encoder.{downsamplings + int(block)}.conv{1 + (conv == '5')}.conv.{kind}"
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    hyper = re.fullmatch(r"(decoder\..+)\.(fc_bias|fc|param|b)((?:\.weight|\.bias)?)", name)
    return f"{hyper[1]}.conv.{PARTS[hyper[2]]}{hyper[3]}" if hyper else name


def released_state(theirs: str | Path) -> dict[str, Tensor]:
    """Their state dict by our names.

    Raises:
        ValueError: the file is damaged, or neither Seq2Seq's nor VQ-Seq2Seq's.
    """
    state = read_state(theirs)
    if lacking := [name for name in NEEDED if not isinstance(state.get(name), Tensor)]:
        told = next((f" {reason}." for name, reason in ELSE.items() if name in state), "")
        few = ", ".join(list(state)[:3]) or "nothing"
        raise ValueError(
            f"{theirs} has no {', '.join(lacking)}, as the weights of the authors' Seq2Seq and VQ-Seq2Seq have; it "
            f"has {few}.{told}"
        )
    plain = numbered(state, r"encoder\.conv\.(\d+)\.0\.weight")
    return {rename(name, plain): value for name, value in state.items()}


def numbered(state: dict[str, Any], pattern: str) -> int:
    """How many different numbers a pattern's group has among the names."""
    return len({found[1] for name in state if (found := re.fullmatch(pattern, name))})


def architecture(state: dict[str, Tensor]) -> dict[str, Any]:
    """The options that both networks have, from the shapes of `released_state`."""
    first, plain = state["encoder.0.conv.weight"], numbered(state, r"encoder\.(\d+)\.conv\.weight")
    return {
        "slices": first.shape[1],
        "channels": [len(state[f"encoder.{k}.conv.weight"]) for k in range(plain)],
        "res_blocks": numbered(state, r"encoder\.(\d+)\.conv1\.conv\.weight"),
        "code_channels": len(state["code_layer.linear.weight"]),
        "bank_channels": state["decoder.last.conv.bank"].shape[-1],
    }


def write_released(
    network: TranslationNetwork,
    state: dict[str, Tensor],
    theirs: str | Path,
    ours: str | Path,
    sequences: str | Sequence[str],
    advice: str,
) -> str:
    """Writes `ours` and the description beside it, whole or not at all; returns a sentence on it.

    Args:
        network: made by what `state` says.
        state: see `released_state`.
        theirs: where it is from, for messages.
        sequences: names, in the order of the codes.
        advice: said where the tensors are not the network's.

    Raises:
        FileExistsError: there is such a file.
        ValueError: the tensors are not the network's.
    """
    ours = Path(ours)
    for file in (ours, description_file(ours)):
        if file.exists():
            raise FileExistsError(f"{file} exists; name another file.")
    wanted = dict(network.named_parameters())
    if differences := differing_shapes(state, wanted):
        raise ValueError(f"{theirs} differs in {len(differences)} tensors ({'; '.join(differences[:3])}). {advice}")
    network.load_state_dict(state, strict=False)  # what else there is counts what happened here
    stride = network.downsampling
    sizes = {"roi_size": [192, 192, network.slices], "divisible": [stride, stride, 1]}
    with replacing(ours) as partial:
        torch.save(network.state_dict(), partial)
        more = {"sequences": words(sequences), **SHOWN, **sizes, "trained_on": TRAINED_ON}
        write(ours, network, sha256=sha256(partial), **more)
    return f"{ours}, with {description_file(ours).name}: run inference with --weights {ours}"
