"""Where the experiments compute, and how precisely."""

from __future__ import annotations

import torch

from ..training.trainer import AMP_TYPES, has_fast


def chosen_device(device: str = "") -> str:
    """The one that is named, else the first GPU, else the CPU."""
    return device or ("cuda:0" if torch.cuda.is_available() else "cpu")


def autocast(amp: str, device: str) -> torch.autocast:
    """Mixed precision where it saves time, see `common.training.trainer.TranslationTrainer`.

    Raises:
        ValueError: `amp` is neither "" nor "bf16": nothing scales the gradients of half precision here.
    """
    if amp not in ("", "bf16"):
        raise ValueError(f"amp is '{amp}'; choose bf16, or '' for full precision.")
    where = torch.device(device)
    return torch.autocast(where.type, torch.bfloat16, enabled=bool(amp) and has_fast(AMP_TYPES["bf16"], where))
