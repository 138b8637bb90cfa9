"""What a training does beside the plain ways."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import RandFlipd
from torchvision.models import vgg19

from common.data.loaders import CachedSubjects
from common.data.preparation import Subjects
from common.training.optimizers import fused, gradient_norm
from common.training.perceptual import VGG19Loss

from . import Row, Settings, turns
from .networks import training_step

SEQUENCES = ["T1", "T1Gd", "T2", "FLAIR"]
WHOLE = (192, 220, 155)  # a BraTS subject after it is cropped
PARAMETERS = 20  # millions, of the optimiser
PERCEPTUAL = 64  # VGG19's images, in pixels

Ways = tuple


def loading(roi_size: Sequence[int]) -> Ways:
    """A box of a subject that is kept, the subject copied first or the box."""
    preparation = Subjects(SEQUENCES, roi_size=roi_size).training([RandFlipd("image", prob=0.5, spatial_axis=0)], 1)
    tensors = {"available": torch.ones(4, dtype=torch.bool), "scale": torch.ones(4), "offset": torch.zeros(4)}
    item, datasets = {"subject": "A", "image": MetaTensor(torch.rand(4, *WHOLE)), **tensors}, []
    for kind in (CacheDataset, CachedSubjects):
        dataset = kind([], preparation)
        dataset.data, dataset._cache, dataset.cache_num = [item], [item], 1
        datasets.append(dataset)
    return tuple(lambda dataset=dataset: dataset[0] for dataset in datasets)


def optimising(parameters: int) -> tuple[Ways, Ways]:
    """A step of Adam, and the gradient's norm, of so many million parameters."""
    network = torch.nn.ParameterList(torch.randn(1000, 1000) for _ in range(parameters))
    for parameter in network:
        parameter.grad = torch.randn_like(parameter)
    plain, ours = torch.optim.Adam(network, 1e-4), fused(torch.optim.Adam(network, 1e-4))
    clip = torch.nn.utils.clip_grad_norm_
    return (plain.step, ours.step), (lambda: clip(network.parameters(), torch.inf), lambda: gradient_norm(network))


def perceptual(size: int) -> Ways:
    """All 16 pairs of four images in VGG19 of random weights, forwards and backwards: a truth per pair, or once."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(vgg19().state_dict(), Path(folder) / "vgg19.pt")
        loss = VGG19Loss(f"{folder}/vgg19.pt")
    made, truths, row = torch.rand(16, 1, size, size, requires_grad=True), torch.rand(4, 1, size, size), torch.arange(4)
    row = row.repeat_interleave(4)
    return lambda: loss(made, truths[row]).backward(), lambda: loss(made, truths, row).backward()


def rows(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    for box in ([192, 192, 3], [64, 64, 1]):
        plain, here = turns(loading(box), settings)
        yield Row(f"boxes of {'x'.join(map(str, box))} from a kept BraTS subject", 1 / here, "a second", 1 / plain)
    found = {"Adam, 20 M parameters": optimising(PARAMETERS)[0], "their gradient's norm": optimising(PARAMETERS)[1]}
    found |= {"VGG19, 16 pairs of 4 images": perceptual(PERCEPTUAL)}
    half = training_step("mri_seq2seq", settings, torch.bfloat16)
    found |= {"mri_seq2seq, training step in bf16": (training_step("mri_seq2seq", settings), half)}
    for name, ways in found.items():
        plain, here = turns(ways, settings)
        yield Row(name, 1000 * here, "ms", 1000 * plain)
