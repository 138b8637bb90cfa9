"""The residual generator of pix2pix and CycleGAN (Zhu et al., ICCV 2017), in parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

# "affine" has a scale and a shift: what batch normalisation does to one image alone.
NORMS = {"instance": nn.InstanceNorm2d, "affine": partial(nn.InstanceNorm2d, affine=True)}


class ConvNorm(nn.Sequential):
    """Convolution, normalisation and, unless it ends a residual branch, ReLU: [B, in, X, Y] to [B, out, X', Y'].

    Args:
        stride: 2 halves the size.
        norm: "instance", whose convolutions have a bias, or "affine".
        padding_mode: of the convolution.
        up: a transposed convolution that doubles the size, in place of the other.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        norm: str = "affine",
        padding_mode: str = "zeros",
        act: bool = True,
        up: bool = False,
    ) -> None:
        if norm not in NORMS:
            raise ValueError(f"norm is '{norm}'; choose one of {', '.join(NORMS)}.")
        channels, biased = (in_channels, out_channels), norm == "instance"
        if up:
            conv: nn.Module = nn.ConvTranspose2d(*channels, 3, 2, padding=1, output_padding=1, bias=biased)
        else:
            padding = {"padding": kernel_size // 2, "padding_mode": padding_mode}
            conv = nn.Conv2d(*channels, kernel_size, stride, bias=biased, **padding)
        super().__init__(conv, NORMS[norm](out_channels), *([nn.ReLU()] if act else []))


class ResNetBlock(nn.Module):
    """x plus two reflect-padded convolutions of it."""

    def __init__(self, channels: int, norm: str = "affine") -> None:
        super().__init__()
        options = {"norm": norm, "padding_mode": "reflect"}
        self.conv1 = ConvNorm(channels, channels, **options)
        self.conv2 = ConvNorm(channels, channels, act=False, **options)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class ResNetEncoder(nn.Sequential):
    """A 7-wide convolution, and one that halves the size for each further width."""

    def __init__(self, in_channels: int, channels: Sequence[int] = (64, 128, 256), norm: str = "affine") -> None:
        halving = [ConvNorm(a, b, stride=2, norm=norm) for a, b in pairwise(channels)]
        super().__init__(ConvNorm(in_channels, channels[0], 7, norm=norm, padding_mode="reflect"), *halving)


class ResNetDecoder(nn.Sequential):
    """The way back, to images in [-1, 1]."""

    def __init__(self, out_channels: int, channels: Sequence[int] = (64, 128, 256), norm: str = "affine") -> None:
        doubling = [ConvNorm(b, a, norm=norm, up=True) for a, b in reversed(list(pairwise(channels)))]
        last = nn.Conv2d(channels[0], out_channels, 7, padding=3, padding_mode="reflect")
        super().__init__(*doubling, last, nn.Tanh())
