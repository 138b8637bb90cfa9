"""Weights that the paper's authors trained, carried over: `python -m mri_seq2seq.released THEIRS.pth models/model.pt`.

Their images were normalised by `--normalisation p99`; the scale of a missing sequence is not in their file, so results
are written in normalised units.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from .common.inference.weights import read_state
from .common.options import run_command
from .common.training.checkpoints import save_atomically

PARTS = {"fc": "mix", "param": "bank", "fc_bias": "bias_mix", "b": "bias_bank"}
RENAMES = [
    (r"encoder\.conv\.(\d+)\.0", r"encoder.\1.conv"),
    (r"style_fc\.0", "code_layer.linear"),
    (r"decoder\.convs\.", "decoder.up."),
    (r"decoder\.conv_last\.", "decoder.last."),
    (r"enc_convlstm\.cell_list", "encoder_lstm.cells"),
    (r"dec_convlstm\.cell_list", "decoder_lstm.cells"),
]


def rename(name: str, downsamplings: int = 3) -> str:
    """The name here of one of the released network's tensors; `downsamplings` is how many plain convolutions lead."""
    residual = re.fullmatch(r"encoder\.res\.(\d+)\.conv_block\.([15])\.(weight|bias)", name)
    if residual:
        block, conv, kind = residual.groups()
        return f"encoder.{downsamplings + int(block)}.conv{1 + (conv == '5')}.conv.{kind}"
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    hyper = re.fullmatch(r"(decoder\..+)\.(fc_bias|fc|param|b)((?:\.weight|\.bias)?)", name)
    return f"{hyper[1]}.conv.{PARTS[hyper[2]]}{hyper[3]}" if hyper else name


def convert(state: dict[str, Tensor], sequences: int = 4) -> dict[str, Tensor]:
    """The released state dict with the names of `network.Seq2Seq`; the reference scale stays unknown (nan)."""
    plain = len({name.split(".")[2] for name in state if name.startswith("encoder.conv.")})
    converted = {rename(name, plain): tensor for name, tensor in state.items()}
    return {**converted, "reference_scale": torch.full((sequences, 2), torch.nan)}


def convert_file(theirs: str, ours: str, sequences: int = 4) -> None:
    """Reads the authors' state dict and writes this bundle's weights; an existing file is not replaced."""
    if Path(ours).exists():
        raise FileExistsError(f"{ours} exists; name another file.")
    state = read_state(theirs)
    save_atomically(convert(state, sequences), Path(ours))


if __name__ == "__main__":
    run_command(convert_file)
