"""Stage 1: the VQGAN of Table A (Kim and Park, WACV 2024), or the same with a Gaussian latent (Table 3 d)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.networks.nets.autoencoderkl import AEKLResBlock, Decoder, Encoder
from torch import Tensor, nn

from .common.blocks.spade import NORMS
from .common.blocks.vq import VectorQuantiser
from .split import decode_apart, decode_split, encode_split

REGULARISATIONS = ("vq", "kl")
DECODINGS = ("whole", "split", "approximate")


class Reconstruction(NamedTuple):
    """`image` [B, 1, *s] in [-1, 1], the `latent` [B, C, *s / 4] it was made from, `loss` [B] of the regularisation."""

    image: Tensor
    latent: Tensor
    loss: Tensor


class Autoencoder(nn.Module):
    """Volumes [B, 1, X, Y, Z] in [-1, 1] to latents [B, C, X / 4, Y / 4, Z / 4] (for three levels) and back.

    Latents are what the encoder gives, *before* quantisation: what translates or samples them need not hit codes.
    Decoding quantises first.

    Args:
        channels: widths from full resolution down; each further one halves the size.
        res_blocks: residual blocks a level. The lowest has two more, the middle of a VQGAN without its attention.
        latent_channels: C.
        codes: size of the codebook.
        regularisation: "vq" or "kl".
        norm_groups: of group normalisation.
        norm: where groups are normalised: "everywhere", which with the last layer of encoder and decoder takes away how
            bright a volume is as a whole; in the residual "branches" only; or "none", by which a crop is encoded as it
            is within its volume.
        usual: mean and deviation of tissue in [0, 1], which the layers see as 0 and 1; the paper's see all of [0, 1] as
            [-1, 1]. Where tissues lie close together, layers that are not told learn them late.
        revive_after: see `VectorQuantiser`.
    """

    def __init__(
        self,
        channels: Sequence[int] = (256, 512, 512),
        res_blocks: int = 2,
        latent_channels: int = 3,
        codes: int = 8192,
        regularisation: str = "vq",
        norm_groups: int = 32,
        revive_after: int = 0,
        norm: str = "everywhere",
        usual: Sequence[float] = (0.5, 0.5),
    ) -> None:
        super().__init__()
        chosen = (("regularisation", regularisation, REGULARISATIONS), ("norm", norm, NORMS))
        for name, value, known in chosen:
            if value not in known:
                raise ValueError(f"{name} is '{value}'; choose one of {', '.join(known)}.")
        levels = len(channels)
        self.downsampling = 2 ** (levels - 1)
        self.mean, self.deviation = 2 * usual[0] - 1, 2 * usual[1]  # of [-1, 1]
        options = {
            "spatial_dims": 3,
            "channels": channels,
            "norm_num_groups": norm_groups,
            "norm_eps": 1e-6,
            "attention_levels": [False] * levels,
            "with_nonlocal_attn": False,
        }
        down, up = ([n] * (levels - 1) + [n + 2] for n in (res_blocks, res_blocks + 1))
        self.encoder = Encoder(in_channels=1, out_channels=latent_channels, num_res_blocks=down, **options)
        self.decoder = Decoder(in_channels=latent_channels, out_channels=1, num_res_blocks=up, **options)
        for half in (self.encoder, self.decoder):
            _normalise_less(half, norm)
        self.to_latent = nn.Conv3d(latent_channels, latent_channels, 1)
        self.from_latent = nn.Conv3d(latent_channels, latent_channels, 1)
        self.quantiser = self.to_log_variance = None
        if regularisation == "vq":
            self.quantiser = VectorQuantiser(codes, latent_channels, revive_after=revive_after)
        else:
            self.to_log_variance = nn.Conv3d(latent_channels, latent_channels, 1)

    def encode(self, image: Tensor, decoding: str = "whole", slabs: int = 4) -> Tensor:
        """The latent; with "kl" its mean. Unless it is to be decoded whole, it is encoded in slabs, equal to whole."""
        shown = (image - self.mean) / self.deviation
        if torch.jit.is_scripting():
            return self.to_latent(self.encoder(shown))
        return self.to_latent(self._encode_by(decoding, shown, slabs))

    def _encode_by(self, decoding: str, image: Tensor, slabs: int) -> Tensor:
        if decoding == "whole":
            return self.encoder(image)
        self.encoder.forward = lambda x: encode_split(self.encoder, x, slabs, self.downsampling)
        try:
            return self.encoder(image)  # by a call, which hooks see
        finally:
            del self.encoder.forward

    def decode(self, latent: Tensor, decoding: str = "whole", slabs: int = 4) -> Tensor:
        """Images in [-1, 1], a little beyond too.

        Args:
            latent: [B, C, *s].
            decoding: "whole"; "split" into slabs along the first axis, equal to whole; "approximate", slabs that are
                normalised each by its own statistics. Compiled by TorchScript it is always "whole".
            slabs: how many.
        """
        if self.quantiser is not None:
            latent = self.quantiser(latent).values
        latent = self.from_latent(latent)
        if torch.jit.is_scripting():  # to which the slabs' layers are unknown
            return self.decoder(latent) * self.deviation + self.mean
        return self._decode_by(decoding, latent, slabs) * self.deviation + self.mean

    def _decode_by(self, decoding: str, latent: Tensor, slabs: int) -> Tensor:
        if decoding not in DECODINGS:
            raise ValueError(f"decoding is '{decoding}'; choose one of {', '.join(DECODINGS)}.")
        if decoding == "whole":
            return self.decoder(latent)
        return (decode_split if decoding == "split" else decode_apart)(self.decoder, latent, slabs)

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """A step of training: with "kl" the latent that is decoded is drawn from its Gaussian."""
        encoded = self.encoder((image - self.mean) / self.deviation)
        latent = self.to_latent(encoded)
        if self.quantiser is not None:
            values, _, loss = self.quantiser(latent)
        else:
            log_variance = self.to_log_variance(encoded).clamp(-30, 20)
            values = latent + torch.randn_like(latent) * (log_variance / 2).exp()
            divergence = latent.square() + log_variance.exp() - 1 - log_variance
            loss = 0.5 * divergence.flatten(1).sum(1)
        decoded = self.decoder(self.from_latent(values)) * self.deviation + self.mean
        return Reconstruction(decoded, latent, loss)


def _normalise_less(half: Encoder | Decoder, norm: str) -> None:
    """Takes out what `norm` leaves out: of MONAI's layers the normalisation before the last one, then the blocks'."""
    if norm != "everywhere":
        half.blocks[-2] = nn.Identity()
    for block in half.blocks if norm == "none" else ():
        if isinstance(block, AEKLResBlock):
            block.norm1, block.norm2 = nn.Identity(), nn.Identity()
