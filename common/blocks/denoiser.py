"""MONAI's denoising UNet in the part of Python that TorchScript compiles; parameters and results are MONAI's."""

from __future__ import annotations

from typing import Any

from monai.networks.blocks.spatialattention import SpatialAttentionBlock
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet, WrappedUpsample, get_timestep_embedding
from torch import Tensor


class Upsampling(WrappedUpsample):
    """Without a call of `super`."""

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class Attention(SpatialAttentionBlock):
    """Without a size that is unpacked."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.attn(self.norm(x).flatten(2).transpose(1, 2))
        return x + tokens.transpose(1, 2).reshape(x.shape)


COMPILED = {WrappedUpsample: Upsampling, SpatialAttentionBlock: Attention}


class Denoiser(DiffusionModelUNet):
    """Its UNet, told by cross-attention or by a class, without the residuals of a ControlNet."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.width = self.block_out_channels[0]
        for module in self.modules():
            module.__class__ = COMPILED.get(type(module), type(module))

    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, class_labels: Tensor | None = None
    ) -> Tensor:
        """Noisy x [B, C, *s] at timesteps [B], with context [B, 1, D] or classes [B], to the answer [B, C', *s]."""
        embedding = self.time_embed(get_timestep_embedding(timesteps, self.width).to(x.dtype))
        if self.num_class_embeds is not None:
            assert class_labels is not None, "A UNet that is told a class needs the class."
            embedding = embedding + self.class_embedding(class_labels).to(x.dtype)
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
