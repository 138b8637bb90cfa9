"""Stage 2: how latents are noised in training, and made from noise or from the target-like latent afterwards."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler
from torch import Tensor

SAMPLERS = ("ddpm", "ddim", "flow")
STEPS = 1000  # T of training


def seeded_noise(like: Tensor, seed: int) -> Tensor:
    """Normal noise [B, ...], alike for the whole batch: a function of seed and position alone (SplitMix64, Box-Muller).

    So it is the same on every device and in an exported network, which would keep a generator's state between calls.
    Seeds that differ by a multiple of 2^23 draw alike.
    """
    position = torch.ones_like(like[0], dtype=torch.long).flatten().cumsum(0)
    uniform = []
    for half in (0, 1):
        z = 2 * position + half + (seed % (1 << 23) << 40)
        z = z * -0x61C8864680B583EB  # these three wrap around, as they should
        z = (z ^ (z >> 30 & (1 << 34) - 1)) * -0x40A7B892E31B1A47
        z = (z ^ (z >> 27 & (1 << 37) - 1)) * -0x6B2FB644ECCEEE15
        z = z ^ (z >> 31 & (1 << 33) - 1)
        uniform.append(((z >> 11 & (1 << 53) - 1).double() + 0.5) / (1 << 53))
    noise = (-2 * uniform[0].log()).sqrt() * (2 * torch.pi * uniform[1]).cos()
    return noise.to(like.dtype).view_as(like[0]).expand_as(like)


class Process:
    """The way between noise (or the target-like latent) and the target's latent.

    "ddpm" and "ddim" sample one and the same training, the paper's: a noise prediction with T = 1000 and a
    scaled-linear schedule. "flow" is a rectified flow (Liu et al., ICLR 2023) that starts at the target-like latent,
    a little noise added, and so has a short way to go.

    Args:
        sampler: "ddpm" takes every step of T, whatever `steps` says; "ddim" and "flow" take `steps`.
        steps: of sampling.
        start: of "ddpm" and "ddim", the share of T at which sampling starts: 1 is pure noise, less the target-like
            latent noised that far.
        flow_noise: standard deviation of the noise at the start of "flow", in units of the latent's own.
    """

    def __init__(self, sampler: str = "ddim", steps: int = 50, start: float = 1.0, flow_noise: float = 0.1) -> None:
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler is '{sampler}'; choose one of {', '.join(SAMPLERS)}.")
        if not 1 <= steps <= STEPS:
            raise ValueError(f"steps is {steps}; it must be 1 to {STEPS}.")
        if not 0 < start <= 1:
            raise ValueError(f"start is {start}; it is a share of the {STEPS} steps, above 0 and up to 1.")
        self.is_flow = sampler == "flow"
        self.sampler = sampler
        self.steps = STEPS if sampler == "ddpm" else steps
        self.start = start
        self.flow_noise = flow_noise
        if self.is_flow:
            self.scheduler = RFlowScheduler(STEPS)
        else:
            scheduler = DDPMScheduler if sampler == "ddpm" else DDIMScheduler
            schedule = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195}
            self.scheduler = scheduler(STEPS, clip_sample=False, **schedule)

    def noised(self, latent: Tensor, like: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is shown at `timesteps` [B] of 0 to T - 1, and what it is to answer: noise, or velocity."""
        if self.is_flow:
            begin = like + self.flow_noise * noise
            return self.scheduler.add_noise(latent, begin, timesteps + 1), latent - begin
        return self.scheduler.add_noise(latent, noise, timesteps), noise

    def sample(self, predict: Callable[[Tensor, int], Tensor], like: Tensor, seed: int) -> Tensor:
        """A latent drawn with `predict(x, t)`, the network's answer; the same for the same seed.

        Args:
            predict: takes x [B, C, *s] and the timestep.
            like: the target-like latent [B, C, *s].
            seed: of all noise.
        """
        if self.is_flow:
            self.scheduler.set_timesteps(self.steps)
            timesteps = self.scheduler.timesteps.tolist()
            x = like + self.flow_noise * seeded_noise(like, seed) if self.flow_noise else like
            for t, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
                x, _ = self.scheduler.step(predict(x, t), t, x, following)
            return x
        total = max(round(self.start * STEPS), 1)
        steps = total if self.sampler == "ddpm" else min(self.steps, total)
        timesteps = [total * (steps - k) // steps - 1 for k in range(steps)]  # from total - 1 on, evenly
        x = noise = seeded_noise(like, seed)
        if self.start < 1:
            x = self._at(timesteps[0], like, noise)
        if self.sampler == "ddpm":
            generator = torch.Generator(like.device).manual_seed(seed)  # DDPM's step draws where the sample is
            for t in timesteps:
                x, _ = self.scheduler.step(predict(x, t), t, x, generator=generator)
            return x
        # DDIM without noise. MONAI's step leads to where its timesteps do not lie: what few of them make is noisy.
        for t, following in zip(timesteps, [*timesteps[1:], None], strict=True):
            noise = predict(x, t)
            _, x = self.scheduler.step(noise, t, x)
            if following is not None:
                x = self._at(following, x, noise)
        return x

    def _at(self, timestep: int, latent: Tensor, noise: Tensor) -> Tensor:
        return self.scheduler.add_noise(latent, noise, torch.full((len(latent),), timestep, device=latent.device))
