"""The number that chooses the best epoch: synthesis on held-out subjects, never reconstruction."""

from __future__ import annotations

import torch
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from ..translation import is_available
from .conventions import CONVENTIONS, brain_mask
from .metrics import psnr


class SynthesisPSNR(CumulativeIterationMetric):
    """PSNR of each sequence made from the subject's others, in the brain, under the `declared` convention.

    Takes predictions and truth [B, S, X, Y, Z] in training units, missing sequences of the truth being -1; averages
    over whatever subjects and sequences can be scored. A subject with one sequence has nothing to score.
    """

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:
        values = torch.full(y.shape[:2], torch.nan)
        for b, available in enumerate(is_available(y)):
            for j in available.nonzero()[:, 0].tolist() if available.sum() > 1 else []:
                brain = brain_mask(y[b, j])
                pred, truth = CONVENTIONS["declared"].scale(y_pred[b, j], y[b, j], brain)
                values[b, j] = psnr(pred, truth, brain)
        return values

    def aggregate(self) -> float:
        """The mean; nan if nothing could be scored."""
        return torch.nanmean(self.get_buffer()).item()
