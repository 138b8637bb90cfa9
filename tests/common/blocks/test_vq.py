"""Eq. 1 and 2 by hand; the moving average, revival, usage; and no matrix of all distances."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common.blocks.vq import MODES, VectorQuantiser, codebook_usage, nearest_codes

ROOT = Path(__file__).parents[3]


def quantiser(codebook: list[list[float]], mode: str = "gradient", **options) -> VectorQuantiser:
    made = VectorQuantiser(len(codebook), len(codebook[0]), mode, **options)
    with torch.no_grad():
        made.codebook.copy_(torch.tensor(codebook))
        if mode == "ema":
            made.total.copy_(made.codebook)
    return made


def brute_force(vectors: Tensor, codebook: Tensor) -> Tensor:
    squares = vectors.square().sum(1, keepdim=True) + codebook.square().sum(1)
    return (squares - 2 * vectors @ codebook.T).argmin(1)


def test_eq_1_and_2_by_hand():
    layer = quantiser([[0.0, 0.0], [1.0, 1.0]])
    encoded = torch.tensor([[[0.2, 0.9]], [[0.4, 1.3]]])[None].requires_grad_()  # positions (0.2, 0.4) and (0.9, 1.3)
    values, indices, loss = layer(encoded)
    assert indices.tolist() == [[[0, 1]]]
    assert torch.equal(values.detach(), torch.tensor([[[0.0, 1.0]], [[0.0, 1.0]]])[None]), "to the bit"
    error = (0.04 + 0.16 + 0.01 + 0.09) / 4
    assert loss.item() == pytest.approx((1 + 0.25) * error)
    loss.sum().backward()
    # beta is on what draws the encoder to the codes, not on what draws the codes to the encoder.
    expected = 0.25 * 2 * torch.tensor([[[0.2, -0.1]], [[0.4, 0.3]]])[None] / 4
    torch.testing.assert_close(encoded.grad, expected)
    torch.testing.assert_close(layer.codebook.grad, 2 * torch.tensor([[-0.2, -0.4], [0.1, -0.3]]) / 4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(6, 5), (4, 3, 5)])
def test_shapes_and_the_straight_gradient(mode: str, size: tuple[int, ...]):
    torch.manual_seed(0)
    layer, encoded = VectorQuantiser(16, 3, mode), torch.randn(2, 3, *size, requires_grad=True)
    values, indices, loss = layer(encoded)
    assert values.shape == encoded.shape and indices.shape == (2, *size) and loss.shape == (2,)
    weight = torch.randn_like(values)
    (values * weight).sum().backward()
    assert torch.equal(encoded.grad, weight)
    again = layer.eval()(values.detach())
    assert torch.equal(again.values, values) or mode == "ema", "a code is its own nearest"
    for b in range(2):
        alone = layer(encoded[b : b + 1])
        assert alone.loss.item() == pytest.approx(layer(encoded).loss[b].item())


@pytest.mark.parametrize(("count", "codes"), [(1, 1), (7, 300), (1000, 256), (40, 8192), (0, 4)])
def test_nearest_codes_in_chunks(count: int, codes: int):
    draw = torch.Generator().manual_seed(0)
    vectors, codebook = torch.randn(count, 3, generator=draw), torch.randn(codes, 3, generator=draw)
    assert torch.equal(nearest_codes(vectors, codebook), brute_force(vectors.double(), codebook.double()))


class Largest(TorchDispatchMode):
    """Notes the most bytes that any operation's result has."""

    bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.numel() * result.element_size())
        return result


def test_no_matrix_of_all_distances():
    with Largest() as largest:
        VectorQuantiser(8192, 3)(torch.randn(1, 3, 12, 12, 9))  # all distances would be 40 MiB
    assert largest.bytes < 2**20


