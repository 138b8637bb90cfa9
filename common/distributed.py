"""One process or several: who is first, and what a network looks like in either."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def is_distributed() -> bool:
    """Whether several processes train together (`configs/multi_gpu_train.json`)."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def is_main_process() -> bool:
    """Rank 0, or not distributed at all."""
    return not is_distributed() or torch.distributed.get_rank() == 0


def wrapped(network: nn.Module) -> nn.Module:
    """The network as it is trained: among several processes, one whose gradients are averaged."""
    if not is_distributed():
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, [device] if device.type == "cuda" else None, broadcast_buffers=False)


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel or `torch.compile`."""
    while isinstance(network, DistributedDataParallel) or hasattr(network, "_orig_mod"):
        network = network._orig_mod if hasattr(network, "_orig_mod") else network.module
    return network
