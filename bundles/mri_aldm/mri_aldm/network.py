"""ALDM, Fig. 2 of Kim and Park, "Adaptive latent diffusion model for 3D medical image to image translation" (WACV
2024): a VQGAN, MS-SPADE between its halves, and a latent diffusion that closes the gap to the target's latent.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autoencoder import Autoencoder, Reconstruction
from .common.blocks.denoiser import Denoiser
from .common.blocks.spade import SpadeTranslator
from .common.data.normalisation import DARKEST_TISSUE
from .common.translation import TranslationNetwork
from .sampling import Process

# What each word of Table 3 has: MS-SPADE, diffusion, Palette's concatenation.
METHODS = {
    "autoencoder": (False, False, False),
    "spade": (True, False, False),
    "diffusion": (False, True, False),
    "no_spade": (False, True, True),
    "no_palette": (True, True, False),
    "aldm": (True, True, True),
}
MEAN = -1  # the draw that is the mean of all
FUSIONS = ("images", "latents")


class Representation(NamedTuple):
    """`latent` [B, C, *s] before quantisation, its `source` [B, S], and which `draw` [B] is to be made of it.

    Of K sources together, [B, K C, *s] and [B, K S], the code 0 of one that is not there, and in `share` [B, K, *s] how
    much each counts.
    """

    latent: Tensor
    source: Tensor
    draw: Tensor
    share: Tensor


class ALDM(TranslationNetwork):
    """Any of S sequences to any other, whole volumes at once; see `TranslationNetwork` for how a subject is completed.

    A target that is the source itself is plain reconstruction.

    Args:
        sequences: S.
        channels, res_blocks, latent_channels, codes, regularisation, norm_groups, revive_after, norm, usual: see
            `Autoencoder`.
        spade_channels, spade_hidden, spade_blocks, spade_norm, source_code: see `SpadeTranslator`.
        unet_channels, unet_res_blocks, unet_attention, head_channels, unet_norm_groups: of the denoising UNet.
        method: "aldm"; Table 3's "diffusion" (a), "no_spade" (b), "spade" (c); "no_palette"; "autoencoder" (stage 1).
            Without Palette's concatenation sampling starts from the noised (target-like) latent, half of the way.
        sampler, steps, start, flow_noise, prediction: see `Process`. `start` 0 stands for 1, or 0.5 without Palette.
        samples: so many draws make the image, their mean, and its uncertainty.
        seed: of all draws.
        decoding, slabs: see `Autoencoder.decode`.
        fusion: of several sources: "images" averages what each makes, "latents" the target-like latents, of which the
            image is then made once.
    """

    TRAINING_CALLS = ("reconstruct", "target_like", "translate_latents", "reconstruct_and_translate", "predict")
    CHOSEN_ANEW = (
        *("method", "revive_after", "sampler", "steps", "start", "flow_noise", "samples", "seed", "decoding", "slabs"),
        "fusion",
    )

    def __init__(
        self,
        sequences: int = 4,
        channels: Sequence[int] = (256, 512, 512),
        res_blocks: int = 2,
        latent_channels: int = 3,
        codes: int = 8192,
        regularisation: str = "vq",
        norm_groups: int = 32,
        revive_after: int = 0,
        spade_channels: Sequence[int] = (128, 256),
        spade_hidden: int = 64,
        spade_blocks: Sequence[int] = (2, 4),
        spade_norm: str = "everywhere",
        source_code: bool = False,
        unet_channels: Sequence[int] = (128, 256, 512),
        unet_res_blocks: int = 2,
        unet_attention: Sequence[bool] = (False, True, True),
        head_channels: int = 32,
        unet_norm_groups: int = 32,
        method: str = "aldm",
        sampler: str = "ddim",
        steps: int = 50,
        start: float = 0.0,
        flow_noise: float = 0.1,
        samples: int = 1,
        seed: int = 0,
        decoding: str = "whole",
        slabs: int = 4,
        norm: str = "everywhere",
        usual: Sequence[float] = (0.5, 0.5),
        fusion: str = "images",
        prediction: str = "noise",
    ) -> None:
        for name, value, known in (("method", method, METHODS), ("fusion", fusion, FUSIONS)):
            if value not in known:
                raise ValueError(f"{name} is '{value}'; choose one of {', '.join(known)}.")
        has_spade, has_diffusion, palette = METHODS[method]
        halvings = len(channels) - 1 + (len(unet_channels) - 1 if has_diffusion else 0)
        super().__init__(sequences, spatial_dims=3, downsampling=2**halvings)
        self.method, self.palette = method, palette
        self.mean_draw, self.darkest = MEAN, DARKEST_TISSUE
        self.samples, self.seed = samples, seed
        self.decoding, self.slabs = decoding, slabs
        self.less_memory = ["--decoding split" if decoding == "whole" else f"more --slabs than {slabs}"]
        self.has_common_space = self.spread_alone = fusion == "latents"
        self.autoencoder = Autoencoder(
            channels, res_blocks, latent_channels, codes, regularisation, norm_groups, revive_after, norm, usual
        )
        self.translator = None
        if has_spade:
            self.translator = SpadeTranslator(
                sequences, 3, latent_channels, spade_channels, spade_hidden, *spade_blocks, spade_norm, source_code
            )
        self.denoiser = None
        if has_diffusion:
            self.process = Process(sampler, steps, start or (1.0 if self.palette else 0.5), flow_noise, prediction)
            sizes = {"channels": unet_channels, "num_res_blocks": unet_res_blocks, "attention_levels": unet_attention}
            sizes |= {"num_head_channels": head_channels, "norm_num_groups": unet_norm_groups}
            self._add_denoiser(latent_channels, sizes)

    def _add_denoiser(self, latent_channels: int, sizes: dict[str, Any]) -> None:
        """MONAI's UNet, told the target by cross-attention."""
        unet = Denoiser(
            spatial_dims=3,
            in_channels=latent_channels * (2 if self.palette else 1),
            out_channels=latent_channels,
            with_conditioning=True,
            cross_attention_dim=self.sequences,
            use_flash_attention=True,
            **sizes,
        )
        # Named for what it answers, so that the one's weights are never taken for the other's.
        self.denoiser = nn.ModuleDict({self.process.answers: unet})
        # Mean and standard deviation of the training subjects' latents, per channel.
        scale = torch.stack([torch.zeros(latent_channels), torch.ones(latent_channels)])
        self.register_buffer("latent_scale", scale)

    def encode(self, image: Tensor, source: Tensor) -> Representation:
        latent = self.autoencoder.encode(2 * image - 1, self.decoding, self.slabs)
        draw = torch.full((image.shape[0],), self.mean_draw, device=image.device)
        return Representation(latent, source.expand(image.shape[0], -1), draw, torch.ones_like(latent[:, :1]))

    def decode(self, representation: Representation, target: Tensor) -> Tensor:
        latent, source, draw, share = representation
        sources = source.chunk(source.shape[1] // self.sequences, 1)
        same = (torch.stack([(each * target).sum(1) for each in sources]).amax(0) > 0.5)[:, None, None, None, None]
        exported = False if torch.jit.is_scripting() else torch.compiler.is_exporting()  # without branches on data
        if len(sources) == 1 and (self.method == "autoencoder" or (not exported and bool(same.all()))):
            return self._to_image(latent)
        like = self._like(latent.chunk(len(sources), 1), target, sources, share)
        if self.denoiser is None:
            made = self._to_image(like)
        else:
            chosen = self.mean_draw if exported else int(draw[0])
            draws = list(range(self.samples)) if chosen == self.mean_draw else [chosen]
            made = latent.new_zeros(1)
            for k in draws:
                sampled = torch.where(same, like, self.sample(like, target, self.seed + k))
                made = made + self._to_image(sampled) / len(draws)
        return made

    def _like(self, latents: list[Tensor], target: Tensor, sources: list[Tensor], share: Tensor) -> Tensor:
        """The mean of the sources' target-like latents; what is of the target itself stays as it is."""
        total = torch.zeros_like(latents[0])
        for k in range(len(latents)):
            same = ((sources[k] * target).sum(1) > 0.5)[:, None, None, None, None]
            like = torch.where(same, latents[k], self.target_like(latents[k], target, sources[k]))
            total = total + share[:, k : k + 1] * like
        return total / share.sum(1, keepdim=True).clamp(min=1)

    def fuse(self, representations: list[Representation], tissue: Tensor) -> list[tuple[Representation, Tensor]]:
        """See `TranslationNetwork`; with `fusion` "latents" one representation of all sources.

        A source counts where it has tissue. Where none has, all do that have any: the mean of their air.
        """
        if self.has_common_space:
            here = F.max_pool3d(tissue, self.autoencoder.downsampling)  # (B, K, *s)
            there = here.amax((2, 3, 4))  # (B, K)
            share = torch.where(here.amax(1, keepdim=True) > 0, here, there[:, :, None, None, None])
            source = torch.cat([each.source * there[:, k : k + 1] for k, each in enumerate(representations)], 1)
            latent = torch.cat([each.latent for each in representations], 1)
            fused = [(Representation(latent, source, representations[0].draw, share), tissue.amax(1))]
        else:
            fused = super().fuse(representations, tissue)
        return fused

    def _to_image(self, latent: Tensor) -> Tensor:
        return ((self.autoencoder.decode(latent, self.decoding, self.slabs) + 1) / 2).clamp(self.darkest, 1.0)

    def target_like(self, latent: Tensor, target_code: Tensor, source_code: Tensor) -> Tensor:
        """MS-SPADE's translation of latents [B, C, *s] to targets [1 or B, S]; without it, the source's own latent."""
        return latent if self.translator is None else self.translator(latent, target_code, source_code)

    def repeated(self) -> tuple[nn.Module, int] | None:
        """The UNet, once for each step of sampling."""
        return None if self.denoiser is None else (next(iter(self.denoiser.values())), len(self.process.way))

    def normalised(self, latent: Tensor) -> Tensor:
        """Latents with mean 0 and standard deviation 1 in each channel, as the diffusion takes them."""
        mean, deviation = self.latent_scale[:, :, None, None, None].unbind()
        return (latent - mean) / deviation

    def sample(self, like: Tensor, target: Tensor, seed: int) -> Tensor:
        """Target-like latents [B, C, *s] and targets [1 or B, S] to a draw of the targets' latents."""
        like = self.normalised(like)
        x = self.process.begin(like, seed)
        for t, following in self.process.way:
            answer = self.predict(x, torch.full((x.shape[0],), t, device=x.device), like, target)
            x = self.process.step(x, answer, t, following, seed)
        mean, deviation = self.latent_scale[:, :, None, None, None].unbind()
        return x * deviation + mean

    def variants(
        self, representations: Sequence[Representation], tissue: Tensor
    ) -> list[tuple[Representation, Tensor]]:
        """All draws of all sources; of latents that are fused the draws or, if there is one only, each source alone."""
        fused = self.fuse(representations, tissue)
        if self.has_common_space and (self.denoiser is None or self.samples < 2):
            fused = super().fuse(representations, tissue)
        if self.denoiser is None:
            return fused
        return [
            (r._replace(draw=torch.full_like(r.draw, k)), weight) for r, weight in fused for k in range(self.samples)
        ]

    def reconstruct(self, image: Tensor) -> Reconstruction:
        """Stage 1: images [N, 1, X, Y, Z] in [0, 1]; see `Autoencoder.reconstruct`."""
        return self.autoencoder.reconstruct(2 * image - 1)

    def translate_latents(self, latent: Tensor, source_code: Tensor, target_code: Tensor) -> tuple[Tensor, Tensor]:
        """MS-SPADE's training: latents [P, C, *s] to their target-like ones, and those back to their sources."""
        like = self.target_like(latent, target_code, source_code)
        return like, self.target_like(like, source_code, target_code)

    def reconstruct_and_translate(
        self, image: Tensor, source_code: Tensor, target_code: Tensor
    ) -> tuple[Reconstruction, Tensor, Tensor]:
        """The joint training: images [2 P, 1, X, Y, Z], P sources and then their P targets.

        Returns their reconstruction, the target-like latents of the sources, and the images of the way there and back,
        in [-1, 1].
        """
        made = self.reconstruct(image)
        like, back = self.translate_latents(made.latent[: len(source_code)], source_code, target_code)
        return made, like, self.autoencoder.decode(back)

    def predict(self, noisy: Tensor, timesteps: Tensor, like: Tensor, target_code: Tensor) -> Tensor:
        """The UNet's noise, velocity or clean latent [P, C, *s] at timesteps [P]; all latents normalised."""
        x = torch.cat([noisy, like], 1) if self.palette else noisy
        context = target_code.expand(x.shape[0], -1)[:, None]
        answer = noisy
        for unet in self.denoiser.values():  # the one that there is
            answer = unet(x, timesteps, context=context)
        return answer
