"""WFM, Tur, Stojkovic and Bagci, "3D Wavelet Flow Matching for Ultrafast Multi-Modal MRI Synthesis" (MIDL 2026): a flow
from the mean of a subject's images to the wanted one, between their Haar wavelets.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor, nn

from .common.blocks.adain import with_axes
from .common.blocks.denoiser import Denoiser
from .common.data.normalisation import DARKEST_TISSUE
from .common.early_fusion import EarlyFusion, Stack
from .wavelets import Haar

PATHS = ("flow", "displacement")
STEPS = 1000  # T: the mean of the sources; 0 is the target


class WaveletFlow(EarlyFusion):
    """Any of S sequences from any others, whole volumes at once.

    The UNet sees the wavelets of where the way has led to and of the S - 1 other sequences, 0 for those that are
    missing, and is told the target as a class and the time. A target that is the source itself is that image.

    Args:
        sequences: S.
        channels, res_blocks, norm_groups: of MONAI's `DiffusionModelUNet`.
        path: "flow" learns the velocity along the straight way from the mean to the target; "displacement" the whole
            way from its start, in one evaluation, without a schedule (as PRIMED).
        steps: evaluations of a flow; one is as good as its velocity at the start.
    """

    CHOSEN_ANEW = ("steps",)
    TRAINING_CALLS = ("velocity_from",)

    def __init__(
        self,
        sequences: int = 4,
        channels: Sequence[int] = (64, 128, 128, 256, 256),
        res_blocks: int = 2,
        norm_groups: int = 32,
        path: str = "flow",
        steps: int = 2,
    ) -> None:
        super().__init__(sequences, spatial_dims=3, downsampling=2 ** len(channels))
        if path not in PATHS:
            raise ValueError(f"path is '{path}'; choose one of {', '.join(PATHS)}.")
        self.total, self.darkest = STEPS, DARKEST_TISSUE
        scheduler = RFlowScheduler(STEPS)
        with torch.device("cpu"):  # numbers, wherever the network is made
            scheduler.set_timesteps(steps if path == "flow" else 1)
            self.way = list(pairwise([*scheduler.timesteps.tolist(), 0]))
        self.haar = Haar()
        self.unet = Denoiser(
            spatial_dims=3,
            in_channels=8 * sequences,
            out_channels=8,
            channels=channels,
            num_res_blocks=res_blocks,
            attention_levels=[False] * len(channels),
            norm_num_groups=norm_groups,
            num_head_channels=norm_groups,
            num_class_embeds=sequences,
            resblock_updown=True,
        )

    def decode(self, representation: Stack, target: Tensor) -> Tensor:
        x = self.start(representation)
        for now, then in self.way:
            at = torch.full([x.shape[0]], now, device=x.device)
            x = x + self.haar.inverse(self.velocity(representation, x, target, at)) * ((now - then) / self.total)
        return x.clamp(self.darkest, 1.0)

    def start(self, stack: Stack) -> Tensor:
        """The mean of the sources that have tissue there [N, 1, X, Y, Z]."""
        count = (stack.images > 0).to(stack.images.dtype).sum(1, keepdim=True)
        return stack.images.sum(1, keepdim=True) / count.clamp(min=1)

    def velocity(self, stack: Stack, x: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        """The wavelets [N, 8, ...] of the way from the start to the targets [N or 1, S], seen from x [N, 1, X, Y, Z]
        at timesteps [N].
        """
        code = target.expand(x.shape[0], -1)
        wanted = code.argmax(1)
        others = torch.arange(self.sequences - 1, device=x.device)[None]
        others = others + (others >= wanted[:, None]).to(others.dtype)  # in order, without the target
        size = [-1, -1, stack.images.shape[2], stack.images.shape[3], stack.images.shape[4]]
        shown = stack.images.gather(1, with_axes(others, 3).expand(size))
        bands = self.unet(torch.cat([self.haar(x), self.haar(shown)], 1), timesteps, class_labels=wanted)
        itself = (stack.given * code).sum(1)
        return bands * with_axes(1 - itself, 4)

    def repeated(self) -> tuple[nn.Module, int]:
        """The UNet, once for each step."""
        return self.unet, len(self.way)

    def velocity_from(self, image: Tensor, given: Tensor, x: Tensor, target_code: Tensor, timesteps: Tensor) -> Tensor:
        """`velocity` from those of images [N, S, X, Y, Z] that count, [N, S]."""
        return self.velocity(self.encode(image, given), x, target_code, timesteps)
