"""Paired tests between runs: is the difference larger than what chance among the subjects gives?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import wilcoxon


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
    statistic, p = wilcoxon(differences) if differences.any() else (0.0, 1.0)
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
