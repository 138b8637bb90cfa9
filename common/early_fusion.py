"""Methods whose network sees all of a subject's sequences at once: any of them in, any other out."""

from typing import NamedTuple

import torch
from torch import Tensor

from .blocks.adain import with_axes
from .translation import TranslationNetwork


# Types are no strings in this file (no `annotations` of `__future__`): TorchScript looks for a list's in vain then.
class Stack(NamedTuple):
    """`images` [N, S, *spatial] in [0, 1], 0 where they are not `given` [N, S]."""

    images: Tensor
    given: Tensor


class EarlyFusion(TranslationNetwork):
    """`encode` puts an image into its place among S, `fuse` puts several together, `decode` is the network.

    An image of air alone, such as a slice outside the brain of a shorter scan, is as one that is missing: so what is
    made of a slice does not depend on the others. A method writes `decode`.
    """

    has_common_space = True

    def encode(self, image: Tensor, source: Tensor) -> Stack:
        """An image [N, 1, *spatial] and its code [N or 1, S]; or S images [N, S, *spatial] and which of them count."""
        code = source.expand(image.shape[0], -1)
        images = with_axes(code, image.ndim - 2) * image
        return Stack(images, (images.flatten(2).amax(2) > 0).to(image.dtype))

    def fuse(self, representations: list[Stack], tissue: Tensor) -> list[tuple[Stack, Tensor]]:
        """All sources, each where it has tissue, in one stack."""
        images = torch.zeros_like(representations[0].images)
        for k, each in enumerate(representations):
            images = images + each.images * self.to_input(tissue[:, k])
        return [(Stack(images, (images.flatten(2).amax(2) > 0).to(images.dtype)), tissue.amax(1))]


class AllAtOnce(EarlyFusion):
    """A method whose network makes all S sequences in one pass: it writes `generate`."""

    TRAINING_CALLS = ("generate_from",)

    def generate(self, stack: Stack) -> Tensor:
        """All S images [N, S, *spatial]; a training sees them as they are, a user in [0, 1]."""
        raise TypeError(f"{type(self).__name__} does not say how it generates.")

    def decode(self, representation: Stack, target: Tensor) -> Tensor:
        made = torch.clamp(self.generate(representation), 0.0, 1.0)
        return (made * with_axes(target, made.ndim - 2)).sum(1, keepdim=True)

    def generate_from(self, image: Tensor, given: Tensor) -> Tensor:
        """`generate` from those of images [N, S, *spatial] that count, [N, S]."""
        return self.generate(self.encode(image, given))
