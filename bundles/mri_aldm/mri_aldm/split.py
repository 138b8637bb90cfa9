"""Encoding and decoding in slabs where the memory for a whole volume is short."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from monai.networks.nets.autoencoderkl import AEKLDownsample, AEKLResBlock, Decoder, Encoder
from torch import Tensor, nn

AXIS = 2  # of [B, C, X, Y, Z], along which volumes are split
REACH = 8  # positions of the latent on each side of a slab that is decoded apart


def encode_split(encoder: Encoder, image: Tensor, slabs: int, factor: int) -> Tensor:
    """`encoder(image)`, as `decode_split`; `factor` is by how much it makes an image smaller, and divides its size."""
    sizes = [factor * len(part) for part in torch.arange(image.shape[AXIS] // factor).chunk(slabs)]
    parts = [slab.cpu() for slab in image.split(sizes, AXIS)]
    return torch.cat(_apply(encoder.blocks, parts), AXIS).to(image.device)


def decode_split(decoder: Decoder, latent: Tensor, slabs: int) -> Tensor:
    """`decoder(latent)`, with one slab at a time on the decoder's device and the others in the CPU's memory.

    Layer after layer, a convolution sees its slab with the neighbours' edges as halo, and group normalisation takes
    mean and variance over all slabs: the result is that of the whole volume, but for rounding.
    """
    parts = [slab.cpu() for slab in latent.chunk(slabs, AXIS)]
    return torch.cat(_apply(decoder.blocks, parts), AXIS).to(latent.device)


def decode_apart(decoder: Decoder, latent: Tensor, slabs: int) -> Tensor:
    """Each slab decoded by itself with a halo that is cut off: cheaper to hold, but normalised by its own statistics,
    so that brightness may step from slab to slab.
    """
    made, start = [], 0
    for slab in latent.chunk(slabs, AXIS):
        stop = start + slab.shape[AXIS]
        first, last = max(start - REACH, 0), min(stop + REACH, latent.shape[AXIS])
        image = decoder(latent.narrow(AXIS, first, last - first))
        factor = image.shape[AXIS] // (last - first)
        made.append(image.narrow(AXIS, (start - first) * factor, (stop - start) * factor).cpu())
        start = stop
    return torch.cat(made, AXIS).to(latent.device)


def _apply(module: nn.Module, parts: list[Tensor]) -> list[Tensor]:
    """One of the encoder's or the decoder's layers over all slabs."""
    if isinstance(module, AEKLResBlock):
        h = _convolve(module.conv1.conv, parts, _normaliser(module.norm1, parts, F.silu))
        h = _convolve(module.conv2.conv, h, _normaliser(module.norm2, h, F.silu))
        around = _apply(module.nin_shortcut, parts)
        return [a + b for a, b in zip(around, h, strict=True)]
    if isinstance(module, nn.Conv3d):
        return _convolve(module, parts)
    if isinstance(module, AEKLDownsample):
        return _halve(module.conv.conv, parts)
    if isinstance(module, nn.GroupNorm):
        normalise = _normaliser(module, parts)
        return [normalise(part.to(module.weight.device)).cpu() for part in parts]
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        for child in module:
            parts = _apply(child, parts)
        return parts
    if isinstance(module, (nn.Upsample, nn.Identity)):
        return [module(part) for part in parts]
    raise TypeError(f"How {type(module).__name__} is split is not known; leave --decoding whole.")


def _normaliser(
    norm: nn.GroupNorm | nn.Identity, parts: list[Tensor], activation: Callable[[Tensor], Tensor] | None = None
) -> Callable[[Tensor], Tensor]:
    """Group normalisation by mean and variance over all slabs, as a function of a slab or of one with halo."""
    if isinstance(norm, nn.Identity):
        return norm if activation is None else activation

    def grouped(part: Tensor) -> Tensor:  # (B, groups, all else)
        return part.to(norm.weight.device).unflatten(1, (norm.num_groups, -1)).flatten(2)

    count = sum(part[0].numel() for part in parts) / norm.num_groups
    mean = sum(grouped(part).sum(2) for part in parts) / count
    variance = sum((grouped(part) - mean[..., None]).square().sum(2) for part in parts) / count
    each = norm.num_channels // norm.num_groups
    scale = norm.weight * (variance + norm.eps).rsqrt().repeat_interleave(each, 1)  # (B, C)
    shift = norm.bias - mean.repeat_interleave(each, 1) * scale

    def normalise(x: Tensor) -> Tensor:
        x = x * scale[..., None, None, None] + shift[..., None, None, None]
        return x if activation is None else activation(x)

    return normalise


def _convolve(conv: nn.Conv3d, parts: list[Tensor], prepare: Callable[[Tensor], Tensor] | None = None) -> list[Tensor]:
    """Each slab with its neighbours' edges, prepared, then convolved; zeros are the volume's own ends only."""
    halo = conv.kernel_size[0] // 2
    padding = [0, *conv.padding[1:]]
    made = []
    for k, part in enumerate(parts):
        before = parts[k - 1].narrow(AXIS, parts[k - 1].shape[AXIS] - halo, halo) if k and halo else None
        after = parts[k + 1].narrow(AXIS, 0, halo) if k + 1 < len(parts) and halo else None
        pieces = [piece for piece in (before, part, after) if piece is not None]
        x = torch.cat(pieces, AXIS).to(conv.weight.device)
        x = x if prepare is None else prepare(x)
        x = F.pad(x, (0, 0, 0, 0, halo * (before is None), halo * (after is None)))
        made.append(F.conv3d(x, conv.weight, conv.bias, conv.stride, padding).cpu())
    return made


def _halve(conv: nn.Conv3d, parts: list[Tensor]) -> list[Tensor]:
    """A convolution of stride 2, each slab of even length with the next one's edge; zeros are the volume's end only."""
    made = []
    for part, following in zip(parts, [*parts[1:], torch.zeros_like(parts[-1])], strict=True):
        x = torch.cat([part, following.narrow(AXIS, 0, 1)], AXIS).to(conv.weight.device)
        made.append(conv(F.pad(x, (0, 1, 0, 1))).cpu())
    return made
