"""ConvLSTM (Shi et al. 2015), which carries Seq2Seq from 3D to 4D MRI."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvLSTMCell(nn.Module):
    """One layer: input, forget, output and candidate gates from a single zero-padded convolution."""

    def __init__(self, spatial_dims: int, in_channels: int, hidden_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.padding = kernel_size // 2
        conv_type = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        self.conv = conv_type(in_channels + hidden_channels, 4 * hidden_channels, kernel_size, padding=self.padding)

    def first(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The step from zero state: the hidden half of the input and the forget gate are dead, so not computed."""
        bias = self.conv.bias
        assert bias is not None  # to TorchScript any convolution's may be
        i, _, o, g = self.conv.weight[:, : self.in_channels].chunk(4)
        weight = torch.cat([i, o, g])
        i, _, o, g = bias.chunk(4)
        bias = torch.cat([i, o, g])
        if self.spatial_dims == 2:
            gates = F.conv2d(x, weight, bias, padding=self.padding)
        else:
            gates = F.conv3d(x, weight, bias, padding=self.padding)
        i, o, g = gates.chunk(3, dim=1)
        cell = torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = self.conv(torch.cat([x, hidden], dim=1)).chunk(4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell


class ConvLSTM(nn.Module):
    """Stacked ConvLSTM layers over time: [B, T, C, *spatial] to the last layer's hidden states, same shape.

    Frames that are not `available` [B, T] (1 or 0) are left out: the states go past them unchanged.
    """

    def __init__(self, spatial_dims: int, channels: int, layers: int = 3, kernel_size: int = 3) -> None:
        super().__init__()
        self.cells = nn.ModuleList(ConvLSTMCell(spatial_dims, channels, channels, kernel_size) for _ in range(layers))

    def forward(self, x: Tensor, available: Tensor | None = None) -> Tensor:
        frames = list(x.unbind(1))
        for layer in self.cells:
            hidden, cell = layer.first(frames[0])
            if available is not None:
                there = available[:, 0].reshape([-1] + [1] * (x.ndim - 2))
                hidden, cell = there * hidden, there * cell
            states = [hidden]
            for k in range(1, len(frames)):
                following, memory = layer(frames[k], hidden, cell)
                if available is not None:
                    there = available[:, k].reshape([-1] + [1] * (x.ndim - 2)) > 0
                    following, memory = torch.where(there, following, hidden), torch.where(there, memory, cell)
                hidden, cell = following, memory
                states.append(hidden)
            frames = states
        return torch.stack(frames, dim=1)
