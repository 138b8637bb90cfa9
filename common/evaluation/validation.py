"""The number that chooses the best epoch: synthesis on held-out subjects, never reconstruction."""

from __future__ import annotations

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from ..translation import is_available
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

    Raises:
        ValueError: an unknown convention, or it has no such number.

    Example:
        >>> IgniteMetricHandler(SynthesisMetric("aldm", "nmse"), output_transform=from_engine(["pred", "label"]))
    """

    def __init__(self, convention: str = "declared", number: str = "psnr", lpips: Lpips | None = None) -> None:
        super().__init__()
        self.options = {"convention": convention, "lpips": lpips}
        self.number = number
        voxel = torch.zeros(1, 1, 1)
        if number not in (names := measurements(voxel, voxel, voxel, **self.options)):
            raise ValueError(f"Convention {convention!r} has no number {number!r}, only {', '.join(names)}")

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:
        y_pred = y_pred.to(y.device)  # inferers gather whole volumes on the CPU
        values = torch.full(y.shape[:2], torch.nan)
        for b, available in enumerate(is_available(y)):
            for j in available.nonzero()[:, 0].tolist() if available.sum() > 1 else []:
                numbers = measurements(y_pred[b, j], y[b, j], brain_mask(y[b, j]), **self.options)
                values[b, j] = numbers[self.number]()
        return values

    def aggregate(self) -> float:
        """The mean; nan if nothing could be scored."""
        return torch.nanmean(self.get_buffer()).item()
