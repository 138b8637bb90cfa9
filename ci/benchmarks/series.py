"""GMACs and peak memory of Seq2Seq with series at paper size, counted.

Nothing is computed: the tensors have sizes only, so that a laptop counts what needs a large GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pydoc import locate
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakIdKeyDictionary

from . import Row, Settings

Seq2Seq = locate("mri_seq2seq.network.Seq2Seq")
SEQUENCES = ("T1", "FatSatT1", "T2", "DCE", "FatSatDCE", "wash-in", "wash-out", "DWI")  # the in-house data's
FRAMES = (1, 1, 1, 6, 6, 1, 1, 4)
IN_PLANE = (352, 352)  # of stacks of three slices


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


def rows(settings: Settings) -> Iterator[Row]:
    """A DCE to all eight sequences, encoded once and anew, and training steps but for the optimiser."""
    dce, t1, every = [SEQUENCES.index("DCE")], [SEQUENCES.index("T1")], range(len(SEQUENCES))
    steps = {"DCE to DCE": (dce, dce), "DCE to T1": (dce, t1), "T1 to DCE": (t1, dce), "all 64 pairs": (every, every)}
    counted = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        network = Seq2Seq(len(SEQUENCES), frames=FRAMES)
        image = torch.rand(1, sum(FRAMES), *IN_PLANE, 1)
        with torch.no_grad():
            counted["DCE to all eight"] = count(network, lambda: network.translate(image, dce, every))
            counted["DCE to all eight, encoded anew for each"] = count(network, lambda: anew(network, image, dce))
        for name, pairs in steps.items():
            counted[f"training step, {name}"] = count(network, lambda pairs=pairs: step(network, IN_PLANE, *pairs))
    for name, (gmacs, peak) in counted.items():
        yield Row(f"series of 6 frames, 3 x 352 x 352, {name}: operations", gmacs, "GMACs")
        yield Row(f"series of 6 frames, 3 x 352 x 352, {name}: peak memory", peak, "GiB")
