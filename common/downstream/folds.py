"""Cross-validation by person, and what pooled test folds say, each number with an interval over people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.metrics import CalibrationErrorMetric
from numpy.random import Generator
from numpy.typing import NDArray

DRAWS = 2000  # of people, for an interval


class Estimate(NamedTuple):
    """A number and its 95 % interval; nan where it is not defined."""

    value: float
    low: float
    high: float


def person_folds(people: Sequence[str], labels: NDArray, count: int, rng: Generator) -> NDArray:
    """Divides subjects so that those of one person stay together, and both labels are spread evenly.

    Args:
        people: of each subject, whose it is.
        labels: [N], 0 or 1.
        count: of folds.
        rng: source of randomness.

    Returns:
        [N], each subject's fold, from 0.

    Raises:
        ValueError: a label has fewer people than there are folds.
    """
    label_of: dict[str, int] = {}
    for person, label in zip(people, labels.tolist(), strict=True):
        label_of[person] = max(label, label_of.get(person, 0))
    dealt: list[str] = []
    for label in (0, 1):
        own = sorted(person for person, known in label_of.items() if known == label)
        if len(own) < count:
            raise ValueError(
                f"Label {label} has {len(own)} people, too few for {count} folds: ask for fewer, or give more subjects."
            )
        dealt += rng.permutation(own).tolist()
    fold_of = {person: place % count for place, person in enumerate(dealt)}
    return np.array([fold_of[person] for person in people])


def people_weights(people: Sequence[str], seed: int) -> NDArray:
    """How often each subject counts, [1 + DRAWS, N]: once, then as often as its person is drawn, with replacement."""
    names, place = np.unique(people, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)[:, place]
    return np.concatenate([np.ones((1, len(place))), drawn])


def auc(labels: NDArray, scores: NDArray, weights: NDArray | None = None) -> NDArray:
    """The share of pairs, one with label 1 and one with 0, whose scores are in that order; a tie is half a pair.

    Args:
        labels, scores: [N].
        weights: [D, N], how often each subject counts.

    Returns:
        [D]; nan where one of the labels is not drawn.
    """
    weights = np.ones((1, len(labels))) if weights is None else weights
    positive, negative = labels == 1, labels == 0
    order = np.sign(scores[positive][:, None] - scores[negative]) / 2 + 0.5
    right = np.einsum("dp,pn,dn->d", weights[:, positive], order, weights[:, negative], optimize=True)
    return _ratio(right, weights[:, positive].sum(1) * weights[:, negative].sum(1))


def _ratio(part: NDArray, whole: NDArray) -> NDArray:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _estimate(values: NDArray) -> Estimate:
    """Of [1 + DRAWS] values, whose first is that of all people once: the percentiles of the others are the interval."""
    if np.isnan(values[0]) or np.isnan(values[1:]).all():
        return Estimate(float(values[0]), float("nan"), float("nan"))
    return Estimate(float(values[0]), *np.nanpercentile(values[1:], [2.5, 97.5]).tolist())


def classification_scores(
    labels: NDArray, probabilities: NDArray, people: Sequence[str], seed: int = 0
) -> dict[str, Estimate]:
    """What the probabilities [N] of label 1 are worth; a subject is called 1 from 0.5 on.

    Returns:
        "auc", "accuracy", "sensitivity", "specificity", "ppv", "npv", with percentile intervals over people, and
        "calibration_error", MONAI's expected one over ten bins, without.
    """
    weights, called, true = people_weights(people, seed), probabilities >= 0.5, labels == 1
    counted = {
        "accuracy": (called == true, np.ones_like(true)),
        "sensitivity": (called & true, true),
        "specificity": (~called & ~true, ~true),
        "ppv": (called & true, called),
        "npv": (~called & ~true, ~called),
    }
    scores = {"auc": _estimate(auc(labels, probabilities, weights))}
    for name, (part, whole) in counted.items():
        scores[name] = _estimate(_ratio(weights @ part, weights @ whole))
    error = CalibrationErrorMetric(num_bins=10)
    error(torch.as_tensor(probabilities).reshape(1, 1, -1), torch.as_tensor(labels).reshape(1, 1, -1))
    nan = float("nan")
    return {**scores, "calibration_error": Estimate(float(error.aggregate()), nan, nan)}


def auc_difference(labels: NDArray, first: NDArray, second: NDArray, people: Sequence[str], seed: int = 0) -> Estimate:
    """AUC of the first scores less that of the second: the same people are drawn for both."""
    weights = people_weights(people, seed)
    return _estimate(auc(labels, first, weights) - auc(labels, second, weights))


def is_above_chance(scores: Mapping[str, Estimate]) -> bool:
    """Whether the AUC's interval lies above 0.5; pooled folds of what cannot be told tend below it."""
    return scores["auc"].low > 0.5
