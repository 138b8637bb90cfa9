"""The encoder of Seq2Seq and VQ-Seq2Seq, Fig. 2 (b) of Han et al. (MedIA 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .adain import AdaIN

# "everywhere" is the papers'. It forgets how bright a slice is as a whole; "branches" normalises inside residual blocks
# only, so that the path around them remembers.
NORMS = ("everywhere", "branches")


def check_norm(norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f"norm is '{norm}'; choose one of {', '.join(NORMS)}.")


class ConvBlock(nn.Module):
    """Reflect-padded convolution, instance normalisation and, unless it ends a residual branch, leaky ReLU.

    Args:
        norm: whether there is a normalisation.
        code_channels: length of the source's code, which then sets a scale and a shift; 0 is without, as in the paper.
    """

    __constants__ = ("is_told",)  # by which TorchScript leaves out what is not run

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        act: bool = True,
        norm: bool = True,
        code_channels: int = 0,
    ) -> None:
        super().__init__()
        conv_type, norm_type = ((nn.Conv2d, nn.InstanceNorm2d), (nn.Conv3d, nn.InstanceNorm3d))[spatial_dims - 2]
        self.conv = conv_type(in_channels, out_channels, kernel_size, stride, kernel_size // 2, padding_mode="reflect")
        nn.init.kaiming_normal_(self.conv.weight, a=0.2)
        nn.init.zeros_(self.conv.bias)
        self.norm: nn.Module = norm_type(out_channels) if norm else nn.Identity()
        self.is_told = code_channels > 0
        if self.is_told:
            self.norm = AdaIN(out_channels, code_channels, norm)
            for parameter in self.norm.parameters():  # all sources start alike
                nn.init.zeros_(parameter)
        self.act = act

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        x = self.conv(x)
        if self.is_told:
            assert code is not None, "An encoder that is told its source needs the source's code."
            x = self.norm(x, code)
        else:
            x = self.norm(x)
        return F.leaky_relu(x, 0.2) if self.act else x


class ResBlock(nn.Module):
    def __init__(self, spatial_dims: int, channels: int, **options) -> None:
        super().__init__()
        self.conv1 = ConvBlock(spatial_dims, channels, channels, 3, **options)
        self.conv2 = ConvBlock(spatial_dims, channels, channels, 3, act=False, **options)

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        return x + self.conv2(self.conv1(x, code), code)


class Encoder(nn.ModuleList):
    """A 7-wide convolution, one stride-2 convolution per further width, residual blocks.

    Args:
        norm: where instances are normalised, see `NORMS`.
        code_channels: length of the source's code; 0, as in the paper, does not tell the encoder.

    Shapes: image [B, in_channels, *spatial] and code [B or 1, code_channels] to features [B, channels[-1], *s].
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int],
        res_blocks: int,
        norm: str = "everywhere",
        code_channels: int = 0,
    ) -> None:
        check_norm(norm)
        main = {"norm": norm == "everywhere", "code_channels": code_channels}
        super().__init__(
            [
                ConvBlock(spatial_dims, in_channels, channels[0], 7, **main),
                *[ConvBlock(spatial_dims, a, b, 3, stride=2, **main) for a, b in pairwise(channels)],
                *[ResBlock(spatial_dims, channels[-1], code_channels=code_channels) for _ in range(res_blocks)],
            ]
        )

    def forward(self, x: Tensor, code: Tensor | None = None) -> Tensor:
        for block in self:
            x = block(x, code)
        return x
