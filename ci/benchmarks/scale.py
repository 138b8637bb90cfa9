"""What more processes bring: the exchange of gradients measured between two, and from counted operations what a
training on BraTS' 1,251 subjects takes on 1, 4 and 8 GPUs.

    hours(n) = steps / n (2 GMACs / RATE + 2 (n - 1) / n bytes / LINK) / 3600

steps are those of train.json at 1,251 subjects, GMACs of a step forwards and backwards are counted, bytes are the
gradients', which a ring of n passes on 2 (n - 1) / n times. VGG19, discriminators and validation are left out.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from pydoc import locate

import torch
import torch.distributed as dist

from . import ROOT, Row, Settings
from .networks import CLASSES, crl_step, gmacs, made, training_step

SUBJECTS = 1251
RATE = 60e12  # operations a second that a GPU sustains: about a fifth of an A100's peak in bf16
LINK = 100e9  # bytes a second between GPUs
MEGABYTES = 64  # of the measured exchange
ALDM = {"autoencoder": "train_autoencoder", "spade": "train_translation", "aldm": "train"}


def _exchange(rank: int, meeting: str, queue: multiprocessing.Queue) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=2)
    gradients = torch.zeros(MEGABYTES * 2**18)
    for k in range(6):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(gradients)
        if rank == 0 and k:  # the first one connects
            queue.put(time.perf_counter() - start)
    dist.destroy_process_group()


def exchange_rate() -> float:
    """Bytes a second that two processes of this machine sum over gloo; of several turns the median."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        ranks = [context.Process(target=_exchange, args=(rank, f"{folder}/meeting", queue)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        spent = sorted(queue.get(timeout=120) for _ in range(5))
        for rank in ranks:
            rank.join()
    return MEGABYTES * 2**20 / spent[2]


def _steps(bundle: str, training: str, epochs: str = "epochs") -> int:
    config = json.loads((ROOT / "bundles" / bundle / "configs" / f"{training}.json").read_text(encoding="utf-8"))
    number = config[epochs] if isinstance(config[epochs], int) else config[config[epochs].lstrip("@")]
    visits = config.get("visits_per_epoch", config.get("repeats", 1))
    return number * math.ceil(SUBJECTS * visits / config["batch_size"])


def costs() -> Iterator[tuple[str, float, int, int]]:
    """Name, GMACs of a paper's step, bytes of its gradients, and steps, of each training."""
    paper = Settings("paper")
    for bundle, (name, _, _) in CLASSES.items():
        size = 4 * sum(p.numel() for p in made(bundle, name, paper).parameters())
        yield bundle, gmacs(training_step(bundle, paper)), size, _steps(bundle, "train")
    network, step = crl_step(paper)
    count, size = 4 * gmacs(step), 4 * sum(p.numel() for p in network.parameters())  # of the four subjects of a step
    yield "mri_crl", count, size, _steps("mri_crl", "train")
    memory, network = locate("mri_aldm.memory"), locate("mri_aldm.network.ALDM")
    for method, training in ALDM.items():
        with torch.device("meta"):
            whole = network(method=method)
        parts = {"autoencoder": whole.autoencoder, "spade": whole.translator, "aldm": whole.denoiser}
        whole.requires_grad_(False)  # by which it is known which step it is
        parts[method].requires_grad_(True)
        with torch.device("meta"):
            inputs = memory.example_step(whole, [192, 192, 144])
        size = 4 * sum(p.numel() for p in parts[method].parameters())
        yield (
            f"mri_aldm, {training}",
            gmacs(lambda w=whole, i=inputs: _backward(w(**i))),
            size,
            _steps("mri_aldm", training),
        )


def _backward(made_of: object) -> None:
    tensors = [made_of] if torch.is_tensor(made_of) else [each for each in made_of if each is not None]
    torch.stack([each.sum() for each in tensors if each.requires_grad]).sum().backward()


def rows(settings: Settings) -> Iterator[Row]:
    yield Row("two processes sum gradients over gloo", exchange_rate() / 1e9, "GB/s")
    for name, count, size, steps in costs():
        hours = {n: steps / n * (2e9 * count / RATE + 2 * (n - 1) / n * size / LINK) / 3600 for n in (1, 4, 8)}
        said = f"{steps:,} steps of {count:,.0f} GMACs, {size / 1e6:,.0f} MB of gradients"
        for n, value in hours.items():
            yield Row(f"{name}, {n} GPU{'s' * (n > 1)}: computed, {said}", value, "h", None if n == 1 else hours[1])
