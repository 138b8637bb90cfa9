"""The VQ-Seq2Seq generator, Fig. 1 of Han et al., "Non-adversarial learning: vector-quantized common latent space for
multi-sequence MRI" (MICCAI 2024): Seq2Seq's encoder and HyperConv decoder around a vector-quantised latent space.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.blocks.adain import with_axes
from .common.blocks.conditional import freeze_target
from .common.blocks.encoder import Encoder
from .common.blocks.hyperconv import CodeLayer
from .common.blocks.hyperdecoder import HyperDecoder
from .common.blocks.vq import MODES, VectorQuantiser
from .common.translation import Translation, TranslationNetwork, select

SPREADS = ("variance", "deviation")


# Types are no strings in this file (no `annotations` of `__future__`): TorchScript looks for a list's in vain then.
class Representation(NamedTuple):
    """`latent` [B, D, *s] is z_q, or what Eq. 4 and 5 make of several; `features` [B, C, *s] is that, ready to be
    decoded to any target; `loss` [B] is the quantiser's.
    """

    features: Tensor
    latent: Tensor
    loss: Tensor
    source: Tensor


def common_latent(latents: Tensor, available: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 4: mean and unbiased variance over the sequences that are available, per position and channel.

    Args:
        latents: [N, S, D, *s].
        available: [N, S], or at each position [N, S, *s], 1 or 0. With one sequence the variance is 0, with none the
            mean too.

    Returns:
        Two tensors [N, D, *s].
    """
    weight = with_axes(available, latents.ndim - 1 - available.ndim).unsqueeze(2)
    count = weight.sum(1)
    mean = (weight * latents).sum(1) / count.clamp(min=1)
    variance = (weight * (latents - mean[:, None]).square()).sum(1) / (count - 1).clamp(min=1)
    return mean, variance


