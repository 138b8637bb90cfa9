"""The decoder of Seq2Seq and VQ-Seq2Seq, Fig. 2 (b) of Han et al. (MedIA 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .conditional import ConditionalConv, ConditionalResBlock
from .encoder import check_norm


class HyperDecoder(nn.Module):
    """Hyper-residual blocks, then per doubling of the size an upsampling and a HyperConv, then a 7-wide HyperConv.

    `norm` is the encoder's (see `NORMS` there); further options are those of `ConditionalConv`.
    """

    def __init__(
        self,
        spatial_dims: int,
        out_channels: int,
        channels: Sequence[int],
        res_blocks: int,
        norm: str = "everywhere",
        **options,
    ) -> None:
        super().__init__()
        check_norm(norm)
        widths = list(reversed(channels))
        self.leak = 0.01  # of the gradient that passes where tanh is flat
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"
        self.res = nn.ModuleList(ConditionalResBlock(spatial_dims, widths[0], **options) for _ in range(res_blocks))
        self.up = nn.ModuleList(
            ConditionalConv(spatial_dims, a, b, norm=norm == "everywhere", **options) for a, b in pairwise(widths)
        )
        # It starts near mid-grey, where tanh is steep.
        self.last = ConditionalConv(spatial_dims, widths[-1], out_channels, 7, norm=False, gain=0.1, **options)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        for res in self.res:
            x = res(x, code)
        for up in self.up:
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2.0, mode=self.mode), code), 0.2)
        x = self.last(x, code)
        made = torch.tanh(x)
        if self.training:  # where tanh is flat, nothing would be learned: a target that was once black stayed so
            x = x.clamp(-1e4, 1e4)  # not the difference of two that are infinite
            made = made + self.leak * (x - x.detach())
        return made
