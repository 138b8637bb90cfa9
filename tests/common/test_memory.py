"""Out of memory is known from whoever says it, and the options that lower what is needed are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from common.inference.inferers import CompletionInferer
from common.memory import TooLittleMemory, advising


def on_the_cpu() -> None:
    torch.empty(2**60, dtype=torch.uint8)


def by_numpy() -> None:
    np.zeros(2**60, dtype=np.uint8)


def on_cuda() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")


def in_a_transform() -> None:
    try:
        by_numpy()
    except MemoryError as error:
        raise RuntimeError("applying transform <LoadSubject>") from error


def in_a_worker() -> None:
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


@pytest.mark.parametrize("run_out", [on_the_cpu, by_numpy, on_cuda, in_a_transform, in_a_worker])
def test_the_options_are_named_in_one_line(run_out):
    ways = ["a smaller --slab than 16", "--amp bf16"]
    with pytest.raises(TooLittleMemory) as caught, advising(["outer"]), advising(ways):
        run_out()
    said = str(caught.value)
    assert said.startswith("Out of memory (") and said.endswith("To need less: a smaller --slab than 16, --amp bf16.")
    assert "\n" not in said and "outer" not in said and caught.value.__cause__ is None


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError(1)])
def test_other_errors_stay_as_they_are(error: Exception):
    with pytest.raises(type(error)) as caught, advising(["--slab"]):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(("bundle", "options", "way"), [
    ("mri_seq2seq", {"roi_size": (16, 16, 3), "slab": 16}, "a smaller --slab than 16"),
    ("mri_vq_seq2seq", {"roi_size": (16, 16, 1), "slab": 1}, "fewer --targets at a time"),
    ("mri_seq2seq-3D", {"roi_size": (16, 16, 8)}, r"a smaller --roi_size than \[16, 16, 8\]"),
    ("mri_aldm", {}, "--decoding split"),
])  # fmt: skip
def test_each_way_to_infer_names_its_option(tiny_network, monkeypatch, bundle: str, options: dict, way: str):
    name, _, volumes = bundle.partition("-")
    network = tiny_network(name, **({"spatial_dims": 3, "slices": 1} if volumes else {}))
    monkeypatch.setattr(type(network), "complete", lambda *_, **__: on_cuda())
    image = torch.full((1, 4, 16, 16, 16), -1.0)
    image[:, :2] = 0.5
    with pytest.raises(TooLittleMemory, match=f"To need less: {way}."):
        CompletionInferer(["T1", "T1Gd", "T2", "FLAIR"], **options)(image, network)