class VQSeq2Seq(TranslationNetwork):
    """Any of S sequences to any other; see `TranslationNetwork` for how a subject is completed with it.

    Several sources meet in the latent space: the mean of Eq. 4 is decoded, once per target.

    Args:
        sequences: S.
        spatial_dims: 2 or 3.
        slices: adjacent slices in and out of a 2D network (the paper's is pure 2D, 1).
        channels: widths from full resolution down; each further one halves the size.
        res_blocks: residual blocks of the encoder and of the decoder.
        quantiser: "gradient" (the paper's), "ema", or "none": Seq2Seq without ConvLSTMs, whose latent space is that of
            its features.
        codes, dimensions: K and D.
        revive_after: see `VectorQuantiser`.
        spread: Eq. 5's sample is mu + eps * sigma^2 ("variance", as in the paper), or mu + eps * sigma ("deviation").
        samples: so many samples make an image, their mean, and its uncertainty, where that is wanted.
        seed: of these samples, the same ones in every call.
        code_channels, bank_channels: of HyperConv.
        slice_axis: spatial axis that is sliced.
        norm: where instances are normalised, "everywhere" (the paper's) or in the residual "branches" only.
        source_code: whether the encoder is told which sequence it gets, which the paper's is not.
    """

    CHOSEN_ANEW = ("revive_after", "spread", "samples", "seed")
    has_common_space = True

    def __init__(
        self,
        sequences: int = 4,
        spatial_dims: int = 2,
        slices: int = 1,
        channels: Sequence[int] = (64, 128, 256),
        res_blocks: int = 6,
        quantiser: str = "gradient",
        codes: int = 256,
        dimensions: int = 3,
        revive_after: int = 0,
        spread: str = "variance",
        samples: int = 8,
        seed: int = 0,
        code_channels: int = 64,
        bank_channels: int = 16,
        slice_axis: int = -1,
        norm: str = "everywhere",
        source_code: bool = False,
    ) -> None:
        super().__init__(sequences, spatial_dims, slices, slice_axis, downsampling=2 ** (len(channels) - 1))
        if quantiser not in (*MODES, "none"):
            raise ValueError(f"quantiser is '{quantiser}'; choose one of {', '.join(MODES)}, none.")
        if spread not in SPREADS:
            raise ValueError(f"spread is '{spread}'; choose one of {', '.join(SPREADS)}.")
        if samples < 2:
            raise ValueError(f"samples is {samples}; an uncertainty needs two or more. For one image, leave it out.")
        self.spread = spread
        self.samples = samples
        self.seed = seed
        self.source_code = source_code
        told = sequences if source_code else 0
        self.encoder = Encoder(spatial_dims, self.slices, channels, res_blocks, norm, told)
        self.quantiser = None
        self.to_latent: nn.Module = nn.Identity()
        self.from_latent: nn.Module = nn.Identity()
        if quantiser != "none":
            conv = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
            self.to_latent = conv(channels[-1], dimensions, 1)
            self.quantiser = VectorQuantiser(codes, dimensions, quantiser, revive_after=revive_after)
            self.from_latent = conv(dimensions, channels[-1], 1)
        options = {"code_channels": code_channels, "bank_channels": bank_channels}
        self.decoder = HyperDecoder(spatial_dims, self.slices, channels, res_blocks, norm, **options)
        self.code_layer: nn.Module = CodeLayer(code_channels)

    def encode(self, image: Tensor, source: Tensor) -> Representation:
        encoded = self.to_latent(self.encoder(2 * image - 1, source if self.source_code else None))
        if self.quantiser is None:
            latent, loss = encoded, encoded.new_zeros(encoded.shape[0])
        else:
            latent, _, loss = self.quantiser(encoded)
        # The 1x1 convolution does not depend on the target: once here, not once per target.
        return Representation(self.from_latent(latent), latent, loss, source.expand(image.shape[0], -1))

    def decode(self, representation: Representation, target: Tensor) -> Tensor:
        return (self.decoder(representation.features, self.code_layer(target)) + 1) / 2

    def fuse(self, representations: list[Representation], tissue: Tensor) -> list[tuple[Representation, Tensor]]:
        """Eq. 4: the mean latent of the sources with tissue there, which is that source's own where there is one."""
        mean, _ = common_latent(torch.stack([r.latent for r in representations], 1), self._at_latents(tissue))
        return [(self._of_latent(mean, representations[0]), tissue.amax(1))]

    def _at_latents(self, tissue: Tensor) -> Tensor:
        """Of [B, S, X, Y, Z], which of a slice's sources have tissue at a latent's position [N, S, *s].

        Where none has, all that have any in the slice: the mean of their air, which the decoder sees, too.
        """
        middle = self.slices // 2
        slices = torch.cat([self.to_input(each)[:, middle : middle + 1] for each in tissue.unbind(1)], 1)
        if self.spatial_dims == 2:
            here = F.max_pool2d(slices, self.downsampling)
        else:
            here = F.max_pool3d(slices, self.downsampling)
        anywhere = here.amax(list(range(2, here.ndim)), keepdim=True)
        return torch.where(here.amax(1, keepdim=True) > 0, here, anywhere)

    def sample(self, mean: Tensor, variance: Tensor, noise: Tensor | None = None) -> Tensor:
        """Eq. 5: z_s, through which gradients flow to mean and variance."""
        # The deviation's gradient would be infinite where the sequences agree.
        spread = variance if self.spread == "variance" else variance.clamp(min=1e-12).sqrt()
        return mean + (torch.randn_like(mean) if noise is None else noise) * spread

    def variants(
        self, representations: Sequence[Representation], tissue: Tensor
    ) -> list[tuple[Representation, Tensor]]:
        """Samples of Eq. 5; a single source, whose variance is 0, is taken as it is."""
        if len(representations) < 2:
            return self.fuse(representations, tissue)
        mean, variance = common_latent(torch.stack([r.latent for r in representations], 1), self._at_latents(tissue))
        # All slices get the same noise: no flicker between them, and an image does not depend on how it is cut.
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.samples, 1, *mean.shape[1:], generator=generator).to(mean)
        drawn = [self._of_latent(self.sample(mean, variance, each), representations[0]) for each in noise]
        return [(each, tissue.amax(1)) for each in drawn]

    def forward(
        self,
        image: Tensor,
        source: Tensor | None = None,
        rows: Sequence[Tensor] | None = None,
        target: Tensor | None = None,
        subject: Tensor | None = None,
    ) -> Tensor | Translation:
        """As in `TranslationNetwork`; with `subject` [N] in 0 to G - 1, whose the N images are, also from z_s.

        Rows N to N + G - 1 then are the samples of Eq. 5, one per subject. The representation returned is the images'.
        """
        if subject is None:
            return super().forward(image, source, rows, target)
        encoded = self.encode(image, source)
        everything = Representation(*map(torch.cat, zip(encoded, self._samples(encoded, subject), strict=True)))
        made = [self.decode(select(everything, r), target[t : t + 1]) for t, r in enumerate(rows) if len(r)]
        return Translation(torch.cat(made), encoded)

    def _samples(self, encoded: Representation, subject: Tensor) -> Representation:
        where = subject.to(encoded.source.device), encoded.source.argmax(1)
        available = encoded.source.new_zeros(int(subject.max()) + 1, self.sequences)
        available[where] = 1
        latents = encoded.latent.new_zeros(*available.shape, *encoded.latent.shape[1:])
        latents[where] = encoded.latent
        like = select(encoded, torch.zeros(len(available), dtype=torch.long))
        return self._of_latent(self.sample(*common_latent(latents, available)), like)

    def encode_subject(self, image: Tensor, sources: Sequence[int]) -> Tensor:
        """The mean latent of a subject's sequences: [B, S, X, Y, Z] to [B, D, x, y, z], coarser by `downsampling`."""
        self.check_size(image)
        latents = [self.encode(self.to_input(image[:, i]), self.codes[i : i + 1]).latent for i in sources]
        tissue = (image[:, list(sources)] > 0).to(image.dtype)
        mean, _ = common_latent(torch.stack(latents, 1), self._at_latents(tissue))
        return mean if self.spatial_dims == 3 else mean.unflatten(0, (image.shape[0], -1)).movedim(1, self.slice_axis)

    def _of_latent(self, latent: Tensor, like: Representation) -> Representation:
        return Representation(self.from_latent(latent), latent, like.loss, like.source)

    def freeze(self, target: int) -> Self:
        """A copy that makes one target only, its hyper-layers plain convolutions with the same output."""
        return freeze_target(self, target)
