"""The scale of an image that was never acquired: what training showed of scales, given those of the subject's images.

A missing image has no scale of its own (`common.data.normalisation`). The logarithms of a subject's scales are taken
to be jointly normal, for gains multiply: those of its images, whichever there are, then say which scale a missing one
would have had. Where none of them tells anything, that is the training subjects' geometric mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# What scanners do before any was seen, which counts as much as so many training subjects: all of a subject's images
# are brighter or darker together by 30 %, and each by itself.
PRIOR_SUBJECTS, PRIOR_DEVIATION = 4, 0.3


class Scales(NamedTuple):
    """What the scales of a training's images were; of weights, `TranslationNetwork.scales`.

    Attributes:
        mean: [S, 2], the geometric mean of each sequence's scales and the mean of its offsets; nan where training had
            no such image.
        spread: [S, S], the covariance of the scales' natural logarithms; 0 where it is not known.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def estimated(cls, moments: Tensor) -> Scales:
        """From `moments` of all training subjects.

        The covariance is the mean of an inverse Wishart distribution: a few subjects hardly move what is assumed of
        scanners. An image that a subject lacks adds nothing, so that the matrix stays positive definite.
        """
        both, log, product, offset = moments.double()
        count = both.diagonal()
        mean, mean_offset = log.diagonal() / count, offset.diagonal() / count
        centre = mean.nan_to_num()
        scatter = product - log * centre - (log * centre).T + both * torch.outer(centre, centre)
        prior = PRIOR_DEVIATION**2 * (1 + torch.eye(len(count), device=count.device))
        spread = (scatter + PRIOR_SUBJECTS * prior) / (count.max() + PRIOR_SUBJECTS)
        return cls(torch.stack([mean.exp(), mean_offset], 1), spread)

    def informative(self, sources: Sequence[int]) -> list[int]:
        """Those of the sources whose scales say something."""
        known = self.mean.isfinite().all(1) & (self.spread.diagonal() > 0)
        return [i for i in sources if known[i]]

    def given(self, scale: Tensor, sources: Sequence[int]) -> Tensor:
        """Scale and offset [S, 2] of all sequences, from the scales that a subject's sources have.

        The conditional mean of the logarithms. An offset grows with its scale, as a gain would have it.

        Args:
            scale: [S]; only the sources' are read.
            sources: the sequences that what is to be scaled was made from.
        """
        known = self.informative(sources)
        if not known:
            return self.mean
        mean, spread = self.mean.cpu().double(), self.spread.cpu().double()
        surprise = scale.cpu().double()[known].log() - mean[known, 0].log()
        # A pseudo-inverse: images whose scales always went together say one thing, not two.
        shift = spread[:, known] @ torch.linalg.pinv(spread[known][:, known], hermitian=True) @ surprise
        return (mean * shift.exp()[:, None]).to(self.mean)


def moments(scale: Tensor, offset: Tensor, available: Tensor) -> Tensor:
    """What `Scales.estimated` needs of subjects, [N, S] each; the moments [4, S, S] of more subjects are added to it.

    Of the subjects that have both sequences i and j: their number, and the sums of log i, of log i log j, of offset i.
    """
    seen = available.double()
    log = torch.where(available, scale.double(), 1).log()
    shift = torch.where(available, offset.double(), 0)
    return torch.stack([seen.T @ seen, log.T @ seen, log.T @ log, shift.T @ seen])
