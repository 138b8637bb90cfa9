"""The generator of MM-GAN (Sharma and Hamarneh, "Missing MRI pulse sequence synthesis using multi-modal generative
adversarial network", TMI 2020): pix2pix's U-Net with all sequences in and all out.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .common.early_fusion import AllAtOnce, Stack


class Down(nn.Sequential):
    """Halves the size; instances are normalised but at the first and the innermost level."""

    def __init__(self, in_channels: int, out_channels: int, norm: bool, dropout: float) -> None:
        layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=False)]
        layers += [nn.InstanceNorm2d(out_channels)] if norm else []
        super().__init__(*layers, nn.LeakyReLU(0.2), nn.Dropout(dropout))


class Up(nn.Sequential):
    """Doubles the size."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        conv = nn.ConvTranspose2d(in_channels, out_channels, 4, 2, 1, bias=False)
        super().__init__(conv, nn.InstanceNorm2d(out_channels), nn.ReLU(), nn.Dropout(dropout))


class UNet(nn.Module):
    """Images [N, in, X, Y] to [N, out, X, Y], 0 or more; sizes are multiples of 2 ** len(channels).

    Args:
        in_channels, out_channels: of the images.
        channels: widths of the levels.
        dropout: from the fourth level on.
    """

    def __init__(self, in_channels: int, out_channels: int, channels: Sequence[int], dropout: float) -> None:
        super().__init__()
        last = len(channels) - 1
        dropouts = [dropout if k >= 3 else 0.0 for k in range(len(channels))]
        widths = enumerate(pairwise([in_channels, *channels]))
        self.down = nn.ModuleList(Down(a, b, 0 < k < last, dropouts[k]) for k, (a, b) in widths)
        inner = reversed(range(1, len(channels)))  # from the innermost level to the one outside it
        self.up = nn.ModuleList(Up(channels[k] * (1 if k == last else 2), channels[k - 1], dropouts[k]) for k in inner)
        self.final = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.ZeroPad2d((1, 0, 1, 0)),
            nn.Conv2d(2 * channels[0], out_channels, 4, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        for k, up in enumerate(self.up):
            x = torch.cat([up(x), skips[len(skips) - 2 - k]], 1)
        return torch.relu(self.final(x))


class MMGAN(AllAtOnce):
    """Any of S sequences from any others, slice by slice, by one network that makes all S at once.

    Images stay in [0, 1]; what is missing is 0, as air is. Nothing else tells the network what it has.

    Args:
        sequences: S.
        channels: widths of the U-Net's levels, each of which halves the size.
        dropout: from the fourth level on.
        slice_axis: spatial axis that is sliced.
    """

    def __init__(
        self,
        sequences: int = 4,
        channels: Sequence[int] = (64, 128, 256, 512, 512, 512, 512, 512),
        dropout: float = 0.2,
        slice_axis: int = -1,
    ) -> None:
        super().__init__(sequences, slice_axis=slice_axis, downsampling=2 ** len(channels))
        self.unet = UNet(sequences, sequences, channels, dropout)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight, std=0.02)
        nn.init.constant_(self.unet.final[2].bias, 0.3)  # most tissue; a ReLU that begins at 0 may stay there

    def generate(self, stack: Stack) -> Tensor:
        return self.unet(stack.images)
