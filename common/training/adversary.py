"""Least-squares adversary with one discriminator per sequence (Seq2Seq Eq. 2)."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..distributed import is_distributed
from .optimizers import fused, gradient_norm


class SequenceDiscriminators(nn.Module):
    """D_j of Eq. 2: images [P, c, *spatial] of sequences [P] to a patch map per sequence, None where not seen."""

    def __init__(self, sequences: int, spatial_dims: int, in_channels: int, channels: int = 64) -> None:
        super().__init__()
        self.each = nn.ModuleList(
            PatchDiscriminator(spatial_dims, channels, in_channels, norm="INSTANCE") for _ in range(sequences)
        )

    def forward(self, image: Tensor, sequence: Tensor) -> list[Tensor | None]:
        return [d(image[sequence == j])[-1] if (sequence == j).any() else None for j, d in enumerate(self.each)]


class Adversary:
    """The discriminators, their optimiser and both sides' losses.

    Args:
        discriminators: see `SequenceDiscriminators`.
        device: where they run.
        learning_rate: of their Adam.
    """

    @classmethod
    def of_sequences(
        cls,
        sequences: int,
        spatial_dims: int,
        in_channels: int,
        device: torch.device,
        learning_rate: float = 2e-4,
        channels: int = 64,
        **options: Any,
    ) -> Adversary:
        """With a discriminator for each sequence, `channels` wide at its first layer."""
        each = SequenceDiscriminators(sequences, spatial_dims, in_channels, channels)
        return cls(each, device, learning_rate, **options)

    def __init__(self, discriminators: nn.Module, device: torch.device, learning_rate: float = 2e-4) -> None:
        self.discriminators = discriminators.to(device)
        self.trained = self.discriminators
        if is_distributed():
            # A batch need not hold every sequence, so some discriminators may go unused in a step.
            self.trained = DistributedDataParallel(self.discriminators, find_unused_parameters=True)
        self.optimizer = fused(torch.optim.Adam(discriminators.parameters(), lr=learning_rate, betas=(0.5, 0.999)))
        self.criterion = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)

    def generator_loss(self, fake: Tensor, sequence: Tensor) -> Tensor:
        """||D_j(fake) - 1||_2; no gradient is kept for the discriminators."""
        self.discriminators.requires_grad_(False)
        verdicts = [v for v in self.discriminators(fake, sequence) if v is not None]
        self.discriminators.requires_grad_(True)
        return torch.stack([self.criterion(v, True, for_discriminator=False) for v in verdicts]).mean()

    def backward(
        self, real: Tensor, real_sequence: Tensor, fake: Tensor, fake_sequence: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss and gradient's norm of ||D_j(real) - 1||_2 + ||D_j(fake)||_2, the mean over the sequences seen.

        Nothing waits for the device or is stepped: `optimizer` does that, once the norm is known to be finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sequence = torch.cat([real_sequence, fake_sequence])
        is_real = torch.arange(len(sequence)) < len(real)
        verdicts = self.trained(torch.cat([real, fake.detach()]).float(), sequence)
        losses = []
        for j, verdict in enumerate(verdicts):
            for truth in (True, False):
                rows = is_real[sequence == j] == truth
                if verdict is not None and rows.any():
                    losses.append(self.criterion(verdict[rows], truth, for_discriminator=True))
        loss = torch.stack(losses).sum() / sum(verdict is not None for verdict in verdicts)
        loss.backward()
        return loss.detach(), gradient_norm(self.discriminators)

    def state_dict(self) -> dict:
        return {"discriminators": self.discriminators.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.discriminators.load_state_dict(state["discriminators"])
        self.optimizer.load_state_dict(state["optimizer"])


class SameRate:
    """Lets an adversary learn at the rate that the network has in each step, where its own would stay as it began."""

    def __init__(self, adversary: Adversary | None, optimizer: torch.optim.Optimizer) -> None:
        self.adversary, self.optimizer = adversary, optimizer

    def attach(self, engine: Engine) -> None:
        if self.adversary is not None:
            engine.add_event_handler(Events.ITERATION_STARTED, self)

    def __call__(self) -> None:
        for group in self.adversary.optimizer.param_groups:
            group["lr"] = self.optimizer.param_groups[0]["lr"]
