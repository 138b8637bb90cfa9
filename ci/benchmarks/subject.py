"""A whole subject completed, by `complete` in this process: reading, the network, writing; and the memory of it."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from common import workflows

from . import Row, Settings
from .networks import CLASSES, made

IN_PLANE = {"small": (160, 192), "paper": (192, 192)}
DEPTHS = (32, 96)  # of which the memory is compared


def write_subject(folder: Path, shape: tuple[int, ...]) -> Path:
    """Three sequences of random brains, the fourth is missing."""
    generator = np.random.default_rng(0)
    for name in ("T1", "T1Gd", "T2"):
        image = np.zeros(shape, np.float32)
        image[8:-8, 8:-8, 2:-2] = 100 + 20 * generator.random((shape[0] - 16, shape[1] - 16, shape[2] - 4))
        nib.save(nib.Nifti1Image(image, np.eye(4)), folder / f"{name}.nii.gz")
    return folder


def complete(size: str, device: str, depth: int, repeats: int) -> tuple[float, float]:
    """Seconds of the later ones of several completions, and the process's peak in GiB."""
    settings = Settings(size, device)
    with tempfile.TemporaryDirectory() as made_in:
        folder = Path(made_in)
        (folder / "scan").mkdir()
        write_subject(folder / "scan", (*IN_PLANE[size], depth))
        network = made("mri_seq2seq", CLASSES["mri_seq2seq"][0], settings)
        torch.save(network.state_dict(), folder / "model.pt")
        sizes = {f"network_def#{name}": value for name, value in network.options.items() if name != "sequences"}
        options = {"weights": str(folder / "model.pt"), "device": device, "saver#pictures": False, **sizes}
        spent = []
        for k in range(repeats + 1):
            start = time.perf_counter()
            workflows.complete_folder(str(folder / "scan"), str(folder / str(k)), targets="FLAIR", **options)
            spent.append(time.perf_counter() - start)
    return statistics.median(spent[1:] or spent), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rows(settings: Settings) -> Iterator[Row]:
    repeats = settings.repeats if settings.size == "small" else 0
    for depth in DEPTHS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:  # whose peak is its own
            seconds, peak = process.submit(complete, settings.size, settings.device, depth, repeats).result()
        name = f"FLAIR of a subject of {'x'.join(map(str, (*IN_PLANE[settings.size], depth)))} from three"
        yield Row(f"{name}, imports apart", seconds, "s")
        yield Row(f"{name}, peak of the process", peak, "GiB")
