"""Adaptive instance normalisation (Huang & Belongie 2017), the Seq2Seq paper's rival Seq2Seq-A of Table 1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def with_axes(values: Tensor, axes: int) -> Tensor:
    """So many axes of length 1 added at the end, in a way that TorchScript compiles."""
    for _ in range(axes):
        values = values.unsqueeze(-1)
    return values


class AdaIN(nn.Module):
    """Instance normalisation whose scale and shift are linear in the code: `norm(x) * (1 + scale) + shift`.

    With `norm=False` scale and shift alone.
    """

    def __init__(self, channels: int, code_channels: int = 64, norm: bool = True) -> None:
        super().__init__()
        self.affine = nn.Linear(code_channels, 2 * channels)
        self.norm = norm

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        affine = with_axes(self.affine(code).unflatten(1, (2, -1)), x.ndim - 2)
        return (F.instance_norm(x) if self.norm else x) * (1 + affine[:, 0]) + affine[:, 1]


class FrozenAdaIN(nn.Module):
    """`AdaIN` for one code [1, C], its scale and shift stored."""

    def __init__(self, layer: AdaIN, code: Tensor, spatial_dims: int) -> None:
        super().__init__()
        with torch.no_grad():
            scale, shift = layer.affine(code).unflatten(1, (2, -1))[(...,) + (None,) * spatial_dims].unbind(1)
        self.register_buffer("scale", 1 + scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x) * self.scale + self.shift
