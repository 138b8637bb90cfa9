"""What can be carried over of weights that the paper's authors trained, for a training to begin with:

    python -m mri_crl.released THEIRS.pth models/begin.pt
    python -m monai.bundle run training --config_file configs/train.json --init_weights models/begin.pt ...

That is the encoder and the decoder. Their embedding of TR, TE and TI cannot be: it takes TR/100, TE and TI/100 and
gives any number, 0 and negative ones among them, by which features are divided; here it takes logarithms and gives
gains between 1/10 and 10. So there is no network here that makes their images before it is trained.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from .common.data.mr_signal import FSE9
from .common.description import description_file, write
from .common.files import replacing
from .common.inference.weights import differing_shapes, read_state, sha256
from .common.options import run_command
from .network import CRL, USUAL

NEEDED = ("encoder.head.0.weight", "imnet.layers.0.weight")
RENAMES = {"encoder.head.0.": "encoder.head.", "imnet.layers.": "decoder."}


def rename(name: str) -> str:
    """The name here of one of their encoder's or decoder's tensors."""
    for theirs, ours in RENAMES.items():
        name = name.replace(theirs, ours)
    return re.sub(r"(encoder\.body\.\d+)\.body\.([02])", lambda m: f"{m[1]}.conv{1 + (m[2] == '2')}", name)


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encoder and decoder of their state dict by our names.

    What they do to a pixel, ours does by a convolution of one; ours brings an image to `USUAL` first, which the first
    convolution takes back. Only what is seen beyond an image's edge, 0 in theirs, is the usual mean here.
    """
    ours = {rename(name): value for name, value in state.items() if name.startswith(("encoder.", "imnet."))}
    ours = {n: v[..., None, None] if n.startswith("decoder.") and v.ndim == 2 else v for n, v in ours.items()}
    mean, deviation = USUAL
    head = ours["encoder.head.weight"]
    ours["encoder.head.bias"] = ours["encoder.head.bias"] + mean * head.sum((1, 2, 3))
    return {**ours, "encoder.head.weight": deviation * head}


def carry_over(theirs: str, ours: str) -> str:
    """Reads what the authors' trainer wrote, and writes what a training of `variant` gain begins with.

    Args:
        theirs: such as epoch-best.pth.
        ours: the file to write, such as models/begin.pt; one that exists is not replaced.

    Raises:
        FileExistsError, FileNotFoundError: as said.
        ValueError: the file is damaged, or holds no CRL weights.
    """
    found = read_state(theirs)
    state = found["model"].get("sd", {}) if isinstance(found.get("model"), dict) else found
    if lacking := [name for name in NEEDED if not isinstance(state.get(name), Tensor)]:
        few = ", ".join(list(state)[:3]) or "nothing"
        raise ValueError(f"{theirs} has no {', '.join(lacking)}, as the authors' CRL weights have; it has {few}.")
    path, converted = Path(ours), convert(state)
    for file in (path, description_file(path)):
        if file.exists():
            raise FileExistsError(f"{file} exists; name another file.")
    blocks = sum(name.endswith("conv1.weight") for name in converted)
    settings = [(each.tr, each.te, each.ti) for each in FSE9.values()]
    network = CRL(settings, "gain", features=len(converted["encoder.head.weight"]), res_blocks=blocks)
    wanted = {n: v for n, v in network.named_parameters() if n.startswith(("encoder.", "decoder."))}
    if differences := differing_shapes(converted, wanted):
        raise ValueError(f"{theirs} differs in {len(differences)} tensors ({'; '.join(differences[:3])}).")
    with replacing(path) as partial:
        torch.save(converted, partial)
        write(path, network, sha256=sha256(partial), normalisation="minmax", scale_per="image")
    return f"{path}: encoder and decoder, for --init_weights {path}; the rest is trained anew"


if __name__ == "__main__":
    run_command(carry_over)
