"""The generators of CycleGAN (Zhu et al., "Unpaired image-to-image translation using cycle-consistent adversarial
networks", ICCV 2017), and RegGAN's registration (Kong et al., NeurIPS 2021).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.networks.nets import RegUNet
from torch import Tensor, nn

from .common.blocks.adain import with_axes
from .common.blocks.resnet_generator import ResNetGenerator
from .common.translation import TranslationNetwork


class Representation(NamedTuple):
    """The image [B, 1, X, Y] itself: each generator has an encoder of its own."""

    image: Tensor


class CycleGAN(TranslationNetwork):
    """Two sequences to one another, slice by slice, by a generator for each that is to be made.

    A sequence made from itself, as its generator's identity loss teaches it, is what a subject gets that has no other.

    Args:
        sequences: 2.
        channels: widths from full resolution down; each further one halves the size.
        res_blocks: residual blocks at the smallest size.
        slice_axis: spatial axis that is sliced.
        registration: levels of the networks that align what is made with the truth in training (RegGAN); 0 is without.
            No image depends on them.
    """

    def __init__(
        self,
        sequences: int = 2,
        channels: Sequence[int] = (64, 128, 256),
        res_blocks: int = 9,
        slice_axis: int = -1,
        registration: int = 0,
    ) -> None:
        if sequences != 2:
            raise ValueError(
                f"sequences has {sequences} names; this network translates two to one another: pass two, such as "
                "--sequences T1,T2, and train a network for each pair."
            )
        super().__init__(sequences, slice_axis=slice_axis, downsampling=2 ** max(len(channels) - 1, registration))
        self.generators = nn.ModuleList(ResNetGenerator(1, 1, channels, res_blocks) for _ in range(sequences))
        if registration:
            self.registration = nn.ModuleList(
                RegUNet(2, 2, 16, registration, "zeros", out_channels=2) for _ in range(sequences)
            )

    def encode(self, image: Tensor, source: Tensor) -> Representation:
        return Representation(image)

    def decode(self, representation: Representation, target: Tensor) -> Tensor:
        image = 2 * representation.image - 1
        made = torch.zeros_like(image)
        for j, generator in enumerate(self.generators):
            if self._is_wanted(target[:, j]):
                made = made + with_axes(target[:, j], 3) * (generator(image) + 1) / 2
        return made

    def _is_wanted(self, share: Tensor) -> bool:
        """Whether a generator is to run; a graph that is made once and for all cannot tell, and runs both."""
        if torch.jit.is_scripting():
            return bool(share.any())
        return _in_graph() or bool(share.any())


@torch.jit.unused
def _in_graph() -> bool:
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
