import numpy as np
import pytest
import torch
from monai.metrics import compute_roc_auc

from common.downstream.folds import auc, auc_difference, classification_scores, is_above_chance, person_folds

LABELS = np.array([0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("scores", "known"),
    [((0.1, 0.2, 0.3, 0.7, 0.8, 0.9), 1), ((0.9, 0.8, 0.7, 0.3, 0.2, 0.1), 0), ((0.5,) * 6, 0.5),
     ((0.1, 0.4, 0.6, 0.4, 0.7, 0.8), 7.5 / 9)],
)  # fmt: skip
def test_the_auc_of_known_scores(scores, known):
    assert auc(LABELS, np.array(scores))[0] == pytest.approx(known)


def test_the_auc_is_monais_and_a_weight_is_a_repetition():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 60), rng.integers(0, 9, 60) / 8
    weights = rng.integers(0, 3, 60)
    expected = [compute_roc_auc(torch.as_tensor(s), torch.as_tensor(y)) for y, s in (
        (labels, scores), (labels.repeat(weights), scores.repeat(weights)))]  # fmt: skip
    found = auc(labels, scores, np.stack([np.ones(60), weights]))
    assert found == pytest.approx(expected)


def test_scores_of_a_known_table():
    # called 1: three of four that are, one of six that are not
    labels = np.array([1] * 4 + [0] * 6)
    probabilities = np.array([0.9, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    found = classification_scores(labels, probabilities, [str(k) for k in range(10)])
    values = {name: number.value for name, number in found.items()}
    calibration = 0.4 * (0.9 - 3 / 4) + 0.6 * (1 / 6 - 0.1)
    counted = {"accuracy": 0.8, "sensitivity": 3 / 4, "specificity": 5 / 6, "ppv": 3 / 4, "npv": 5 / 6}
    assert values == pytest.approx({"auc": 19 / 24, **counted, "calibration_error": calibration}, abs=1e-6)
    assert all(number.low <= number.value <= number.high for name, number in found.items() if "error" not in name)


def test_the_interval_is_as_wide_as_theory_says():
    """Hanley and McNeil's variance, exact for scores that are exponential in both groups."""
    rng, count = np.random.default_rng(1), 200
    labels = np.arange(2 * count) % 2
    scores = rng.exponential(np.where(labels == 1, 3.0, 1.0))  # AUC 3 / (3 + 1)
    found = classification_scores(labels, scores / scores.max(), [str(k) for k in range(2 * count)])["auc"]
    area = 0.75
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + (count - 1) * (q1 + q2 - 2 * area**2)) / count**2
    assert found.high - found.low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.15)
    assert found.low < area < found.high and is_above_chance({"auc": found})


def test_visits_of_one_person_are_drawn_together():
    rng = np.random.default_rng(2)
    labels, scores = np.arange(40) % 2, rng.random(40)
    alone = classification_scores(labels, scores, [str(k) for k in range(40)])["auc"]
    five_times = [np.repeat(each, 5) for each in (labels, scores, np.arange(40).astype(str))]
    again = classification_scores(five_times[0], five_times[1], five_times[2].tolist())["auc"]
    assert again.high - again.low == pytest.approx(alone.high - alone.low, rel=0.05)


def test_a_difference_is_of_the_same_people():
    labels = np.arange(60) % 2
    scores = np.random.default_rng(3).random(60)
    people = [str(k) for k in range(60)]
    assert auc_difference(labels, scores, scores, people) == (0, 0, 0)
    better = auc_difference(labels, scores + labels, scores, people)
    assert better.low > 0


def test_no_person_is_in_two_folds_and_both_labels_are_in_each():
    rng = np.random.default_rng(4)
    people = [f"p{k}" for k in rng.integers(0, 30, 90)]
    label_of = {person: k % 3 == 0 for k, person in enumerate(sorted(set(people)))}
    labels = np.array([int(label_of[person]) for person in people])
    folds = person_folds(people, labels, 5, rng)
    where = {person: {f for f, p in zip(folds, people, strict=True) if p == person} for person in people}
    assert all(len(found) == 1 for found in where.values())
    assert all(set(labels[folds == k]) == {0, 1} for k in range(5))
    assert (folds != person_folds(people, labels, 5, rng)).any()


def test_too_few_people_for_the_folds():
    with pytest.raises(ValueError, match="Label 1 has 2 people, too few for 3 folds"):
        person_folds(["a", "a", "b", "c", "d", "e"], np.array([1, 1, 1, 0, 0, 0]), 3, np.random.default_rng(0))
