"""The Seq2Seq generator, Fig. 2 of Han et al., "Synthesis-based imaging-differentiation representation learning for
multi-sequence 3D/4D MRI" (MedIA 2024): an encoder, two ConvLSTMs for 4D, and a decoder made of HyperConv.

With its default values it is, layer by layer, the network that the authors released.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.blocks.conditional import freeze_target
from .common.blocks.convlstm import ConvLSTM
from .common.blocks.encoder import Encoder
from .common.blocks.hyperconv import CodeLayer
from .common.blocks.hyperdecoder import HyperDecoder
from .common.layout import is_available
from .common.translation import TranslationNetwork

# What tells the frames of a series apart beside the ConvLSTMs: nothing (the paper's), or a code of each frame, by its
# place in the series or by its time or b value.
FRAME_CODES = ("none", "place", "value")


class Representation(NamedTuple):
    """`compressed` [B, C, *s] is Fig. 2's average over time; `features` [B, C, *s] that, ready for one time point, or
    of a network that takes series [B, T, C, *s], ready for T.
    """

    features: Tensor
    compressed: Tensor
    source: Tensor


class Seq2Seq(TranslationNetwork):
    """Any of S sequences to any other; see `TranslationNetwork` for how a subject is completed with it.

    Args:
        sequences: S.
        spatial_dims: 2 or 3.
        slices: adjacent slices in and out of a 2D network (the paper's 2.5D is 3).
        channels: widths from full resolution down; each further one halves the size.
        res_blocks: residual blocks of the encoder and of the decoder.
        lstm_layers: layers of each of the two ConvLSTMs; 0 leaves both out, for data without time points.
        conditioning: "hyperconv" (the paper's), "adain" (Seq2Seq-A) or "dynamic" (Seq2Seq-B).
        code_channels, bank_channels: c_s and c_w of Algorithm 1.
        slice_axis: spatial axis that is sliced.
        norm: where instances are normalised, "everywhere" (the paper's) or in the residual "branches" only.
        source_code: whether the encoder is told which sequence it gets. The paper's is not; a small network, which sees
            little of the brain around a voxel, can hardly tell.
        lesion_head: a 1x1 convolution that tells lesions from the encoder's features, for training alone: it makes
            the encoder keep them. No image depends on it.
        frames: how many each sequence has; () if none is a series.
        frame_codes: how encoder and decoder are told which frame it is, see `FRAME_CODES`. "place" without ConvLSTMs
            takes each frame for a sequence of its own.
        frame_values: of each sequence what "value" tells (`common.data.series.frame_values`). A code is then [S + T]:
            one-hot, and the values of that sequence's frames.
    """

    CHOSEN_ANEW = ("frames", "frame_values")
    __constants__ = (*TranslationNetwork.__constants__, "has_lstms", "is_placed", "is_told")

    def __init__(
        self,
        sequences: int = 4,
        spatial_dims: int = 2,
        slices: int = 3,
        channels: Sequence[int] = (64, 128, 256),
        res_blocks: int = 6,
        lstm_layers: int = 3,
        conditioning: str = "hyperconv",
        code_channels: int = 64,
        bank_channels: int = 16,
        slice_axis: int = -1,
        norm: str = "everywhere",
        source_code: bool = False,
        lesion_head: bool = False,
        frames: Sequence[int] = (),
        frame_codes: str = "none",
        frame_values: Sequence[Sequence[float]] = (),
    ) -> None:
        super().__init__(sequences, spatial_dims, slices, slice_axis, 2 ** (len(channels) - 1), frames)
        if frame_codes not in FRAME_CODES:
            raise ValueError(f"frame_codes is '{frame_codes}'; choose one of {', '.join(FRAME_CODES)}.")
        if self.has_series and not lstm_layers and frame_codes == "none":
            raise ValueError(
                "lstm_layers is 0, and without ConvLSTMs the frames of series are alike: set it to 1 or more, or "
                "frame_codes."
            )
        options = {"conditioning": conditioning, "code_channels": code_channels, "bank_channels": bank_channels}
        self.is_placed, self.is_told = (self.has_series and frame_codes == each for each in FRAME_CODES[1:])
        if self.is_told:
            self._begin_told(frame_values)
        elif self.is_placed:
            self.register_buffer("places", self._places(), persistent=False)
        self.source_code = source_code or self.is_placed or self.is_told
        length = sum(self.frames) if self.is_placed else sequences * (1 + self.is_told)
        told = length if self.source_code else 0
        self.encoder = Encoder(spatial_dims, self.slices, channels, res_blocks, norm, told)
        self.decoder = HyperDecoder(spatial_dims, self.slices, channels, res_blocks, norm, **options)
        self.code_layer: nn.Module = CodeLayer(code_channels)
        layers = [ConvLSTM(spatial_dims, channels[-1], lstm_layers) if lstm_layers else nn.Identity() for _ in range(2)]
        self.encoder_lstm, self.decoder_lstm = layers
        self.has_lstms = lstm_layers > 0
        if lesion_head:
            self.lesion_head = (nn.Conv2d if spatial_dims == 2 else nn.Conv3d)(channels[-1], 1, 1)

    def _begin_told(self, values: Sequence[Sequence[float]]) -> None:
        unknown = [j for j, count in enumerate(self.frames) if j >= len(values) or len(values[j]) != count]
        if unknown:
            raise ValueError(
                f"frame_codes is 'value', but neither times nor b values are known of all frames of sequence "
                f"{unknown[0] + 1} of {self.sequences}. Put them in the subject list, or pass them with --frames."
            )
        self.codes = F.pad(self.codes, (0, max(self.frames)))
        self.tell(torch.tensor([[*each, *[0.0] * (max(self.frames) - len(each))] for each in values]))

    def tell(self, values: Tensor) -> None:
        """Makes [S, T] what the frames of each sequence are told apart by, until it is told otherwise."""
        self.codes[:, self.sequences :] = values.to(self.codes)

    def _places(self) -> Tensor:
        """[S, T, C], of each frame which channel it is; 0 after a sequence's last frame."""
        places = torch.zeros(self.sequences, max(self.frames), sum(self.frames))
        for j, (end, count) in enumerate(zip(self.ends, self.frames, strict=True)):
            places[j, torch.arange(count), torch.arange(end - count, end)] = 1
        return places

    def _frame_code(self, code: Tensor, frames: int) -> Tensor:
        """Codes of sequences [B, S or S + T] to those of their first frames [B, frames, K]."""
        one_hot = code[:, : self.sequences]
        if self.is_placed:
            return torch.einsum("bs,stc->btc", one_hot, self.places[:, :frames])
        one_hot = one_hot[:, None].expand(-1, frames, -1)
        if self.is_told:  # a sequence's values have weights of their own: seconds are not s/mm2
            values = code[:, self.sequences : self.sequences + frames, None]
            return torch.cat([one_hot, one_hot * values], 2)
        return one_hot

    def encode(self, image: Tensor, source: Tensor, frames: int = 1) -> Representation:
        """Image [B, c, *spatial], or with time points [B, T, c, *spatial], in [0, 1].

        Of a network that takes series, time points that are -1 are missing, and `frames` can be decoded at once.
        """
        if image.ndim == self.spatial_dims + 2:
            image = image[:, None]
        source = source.expand(image.shape[0], -1)
        code = self._frame_code(source, image.shape[1]).flatten(0, 1) if self.source_code else None
        features = self.encoder(2 * image.flatten(0, 1) - 1, code).unflatten(0, image.shape[:2])
        if self.has_series:
            there = is_available(image).to(image.dtype)  # (B, T)
            share = there / torch.clamp(there.sum(1, keepdim=True), min=1)
            states = self.encoder_lstm(features, there) if self.has_lstms else features
            compressed = (states * share.reshape(list(share.shape) + [1] * (states.ndim - 2))).sum(1)
            # The second ConvLSTM does not depend on the target: once here, for as many frames as any target has.
            return Representation(self._expand(compressed, frames), compressed, source)
        compressed = self.encoder_lstm(features).mean(1)
        # At one time point the second ConvLSTM does not depend on the target: once here, not once per target.
        return Representation(self._expand(compressed, 1)[:, 0], compressed, source)

    def decode(self, representation: Representation, target: Tensor, frames: int | None = None) -> Tensor:
        """To images [B, c, *spatial], or with `frames` to that many time points [B, frames, c, *spatial]."""
        if frames is None and not self.has_series:
            return (self.decoder(representation.features, self.code_layer(target)) + 1) / 2
        several = 1 if frames is None else frames
        if self.has_series and several <= representation.features.shape[1]:
            features = representation.features[:, :several]
        else:
            features = self._expand(representation.compressed, several)
        if self.is_placed or self.is_told:  # a kernel for each frame
            codes = self._frame_code(target, several)
            made = torch.stack([self.decoder(features[:, k], self.code_layer(codes[:, k])) for k in range(several)], 1)
        else:
            code = self.code_layer(target)
            code = code.repeat_interleave(several, 0) if len(code) > 1 else code
            made = self.decoder(features.flatten(0, 1), code).unflatten(0, features.shape[:2])
        return (made[:, 0] + 1) / 2 if frames is None else (made + 1) / 2

    def _expand(self, compressed: Tensor, frames: int) -> Tensor:
        """Fig. 2's copy to the target's time points and the second ConvLSTM: [B, frames, C, *s]."""
        return self.decoder_lstm(torch.stack([compressed] * frames, 1))

    def freeze(self, target: int) -> Seq2Seq:
        """A copy that makes one target only, its hyper-layers plain convolutions with the same output.

        Where frames have codes, each has kernels of its own, and it stays as it is.
        """
        return self if self.is_placed or self.is_told else freeze_target(self, target)
