"""A convolution block steered by the code of the wanted sequence; one word chooses how."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adain import AdaIN, FrozenAdaIN
from .hyperconv import DynamicConv, HyperConv

CONDITIONING = ("hyperconv", "adain", "dynamic")
Network = TypeVar("Network", bound=nn.Module)


class ConditionalConv(nn.Module):
    """Reflect padding, convolution and (unless `norm=False`) instance normalisation, steered by a code.

    Args:
        conditioning: "hyperconv" (the paper's), "adain" (Seq2Seq-A) or "dynamic" (Seq2Seq-B).
        bank_channels: width of HyperConv's weight bank; the other two have none.
        gain: of the generated kernels' size at the start.

    Shapes: x [B, in, *spatial] and code features [B or 1, code_channels] to [B, out, *spatial].
    """

    __constants__ = ("is_frozen", "is_generated")  # by which TorchScript leaves out what is not run

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        conditioning: str = "hyperconv",
        code_channels: int = 64,
        bank_channels: int = 16,
        norm: bool = True,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if conditioning not in CONDITIONING:
            raise ValueError(f"conditioning is '{conditioning}'; choose one of {', '.join(CONDITIONING)}.")
        size = (spatial_dims, in_channels, out_channels, kernel_size)
        self.padding = [kernel_size // 2] * (2 * spatial_dims)
        self.adaptive_norm = None
        self.norm = norm
        self.is_generated, self.is_frozen = conditioning != "adain", False
        if conditioning == "hyperconv":
            self.conv: nn.Module = HyperConv(*size, code_channels, bank_channels, gain)
        elif conditioning == "dynamic":
            self.conv = DynamicConv(*size, code_channels, gain)
        else:
            self.conv = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(*size[1:])
            self.adaptive_norm = AdaIN(out_channels, code_channels) if norm else None

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        x = F.pad(x, self.padding, mode="reflect")
        x = self.conv(x, code) if self.is_generated else self.conv(x)
        if self.adaptive_norm is not None:
            return self.adaptive_norm(x) if self.is_frozen else self.adaptive_norm(x, code)
        return F.instance_norm(x) if self.norm else x

    def freeze(self, code: Tensor) -> None:
        """Become the plain layer for one code's features [1, code_channels], equal in output."""
        if self.is_generated:
            self.conv = self.conv.freeze(code)
        if self.adaptive_norm is not None and not self.is_frozen:
            self.adaptive_norm = FrozenAdaIN(self.adaptive_norm, code, len(self.padding) // 2)
        self.is_generated, self.is_frozen = False, True


class ConditionalResBlock(nn.Module):
    """`x + norm(conv(leaky(norm(conv(x)))))`, both convolutions steered by the code."""

    def __init__(self, spatial_dims: int, channels: int, **options) -> None:
        super().__init__()
        self.conv1 = ConditionalConv(spatial_dims, channels, channels, **options)
        self.conv2 = ConditionalConv(spatial_dims, channels, channels, **options)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return x + self.conv2(F.leaky_relu(self.conv1(x, code), 0.2), code)


@torch.no_grad()
def freeze_target(network: Network, target: int) -> Network:
    """A copy that makes one target only, its conditional layers plain ones with the same output.

    The network has the one-hot `codes` [S, C] of its sequences and a `code_layer` that makes features of them.
    """
    frozen = copy.deepcopy(network)
    code = network.code_layer(network.codes[target : target + 1])
    for module in frozen.modules():
        if isinstance(module, ConditionalConv):
            module.freeze(code)
    frozen.code_layer = nn.Identity()
    return frozen
