"""Optimisers that step all parameters at once, and how large their gradient is."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

KERNELS = ("cpu", "cuda")  # devices that fused kernels are known to run on here

Kind = TypeVar("Kind", bound=Optimizer)


def fused(optimizer: Kind) -> Kind:
    """The optimiser itself, by torch's fused kernel where it has one and nothing else was asked for.

    It stays so where it goes on from a state that was stored otherwise.
    """
    for group in optimizer.param_groups:
        known = all(p.device.type in KERNELS and p.is_floating_point() for p in group["params"])
        if known and group.get("fused", False) is None and not group.get("foreach"):
            group["fused"] = True
    optimizer.register_load_state_dict_pre_hook(_as_it_is)
    return optimizer


def _as_it_is(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    own = [{name: group[name] for name in ("fused", "foreach") if name in group} for group in optimizer.param_groups]
    if len(own) != len(state["param_groups"]):
        return state  # which torch refuses
    groups = [{**stored, **chosen} for stored, chosen in zip(state["param_groups"], own, strict=True)]
    return {**state, "param_groups": groups}


def gradient_norm(network: nn.Module, clip: float = 0.0) -> Tensor:
    """L2 norm of the gradient of all parameters, on their device; then it is at most `clip`, where that is not 0."""
    parameters = [p for p in network.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    if clip:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return norm
