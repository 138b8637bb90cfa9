"""Convolutions whose kernels are made from the code of the wanted sequence.

`HyperConv` is Algorithm 1 of Han et al., "Synthesis-based imaging-differentiation representation learning for
multi-sequence 3D/4D MRI" (Seq2Seq); `DynamicConv` is its rival in Table 1 (Seq2Seq-B, dynamic filters).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.2


class CodeLayer(nn.Module):
    """Turns a sequence code [B, C] into the features [B, code_channels] that every hyper-layer reads."""

    def __init__(self, code_channels: int = 64) -> None:
        super().__init__()
        self.code_channels = code_channels
        self.act = nn.LeakyReLU(LEAK)
        self.linear = nn.Linear(code_channels, code_channels)
        # One-hot in, so each output sees one weight: variance 2 / code_channels makes the features' norm about 1.
        nn.init.normal_(self.linear.weight, std=(2 / code_channels) ** 0.5)
        nn.init.zeros_(self.linear.bias)

    def forward(self, code: Tensor) -> Tensor:
        if code.shape[1] > self.code_channels:
            raise ValueError(f"A code of {code.shape[1]} values needs code_channels >= that, not {self.code_channels}.")
        padded = F.pad(code, (0, self.code_channels - code.shape[1]))
        return self.act(self.linear(padded))


class GeneratedConv(nn.Module):
    """A convolution (stride 1, without padding unless a subclass says so) that asks a subclass for its kernel.

    One code for the whole batch ([1, C]) is one plain convolution; one code per sample ([B, C], targets may be
    mixed) is one grouped convolution. `gain` scales the kernels at the start.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        gain: float = 1.0,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.padding = padding
        self.kernel_shape = (out_channels, in_channels, *[kernel_size] * spatial_dims)
        fan_in = in_channels * kernel_size**spatial_dims
        self.kernel_std = gain * (2 / (fan_in * (1 + LEAK**2))) ** 0.5  # He et al. 2015, for a leaky ReLU

    def generate(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """Kernels [B, out, in, *k] and biases [B, out] for code features [B, C]."""
        raise TypeError(f"{type(self).__name__} does not say how its kernel is made.")

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        weight, bias = self.generate(code)
        if code.shape[0] == 1:
            return self._convolve(x, weight[0], bias[0])
        grouped = self._convolve(x.flatten(0, 1)[None], weight.flatten(0, 1), bias.flatten(), x.shape[0])
        return grouped.unflatten(1, weight.shape[:2])[0]

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor, groups: int = 1) -> Tensor:
        if self.spatial_dims == 2:
            return F.conv2d(x, weight, bias, padding=self.padding, groups=groups)
        return F.conv3d(x, weight, bias, padding=self.padding, groups=groups)

    @torch.no_grad()
    def freeze(self, code: Tensor) -> nn.Module:
        """The plain convolution that this layer is for one code [1, C]."""
        weight, bias = self.generate(code)
        conv_type = nn.Conv2d if self.spatial_dims == 2 else nn.Conv3d
        conv = conv_type(self.kernel_shape[1], self.kernel_shape[0], self.kernel_shape[2:], padding=self.padding)
        conv.weight.copy_(weight[0])
        conv.bias.copy_(bias[0])
        return conv.to(weight.device)


class HyperConv(GeneratedConv):
    """Algorithm 1: `kernel = bank @ Linear(code)`, and the same for the bias.

    Args:
        spatial_dims: 2 or 3.
        in_channels, out_channels, kernel_size: of the convolution that is generated.
        code_channels: length c_s of the code features.
        bank_channels: width c_w of the weight bank.
        gain: of the kernels' size at the start.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        code_channels: int = 64,
        bank_channels: int = 16,
        gain: float = 1.0,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, kernel_size, gain)
        self.bank = nn.Parameter(torch.randn(*self.kernel_shape, bank_channels) * self.kernel_std)
        self.bias_bank = nn.Parameter(torch.zeros(out_channels, bank_channels))
        self.mix = nn.Linear(code_channels, bank_channels)
        self.bias_mix = nn.Linear(code_channels, bank_channels)
        # Mixing weights of norm 1, half of it shared by all targets: the kernel then starts at `kernel_std`.
        for parameter in (*self.mix.parameters(), *self.bias_mix.parameters()):
            nn.init.normal_(parameter, std=(0.5 / bank_channels) ** 0.5)

    def generate(self, code: Tensor) -> tuple[Tensor, Tensor]:
        weight = F.linear(self.mix(code), self.bank.flatten(0, -2)).unflatten(1, self.kernel_shape)
        return weight, F.linear(self.bias_mix(code), self.bias_bank)


class DynamicConv(GeneratedConv):
    """Dynamic filters: every kernel value is a linear function of the code (65 times a plain layer's weights)."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        code_channels: int = 64,
        gain: float = 1.0,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, kernel_size, gain)
        size = out_channels * in_channels * kernel_size**spatial_dims
        self.kernel = nn.Linear(code_channels, size)
        self.kernel_bias = nn.Linear(code_channels, out_channels)
        for parameter in self.kernel.parameters():
            nn.init.normal_(parameter, std=self.kernel_std * 0.5**0.5)
        for parameter in self.kernel_bias.parameters():
            nn.init.zeros_(parameter)

    def generate(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return self.kernel(code).unflatten(1, self.kernel_shape), self.kernel_bias(code)
