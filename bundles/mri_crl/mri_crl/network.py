"""The CRL network, Fig. 2 of Xiong et al., "Contrast Representation Learning from Imaging Parameters for Magnetic
Resonance Image Synthesis" (MICCAI 2024): a residual encoder, common features, and an implicit decoder per pixel.

A contrast is not a name but a point (TR, TE, TI), in ms at every interface.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import log
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.data.acquisition import check_parameters
from .common.translation import TranslationNetwork

# ms at which each parameter's logarithm sets in, so that clinical times lie between 0 and 3. TI = 0 needs no case of
# its own: the magnitude after an inversion with TI = 0 is that of none, |1 - 2 + exp(-TR/T1)| = 1 - exp(-TR/T1).
ONSET = (1000.0, 10.0, 100.0)
LARGEST_GAIN = 10.0
# Mean and deviation that tissue has at one scale per subject. Grey and white matter differ by a few hundredths: unless
# these are made larger, a network learns each setting's brightness first, and anatomy late.
USUAL = (0.25, 0.15)


class Representation(NamedTuple):
    """Common features Z [B, C, *s], and the parameters [B, 3] of the images that they come from."""

    common: Tensor
    source: Tensor


def mlp(sizes: Sequence[int], layer: Callable[[int, int], nn.Module] = nn.Linear) -> nn.Sequential:
    """Linear layers with ReLU between; He's initialisation, since PyTorch's shrinks a signal by 2.4 in each of them."""
    layers = [layer(a, b) for a, b in pairwise(sizes)]
    for each in layers:
        nn.init.kaiming_normal_(each.weight, nonlinearity="relu")
        nn.init.zeros_(each.bias)
    return nn.Sequential(layers[0], *(part for each in layers[1:] for part in (nn.ReLU(), each)))


class ResBlock(nn.Module):
    """conv3-ReLU-conv3, times 0.1, added: the block of EDSR (Lim et al., CVPRW 2017), which has no normalisation."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.conv2(torch.relu(self.conv1(x)))


class Encoder(nn.Module):
    """E_phi: images [B, 1, X, Y] to contrast representations [B, C, X/d, Y/d]."""

    def __init__(self, features: int, res_blocks: int, downsampling: int) -> None:
        super().__init__()
        self.mean, self.deviation = USUAL
        self.fold = nn.PixelUnshuffle(downsampling)
        self.head = nn.Conv2d(downsampling**2, features, 3, padding=1)
        last = nn.Conv2d(features, features, 3, padding=1)
        self.body = nn.Sequential(*(ResBlock(features) for _ in range(res_blocks)), last)

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(self.fold((image - self.mean) / self.deviation))
        return x + self.body(x)


class Embedding(nn.Module):
    """f_xi, Eq. 3: parameters [B, 3] in ms to [B, C]; with `tokens` to [B, 4, C], those of TR, TE and TI alone come
    first."""

    def __init__(self, features: int, layers: int) -> None:
        super().__init__()
        self.layers = mlp([3] + [features] * layers)
        self.register_buffer("onset", torch.tensor(ONSET), persistent=False)
        self.register_buffer("shown", torch.cat([torch.eye(3), torch.ones(1, 3)]), persistent=False)

    def forward(self, parameters: Tensor, tokens: bool = False) -> Tensor:
        scaled = torch.log1p(parameters / self.onset)
        if tokens:
            scaled = scaled[:, None] * self.shown
        return self.layers(scaled)


class AttentionContrast(nn.Module):
    """The paper's way from features to common features and on to the target's: cross-attention, then modulation.

    Were the source's embedding the only key, softmax over the keys would be 1 whatever the image is. So TR, TE and TI
    have a token each beside their common one, told apart by a learned vector, and what attention finds is added to the
    features.
    """

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = Embedding(features, layers=4)
        self.kind = nn.Parameter(0.1 * torch.randn(4, features))
        self.query = nn.Conv2d(features, features, 1)
        self.key_value = nn.Linear(features, 2 * features)
        self.out = nn.Conv2d(features, features, 1)
        self.scale_shift = nn.Linear(features, 2 * features)

    def to_common(self, features: Tensor, source: Tensor) -> Tensor:
        """[B, C, *s] of images acquired at `source` [B, 3] to Z."""
        query = self.query(features).flatten(2).unflatten(1, (self.heads, -1))  # (B, heads, C / heads, pixels)
        tokens = self.key_value(self.embedding(source, tokens=True) + self.kind)  # (B, 4, 2 C)
        tokens = tokens.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key, value = tokens.unbind()  # (B, heads, 4, C / heads)
        found = F.scaled_dot_product_attention(query.transpose(2, 3), key, value)
        return features + self.out(found.transpose(2, 3).reshape(features.shape))

    def to_target(self, common: Tensor, target: Tensor) -> Tensor:
        """Z [B, C, *s] to the features of an image at `target` [B or 1, 3]."""
        scale, shift = self.scale_shift(self.embedding(target))[:, :, None, None].chunk(2, 1)
        return common * (1 + scale) + shift


