"""The ResNet generator of pix2pix, pGAN and CycleGAN, whole."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .resnet import ResNetBlock, ResNetDecoder, ResNetEncoder


class ResNetGenerator(nn.Sequential):
    """ResNet-9 of Johnson et al. (ECCV 2016) as CycleGAN has it: [N, in, X, Y] in [-1, 1] to [N, out, X, Y], too.

    Its weights begin as theirs, normal with a deviation of 0.02.

    Args:
        in_channels, out_channels: such as the slices in and out.
        channels: widths from full resolution down; each further one halves the size.
        res_blocks: residual blocks at the smallest size.
    """

    def __init__(
        self, in_channels: int, out_channels: int = 1, channels: Sequence[int] = (64, 128, 256), res_blocks: int = 9
    ) -> None:
        super().__init__(
            ResNetEncoder(in_channels, channels, "instance"),
            *[ResNetBlock(channels[-1], "instance") for _ in range(res_blocks)],
            ResNetDecoder(out_channels, channels, "instance"),
        )
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