PEAK = """
import resource, torch
from common.blocks.vq import VectorQuantiser
layer, encoded = VectorQuantiser(8192, 3).eval(), torch.randn(1, 3, 36, 48, 36)
layer(encoded[..., :1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
layer(encoded)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.full
def test_a_volume_takes_little_memory():
    done = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 256, "MiB; all distances would take 1944"


def test_the_moving_average_by_hand():
    layer = quantiser([[0.0], [10.0], [20.0]], "ema", decay=0.5)
    layer(torch.tensor([[[[1.0, 3.0, 8.0]]]]))
    # Counts 2, 1, 0 and sums 4, 8, 0, from counts of 1: size 1.5, 1, 0.5; total 2, 9, 10.
    torch.testing.assert_close(layer.codebook, torch.tensor([[2 / 1.5], [9.0], [20.0]]))
    before = layer.codebook.clone()
    with torch.no_grad():
        layer(torch.zeros(1, 1, 2, 2))
    layer.eval()(torch.zeros(1, 1, 2, 2))
    assert torch.equal(layer.codebook, before), "neither without gradient nor in use"
    layer.train()
    for _ in range(100):
        layer(torch.zeros(1, 1, 2, 2))
    torch.testing.assert_close(layer.codebook, torch.tensor([[0.0], [9.0], [20.0]]), atol=1e-4, rtol=0)


def test_the_average_learns_without_gradient():
    layer = VectorQuantiser(4, 2, "ema")
    assert not list(layer.parameters())
    encoded = torch.randn(1, 2, 3, 3, requires_grad=True)
    layer(encoded).loss.sum().backward()
    nearest = layer.eval()(encoded.detach())
    assert encoded.grad.abs().sum() > 0 and nearest.loss.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_idle_codes_are_revived(mode: str):
    layer = quantiser([[0.0], [100.0]], mode, revive_after=3, decay=1.0)
    encoded = torch.linspace(1, 2, 9).view(1, 1, 3, 3)
    for step in range(3):
        assert layer.codebook[1].item() == 100, step
        with torch.no_grad():
            layer(encoded)  # does not count
        layer(encoded)
    assert layer.codebook[0].item() == 0 and layer.codebook[1].item() in encoded
    for _ in range(3):
        assert layer(encoded).indices.unique().tolist() == [1], "the nearest of all now"
    assert layer.codebook[0].item() in encoded, "and the other one is idle in its turn"
    assert quantiser([[0.0]]).revive_after == 0


@pytest.mark.parametrize("mode", MODES)
def test_what_every_rank_saw_counts(mode: str, monkeypatch: pytest.MonkeyPatch):
    """Two ranks with the same images: sums double, and the drawn vectors are rank 0's."""
    alone, both = (quantiser([[0.0], [5.0], [9.0]], mode, revive_after=1) for _ in range(2))
    encoded = torch.tensor([[[[1.0, 2.0], [1.0, 6.0]]]])
    torch.manual_seed(0)
    alone(torch.cat([encoded, encoded]))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda sums: sums.mul_(2))
    monkeypatch.setattr(torch.distributed, "broadcast", lambda drawn, source: drawn.fill_(7))
    both(encoded)
    torch.testing.assert_close(both.codebook[:2], alone.codebook[:2])
    assert both.codebook[2].item() == 7


@pytest.mark.parametrize("mode", MODES)
def test_trace_takes_any_size(mode: str):
    torch.manual_seed(0)
    layer = VectorQuantiser(256, 3, mode).eval()
    traced = torch.jit.trace(layer, torch.randn(1, 3, 4, 4), check_trace=False)
    for size in [(4, 4), (60, 50)]:  # one chunk and several
        encoded = torch.randn(2, 3, *size)
        assert all(torch.equal(a, b) for a, b in zip(traced(encoded), layer(encoded), strict=True))


def test_mixed_precision_does_not_choose_other_codes():
    torch.manual_seed(0)
    layer, encoded = VectorQuantiser(256, 3).eval(), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(encoded).indices, layer.float()(encoded).indices)
        half = layer(encoded.bfloat16())
    assert half.values.dtype == torch.float32 and torch.equal(half.indices, layer(encoded.bfloat16().float()).indices)


def test_codes_start_as_wide_as_an_encoders_outputs():
    torch.manual_seed(0)
    assert VectorQuantiser(256, 3).codebook.detach().abs().max() == pytest.approx(1, abs=0.01)
    assert VectorQuantiser(256, 3, initial=1 / 256).codebook.detach().abs().max() == pytest.approx(1 / 256, rel=0.01)


@pytest.mark.parametrize(
    ("counts", "share", "perplexity"),
    [([4, 4, 0, 0], 0.5, 2.0), ([3, 3, 3, 3], 1.0, 4.0), ([9, 0, 0, 0], 0.25, 1.0), ([0, 0], 0.0, 1.0)],
)
def test_usage(counts: list[int], share: float, perplexity: float):
    usage = codebook_usage(torch.tensor(counts))
    assert usage.share == share and usage.perplexity == pytest.approx(perplexity)


def test_bad_input():
    with pytest.raises(ValueError, match=r"'soft'; choose one of gradient, ema"):
        VectorQuantiser(4, 2, "soft")
    with pytest.raises(ValueError, match="3 channels cannot be quantised by codes of 2"):
        VectorQuantiser(4, 2)(torch.zeros(1, 3, 4, 4))
