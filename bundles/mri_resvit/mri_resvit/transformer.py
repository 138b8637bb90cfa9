"""The transformer branch of ResViT's ART blocks, Fig. 2 of Dalmaz et al. (TMI 2022), around a ViT-B/16."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.networks.blocks.transformerblock import TransformerBlock
from torch import Tensor, nn

from .common.blocks.resnet import ConvNorm

EPSILON = 1e-6  # of ViT's layer normalisation


class ViTBlock(TransformerBlock):
    """MONAI's block as ViT has it: with biases, and dropout in the MLP alone."""

    def __init__(self, width: int, mlp_width: int, heads: int, dropout: float) -> None:
        super().__init__(width, mlp_width, heads, qkv_bias=True, use_flash_attention=True)
        self.norm_cross_attn = nn.Identity()  # which is not used, and so would be waited for in several processes
        self.norm1.eps = self.norm2.eps = EPSILON
        self.mlp.drop1, self.mlp.drop2 = nn.Dropout(dropout), nn.Dropout(dropout)


class ViT(nn.Module):
    """What the ART blocks share: tokens on a grid [B, width, h, w] to the same shape, of any size."""

    def __init__(self, width: int, mlp_width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ViTBlock(width, mlp_width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).transpose(1, 2).reshape(tokens.shape)


class Compression(nn.Module):
    """Channel compression: a residual block from twice the channels to them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.skip = ConvNorm(2 * channels, channels, 1, act=False)
        self.conv1, self.conv2 = ConvNorm(2 * channels, channels), ConvNorm(channels, channels, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.skip(x))


class Context(nn.Module):
    """The way of features [B, C, X, Y] to tokens of a fourth of the size, and back.

    Args:
        channels: C.
        width: of a token.
        grid: so many tokens along each axis have a learned position. Where there are others, it is interpolated.
        dropout: of tokens.
    """

    def __init__(self, channels: int, width: int, grid: int, dropout: float) -> None:
        super().__init__()
        wider = (2 * channels, 4 * channels)
        self.down = nn.Sequential(ConvNorm(channels, wider[0], stride=2), ConvNorm(*wider, stride=2))
        self.patches = nn.Conv2d(wider[1], width, 1)
        self.positions = nn.Parameter(torch.zeros(1, width, grid, grid))
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Sequential(ConvNorm(width, wider[0], up=True), ConvNorm(wider[0], channels, up=True))
        self.compression = Compression(channels)

    def embed(self, features: Tensor) -> Tensor:
        tokens = self.patches(self.down(features))
        size = [tokens.shape[2], tokens.shape[3]]
        return self.dropout(tokens + F.interpolate(self.positions, size, mode="bilinear", align_corners=False))

    def merge(self, tokens: Tensor, features: Tensor) -> Tensor:
        return self.compression(torch.cat([self.up(tokens), features], 1))
