"""A training's loader, losses and optimiser beside the plain ways: `.venv/bin/python -m ci.benchmark_training`.

Both ways take turns on one thread; times are medians of the thread's own seconds, so that what else runs hardly counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import RandFlipd
from torchvision.models import vgg19

from ci.benchmark import METHODS, small_options
from common.data.loaders import CachedSubjects
from common.data.preparation import Subjects
from common.options import run_command
from common.training.optimizers import fused, gradient_norm
from common.training.perceptual import VGG19Loss

Ways = tuple[Callable[[], object], Callable[[], object]]
SEQUENCES = ["T1", "T1Gd", "T2", "FLAIR"]
WHOLE = (192, 220, 155)  # a BraTS subject after it is cropped


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


def mixed() -> Ways:
    """A step of the small Seq2Seq network, in full precision or in bf16."""
    kind, objective = METHODS["mri_seq2seq"]
    network, batch = kind(**small_options("mri_seq2seq")), {"image": torch.rand(1, 4, 96, 112, 3)}

    def step(half: bool) -> None:
        network.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = torch.stack(list(objective(network, batch)[0].values())).sum()
        loss.backward()

    return lambda: step(False), lambda: step(True)


def benchmark_training(repeats: int = 5, parameters: int = 20, size: int = 64) -> None:
    """Prints a Markdown table: milliseconds of either way, and how many times faster the second is.

    Args:
        repeats: turns of each, of which the median counts.
        parameters: of the optimiser, in millions.
        size: of VGG19's images.
    """
    torch.set_num_threads(1)
    rows = {f"load {'x'.join(map(str, roi))}": loading(roi) for roi in ([192, 192, 3], [64, 64, 1])}
    rows["Adam fused"], rows["norm, not clipped"] = optimising(parameters)
    rows |= {"VGG19, 16 pairs of 4 images": perceptual(size), "small network, bf16": mixed()}
    print(f"torch {torch.__version__}\n\n| | plain ms | here ms | times faster |\n|---|---|---|---|")
    for name, ways in rows.items():
        seconds: tuple[list[float], ...] = ([], [])
        for k in range(repeats + 1):
            for way, spent in zip(ways, seconds, strict=True):
                start = time.thread_time()
                way()
                spent += [time.thread_time() - start] if k else []  # the first is not counted
        plain, here = map(statistics.median, seconds)
        print(f"| {name} | {plain * 1e3:.1f} | {here * 1e3:.1f} | {plain / here:.1f} |", flush=True)


if __name__ == "__main__":
    run_command(benchmark_training)
