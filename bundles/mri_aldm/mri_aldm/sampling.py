"""Stage 2: how latents are noised in training, and made from noise or from the target-like latent afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, RFlowScheduler
from torch import Tensor, nn

SAMPLERS = ("ddpm", "ddim", "flow")
PREDICTIONS = ("noise", "latent")
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
    noise = (-2 * uniform[0].log()).sqrt() * (2 * math.pi * uniform[1]).cos()
    return noise.to(like.dtype).view_as(like[0]).expand_as(like)


class Process(nn.Module):
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
        prediction: what the network answers with "ddpm" and "ddim": "noise", as in the paper, or the clean "latent". An
            error of the noise is one of the latent, sqrt(1 / signal - 1) times as large: 84 where all is noise.

    Attributes:
        way: the timesteps of sampling, each with the one that follows.
    """

    def __init__(
        self,
        sampler: str = "ddim",
        steps: int = 50,
        start: float = 1.0,
        flow_noise: float = 0.1,
        prediction: str = "noise",
    ) -> None:
        super().__init__()
        if prediction not in PREDICTIONS:
            raise ValueError(f"prediction is '{prediction}'; choose one of {', '.join(PREDICTIONS)}.")
        if sampler not in SAMPLERS:
            raise ValueError(f"sampler is '{sampler}'; choose one of {', '.join(SAMPLERS)}.")
        if not 1 <= steps <= STEPS:
            raise ValueError(f"steps is {steps}; it must be 1 to {STEPS}.")
        if not 0 < start <= 1:
            raise ValueError(f"start is {start}; it is a share of the {STEPS} steps, above 0 and up to 1.")
        self.is_flow = sampler == "flow"
        self.answers = "velocity" if self.is_flow else prediction
        self.sampler = sampler
        self.steps = STEPS if sampler == "ddpm" else steps
        self.start = start
        self.flow_noise = flow_noise
        self.total = STEPS
        with torch.device("cpu"):  # numbers, wherever the network is made
            self._plan(steps)

    def _plan(self, steps: int) -> None:
        self.signal = [1.0]  # how much of its variance is left at each timestep; at -1, the end, all
        if self.is_flow:
            scheduler = RFlowScheduler(STEPS)
            scheduler.set_timesteps(steps)
            self.way = list(pairwise([*scheduler.timesteps.tolist(), 0]))
        else:
            kind = DDPMScheduler if self.sampler == "ddpm" else DDIMScheduler
            schedule = {"schedule": "scaled_linear_beta", "beta_start": 0.0015, "beta_end": 0.0195}
            scheduler = kind(STEPS, clip_sample=False, **schedule)
            self.signal = [*scheduler.alphas_cumprod.tolist(), 1.0]
            first = max(round(self.start * STEPS), 1)
            count = min(self.steps, first)
            self.way = list(pairwise([*(first * (count - k) // count - 1 for k in range(count)), -1]))  # evenly
        self.__dict__["scheduler"] = scheduler  # a module by its class alone, which the network's tools cannot walk

    def noised(self, latent: Tensor, like: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """What the network is shown at `timesteps` [B] of 0 to T - 1, and what it is to answer."""
        if self.is_flow:
            begin = like + self.flow_noise * noise
            return self.scheduler.add_noise(latent, begin, timesteps + 1), latent - begin
        return self.scheduler.add_noise(latent, noise, timesteps), noise if self.answers == "noise" else latent

    def sample(self, predict: Callable[[Tensor, int], Tensor], like: Tensor, seed: int) -> Tensor:
        """A latent drawn with `predict(x, t)`, the network's answer; the same for the same seed.

        Args:
            predict: takes x [B, C, *s] and the timestep.
            like: the target-like latent [B, C, *s].
            seed: of all noise.
        """
        x = self.begin(like, seed)
        for t, following in self.way:
            x = self.step(x, predict(x, t), t, following, seed)
        return x

    def begin(self, like: Tensor, seed: int) -> Tensor:
        """What the first step of `way` starts from."""
        if self.is_flow:
            return like + self.flow_noise * seeded_noise(like, seed) if self.flow_noise > 0 else like
        signal = self.signal[self.way[0][0]] if self.start < 1 else 0.0
        return math.sqrt(signal) * like + math.sqrt(1 - signal) * seeded_noise(like, seed)

    def step(self, x: Tensor, answer: Tensor, t: int, following: int, seed: int) -> Tensor:
        """From x at timestep t to the following one.

        MONAI's `step` leads to where its timesteps do not lie: what few of them make is noisy. It cannot be compiled.
        """
        if self.is_flow:
            return x + answer * ((t - following) / self.total)
        now, then = self.signal[t], self.signal[following]
        # Eq. 12 and 16 of DDIM (Song et al., ICLR 2021): without noise it is DDIM, with all of it DDPM.
        variance = (1 - then) / (1 - now) * (1 - now / then) if self.sampler == "ddpm" else 0.0
        if self.answers == "noise":
            clean, noise = (x - math.sqrt(1 - now) * answer) / math.sqrt(now), answer
        else:
            clean, noise = answer, (x - math.sqrt(now) * answer) / math.sqrt(1 - now)
        x = math.sqrt(then) * clean + math.sqrt(max(1 - then - variance, 0.0)) * noise
        return x + math.sqrt(variance) * seeded_noise(x, seed + (t << 12)) if variance > 0 else x
