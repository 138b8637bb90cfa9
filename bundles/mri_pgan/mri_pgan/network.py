"""The generator of pGAN (Dar et al., "Image synthesis in multi-contrast MRI with conditional generative adversarial
networks", TMI 2019), one direction of one pair of sequences.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .common.blocks.adain import with_axes
from .common.blocks.resnet_generator import ResNetGenerator
from .common.translation import TranslationNetwork

SOURCE, TARGET = 0, 1  # places of the two sequences


class Representation(NamedTuple):
    """`image` [B, 1, X, Y], the second sequence made of the first; 0 if made of the second."""

    image: Tensor


class PGAN(TranslationNetwork):
    """The second of two sequences from the first, from three neighbouring slices the middle one.

    What it does not make, the first sequence or anything from the second, is 0.

    Args:
        sequences: 2.
        slices: neighbouring slices that go in.
        channels: widths from full resolution down; each further one halves the size.
        res_blocks: residual blocks at the smallest size.
        slice_axis: spatial axis that is sliced.
    """

    def __init__(
        self,
        sequences: int = 2,
        slices: int = 3,
        channels: Sequence[int] = (64, 128, 256),
        res_blocks: int = 9,
        slice_axis: int = -1,
    ) -> None:
        if sequences != 2:
            raise ValueError(
                f"sequences has {sequences} names; this network makes one from another: pass two, such as "
                "--sequences T1,T2 for T2 from T1, and train a network for each pair."
            )
        super().__init__(sequences, 2, slices, slice_axis, 2 ** (len(channels) - 1))
        self.generator = ResNetGenerator(slices, 1, channels, res_blocks)

    def encode(self, image: Tensor, source: Tensor) -> Representation:
        made = (self.generator(2 * image - 1) + 1) / 2
        return Representation(made * with_axes(source[:, 0:1], 2))  # 0 is SOURCE, 1 below TARGET

    def decode(self, representation: Representation, target: Tensor) -> Tensor:
        return representation.image * with_axes(target[:, 1:2], 2)

    def from_output(self, output: Tensor, batch: int) -> Tensor:
        """One slice comes out, whatever went in."""
        return output[:, 0].unflatten(0, (batch, -1)).movedim(1, self.slice_axis % 4)