class GainContrast(nn.Module):
    """The released code's way: Z is the features divided by the source's embedding, then times the target's.

    Theirs is any number, so that features may be divided by 0 or change sign between two sequences. Here it is a gain
    between 1/10 and 10.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_largest = log(LARGEST_GAIN)
        self.embedding = Embedding(features, layers=5)

    def _log_gain(self, parameters: Tensor) -> Tensor:
        return self.log_largest * torch.tanh(self.embedding(parameters))[..., None, None]

    def to_common(self, features: Tensor, source: Tensor) -> Tensor:
        """[B, C, *s] of images acquired at `source` [B, 3] to Z."""
        return features * torch.exp(-self._log_gain(source))

    def to_target(self, common: Tensor, target: Tensor) -> Tensor:
        """Z [B, C, *s] to the features of an image at `target` [B or 1, 3]."""
        return common * torch.exp(self._log_gain(target))


class CRL(TranslationNetwork):
    """Images at any (TR, TE, TI) from images at any other; slices of S named settings are completed with it.

    `source` and `target` of `encode` and `decode` are parameters [B, 3] in ms. Completing a subject (`forward` of one
    tensor, see `TranslationNetwork`) takes the S slots' parameters from the buffer `codes` [S, 3]; `at` gives the same
    network other slots.

    Args:
        settings: (TR, TE, TI) in ms of the S slots.
        variant: "attention", the paper's, or "gain", the released code's with bounded gains.
        features: C.
        res_blocks: of the encoder.
        heads: of the attention.
        downsampling: by which the encoder folds the image and the decoder unfolds it: 2 is four times as fast.
        slice_axis: spatial axis that is sliced.

    Attributes:
        trained_range: smallest and largest (TR, TE, TI) [2, 3] of the images that it was trained on.

    Raises:
        ValueError: settings that are no acquisition, or an unknown variant.
    """

    CHOSEN_ANEW = ("settings",)

    def __init__(
        self,
        settings: Sequence[Sequence[float]],
        variant: str = "attention",
        features: int = 256,
        res_blocks: int = 32,
        heads: int = 8,
        downsampling: int = 1,
        slice_axis: int = -1,
    ) -> None:
        super().__init__(len(settings), 2, 1, slice_axis, downsampling)
        if variant not in ("attention", "gain"):
            raise ValueError(f"variant is '{variant}'; it must be 'attention' or 'gain'.")
        codes = [check_parameters(*each, where=f"settings[{slot}]") for slot, each in enumerate(settings)]
        self.register_buffer("codes", torch.tensor(codes), persistent=False)
        self.register_buffer("trained_range", torch.tensor([[torch.inf] * 3, [-torch.inf] * 3]))
        self.encoder = Encoder(features, res_blocks, downsampling)
        self.contrast = AttentionContrast(features, heads) if variant == "attention" else GainContrast(features)
        layers = 5 if variant == "attention" else 6
        self.decoder = mlp([features] * layers + [downsampling**2], partial(nn.Conv2d, kernel_size=1))
        self.unfold = nn.PixelShuffle(downsampling)

    def encode(self, image: Tensor, source: Tensor) -> Representation:
        """Image [B, 1, X, Y] in [0, 1], acquired at `source` [B or 1, 3]."""
        source = source.expand(image.shape[0], -1)
        if self.training:
            low, high = self.trained_range.unbind()
            self.trained_range.copy_(torch.stack([low.minimum(source.amin(0)), high.maximum(source.amax(0))]))
        return Representation(self.contrast.to_common(self.encoder(image), source), source)

    def decode(self, representation: Representation, target: Tensor) -> Tensor:
        """To images [B, 1, X, Y] at `target` [B or 1, 3]; in [0, 1] once trained."""
        image = self.unfold(self.decoder(self.contrast.to_target(representation.common, target)))
        # Beyond the bounds a clamp has no gradient: a network that starts there would stay.
        return image if self.training else image.clamp(0, 1)

    def at(self, settings: Tensor) -> CRL:
        """This network, sharing its weights, with slots at other settings [T, 3]."""
        view = copy.copy(self)
        view._buffers = {**self._buffers, "codes": settings.to(self.codes)}
        view.sequences = len(settings)
        return view
