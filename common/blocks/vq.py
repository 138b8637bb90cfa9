"""Vector quantisation (van den Oord et al. 2017): Eq. 1 and 2 of VQ-Seq2Seq (Han et al., MICCAI 2024)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..distributed import is_distributed

MODES = ("gradient", "ema")


class Quantised(NamedTuple):
    """`values` [B, D, *s], differentiated straight through, `indices` [B, *s] of the codes, `loss` [B] of Eq. 2."""

    values: Tensor
    indices: Tensor
    loss: Tensor


class CodebookUsage(NamedTuple):
    """The `share` of the codes that occur at all, and the `perplexity`: as many evenly used codes are as diverse."""

    share: float
    perplexity: float


@torch.jit.script_if_tracing  # a trace would freeze the number of chunks
def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Eq. 1: the code [N] nearest to each of the vectors [N, D], codebook [K, D].

    |x - e|^2 is smallest where x.e - |e|^2 / 2 is largest. That is computed for as many vectors at a time as stay in
    the cache, never for all: 62208 vectors and 8192 codes would take 2 GB, and several times as long.
    """
    bias = -codebook.square().sum(1) / 2
    at_once = max((1 << (24 if vectors.is_cuda else 17)) // codebook.shape[0], 1)
    # Results gathered in a list would lie between the chunks and keep their memory from being used again.
    found = torch.empty(vectors.shape[0], dtype=torch.long, device=vectors.device)
    for start in range(0, vectors.shape[0], at_once):
        chunk = vectors[start : start + at_once]
        found[start : start + at_once] = torch.addmm(bias, chunk, codebook.t()).argmax(1)
    return found


def codebook_usage(counts: Tensor) -> CodebookUsage:
    """Of how often each code occurred, [K]."""
    share = counts.double() / counts.sum().clamp(min=1)
    entropy = -torch.xlogy(share, share).sum()
    return CodebookUsage((counts > 0).double().mean().item(), entropy.exp().item())


class VectorQuantiser(nn.Module):
    """Each position of [B, D, *spatial] (2D or 3D) to the nearest of K codes.

    MONAI's `EMAQuantizer` holds three matrices [positions, K] at a time, and its average starts from counts of 0, which
    throws every code that the first step does not use 10^5 times too far away.

    Args:
        codes: K.
        dimensions: D.
        mode: "gradient" learns the codebook by Eq. 2; "ema" sets it to the moving average of what fell to each code.
        commitment: beta of Eq. 2, on |z_e - sg(e)|^2.
        decay: of the moving average.
        initial: the codes start uniform in +-initial, as wide as an encoder's outputs are. The authors' 1 / K (0.004)
            starts them in one heap, most of which no output is ever nearest to.
        revive_after: a code that no position of so many training steps used is put where a random current one is; 0
            leaves it. Steps without gradient do not count, and do not move the average.

    Raises:
        ValueError: an unknown mode, or what is quantised does not have D channels.
    """

    def __init__(
        self,
        codes: int = 256,
        dimensions: int = 3,
        mode: str = "gradient",
        *,
        commitment: float = 0.25,
        decay: float = 0.99,
        initial: float = 1.0,
        revive_after: int = 0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"The quantiser's mode is '{mode}'; choose one of {', '.join(MODES)}.")
        self.commitment = commitment
        self.decay = decay
        self.revive_after = revive_after
        self.learned = mode == "gradient"
        codebook = torch.empty(codes, dimensions).uniform_(-initial, initial)
        self.register_buffer("idle", torch.zeros(codes, dtype=torch.long))  # steps since a code was used
        if self.learned:
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("size", torch.ones(codes))
            self.register_buffer("total", codebook.clone())

    def forward(self, encoded: Tensor) -> Quantised:
        if encoded.shape[1] != self.codebook.shape[1]:
            raise ValueError(f"{encoded.shape[1]} channels cannot be quantised by codes of {self.codebook.shape[1]}.")
        vectors = encoded.movedim(1, -1).flatten(0, -2).float()
        with torch.no_grad():
            indices = self._nearest(vectors)
        nearest = F.embedding(indices, self.codebook)
        # Eq. 2. The authors' quantiser has beta on the codebook's term.
        loss = self.commitment * (vectors - nearest.detach()).square()
        if self.learned:
            loss = loss + (nearest - vectors.detach()).square()
        if torch.jit.is_scripting():
            pass  # what is deployed learns nothing
        elif self.training and torch.is_grad_enabled():
            self._after_step(vectors, indices)
        # To the bit a code, with the gradient of what was encoded.
        values = nearest.detach() + (vectors - vectors.detach())
        positions = encoded[:, 0].shape
        return Quantised(
            values.unflatten(0, positions).movedim(encoded.ndim - 1, 1),
            indices.unflatten(0, positions),
            loss.unflatten(0, (encoded.shape[0], -1)).flatten(1).mean(1),
        )

    def _nearest(self, vectors: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # where nothing is cast by itself
            return nearest_codes(vectors, self.codebook)
        with torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
            if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():  # which know no loop of any length
                return torch.addmm(-self.codebook.square().sum(1) / 2, vectors, self.codebook.t()).argmax(1)
            return nearest_codes(vectors, self.codebook)

    @torch.no_grad()
    def _after_step(self, vectors: Tensor, indices: Tensor) -> None:
        if self.learned and not self.revive_after:
            return
        counted = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1)
        sums = counted.new_zeros(len(self.codebook), counted.shape[1]).index_add_(0, indices, counted)
        if is_distributed():
            torch.distributed.all_reduce(sums)
        total, size = sums[:, :-1], sums[:, -1]
        if not self.learned:
            self.total.lerp_(total, 1 - self.decay)
            self.size.lerp_(size, 1 - self.decay)
            divisible = self.size[:, None] > 1e-6  # a code that is not used any more stays where it is
            self.codebook.copy_(torch.where(divisible, self.total / self.size[:, None], self.codebook))
        if self.revive_after:
            self._revive(size > 0, vectors)

    def _revive(self, used: Tensor, vectors: Tensor) -> None:
        drawn = vectors[torch.randint(len(vectors), (len(self.codebook),), device=vectors.device)]
        if is_distributed():
            torch.distributed.broadcast(drawn, 0)
        self.idle.copy_(torch.where(used, 0, self.idle + 1))
        dead = self.idle >= self.revive_after
        self.idle.masked_fill_(dead, 0)
        self.codebook.copy_(torch.where(dead[:, None], drawn, self.codebook))
        if not self.learned:
            self.size.masked_fill_(dead, 1)
            self.total.copy_(torch.where(dead[:, None], drawn, self.total))
