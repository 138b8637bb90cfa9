"""The numbers of a comparison: each run's and each rival's means, for all targets and for each.

The unit is the subject: its value is the mean over its pairs with source != target, and means, deviations and tests
are taken over subjects.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .metric_names import METRICS, is_of_region, shown_as
from .runs import Key, Run
from .significance import Comparison

Scores = dict[Key, dict[str, float]]


RIVALS = ("copy", "map")


class Line(NamedTuple):
    """A line of the leaderboard: a run, or a rival, for one target or for all.

    Attributes:
        target: a sequence, or "all".
        name: the run's, or the rival's.
        method: "network", "copy" or "map".
        values: by metric and subject, the mean over the subject's pairs; nan where one of them has no finite value.
    """

    target: str
    name: str
    method: str
    values: dict[str, dict[str, float]]

    def mean(self, metric: str) -> float:
        return statistics.fmean(self.values[metric].values()) if self.values[metric] else math.nan

    def std(self, metric: str) -> float:
        """The sample's; nan for fewer than two subjects."""
        values = list(self.values[metric].values())
        return statistics.stdev(values) if len(values) > 1 and math.isfinite(sum(values)) else math.nan

    def text(self, metric: str) -> str:
        mean, std, digits = self.mean(metric), self.std(metric), shown_as(metric).digits
        if math.isnan(mean):
            return "-"
        return f"{mean:.{digits}f}" + ("" if math.isnan(std) else f" ± {std:.{digits}f}")


def supports(runs: Sequence[Run]) -> dict[str, list[Key]]:
    """By shared metric, where it is finite in every run; only there do they compare.

    Raises:
        ValueError: the runs share no metric.
    """
    networks = [run.scores["network"] for run in runs]
    inside = [name for name in next(iter(networks[0].values()), {}) if is_of_region(name, "psnr")]
    found = {
        metric: [key for key in networks[0] if all(math.isfinite(n[key].get(metric, math.nan)) for n in networks)]
        for metric in [*METRICS, *inside]
    }
    found = {metric: keys for metric, keys in found.items() if keys}
    if not found:
        raise ValueError(f"{', '.join(run.name for run in runs)} share no value of {', '.join(METRICS)}.")
    return found


def _contestants(runs: Sequence[Run], metrics: Sequence[str]) -> list[tuple[str, str, Scores]]:
    """Name, method and scores of the runs, then of the rivals; runs with the same rival share it."""
    result = [(run.name, "network", run.scores["network"]) for run in runs]
    for method in RIVALS:
        groups: list[list[Run]] = []
        for run in (run for run in runs if method in run.scores):
            alike = (g for g in groups if _same(g[0].scores[method], run.scores[method], metrics))
            if group := next(alike, None):
                group.append(run)
            else:
                groups.append([run])
        for group in groups:
            name = method if len(groups) == 1 else f"{method} of {', '.join(run.name for run in group)}"
            result.append((name, method, group[0].scores[method]))
    return result


def _same(first: Scores, other: Scores, metrics: Sequence[str]) -> bool:
    """Another scaling of the images, or another training set, makes another rival."""
    if first.keys() != other.keys():
        return False
    ours, theirs = ([[of[key].get(m, math.nan) for m in metrics] for key in first] for of in (first, other))
    return np.allclose(ours, theirs, rtol=1e-6, atol=0, equal_nan=True)


def _per_subject(scores: Scores, metric: str, keys: Sequence[Key], target: str) -> dict[str, float]:
    """Each subject's mean over the keys of one target or of all; nan where one of them has no finite value."""
    values: dict[str, list[float]] = {}
    for key in keys:
        if target in ("all", key[2]):
            values.setdefault(key[0], []).append(scores.get(key, {}).get(metric, math.nan))
    means = {subject: statistics.fmean(of) for subject, of in values.items()}
    return {subject: mean if math.isfinite(mean) else math.nan for subject, mean in means.items()}


