"""GMACs and peak memory of Seq2Seq with series at paper size, counted: `.venv/bin/python -m ci.benchmark_series`.

Nothing is computed: the tensors have sizes only, so that a laptop counts what needs a large GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from pydoc import locate
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

import ci.benchmarks  # noqa: F401 -- by which the bundles' packages are found
from common.options import run_command

Seq2Seq = locate("mri_seq2seq.network.Seq2Seq")
SEQUENCES = ("T1", "FatSatT1", "T2", "DCE", "FatSatDCE", "wash-in", "wash-out", "DWI")  # the in-house data's
FRAMES = (1, 1, 1, 6, 6, 1, 1, 4)


class PeakMemory(TorchDispatchMode):
    """Bytes of all tensors that were `held` or made below it and live at once: `peak` is the most."""

    def __init__(self, held: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen = WeakIdKeyDictionary()
        self._count(held)

    def __torch_dispatch__(self, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self._count(leaf for leaf in tree_leaves(made) if isinstance(leaf, Tensor))
        return made

    def _count(self, tensors: Iterable[Tensor]) -> None:
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage not in self.seen:
                self.seen[storage] = storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
                self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)

    def _freed(self, size: int) -> None:
        self.now -= size


def count(network: Seq2Seq, call: Callable[[], object]) -> tuple[float, float]:
    """GMACs (half of the counted FLOPs) of a call, and the peak GiB of the network, its gradient and all else."""
    network.zero_grad()
    with FlopCounterMode(display=False) as flops, PeakMemory(network.parameters()) as memory:
        call()
    return flops.get_total_flops() / 2e9, memory.peak / 2**30


def step(network: Seq2Seq, size: Sequence[int], sources: Sequence[int], targets: Sequence[int]) -> None:
    """A training step of each source to each target, forwards and backwards, without VGG19."""
    images = [torch.ones(1, network.count(i), network.slices, *size) for i in sources]
    rows = [torch.arange(len(sources) * (j in targets)) for j in range(network.sequences)]
    codes = network.codes.split(1)
    made = network(images, [codes[i] for i in sources], rows, codes).prediction
    (made - 0.5).abs().mean().backward()


def anew(network: Seq2Seq, image: Tensor, sources: Sequence[int]) -> None:
    """To every target, as the authors' code does it: encoded for each."""
    for j in range(network.sequences):
        network.translate(image, sources, [j])


def benchmark(frames: int = 6, in_plane: int = 352) -> None:
    """Prints a table: the DCE to all eight sequences, encoded once and anew; training steps but for the optimiser.

    Args:
        frames: of the DCE.
        in_plane: size of a stack of three slices.
    """
    counts = [frames if name == "DCE" else count for name, count in zip(SEQUENCES, FRAMES, strict=True)]
    dce, t1, every = [SEQUENCES.index("DCE")], [SEQUENCES.index("T1")], range(len(SEQUENCES))
    steps = {"DCE to DCE": (dce, dce), "DCE to T1": (dce, t1), "T1 to DCE": (t1, dce), "all 64 pairs": (every, every)}
    size, rows = (in_plane, in_plane), {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = Seq2Seq(len(SEQUENCES), frames=counts)
        image = torch.rand(1, sum(counts), *size, 1)
        with torch.no_grad():
            rows["DCE to all eight"] = count(network, lambda: network.translate(image, dce, every))
            rows["encoded anew for each"] = count(network, lambda: anew(network, image, dce))
        for name, pairs in steps.items():
            rows[f"training step, {name}"] = count(network, lambda pairs=pairs: step(network, size, *pairs))
    print(f"{f'{frames} frames, 3 x {in_plane} x {in_plane}':32}{'GMACs':>10}{'peak GiB':>10}")
    for name, (gmacs, peak) in rows.items():
        print(f"  {name:30}{gmacs:>10.0f}{peak:>10.2f}")


if __name__ == "__main__":
    run_command(benchmark)
