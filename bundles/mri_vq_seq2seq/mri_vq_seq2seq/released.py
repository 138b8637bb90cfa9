"""Weights that the paper's authors trained, carried over:

    python -m mri_vq_seq2seq.released THEIRS.pth models/released.pt
    python -m monai.bundle run inference --config_file configs/inference.json --weights models/released.pt ...

The scale of a missing sequence is not in their file, so results are written in normalised units.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .common.inference.released import SEQUENCES, architecture, released_state, write_released
from .common.options import run_command, words
from .network import VQSeq2Seq

ADVICE = "Seq2Seq's are for `python -m mri_seq2seq.released`."


def carry_over(theirs: str, ours: str, sequences: str | Sequence[str] = SEQUENCES) -> str:
    """Reads the state dict that the authors' trainer wrote, and writes this bundle's weights with a description.

    Args:
        theirs: such as ckpt_best.pth.
        ours: the file to write, such as models/released.pt; one that exists is not replaced.
        sequences: names, in the order of the codes; the default is the authors'.

    Raises:
        FileExistsError, FileNotFoundError: as said.
        ValueError: the file is damaged, or holds no VQ-Seq2Seq weights.
    """
    state = released_state(theirs)
    codebook = state.get("quantiser.codebook", torch.empty(256, 3))  # without one, the difference is told below
    quantised = dict(zip(("codes", "dimensions"), codebook.shape, strict=True))
    network = VQSeq2Seq(len(words(sequences)), **quantised, **architecture(state))
    return write_released(network, state, theirs, ours, sequences, ADVICE)


if __name__ == "__main__":
    run_command(carry_over)
