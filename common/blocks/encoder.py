"""The encoder of Seq2Seq and VQ-Seq2Seq, Fig. 2 (b) of Han et al. (MedIA 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """Reflect-padded convolution, instance normalisation and, unless it ends a residual branch, leaky ReLU."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        act: bool = True,
    ):
        conv_type, norm_type = ((nn.Conv2d, nn.InstanceNorm2d), (nn.Conv3d, nn.InstanceNorm3d))[spatial_dims - 2]
        conv = conv_type(in_channels, out_channels, kernel_size, stride, kernel_size // 2, padding_mode="reflect")
        nn.init.kaiming_normal_(conv.weight, a=0.2)
        nn.init.zeros_(conv.bias)
        super().__init__(conv, norm_type(out_channels), *([nn.LeakyReLU(0.2)] if act else []))


class ResBlock(nn.Module):
    def __init__(self, spatial_dims: int, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            ConvBlock(spatial_dims, channels, channels, 3), ConvBlock(spatial_dims, channels, channels, 3, act=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Encoder(nn.Sequential):
    """A 7-wide convolution, one stride-2 convolution per further width, residual blocks."""

    def __init__(self, spatial_dims: int, in_channels: int, channels: Sequence[int], res_blocks: int) -> None:
        super().__init__(
            ConvBlock(spatial_dims, in_channels, channels[0], 7),
            *[ConvBlock(spatial_dims, a, b, 3, stride=2) for a, b in pairwise(channels)],
            *[ResBlock(spatial_dims, channels[-1]) for _ in range(res_blocks)],
        )
