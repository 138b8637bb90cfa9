"""ResViT, Fig. 1 of Dalmaz, Yurt and Çukur, "ResViT: Residual vision transformers for multi-modal medical image
synthesis" (TMI 2022): a convolutional generator with two transformers in its bottleneck, in the unified form.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .common.blocks.adain import with_axes
from .common.blocks.resnet import ResNetBlock, ResNetDecoder, ResNetEncoder
from .common.early_fusion import AllAtOnce, Stack
from .transformer import Context, ViT


class ARTBlock(nn.Module):
    """Aggregated residual transformer: a residual block, before it in some the transformer's view of all positions."""

    __constants__ = ("has_transformer",)  # by which TorchScript leaves out what is not run

    def __init__(self, channels: int, width: int, grid: int, dropout: float, has_transformer: bool) -> None:
        super().__init__()
        self.has_transformer = has_transformer
        self.context = Context(channels, width, grid, dropout) if has_transformer else None
        self.residual = ResNetBlock(channels)


class ResViT(AllAtOnce):
    """Any of S sequences from any others, slice by slice, by one network that makes all S at once.

    It sees images in [-1, 1], and 0 where one is missing (the paper's availability condition). With one sequence and
    its default values it has, layer by layer, the parameters of the authors' network for one pair.

    Args:
        sequences: S.
        channels: widths of the generator from full resolution down; each further one halves the size.
        art_blocks: how many there are.
        transformers: which of them have a transformer, counted from 1; () is the network of the first training.
        width, mlp_width, layers, heads, dropout: of the transformer, which they share; the default is ViT-B/16.
        grid: see `Context`: a sixteenth of the images' size.
        slice_axis: spatial axis that is sliced.
    """

    def __init__(
        self,
        sequences: int = 4,
        channels: Sequence[int] = (64, 128, 256),
        art_blocks: int = 9,
        transformers: Sequence[int] = (1, 6),
        width: int = 768,
        mlp_width: int = 3072,
        layers: int = 12,
        heads: int = 12,
        dropout: float = 0.1,
        grid: int = 16,
        slice_axis: int = -1,
    ) -> None:
        super().__init__(sequences, slice_axis=slice_axis, downsampling=2 ** (len(channels) + 1))
        if beyond := [k for k in transformers if not 1 <= k <= art_blocks]:
            raise ValueError(f"transformers has {beyond}; there are the blocks 1 to {art_blocks}.")
        self.encoder = ResNetEncoder(sequences, channels)
        self.art = nn.ModuleList(
            ARTBlock(channels[-1], width, grid, dropout, k in transformers) for k in range(1, art_blocks + 1)
        )
        self.transformer = ViT(width, mlp_width, layers, heads, dropout) if transformers else None
        self.decoder = ResNetDecoder(sequences, channels)

    def generate(self, stack: Stack) -> Tensor:
        """All S images [N, S, X, Y] in [0, 1]."""
        x = self.encoder((2 * stack.images - 1) * with_axes(stack.given, 2))
        for block in self.art:
            if block.has_transformer:
                x = block.context.merge(self.transformer(block.context.embed(x)), x)
            x = block.residual(x)
        return (self.decoder(x) + 1) / 2
