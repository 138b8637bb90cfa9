"""Wilcoxon's test is scipy's on the paired differences; Holm's correction as computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wilcoxon

from common.evaluation.significance import holm, interval, paired_tests

FIRST = {"a": 20.0, "b": 21.5, "c": 19.0, "d": 24.0, "e": 22.0, "f": 23.0}
SECOND = {"f": 22.0, "e": 22.5, "d": 20.0, "c": 17.0, "b": 20.0, "a": 20.3}  # in another order
DIFFERENCES = [-0.3, 1.5, 2.0, 4.0, -0.5, 1.0]


def test_an_interval_by_hand():
    found = interval([0.0, 1.0, 2.0, 5.0])  # standard deviation sqrt(14 / 3), t(3) 3.182
    assert found[:3] == pytest.approx((2, 2 - 3.4372, 2 + 3.4372), abs=1e-3) and found.subjects == 4
    assert str(found) == "+2.00 dB (95 % interval -1.44 to +5.44, 4 subjects)"
    assert interval([1.5] * 3)[:3] == (1.5, 1.5, 1.5)
    assert str(interval([1, 2])) == "+1.50 dB (2 subjects, too few for an interval)"


def test_an_interval_covers_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(1, 2, (2000, 6))
    found = [interval(draw) for draw in draws]
    assert 0.935 < np.mean([each.low <= 1 <= each.high for each in found]) < 0.965


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (raised to 0.06, its forerunner's), 0.5 * 1.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.02]) == [0.02]


def test_the_test_is_scipys_on_paired_differences():
    (test,) = paired_tests({"psnr": {"one": FIRST, "two": SECOND}})
    assert (test.metric, test.first, test.second, test.subjects) == ("psnr", "one", "two", 6)
    # By hand: the negative differences have ranks 1 and 2, and 10 of 2^6 sign patterns have a rank sum of 3 or less
    # on one side or the other.
    assert test.statistic == 3 and test.p == pytest.approx(10 / 64)
    assert test.p == pytest.approx(wilcoxon(DIFFERENCES).pvalue)
    assert test.difference == pytest.approx(sum(DIFFERENCES) / 6)
    assert test.p_holm == test.p and test.smallest_p == 2 / 2**6


def test_each_metric_is_a_family():
    runs = {"one": FIRST, "two": SECOND, "three": {name: value - 5 for name, value in FIRST.items()}}
    tests = paired_tests({"psnr": runs, "ssim": runs})
    assert [(t.first, t.second) for t in tests] == [("one", "two"), ("one", "three"), ("two", "three")] * 2
    for family in (tests[:3], tests[3:]):
        assert [t.p_holm for t in family] == holm([t.p for t in family])
    assert tests[1].p == 2 / 2**6 and tests[1].p_holm == pytest.approx(3 * 2 / 2**6)


def test_equal_runs_and_single_subjects():
    (test,) = paired_tests({"psnr": {"one": FIRST, "two": FIRST}})
    assert test.p == 1 and test.difference == 0
    (test,) = paired_tests({"psnr": {"one": {"a": 1.0}, "two": {"a": 2.0}}})
    assert test.p == test.smallest_p == 1 and test.difference == -1
