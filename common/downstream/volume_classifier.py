"""A 3D ResNet that tells a label from a subject's channels: the inner level of a nested cross-validation."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks import nets
from monai.networks.nets.resnet import resnet_params
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..inference.weights import read_state
from ..progress import bar
from .devices import autocast
from .folds import auc, person_folds

NETWORKS = ("resnet10", "resnet18", "resnet34", "resnet50")


def volume_network(name: str, channels: int, width: float = 1.0, pretrained: str = "") -> nn.Module:
    """A ResNet with one output, laid out as MedicalNet's.

    Args:
        name: of `NETWORKS`.
        channels: of its input.
        width: of its layers, 1 being its own.
        pretrained: a file of MedicalNet's weights; its first layer, of one channel, is spread over all of them.

    Raises:
        ValueError: an unknown name, or weights that are another network's.
    """
    if name not in NETWORKS:
        raise ValueError(f"network is '{name}'; choose one of {', '.join(NETWORKS)}.")
    *_, shortcut, bias, _ = resnet_params[name]
    network = getattr(nets, name)(
        spatial_dims=3,
        n_input_channels=channels,
        num_classes=1,
        conv1_t_stride=2,
        shortcut_type=shortcut,
        bias_downsample=bias,
        widen_factor=width,
    )
    if pretrained:
        _load_pretrained(network, pretrained, f"{name} of width {width:g}")
    return network


def _load_pretrained(network: nn.Module, file: str, what: str) -> None:
    if not Path(file).is_file():
        raise ValueError(f"No weights at {file}: pass another --pretrained, or none.")
    found = read_state(file)
    found = {key.removeprefix("module."): value for key, value in found.get("state_dict", found).items()}
    own = {key: value for key, value in network.state_dict().items() if not key.startswith("fc.") and value.ndim}
    if "conv1.weight" in found:
        channels = own["conv1.weight"].shape[1]
        found["conv1.weight"] = found["conv1.weight"].mean(1, keepdim=True).repeat(1, channels, 1, 1, 1) / channels
    if wrong := [key for key, value in own.items() if getattr(found.get(key), "shape", ()) != value.shape]:
        raise ValueError(f"{file} is not of a {what}: {', '.join(wrong[:3])} differ.")
    network.load_state_dict({key: found[key] for key in own}, strict=False)


def _flipped(images: Tensor) -> Tensor:
    """A head is much the same when it is flipped: half of the images are, from left to right."""
    flip = torch.rand(len(images)) < 0.5
    return torch.where(flip.view(-1, 1, 1, 1, 1), images.flip(2), images)


@torch.no_grad()
def predict(network: nn.Module, images: Tensor, options: Mapping[str, Any], device: str) -> NDArray:
    """The probabilities [N] of label 1, of images [N, C, X, Y, Z]."""
    network.eval()
    found = []
    for batch in images.split(options["batch_size"]):
        with autocast(options["amp"], device):
            found.append(network(batch.to(device))[:, 0].float().cpu())
    return torch.cat(found).double().sigmoid().numpy()


def fit(
    training: tuple[Tensor, NDArray],
    validation: tuple[Tensor, NDArray],
    test: Tensor,
    network: nn.Module,
    options: Mapping[str, Any],
    learning_rate: float,
    device: str,
) -> dict[str, Any]:
    """Trains a network by Adam and keeps the epoch with the least cross-entropy on the validation subjects.

    Args:
        training, validation: images [N, C, X, Y, Z] and labels [N].
        test: images alone; nothing is chosen by them.
        network: changed.
        options: epochs, batch_size, amp.
        learning_rate: Adam's.
        device: where it is done.

    Returns:
        "epoch" (from 1), its "loss", and the probabilities of "validation" and "test"; nothing but an infinite loss
        where no epoch gave numbers.
    """
    images, labels = training[0], torch.as_tensor(training[1], dtype=torch.float32)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    best: dict[str, Any] = {"loss": float("inf")}
    for epoch in range(1, options["epochs"] + 1):
        network.train()
        batches = [rows for rows in torch.randperm(len(images)).split(options["batch_size"]) if len(rows) > 1]
        for rows in batches:  # batch normalisation needs two
            with autocast(options["amp"], device):
                logits = network(_flipped(images[rows]).to(device))[:, 0].float()
            loss = F.binary_cross_entropy_with_logits(logits, labels[rows].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = predict(network, validation[0], options, device)
        if not np.isfinite(found).all():
            continue
        error = float(F.binary_cross_entropy(torch.as_tensor(found), torch.as_tensor(validation[1]).double()))
        if error < best["loss"]:
            best = {"epoch": epoch, "loss": error, "validation": found, "test": predict(network, test, options, device)}
    return best


def outer_fold(
    images: Tensor,
    labels: NDArray,
    people: Sequence[str],
    is_test: NDArray,
    options: Mapping[str, Any],
    seed: int,
    device: str,
) -> dict[str, Any]:
    """The probabilities of one test fold, by the networks of an inner cross-validation of all other people.

    The inner folds choose the epoch of each network and, by their mean AUC, the learning rate; the networks of that
    rate give the test's probability as their mean.

    Args:
        images: [N, C, X, Y, Z] of all subjects.
        labels, people, is_test: [N].
        options: network, width, pretrained, inner_folds, learning_rates, epochs, batch_size, amp.
        seed: of folds, weights and batches.
        device: where it is done.

    Returns:
        "probabilities" of the test subjects, in order; the "learning_rate", and each one's mean inner "auc".
    """
    inner = np.flatnonzero(~is_test)
    folds = person_folds([people[k] for k in inner], labels[inner], options["inner_folds"], np.random.default_rng(seed))
    aucs: dict[float, list[float]] = {}
    found: dict[float, list[NDArray]] = {}
    for k in bar(range(options["inner_folds"]), desc="inner folds", unit="folds", leave=False):
        torch.manual_seed(seed * 100 + k)
        first = volume_network(options["network"], images.shape[1], options["width"], options["pretrained"])
        parts = [(images[rows], labels[rows]) for rows in (inner[folds != k], inner[folds == k])]
        for rate in options["learning_rates"]:
            network = copy.deepcopy(first).to(device)
            made = fit(*parts, images[torch.as_tensor(is_test)], network, options, rate, device)
            if "epoch" in made:
                aucs.setdefault(rate, []).append(float(auc(parts[1][1], made["validation"])[0]))
                found.setdefault(rate, []).append(made["test"])
    means = {rate: float(np.mean(values)) for rate, values in aucs.items() if len(values) == options["inner_folds"]}
    if not means:
        raise ValueError(f"With learning rates {options['learning_rates']} no network gave numbers: try lower ones.")
    chosen = max(means, key=means.__getitem__)
    probabilities = np.mean(found[chosen], 0).tolist()
    return {"probabilities": probabilities, "learning_rate": chosen, "auc": {str(k): v for k, v in means.items()}}
