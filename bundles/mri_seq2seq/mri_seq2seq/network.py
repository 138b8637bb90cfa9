"""The Seq2Seq generator, Fig. 2 of Han et al., "Synthesis-based imaging-differentiation representation learning for
multi-sequence 3D/4D MRI" (MedIA 2024): an encoder, two ConvLSTMs for 4D, and a decoder made of HyperConv.

With its default values it is, layer by layer, the network that the authors released.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.blocks.conditional import ConditionalConv, ConditionalResBlock
from .common.blocks.convlstm import ConvLSTM
from .common.blocks.hyperconv import CodeLayer
from .common.translation import TranslationNetwork


class Representation(NamedTuple):
    """`compressed` [B, C, *s] is Fig. 2's average over time; `features` [B, C, *s] that, ready for one time point."""

    features: Tensor
    compressed: Tensor
    source: Tensor


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


class HyperDecoder(nn.Module):
    """Hyper-residual blocks, then per doubling of the size an upsampling and a HyperConv, then a 7-wide HyperConv."""

    def __init__(
        self, spatial_dims: int, out_channels: int, channels: Sequence[int], res_blocks: int, **options
    ) -> None:
        super().__init__()
        widths = list(reversed(channels))
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"
        self.res = nn.ModuleList(ConditionalResBlock(spatial_dims, widths[0], **options) for _ in range(res_blocks))
        self.up = nn.ModuleList(ConditionalConv(spatial_dims, a, b, **options) for a, b in pairwise(widths))
        self.last = ConditionalConv(spatial_dims, widths[-1], out_channels, 7, norm=False, **options)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        for res in self.res:
            x = res(x, code)
        for up in self.up:
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2.0, mode=self.mode), code), 0.2)
        return torch.tanh(self.last(x, code))


class Seq2Seq(TranslationNetwork):
    """Any of S sequences to any other; see `TranslationNetwork` for how a subject is completed with it.

    Args:
        sequences: S.
        spatial_dims: 2 or 3.
        slices: adjacent slices in and out of a 2D network (the paper's 2.5D is 3).
        channels: widths from full resolution down; each further one halves the size.
        res_blocks: residual blocks of the encoder and of the decoder.
        lstm_layers: layers of each of the two ConvLSTMs; 0 leaves both out, for data without time points.
        conditioning: "hyperconv" (the paper's), "adain" (Seq2Seq-A) or "dynamic" (Seq2Seq-B).
        code_channels, bank_channels: c_s and c_w of Algorithm 1.
        slice_axis: spatial axis that is sliced.
    """

    def __init__(
        self,
        sequences: int = 4,
        spatial_dims: int = 2,
        slices: int = 3,
        channels: Sequence[int] = (64, 128, 256),
        res_blocks: int = 6,
        lstm_layers: int = 3,
        conditioning: str = "hyperconv",
        code_channels: int = 64,
        bank_channels: int = 16,
        slice_axis: int = -1,
    ) -> None:
        super().__init__(sequences, spatial_dims, slices, slice_axis, downsampling=2 ** (len(channels) - 1))
        options = {"conditioning": conditioning, "code_channels": code_channels, "bank_channels": bank_channels}
        self.encoder = Encoder(spatial_dims, self.slices, channels, res_blocks)
        self.decoder = HyperDecoder(spatial_dims, self.slices, channels, res_blocks, **options)
        self.code_layer: nn.Module = CodeLayer(code_channels)
        layers = [ConvLSTM(spatial_dims, channels[-1], lstm_layers) if lstm_layers else nn.Identity() for _ in range(2)]
        self.encoder_lstm, self.decoder_lstm = layers

    def encode(self, image: Tensor, source: Tensor) -> Representation:
        """Image [B, c, *spatial], or with time points [B, T, c, *spatial], in [0, 1]."""
        if image.ndim == self.spatial_dims + 2:
            image = image[:, None]
        features = self.encoder(2 * image.flatten(0, 1) - 1).unflatten(0, image.shape[:2])
        compressed = self.encoder_lstm(features).mean(1)
        # At one time point the second ConvLSTM does not depend on the target: once here, not once per target.
        return Representation(self._expand(compressed, 1)[:, 0], compressed, source.expand(len(image), -1))

    def decode(self, representation: Representation, target: Tensor, frames: int | None = None) -> Tensor:
        """To images [B, c, *spatial], or with `frames` to that many time points [B, frames, c, *spatial]."""
        code = self.code_layer(target)
        if frames is None:
            return (self.decoder(representation.features, code) + 1) / 2
        features = self._expand(representation.compressed, frames)
        if len(code) > 1:
            code = code.repeat_interleave(frames, 0)
        return (self.decoder(features.flatten(0, 1), code).unflatten(0, features.shape[:2]) + 1) / 2

    def _expand(self, compressed: Tensor, frames: int) -> Tensor:
        """Fig. 2's copy to the target's time points and the second ConvLSTM: [B, frames, C, *s]."""
        return self.decoder_lstm(torch.stack([compressed] * frames, 1))

    @torch.no_grad()
    def freeze(self, target: int) -> Seq2Seq:
        """A copy that makes one target only, its hyper-layers plain convolutions with the same output."""
        frozen = copy.deepcopy(self)
        code = self.code_layer(self.codes[target : target + 1])
        for module in frozen.modules():
            if isinstance(module, ConditionalConv):
                module.freeze(code)
        frozen.code_layer = nn.Identity()
        return frozen