def leaderboard(runs: Sequence[Run]) -> list[Line]:
    """The lines for all targets together, then for each; the best by the first metric stands first."""
    support = supports(runs)
    first, *_ = metrics = list(support)
    found = dict.fromkeys(key[2] for keys in support.values() for key in keys)
    targets = [name for name in runs[0].info.get("sequences", found) if name in found]
    result = []
    for target in ("all", *targets):
        lines = [
            Line(target, name, method, {m: _per_subject(scores, m, keys, target) for m, keys in support.items()})
            for name, method, scores in _contestants(runs, metrics)
        ]
        result += sorted(lines, key=lambda line: _place(line.mean(first), shown_as(first).sign))
    return result


def _place(mean: float, sign: int) -> tuple[bool, float]:
    """Sorts the best first and nan last."""
    return math.isnan(mean), -sign * mean


def best(lines: Sequence[Line], metric: str) -> float:
    """The best mean among the lines of one target."""
    means = [line.mean(metric) for line in lines if not math.isnan(line.mean(metric))]
    return max(means, key=lambda mean: shown_as(metric).sign * mean, default=math.nan)


def leaderboard_text(runs: Sequence[Run], lines: Sequence[Line], tests: Sequence[Comparison]) -> str:
    """What the command prints: the lines for all targets, the best of each metric with *, and the tests."""
    lines = [line for line in lines if line.target == "all"]
    metrics = list(lines[0].values)
    width = max(len(line.name) for line in lines) + 2
    wide = max(18, *(len(shown_as(m).label) for m in metrics)) + 2
    result = [describe(runs), "", " " * width + "".join(f"{shown_as(m).label:<{wide}}" for m in metrics).rstrip()]
    for line in lines:
        cells = [line.text(m) + "*" * (line.mean(m) == best(lines, m)) for m in metrics]
        result.append((f"{line.name:<{width}}" + "".join(f"{cell:<{wide}}" for cell in cells)).rstrip())
    result += ["", "Wilcoxon signed-rank over subjects, p after Holm's correction:"] if tests else []
    for test in tests:
        difference = f"{test.difference:+.{shown_as(test.metric).digits}f}"
        result.append(
            f"{shown_as(test.metric).label}: {test.first} - {test.second} = {difference}, p = {test.p_holm:.3g}"
        )
    return "\n".join([*result, *notes(runs, lines, tests)])


def describe(runs: Sequence[Run]) -> str:
    """What the numbers are, in a sentence."""
    info, keys = runs[0].info, runs[0].scores["network"]
    subjects, pairs = len({key[0] for key in keys}), len({key[1:] for key in keys})
    region = f" ({info['region']})" if info.get("region") else ""
    return (
        f"Convention {info['convention']}{region}: mean ± standard deviation over {subjects} "
        f"subject{'s' * (subjects != 1)} of each one's mean over {pairs} pairs, source ≠ target."
    )


def notes(runs: Sequence[Run], lines: Sequence[Line], tests: Sequence[Comparison]) -> list[str]:
    """What a reader has to know before believing the numbers."""
    result = []
    total = len(runs[0].scores["network"])
    for metric, keys in supports(runs).items():
        if len(keys) < total:
            left = total - len(keys)
            result.append(f"{shown_as(metric).label}: {left} of {total} values are not finite in every run; left out.")
    if any(math.isnan(line.mean(m)) for line in lines for m in line.values):
        result.append("-: some of the pairs have no value here, so a mean would be of other pairs.")
    result += _floors(tests)
    return result


def _floors(tests: Sequence[Comparison]) -> list[str]:
    """A note where no difference, however large, could reach 0.05."""
    if not tests:
        return []
    fewest = min(test.subjects for test in tests)
    family = len({(test.first, test.second) for test in tests})
    floor = 2.0 ** (1 - fewest)
    if floor * family <= 0.05:
        return []
    corrected = f", and {min(1, family * floor):.4g} after the correction" if family > 1 else ""
    return [
        f"With {fewest} subjects p cannot fall below 2/2^{fewest} = {floor:.4g}{corrected}, whatever the difference."
    ]
