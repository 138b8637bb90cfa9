"""Paired tests and intervals: is a difference larger than what chance among the subjects gives?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

FEWEST = 3  # subjects that an interval is given for: of two, it is 13 standard errors wide


class Interval(NamedTuple):
    """The mean of the subjects' differences in dB, and its 95 % interval; nan for fewer than `FEWEST` subjects."""

    mean: float
    low: float
    high: float
    subjects: int

    def __str__(self) -> str:
        counted = f"{self.subjects} subject{'s' * (self.subjects != 1)}"
        if self.subjects < FEWEST:
            return f"{self.mean:+.2f} dB ({counted}, too few for an interval)"
        return f"{self.mean:+.2f} dB (95 % interval {self.low:+.2f} to {self.high:+.2f}, {counted})"


def interval(differences: Sequence[float]) -> Interval:
    """Student's t interval of the mean of one difference per subject, with n - 1 degrees of freedom."""
    mean, count = float(np.mean(differences)), len(differences)
    if count < FEWEST:
        return Interval(mean, math.nan, math.nan, count)
    half = float(stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / math.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)


class Comparison(NamedTuple):
    """Wilcoxon's signed-rank test of one metric between two runs, paired over subjects.

    Attributes:
        difference: mean over subjects of first - second, in the metric's unit.
        statistic: the smaller rank sum.
        p: two-sided.
        p_holm: corrected for the metric's other pairs of runs.
        smallest_p: what p cannot fall below with so many subjects, 2 / 2^n.
    """

    metric: str
    first: str
    second: str
    subjects: int
    difference: float
    statistic: float
    p: float
    p_holm: float
    smallest_p: float


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the k-th smallest of m (k from 0) times m - k, never less than a smaller one's.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    order = np.argsort(p)
    stepped = np.array(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(stepped).clip(max=1)
    return corrected.tolist()


def _test(metric: str, first: str, second: str, differences: np.ndarray) -> Comparison:
    """Zero differences carry no rank; where all are zero, p is 1."""
    statistic, p = stats.wilcoxon(differences) if differences.any() else (0.0, 1.0)
    smallest = min(1.0, 2.0 ** (1 - len(differences)))
    mean = float(differences.mean())
    return Comparison(metric, first, second, len(differences), mean, float(statistic), float(p), math.nan, smallest)


def paired_tests(values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Comparison]:
    """Every pair of runs under every metric, each metric's tests corrected as one family.

    Metrics of the same images go together: a correction for all of them would count one question several times.

    Args:
        values: by metric, run and subject; a metric's runs have the same subjects.
    """
    result = []
    for metric, runs in values.items():
        tests = []
        for first, second in itertools.combinations(runs, 2):
            differences = [value - runs[second][subject] for subject, value in runs[first].items()]
            tests.append(_test(metric, first, second, np.array(differences)))
        corrected = holm([test.p for test in tests])
        result += [test._replace(p_holm=p) for test, p in zip(tests, corrected, strict=True)]
    return result
