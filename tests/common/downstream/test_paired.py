from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from common.downstream.paired import differences


def test_the_papers_test_and_holms_correction_by_hand() -> None:
    reference = np.array([0.8, 0.7, 0.9, 0.6, 0.75])
    arms = {"much": reference - [0.3, 0.2, 0.25, 0.35, 0.3], "little": reference - [0.01, -0.01, 0.02, 0.0, 0.01]}
    found = differences({name: (arm, reference) for name, arm in arms.items()}, margin=0.05)
    for name, arm in arms.items():
        assert found[name].p_worse == pytest.approx(stats.ttest_rel(arm, reference, alternative="less").pvalue)
        assert found[name].mean == pytest.approx((arm - reference).mean()) and found[name].subjects == 5
    assert found["much"].p_worse_holm == pytest.approx(2 * found["much"].p_worse)  # the smaller of two
    assert found["little"].p_worse_holm == pytest.approx(found["little"].p_worse)  # the larger, and above the other
    assert found["little"].p_margin_holm == pytest.approx(2 * found["little"].p_margin)
    assert found["much"].verdict(0.05) == "worse" and found["little"].verdict(0.05) == "not worse by 0.05"


def test_the_interval_is_of_the_paired_differences() -> None:
    """The subjects' own levels, however far apart, are no part of it."""
    levels, noise = np.linspace(0, 1, 200), np.random.default_rng(0).normal(-0.02, 0.01, 200)
    found = differences({"arm": (levels + noise, levels)}, margin=0.05)["arm"]
    half = 1.96 * noise.std() / np.sqrt(200)
    assert found.low == pytest.approx(noise.mean() - half, abs=3e-4)
    assert found.high == pytest.approx(noise.mean() + half, abs=3e-4)
    assert found.p_margin == pytest.approx(1 / 10001) and found.verdict(0.05) == "worse, by less than 0.05"


def test_no_difference_is_no_proof() -> None:
    """Equal arms are not worse; few and scattered ones are not told apart at all."""
    same = differences({"same": ([0.5, 0.6], [0.5, 0.6])}, margin=0.02)["same"]
    assert (same.mean, same.p_worse) == (0, 1)
    scattered = differences({"arm": ([0.5, 0.9, 0.4], [0.6, 0.5, 0.7])}, margin=0.02)["arm"]
    assert scattered.p_worse > 0.05 and scattered.verdict(0.02) == "not told apart"


def test_of_few_subjects_the_wider_interval_and_the_larger_p_count() -> None:
    values = np.array([0.01, 0.02, 0.03])
    found = differences({"arm": (values, np.zeros(3))}, margin=0.005)["arm"]
    assert found.low < values.min() and found.high > values.max()  # a bootstrap never leaves the values
    assert found.p_margin == pytest.approx(stats.ttest_1samp(values, -0.005, alternative="greater").pvalue)
    assert found.p_margin > 1 / 10001


def test_one_subject_is_no_pair() -> None:
    with pytest.raises(ValueError, match="T1 has one test subject"):
        differences({"T1": ([0.5], [0.6])}, margin=0.02)
