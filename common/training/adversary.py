"""Least-squares adversary with one discriminator per sequence (Seq2Seq Eq. 2)."""

from __future__ import annotations

import torch
from monai.losses import PatchAdversarialLoss
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class SequenceDiscriminators(nn.Module):
    """D_j of Eq. 2: images [P, c, *spatial] and their sequences [P] to a list of patch maps, one per sequence seen."""

    def __init__(self, sequences: int, spatial_dims: int, in_channels: int, channels: int = 64) -> None:
        super().__init__()
        self.each = nn.ModuleList(
            PatchDiscriminator(spatial_dims, channels, in_channels, norm="INSTANCE") for _ in range(sequences)
        )

    def forward(self, image: Tensor, sequence: Tensor) -> list[Tensor]:
        return [self.each[j](image[sequence == j])[-1] for j in sequence.unique().tolist()]


class Adversary:
    """The discriminators, their optimiser and both sides' losses.

    Args:
        discriminators: see `SequenceDiscriminators`.
        device: where they run.
        learning_rate: of their Adam.
    """

    def __init__(self, discriminators: nn.Module, device: torch.device, learning_rate: float = 2e-4) -> None:
        self.discriminators = discriminators.to(device)
        self.trained = self.discriminators
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # A batch need not hold every sequence, so some discriminators may go unused in a step.
            self.trained = DistributedDataParallel(self.discriminators, find_unused_parameters=True)
        self.optimizer = torch.optim.Adam(discriminators.parameters(), lr=learning_rate, betas=(0.5, 0.999))
        self.criterion = PatchAdversarialLoss(criterion="least_squares")

    def generator_loss(self, fake: Tensor, sequence: Tensor) -> Tensor:
        """||D_j(fake) - 1||_2; no gradient is kept for the discriminators."""
        self.discriminators.requires_grad_(False)
        loss = self._loss(self.discriminators, fake, sequence, True, for_discriminator=False)
        self.discriminators.requires_grad_(True)
        return loss

    def step(self, real: Tensor, real_sequence: Tensor, fake: Tensor, fake_sequence: Tensor) -> Tensor:
        """One step of ||D_j(real) - 1||_2 + ||D_j(fake)||_2; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        count = len(real)
        maps = self.trained(torch.cat([real, fake.detach()]).float(), torch.cat([real_sequence, fake_sequence]))
        order = torch.cat([real_sequence, fake_sequence]).unique().tolist()
        loss = torch.zeros((), device=real.device)
        for j, verdict in zip(order, maps, strict=True):
            is_real = (torch.cat([real_sequence, fake_sequence]) == j).nonzero()[:, 0] < count
            for truth in (True, False):
                if (is_real == truth).any():
                    loss = loss + self.criterion(verdict[is_real == truth], truth, for_discriminator=True) / len(order)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _loss(self, network: nn.Module, image: Tensor, sequence: Tensor, real: bool, for_discriminator: bool) -> Tensor:
        verdicts = network(image, sequence)
        losses = [self.criterion(verdict, real, for_discriminator=for_discriminator) for verdict in verdicts]
        return torch.stack(losses).mean()

    def state_dict(self) -> dict:
        return {"discriminators": self.discriminators.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.discriminators.load_state_dict(state["discriminators"])
        self.optimizer.load_state_dict(state["optimizer"])
