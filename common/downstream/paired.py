"""Is an arm worse than another, or no more than a margin worse? Paired over subjects, with Holm's correction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from ..evaluation.significance import holm

RESAMPLES = 10000
LEVEL = 0.05


class Difference(NamedTuple):
    """Of one arm's values to another's, over the same subjects; higher values are better.

    Attributes:
        mean: of arm - reference.
        low, high: its 95 % interval, by a bootstrap of the subjects (percentiles), or Student's where that is wider: of
            few subjects the percentiles are too narrow.
        p_worse: one-sided paired t-test, of the arm being worse. Above 0.05 it shows nothing: no equality either.
        p_worse_holm: the same, corrected for all that are tested with it.
        p_margin: the bootstrap's, of the arm being worse by the margin or more, or the t-test's where that is larger:
            small, it is not inferior.
        p_margin_holm: the same, corrected.
        subjects: how many.
    """

    mean: float
    low: float
    high: float
    p_worse: float
    p_worse_holm: float
    p_margin: float
    p_margin_holm: float
    subjects: int

    def verdict(self, margin: float) -> str:
        """In words, by the corrected values."""
        worse, within = self.p_worse_holm < LEVEL, self.p_margin_holm < LEVEL
        if worse and within:
            return f"worse, by less than {margin:g}"
        return "worse" if worse else f"not worse by {margin:g}" if within else "not told apart"


def differences(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]], margin: float, seed: int = 0
) -> dict[str, Difference]:
    """Tests pairs of an arm's values and its reference's as one family.

    Args:
        pairs: by name; both of the same subjects in the same order, two or more.
        margin: how much worse does not matter, in the values' unit.
        seed: of the bootstrap.

    Raises:
        ValueError: fewer than two subjects.
    """
    if few := [name for name, (arm, _) in pairs.items() if len(arm) < 2]:
        raise ValueError(f"{few[0]} has one test subject: paired tests need two or more.")
    rows = {name: _difference(np.subtract(*pair), margin, seed) for name, pair in pairs.items()}
    worse, within = ([getattr(row, field) for row in rows.values()] for field in ("p_worse", "p_margin"))
    corrected = zip(rows.items(), holm(worse), holm(within), strict=True)
    return {name: row._replace(p_worse_holm=a, p_margin_holm=b) for (name, row), a, b in corrected}


def _difference(values: np.ndarray, margin: float, seed: int) -> Difference:
    mean = float(values.mean())
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = values[draws].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    beyond = (1 + int((means <= -margin).sum())) / (1 + RESAMPLES)
    if np.ptp(values) == 0:  # there is no deviation to test it by
        worse, within = float(mean >= 0), float(mean <= -margin)
    else:
        worse = float(stats.ttest_1samp(values, 0, alternative="less").pvalue)
        within = float(stats.ttest_1samp(values, -margin, alternative="greater").pvalue)
        student = stats.ttest_1samp(values, 0).confidence_interval()
        low, high = min(low, student.low), max(high, student.high)
    within = max(within, beyond)
    return Difference(mean, float(low), float(high), worse, worse, within, within, len(values))
