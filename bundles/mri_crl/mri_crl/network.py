"""The CRL network, Fig. 2 of Xiong et al., "Contrast Representation Learning from Imaging Parameters for Magnetic
Resonance Image Synthesis" (MICCAI 2024): a residual encoder, common features, and an implicit decoder per pixel.

A contrast is not a name but a point (TR, TE, TI), in ms at every interface. Three things are not the paper's: a decoder
that knows the signal equation (`variant` "physical"), features of several sources as one (`fusion` "features"), and
gradient echoes, whose fourth parameter is the flip angle in degrees.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from math import log
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.data.acquisition import NAMES, check_parameters, four
from .common.data.mr_signal import PULSES, SPACING, steady_state
from .common.translation import Translation, TranslationNetwork, select

# ms (degrees) at which each parameter's logarithm sets in, so that clinical ones lie between 0 and 3. TI = 0 needs no
# case of its own: a spin echo after an inversion with TI = 0 is that of none, |1 - 2 + exp(-TR/T1)| = 1 - exp(-TR/T1).
ONSET = (1000.0, 10.0, 100.0, 10.0)
SPIN_ECHO = 3  # as many parameters
LARGEST_GAIN = 10.0
FUSIONS = ("images", "features")
# Of the physical variant: T1 and T2 in ms lie between these, and PD, in the images' unit, between 0 and its largest.
T1, T2, LARGEST_PD = (100.0, 6000.0), (10.0, 3000.0), 2.0
# Mean and deviation that tissue has at one scale per subject. Grey and white matter differ by a few hundredths: unless
# these are made larger, a network learns each setting's brightness first, and anatomy late.
USUAL = (0.25, 0.15)


class Representation(NamedTuple):
    """Common features Z [B, C, *s], and the parameters [B, P] of the images that they come from."""

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
    """f_xi, Eq. 3: P parameters [B, P] to [B, C]; with `tokens` to [B, P + 1, C], those of TR, TE, TI (and the flip
    angle) alone come first. With a flip angle it is told besides whether it is one: the family, 1 of a gradient echo.
    """

    def __init__(self, features: int, layers: int, parameters: int = SPIN_ECHO) -> None:
        super().__init__()
        self.told = parameters - SPIN_ECHO  # 0 or 1
        self.layers = mlp([parameters + self.told] + [features] * layers)
        self.register_buffer("onset", torch.tensor(ONSET[:parameters]), persistent=False)
        alone = torch.cat([torch.eye(parameters), torch.eye(parameters)[:, parameters - self.told :]], 1)
        self.register_buffer("shown", torch.cat([alone, torch.ones(1, alone.shape[1])]), persistent=False)

    def forward(self, parameters: Tensor, tokens: bool = False) -> Tensor:
        scaled = torch.log1p(parameters / self.onset)
        if self.told:
            scaled = torch.cat([scaled, (parameters[:, -1:] > 0).to(scaled)], 1)
        if tokens:
            scaled = scaled[:, None] * self.shown
        return self.layers(scaled)


class Contrast(nn.Module):
    """How a contrast gets out of the features and into the image; what it leaves to others it does not change."""

    made = 1  # what the decoder gives for a pixel

    def to_image(self, decoded: Tensor, target: Tensor) -> Tensor:
        """What the decoder made [B, `made`, *s] to an image [B, 1, *s] at `target` [B or 1, P]."""
        return decoded


class AttentionContrast(Contrast):
    """The paper's way from features to common features and on to the target's: cross-attention, then modulation.

    Were the source's embedding the only key, softmax over the keys would be 1 whatever the image is. So each parameter
    has a token beside their common one, told apart by a learned vector, and what attention finds is added to the
    features.
    """

    def __init__(self, features: int, heads: int, parameters: int = SPIN_ECHO) -> None:
        super().__init__()
        self.heads = heads
        self.embedding = Embedding(features, 4, parameters)
        self.kind = nn.Parameter(0.1 * torch.randn(parameters + 1, features))
        self.query = nn.Conv2d(features, features, 1)
        self.key_value = nn.Linear(features, 2 * features)
        self.out = nn.Conv2d(features, features, 1)
        self.scale_shift = nn.Linear(features, 2 * features)

    def to_common(self, features: Tensor, source: Tensor) -> Tensor:
        """[B, C, *s] of images acquired at `source` [B, P] to Z."""
        query = self.query(features).flatten(2).unflatten(1, (self.heads, -1))  # (B, heads, C / heads, pixels)
        tokens = self.key_value(self.embedding(source, tokens=True) + self.kind)  # (B, P + 1, 2 C)
        tokens = tokens.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        key, value = tokens.unbind()  # (B, heads, P + 1, C / heads)
        found = F.scaled_dot_product_attention(query.transpose(2, 3), key, value)
        return features + self.out(found.transpose(2, 3).reshape(features.shape))

    def to_target(self, common: Tensor, target: Tensor) -> Tensor:
        """Z [B, C, *s] to the features of an image at `target` [B or 1, P]."""
        scale, shift = self.scale_shift(self.embedding(target))[:, :, None, None].chunk(2, 1)
        return common * (1 + scale) + shift


class GainContrast(Contrast):
    """The released code's way: Z is the features divided by the source's embedding, then times the target's.

    Theirs is any number, so that features may be divided by 0 or change sign between two sequences. Here it is a gain
    between 1/10 and 10.
    """

    def __init__(self, features: int, heads: int = 0, parameters: int = SPIN_ECHO) -> None:
        super().__init__()
        self.log_largest = log(LARGEST_GAIN)
        self.embedding = Embedding(features, 5, parameters)

    def _log_gain(self, parameters: Tensor) -> Tensor:
        return self.log_largest * torch.tanh(self.embedding(parameters))[..., None, None]

    def to_common(self, features: Tensor, source: Tensor) -> Tensor:
        """[B, C, *s] of images acquired at `source` [B, P] to Z."""
        return features * torch.exp(-self._log_gain(source))

    def to_target(self, common: Tensor, target: Tensor) -> Tensor:
        """Z [B, C, *s] to the features of an image at `target` [B or 1, P]."""
        return common * torch.exp(self._log_gain(target))


class PhysicalContrast(AttentionContrast):
    """To common features as the paper does, and from them by the signal equation: no target is shown to a layer."""

    made = 3

    def __init__(self, features: int, heads: int, parameters: int = SPIN_ECHO) -> None:
        super().__init__(features, heads, parameters)
        del self.scale_shift
        self.has_gradient_echoes = parameters > SPIN_ECHO
        self.half_train = PULSES * SPACING / 2
        self.smallest = (log(T1[0]), log(T2[0]))
        self.ratio = (log(T1[1] / T1[0]), log(T2[1] / T2[0]))
        self.largest = LARGEST_PD

    def to_target(self, common: Tensor, target: Tensor) -> Tensor:
        """What the decoder makes the maps of."""
        return common

    def maps(self, decoded: Tensor) -> Tensor:
        """Any numbers [B, 3, *s] to PD in the images' unit, T1 and T2 in ms; in full precision, which T1 needs."""
        pd, t1, t2 = torch.sigmoid(decoded.float()).unbind(1)
        t1 = torch.exp(self.smallest[0] + self.ratio[0] * t1)
        return torch.stack([self.largest * pd, t1, torch.exp(self.smallest[1] + self.ratio[1] * t2)], 1)

    def to_image(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Eq. 6, the spin echo, and where there is a flip angle the gradient echo: see `common.data.mr_signal`."""
        pd, t1, t2 = self.maps(decoded).unbind(1)
        wanted = target[:, :, None, None].float().unbind(1)
        tr, te, ti = wanted[0], wanted[1], wanted[2]
        recovery = torch.abs(1 - 2 * torch.exp(-ti / t1) + torch.exp(-tr / t1))
        image = pd * recovery * torch.exp(-te / t2)
        if self.has_gradient_echoes:
            half = torch.minimum(ti, tr - ti).clamp(max=self.half_train)
            image = torch.where(wanted[3] > 0, steady_state(pd, t1, t2, tr, te, ti, wanted[3], half), image)
        return image[:, None]


VARIANTS = {"attention": AttentionContrast, "gain": GainContrast, "physical": PhysicalContrast}


class CRL(TranslationNetwork):
    """Images at any (TR, TE, TI) from images at any other; slices of S named settings are completed with it.

    `source` and `target` of `encode` and `decode` are parameters [B, P]: TR, TE and TI in ms and, with
    `gradient_echoes`, the flip angle in degrees, which is 0 of a spin echo. Completing a subject (`forward` of one
    tensor, see `TranslationNetwork`) takes the S slots' parameters from the buffer `codes` [S, P]; `at` gives the same
    network other slots.

    Args:
        settings: (TR, TE, TI) in ms, or with FA in degrees, of the S slots.
        variant: "attention", the paper's; "gain", the released code's with bounded gains; "physical", whose decoder
            gives PD, T1 and T2, of which the signal equation makes the image.
        fusion: of several sources: "images" averages what each makes; "features" decodes once the mean of their common
            features, where each weighs, feature by feature and pixel by pixel, as much as it has learned to.
        features: C.
        res_blocks: of the encoder.
        heads: of the attention.
        downsampling: by which the encoder folds the image and the decoder unfolds it: 2 is four times as fast.
        slice_axis: spatial axis that is sliced.
        gradient_echoes: whether it is told flip angles, P being 4 and not 3.

    Attributes:
        trained_range: smallest and largest parameters [2, 3] of the images that it was trained on; with
            `gradient_echoes` those of spin echoes and of gradient echoes, [2, 2, 4].

    Raises:
        ValueError: settings that are no acquisition, gradient echoes that it is not told of, or an unknown variant or
            fusion.
    """

    CHOSEN_ANEW = ("settings",)
    TRAINING_CALLS = ("from_several",)

    def __init__(
        self,
        settings: Sequence[Sequence[float]],
        variant: str = "attention",
        features: int = 256,
        res_blocks: int = 32,
        heads: int = 8,
        downsampling: int = 1,
        slice_axis: int = -1,
        fusion: str = "images",
        gradient_echoes: bool = False,
    ) -> None:
        super().__init__(len(settings), 2, 1, slice_axis, downsampling)
        for name, value, known in (("variant", variant, VARIANTS), ("fusion", fusion, FUSIONS)):
            if value not in known:
                raise ValueError(f"{name} is '{value}'; it must be one of {', '.join(known)}.")
        codes = [check_parameters(*each, where=f"settings[{slot}]") for slot, each in enumerate(settings)]
        self.parameters_told = len(NAMES) if gradient_echoes else SPIN_ECHO
        if not gradient_echoes:
            self._check_family(codes)
        self.register_buffer("codes", torch.tensor(four(codes))[:, : self.parameters_told], persistent=False)
        size = [2, len(NAMES)] if gradient_echoes else [SPIN_ECHO]  # a row for each family
        untrained = [torch.full(size, bound) for bound in (torch.inf, -torch.inf)]
        self.register_buffer("trained_range", torch.stack(untrained))
        self.encoder = Encoder(features, res_blocks, downsampling)
        self.contrast = VARIANTS[variant](features, heads, self.parameters_told)
        layers = 6 if variant == "gain" else 5
        wide = [features] * layers + [self.contrast.made * downsampling**2]
        self.decoder = mlp(wide, partial(nn.Conv2d, kernel_size=1))
        self.unfold = nn.PixelShuffle(downsampling)
        self.has_common_space = self.spread_alone = fusion == "features"
        self.log_share = nn.Conv2d(features, features, 1) if self.has_common_space else None
        if self.log_share is not None:  # all alike at first
            nn.init.zeros_(self.log_share.weight)
            nn.init.zeros_(self.log_share.bias)
            self.log_largest = log(LARGEST_GAIN)

    def encode(self, image: Tensor, source: Tensor) -> Representation:
        """Image [B, 1, X, Y] in [0, 1], acquired at `source` [B or 1, P]."""
        source = source.expand(image.shape[0], -1)
        if self.training:
            self._widen_range(source)
        return Representation(self.contrast.to_common(self.encoder(image), source), source)

    def _widen_range(self, source: Tensor) -> None:
        low, high = self.trained_range.unbind()
        if self.parameters_told == 3:
            least, most = source.amin(0), source.amax(0)
        else:
            echo = source[:, -1:] > 0
            families = torch.stack([~echo, echo])
            least = torch.where(families, source, torch.full_like(source, torch.inf)).amin(1)
            most = torch.where(families, source, torch.full_like(source, -torch.inf)).amax(1)
        self.trained_range.copy_(torch.stack([low.minimum(least), high.maximum(most)]))

    def decode(self, representation: Representation, target: Tensor) -> Tensor:
        """To images [B, 1, X, Y] at `target` [B or 1, P]; in [0, 1] once trained."""
        decoded = self.unfold(self.decoder(self.contrast.to_target(representation.common, target)))
        image = self.contrast.to_image(decoded, target)
        # Beyond the bounds a clamp has no gradient: a network that starts there would stay.
        return image if self.training else image.clamp(0, 1)

    def maps(self, representation: Representation) -> Tensor:
        """Of the physical variant PD, in the images' unit, T1 and T2 in ms: [B, 3, X, Y]."""
        if not isinstance(self.contrast, PhysicalContrast):
            raise ValueError(f"variant is '{self.options['variant']}'; only 'physical' has maps of PD, T1 and T2.")
        return self.contrast.maps(self.unfold(self.decoder(representation.common)))

    def shares(self, common: Tensor, tissue: Tensor) -> Tensor:
        """How much each of the features Z [N, C, *s] counts among other sources': 0 in air, else between 1/10 and 10.

        `tissue` [N, 1, X, Y] is 0 or 1.
        """
        shares = torch.exp(self.log_largest * torch.tanh(self.log_share(common)))
        return shares * F.max_pool2d(tissue, self.downsampling)

    def fuse(self, representations: list[Representation], tissue: Tensor) -> list[tuple[Representation, Tensor]]:
        """See `TranslationNetwork`; with `fusion` "features" one representation, the weighted mean."""
        if self.log_share is None:
            return super().fuse(representations, tissue)
        total, weight = torch.zeros_like(representations[0].common), torch.zeros_like(representations[0].common)
        for i, each in enumerate(representations):
            share = self.shares(each.common, self.to_input(tissue[:, i]))
            total, weight = total + share * each.common, weight + share
        return [(Representation(total / weight.clamp(min=1e-6), representations[0].source), tissue.amax(1))]

    def variants(
        self, representations: Sequence[Representation], tissue: Tensor
    ) -> list[tuple[Representation, Tensor]]:
        """With `fusion` "features" what is made without each of the sources in turn."""
        count = len(representations)
        if self.log_share is None or count < 2:
            return self.fuse(representations, tissue)
        left = [[k for k in range(count) if k != out] for out in range(count)]
        return [self.fuse([representations[k] for k in kept], tissue[:, kept])[0] for kept in left]

    def from_several(
        self, image: Tensor, *, parameters: Tensor, together: Tensor, predicted: Sequence[Tensor], wanted: Tensor
    ) -> Translation:
        """A training step of `fusion` "features": images [N, 1, X, Y] at `parameters` [N, P] are encoded once each.

        Prediction p of P is made from those in row p of `together` [P, N], bool; of them, `predicted[t]` are made at
        `wanted[t]`.
        """
        z = self.encode(image, parameters)
        shares, together = self.shares(z.common, (image > 0).to(image)).float(), together.float()
        with torch.autocast(image.device.type, enabled=False):  # as in use, which is in full precision
            parts = (shares * z.common.float(), shares)
            total, weight = ((together @ each.flatten(1)).view(-1, *each.shape[1:]) for each in parts)
        fused = Representation(total / weight.clamp(min=1e-6), parameters[together.argmax(1)])
        made = [self.decode(select(fused, p), wanted[t : t + 1]) for t, p in enumerate(predicted) if len(p)]
        return Translation(torch.cat(made), z)

    def told(self, parameters: Tensor) -> Tensor:
        """Of parameters [N, 3 or 4] those that the network is told, [N, P].

        Raises:
            ValueError: there is a gradient echo among them, and the network knows spin echoes only.
        """
        if self.parameters_told == SPIN_ECHO:
            self._check_family(parameters.tolist())
        return F.pad(parameters, (0, self.parameters_told - parameters.shape[1]))

    def _check_family(self, parameters: Sequence[Sequence[float]]) -> None:
        for each in parameters:
            if any(each[SPIN_ECHO:]):
                said = ", ".join(f"{name} {value:g}" for name, value in zip(NAMES, each, strict=True))
                raise ValueError(
                    f"An image is of a gradient echo ({said}), and the network knows spin echoes only: train with "
                    "--network_def#gradient_echoes true, or leave such images out."
                )

    def at(self, settings: Tensor) -> Self:
        """This network, sharing its weights, with slots at other settings [T, 4]."""
        view = copy.copy(self)
        view._buffers = {**self._buffers, "codes": self.told(settings).to(self.codes)}
        view.sequences = len(settings)
        return view
