"""Flow matching between Haar wavelets (WFM; Tur et al., MIDL 2026)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor, nn

from .common.distributed import unwrapped
from .common.training.subsets import draw_sources
from .network import STEPS


class FlowObjective(nn.Module):
    """Mean squared error of the velocity, which is the same all along: target less start, in wavelets.

    In each step one target of each subject is drawn, and from which of its others it is made. The straight way is
    noised with a deviation of noise * sqrt(t (1 - t)), which is none at its ends. So the network sees, in training as
    in use, the start itself at the largest time.

    Args:
        sequences: S.
        path: of the network; of a "displacement" it sees the start alone.
        noise: see above, in units of the images.
        fewest_sources: see `draw_sources`; S - 1 makes each from all others, as the paper does.
    """

    def __init__(self, sequences: int, *, path: str = "flow", noise: float = 0.5, fewest_sources: int = 1) -> None:
        super().__init__()
        self.path, self.noise, self.fewest_sources = path, noise, fewest_sources
        self.__dict__["scheduler"] = RFlowScheduler(STEPS)  # a module by its class alone, which `to` cannot walk
        self.register_buffer("codes", torch.eye(sequences), persistent=False)

    def forward(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Batch "image" [B, S, X, Y, Z] to the term; there is no adversary to be shown anything.

        Where the batch has a "reference" of the same shape, that is what the images shall look like.
        """
        images, flow = batch["image"].clamp(min=0), unwrapped(network)
        sources, targets = draw_sources(batch["image"], batch.get("available"), self.fewest_sources)
        target = torch.multinomial(targets.float(), 1)[:, 0]
        given, code = sources.to(images), self.codes[target]
        start = flow.start(flow.encode(images, given))
        truth = batch.get("reference", images)[torch.arange(len(images)), target][:, None]
        # As the finished image will be: 0 where its sources are air, so that nothing has to be learned about it.
        truth = truth * (start > 0)
        timesteps = torch.full((len(images),), STEPS, device=images.device)
        if self.path == "flow":
            timesteps = self.scheduler.sample_timesteps(images) + 1  # of 1 to T: the end has nowhere to go
        x = self.scheduler.add_noise(truth, start, timesteps)
        t = timesteps[:, None, None, None, None] / STEPS
        x = x + self.noise * (t * (1 - t)).sqrt() * torch.randn_like(x)
        velocity = network(images, step="velocity_from", given=given, x=x, target_code=code, timesteps=timesteps)
        return {"velocity": F.mse_loss(velocity.float(), flow.haar(truth - start))}, {}
