"""The perceptual loss of Seq2Seq and VQ-Seq2Seq: a frozen VGG19, compared after each of its first thirteen ReLUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..inference.weights import pretrained_file, read_state

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue


class VGG19Loss(nn.Module):
    """Mean squared error between VGG19 features of prediction and target, every channel shown as a grey image.

    As in the authors' code: ImageNet's mean and deviation, `features[:30]`, average in place of max pooling.

    Args:
        weights: a file with torchvision's vgg19 state dict, or "download" for torchvision's ImageNet weights.

    Raises:
        FileNotFoundError, RuntimeError: there is no such file, or the download failed. Random weights are never used in
            its place.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        from torchvision.models import VGG19_Weights, vgg19

        network = vgg19(weights=None)
        file = pretrained_file(weights, VGG19_Weights.IMAGENET1K_V1.url, "perceptual_weights")
        network.load_state_dict(read_state(file))
        features = network.features
        layers = [nn.AvgPool2d(2) if isinstance(layer, nn.MaxPool2d) else layer for layer in features[:30]]
        self.layers = nn.ModuleList(nn.ReLU() if isinstance(layer, nn.ReLU) else layer for layer in layers)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, prediction: Tensor, target: Tensor, row: Tensor | None = None) -> Tensor:
        """Images [P, c, H, W] in [0, 1]; 3D volumes [P, c, X, Y, Z] are taken as their axial slices.

        With `row` [P], on the CPU, prediction k is to be as target[row[k]]: features of each of these are found once.
        """
        if row is not None:
            used, row = row.unique(return_inverse=True)
            target = target[used]
        with torch.no_grad():
            wanted = self._features(target)
        if row is not None:
            wanted = [each.unflatten(0, (len(target), -1))[row].flatten(0, 1) for each in wanted]
        made = self._features(prediction)
        return torch.stack([F.mse_loss(a, b) for a, b in zip(made, wanted, strict=True)]).sum()

    def _features(self, image: Tensor) -> list[Tensor]:
        if image.ndim == 5:
            image = image.movedim(-1, 1).flatten(0, 1)
        x = (image.flatten(0, 1)[:, None] - self.mean) / self.deviation  # grey: the same in all three colours
        found = []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found
