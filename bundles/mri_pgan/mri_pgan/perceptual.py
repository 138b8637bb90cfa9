"""The perceptual loss of pGAN: VGG16 up to its second pooling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common.inference.weights import pretrained_file, read_state


class VGG16Loss(nn.Module):
    """Mean absolute difference of the features before the second pooling, `features[:9]`.

    As in the authors' code images are in [-1, 1], the same in all three colours, without ImageNet's mean and deviation.

    Args:
        weights: a file with torchvision's vgg16 state dict, or "download" for torchvision's ImageNet weights.

    Raises:
        FileNotFoundError, RuntimeError: there is no such file, or the download failed.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        from torchvision.models import VGG16_Weights, vgg16

        file = pretrained_file(weights, VGG16_Weights.IMAGENET1K_V1.url, "perceptual_weights")
        with torch.device("meta"):  # filled from the file
            network = vgg16(weights=None)
        network.load_state_dict(read_state(file), assign=True)
        self.layers = network.features[:9].requires_grad_(False).eval()

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Images [N, 1, X, Y] in [-1, 1]."""
        return F.l1_loss(*(self.layers(image.expand(-1, 3, -1, -1)) for image in (prediction, target)))
