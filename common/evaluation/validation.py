"""The number that chooses the best epoch: synthesis on held-out subjects, never reconstruction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from ..layout import is_available
from .conventions import brain_mask, measurements
from .metrics import Lpips


class SynthesisMetric(CumulativeIterationMetric):
    """One number of one convention, of each sequence made from the subject's others; nothing else is computed.

    Takes predictions and truth [B, S, X, Y, Z] in training units, missing sequences of the truth being -1; averages
    over whatever subjects and sequences can be scored. A subject with one sequence has nothing to score. The brain is
    the truth's non-background.

    Args:
        convention: a name of `CONVENTIONS`.
        number: one that `score` returns under it without regions, such as "psnr_volume".
        lpips: the loaded metric, for the number "lpips".
        counts: how many channels each sequence has, if some are series: of these the mean over frames is taken.

    Raises:
        ValueError: an unknown convention, or it has no such number.

    Example:
        >>> IgniteMetricHandler(SynthesisMetric("aldm", "nmse"), output_transform=from_engine(["pred", "label"]))
    """

    def __init__(
        self,
        convention: str = "declared",
        number: str = "psnr",
        lpips: Lpips | None = None,
        counts: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.counts = list(counts)
        self.options = {"convention": convention, "lpips": lpips}
        self.number = number
        voxel = torch.zeros(1, 1, 1)
        if number not in (names := measurements(voxel, voxel, voxel, **self.options)):
            raise ValueError(f"Convention {convention!r} has no number {number!r}, only {', '.join(names)}")

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:
        y_pred = y_pred.to(y.device)  # inferers gather whole volumes on the CPU
        sequences = torch.arange(y.shape[1]).split(self.counts or 1)
        values = torch.full((len(y), len(sequences)), torch.nan)
        for b, available in enumerate(is_available(y).cpu()):
            found = [channels[available[channels]].tolist() for channels in sequences]
            for j, channels in enumerate(found if sum(map(bool, found)) > 1 else []):
                each = [measurements(y_pred[b, c], y[b, c], brain_mask(y[b, c]), **self.options) for c in channels]
                values[b, j] = torch.tensor([numbers[self.number]() for numbers in each]).mean()
        return values

    def aggregate(self) -> float:
        """The mean; nan if nothing could be scored."""
        return torch.nanmean(self.get_buffer()).item()
