"""MS-SPADE (Kim and Park, WACV 2024, Eq. 1 and Table B): normalisation switched by the wanted sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Norm
from torch import Tensor, nn

from .adain import with_axes
from .hyperconv import LEAK, GeneratedConv

NORMS = ("everywhere", "branches", "none")


class SwitchedConv(GeneratedConv):
    """A convolution of its own for each of S targets, zero-padded; the code [1 or B, S] says which one."""

    def __init__(
        self,
        targets: int,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        gain: float = 1.0,
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, kernel_size, gain, padding=kernel_size // 2)
        self.weight = nn.Parameter(torch.randn(targets, *self.kernel_shape) * self.kernel_std)
        self.bias = nn.Parameter(torch.zeros(targets, out_channels))

    def generate(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensordot(code, self.weight, 1), code @ self.bias


class MSSpade(nn.Module):
    """Eq. 1: instance normalisation, scaled and shifted at each voxel by what the target's layers read in x itself.

    The scale is `1 + gamma`, as in MONAI's `SPADE` and the authors' code, so that it starts near 1. Unless it
    `normalises`, x is scaled and shifted as it is.

    Shapes: x [B, C, *spatial] and one-hot target [1 or B, S] to [B, C, *spatial].
    """

    def __init__(
        self, targets: int, spatial_dims: int, channels: int, hidden_channels: int = 64, normalises: bool = True
    ) -> None:
        super().__init__()
        self.usual = Norm["instance", spatial_dims](channels) if normalises else nn.Identity()
        self.act = nn.LeakyReLU(LEAK)
        self.shared = SwitchedConv(targets, spatial_dims, channels, hidden_channels)
        # Read in x before its normalisation, they would multiply its size from layer to layer if they started large.
        self.gamma = SwitchedConv(targets, spatial_dims, hidden_channels, channels, gain=0.01)
        self.beta = SwitchedConv(targets, spatial_dims, hidden_channels, channels, gain=0.01)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        hidden = self.act(self.shared(x, target))
        return self.usual(x) * (1 + self.gamma(hidden, target)) + self.beta(hidden, target)


class Block(nn.Module):
    """Table B's residual block: twice convolution, ReLU and normalisation, which is MS-SPADE's where there are targets.

    A 1-wide convolution leads around it where the width changes.
    """

    __constants__ = ("is_switched",)  # by which TorchScript leaves out what is not run

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        targets: int = 0,
        hidden_channels: int = 64,
        normalises: bool = True,
    ) -> None:
        super().__init__()
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.convs = nn.ModuleList(conv(c, out_channels, 3, padding=1) for c in (in_channels, out_channels))
        self.norms = nn.ModuleList()
        self.is_switched = targets > 0
        self.usual = Norm["instance", spatial_dims](out_channels) if normalises else nn.Identity()
        if self.is_switched:
            switched = (targets, spatial_dims, out_channels, hidden_channels, normalises)
            self.norms.extend(MSSpade(*switched) for _ in range(2))
        self.around = conv(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        h = F.relu(self.convs[0](x))
        h = self.norms[0](h, target) if self.is_switched else self.usual(h)
        h = F.relu(self.convs[1](h))
        h = self.norms[1](h, target) if self.is_switched else self.usual(h)
        return self.around(x) + h


class SpadeTranslator(nn.Module):
    """Table B: a source's latent [B, C, *spatial] and target [1 or B, S] to a target-like latent of the same shape.

    The source's code [1 or B, S] is needed with `source_code` only.

    Args:
        targets: S.
        spatial_dims: 2 or 3.
        latent_channels: C.
        channels: of the first layer and of the last block, and of the blocks between.
        hidden_channels: of the layers that make gamma and beta.
        res_blocks, spade_blocks: how many.
        norm: "everywhere" (the paper's); in the blocks' "branches" only, which keeps how bright a latent is; or "none",
            by which a crop is translated as it is within its volume.
        source_code: whether it is told which sequence it gets, which the paper's is not.

    Attributes:
        scale: buffer [2, C], mean and deviation of latents, to which it brings them; 0 and 1 until they are measured.
    """

    def __init__(
        self,
        targets: int,
        spatial_dims: int = 3,
        latent_channels: int = 3,
        channels: Sequence[int] = (128, 256),
        hidden_channels: int = 64,
        res_blocks: int = 2,
        spade_blocks: int = 4,
        norm: str = "everywhere",
        source_code: bool = False,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm is '{norm}'; choose one of {', '.join(NORMS)}.")
        self.norm, self.source_code = norm, source_code
        self.register_buffer("scale", torch.tensor([[0.0], [1.0]]).repeat(1, latent_channels))
        conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        narrow, wide = channels
        self.first = conv(latent_channels + (targets if source_code else 0), narrow, 7, padding=3)
        widths = [narrow] + [wide] * (res_blocks + spade_blocks - 1) + [narrow]
        self.blocks = nn.ModuleList(
            Block(spatial_dims, *widths[k : k + 2], targets if k >= res_blocks else 0, hidden_channels, norm != "none")
            for k in range(res_blocks + spade_blocks)
        )
        self.last = conv(narrow, latent_channels, 7, padding=3)

    def forward(self, latent: Tensor, target: Tensor, source: Tensor | None = None) -> Tensor:
        axes = latent.ndim - 2
        mean, deviation = with_axes(self.scale, axes).unbind()
        x = (latent - mean) / deviation
        if self.source_code:
            assert source is not None, "A translator that is told its source needs the source's code."
            told = with_axes(source, axes) * torch.ones_like(x[:, :1])
            x = torch.cat([x, told], 1)
        x = self.first(x)
        x = F.relu(F.instance_norm(x) if self.norm == "everywhere" else x)
        for block in self.blocks:
            x = block(x, target)
        return self.last(x) * deviation + mean
