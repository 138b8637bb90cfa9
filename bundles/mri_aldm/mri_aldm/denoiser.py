"""MONAI's denoising UNet in the part of Python that TorchScript compiles; parameters and results are MONAI's."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet, get_timestep_embedding
from torch import Tensor, nn


class Upsampling(nn.Sequential):
    """Its `WrappedUpsample`, without a call of `super`."""

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Denoiser(DiffusionModelUNet):
    """Its UNet with conditioning, without classes and the residuals of a ControlNet."""

    def __init__(self, **options: Any) -> None:
        super().__init__(with_conditioning=True, **options)
        self.width = self.block_out_channels[0]
        for block in self.up_blocks:
            if block.upsampler is not None:
                block.upsampler = Upsampling(OrderedDict(block.upsampler.named_children()))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        """Noisy x [B, C, *s] at timesteps [B], with context [B, 1, D], to the answer [B, C', *s]."""
        embedding = self.time_embed(get_timestep_embedding(timesteps, self.width).to(x.dtype))
        h = self.conv_in(x)
        passed = [h]
        for block in self.down_blocks:
            h, more = block(hidden_states=h, temb=embedding, context=context)
            passed.extend(more)
        h = self.middle_block(hidden_states=h, temb=embedding, context=context)
        for block in self.up_blocks:
            first = len(passed) - len(block.resnets)
            h = block(hidden_states=h, res_hidden_states_list=passed[first:], temb=embedding, context=context)
            passed = passed[:first]
        return self.out(h)
