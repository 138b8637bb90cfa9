"""The 3D Haar transform, in which the flow runs: eight bands of half the size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Haar(nn.Module):
    """Orthonormal but for the mean, the first band (LLL), which is divided by `lowest` to be of the others' size.

    Bands are in the order LLL, LLH, LHL, LHH, HLL, ..., letters for X, Y and Z.

    Shapes: images [B, C, X, Y, Z] of even sizes to bands [B, 8 C, X / 2, Y / 2, Z / 2], and `inverse` back.
    """

    def __init__(self, lowest: float = 3.0) -> None:
        super().__init__()
        pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / 2**0.5
        basis = torch.kron(torch.kron(pair, pair), pair)  # (bands, voxels of a block), its own inverse
        scale = torch.ones(8, 1)
        scale[0] = lowest
        self.register_buffer("forwards", (basis / scale).reshape(8, 1, 2, 2, 2), persistent=False)
        self.register_buffer("backwards", (basis * scale).reshape(8, 1, 2, 2, 2), persistent=False)
        self.register_buffer("bias", torch.zeros(8), persistent=False)  # ONNX Runtime fails where there is none

    def forward(self, image: Tensor) -> Tensor:
        bands = F.conv3d(image.flatten(0, 1)[:, None], self.forwards, self.bias, stride=2)
        return bands.unflatten(0, (image.shape[0], image.shape[1])).flatten(1, 2)

    def inverse(self, bands: Tensor) -> Tensor:
        images = F.conv_transpose3d(bands.unflatten(1, (-1, 8)).flatten(0, 1), self.backwards, stride=2)
        return images.unflatten(0, (bands.shape[0], -1))[:, :, 0]
