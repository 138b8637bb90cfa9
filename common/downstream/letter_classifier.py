"""A ResNet-18 that reads the differing letters of two images, with or without further channels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.nets import resnet18
from torch import Tensor
from torch.nn import functional as F

from ..progress import bar
from .devices import autocast
from .letter_images import LETTERS


def read_accuracy(
    training: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], options: Mapping[str, Any], seed: int, device: str
) -> dict[str, Any]:
    """Trains a network from scratch and scores it: Adam, the learning rate rising and falling over one cycle.

    Args:
        training: channels [N, C, size, size] and letters [N, 2], 0 to 25.
        test: likewise.
        options: steps, batch_size, learning_rate, width (of the layers, 1 is ResNet-18's own), amp.
        seed: of weights and batches.
        device: where it is done.

    Returns:
        "accuracy" of each letter on the test images, and the last "loss".
    """
    torch.manual_seed(seed)
    images, letters = training
    network = resnet18(
        spatial_dims=2,
        n_input_channels=images.shape[1],
        num_classes=2 * len(LETTERS),
        conv1_t_stride=2,  # as He et al. have it; MONAI's own is 1
        widen_factor=options["width"],
    ).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=options["learning_rate"])
    steps = options["steps"]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options["learning_rate"], steps)
    size = min(options["batch_size"], len(images))
    per_epoch = len(images) // size
    order = torch.cat([torch.randperm(len(images))[: per_epoch * size] for _ in range(math.ceil(steps / per_epoch))])
    network.train()
    for rows in bar(order.split(size)[:steps], desc="training the classifier", unit="steps", leave=False):
        with autocast(options["amp"], device):
            logits = network(images[rows].to(device, torch.float32)).float()
        loss = F.cross_entropy(_by_letter(logits).transpose(1, 2), letters[rows].to(device)) * 2  # the sum of both
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {"accuracy": accuracy(network, *test, options["amp"], device), "loss": round(loss.item(), 4)}


def _by_letter(logits: Tensor) -> Tensor:
    return logits.unflatten(1, (2, len(LETTERS)))


@torch.no_grad()
def accuracy(network: torch.nn.Module, images: Tensor, letters: Tensor, amp: str, device: str) -> list[float]:
    """Of each of the two letters, the share that is told."""
    network.eval()
    found = []
    for batch in images.split(256):
        with autocast(amp, device):
            found.append(_by_letter(network(batch.to(device, torch.float32))).argmax(2).cpu())
    return [round(share, 5) for share in (torch.cat(found) == letters).float().mean(0).tolist()]
