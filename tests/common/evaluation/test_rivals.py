"""The intensity map recovers what it was taught, pair by pair."""

from __future__ import annotations

import pytest
import torch

from common.evaluation.rivals import IntensityMap, MeanCurve, copy_source

NAMES = ["T1", "T2", "FLAIR"]


def rising(x: torch.Tensor) -> torch.Tensor:
    return x.sqrt()


def bent(x: torch.Tensor) -> torch.Tensor:
    return 4 * (x - 0.5) ** 2


def subject(seed: int, missing: int | None = None) -> tuple[torch.Tensor, list[bool]]:
    """T1 at random, T2 = rising(T1), FLAIR = bent(T1), an empty border, and -1 all over a missing sequence."""
    t1 = torch.rand(24, 24, 24, generator=torch.Generator().manual_seed(seed)).clamp(min=1e-3)
    image = torch.stack([t1, rising(t1), bent(t1)])
    image[:, :4] = 0
    available = [k != missing for k in range(3)]
    if missing is not None:
        image[missing] = -1
    return image, available


@pytest.fixture(scope="module")
def fitted() -> IntensityMap:
    rival = IntensityMap(NAMES)
    for seed, missing in enumerate((None, 1, 2, None, 0)):
        rival.fit(*subject(seed, missing))
    return rival


@pytest.mark.parametrize(("j", "function"), [(1, rising), (2, bent)])
def test_recovers_monotone_and_other_functions(fitted: IntensityMap, j: int, function):
    image, _ = subject(9)
    torch.testing.assert_close(fitted.predict(image[0], 0, j)[4:], function(image[0, 4:]), atol=0.03, rtol=0)
    assert (fitted.predict(image[0], 0, j)[4:] - function(image[0, 4:])).abs().mean() < 1e-3


def test_recovers_the_mean_where_the_target_is_ambiguous(fitted: IntensityMap):
    flair = torch.full((1, 1, 1), 0.25)  # bent(T1) = 0.25 for T1 = 0.25 and 0.75
    assert fitted.predict(flair, 2, 0).item() == pytest.approx(0.5, abs=0.02)


def test_background_stays_empty(fitted: IntensityMap):
    image, _ = subject(9)
    assert fitted.predict(image[0], 0, 2)[:4].eq(0).all()


def test_bins_without_data_are_filled_from_their_neighbours():
    rival = IntensityMap(["A", "B"], bins=10)
    source = torch.tensor([0.15, 0.55]).reshape(1, 1, 2)
    rival.fit(torch.stack([source, 2 * source]), [True, True])
    mapped = rival.predict(torch.tensor([0.02, 0.15, 0.35, 0.55, 1.0]).reshape(1, 1, 5), 0, 1)
    torch.testing.assert_close(mapped.flatten(), torch.tensor([0.3, 0.3, 0.7, 1.1, 1.1]))


def test_subjects_add_up():
    rival = IntensityMap(["A", "B"])
    for target in (0.2, 0.4, 0.9):
        rival.fit(torch.stack([torch.full((2, 2, 2), 0.5), torch.full((2, 2, 2), target)]), [True, True])
    assert rival.predict(torch.full((1, 1, 1), 0.5), 0, 1).item() == pytest.approx(0.5)


def test_a_pair_never_seen_together_raises():
    rival = IntensityMap(NAMES)
    for seed, missing in enumerate((1, 2)):
        rival.fit(*subject(seed, missing))
    rival.predict(subject(9)[0][0], 0, 1)
    with pytest.raises(ValueError, match="both T2 and FLAIR"):
        rival.predict(subject(9)[0][1], 1, 2)


def test_wrong_number_of_sequences_raises():
    with pytest.raises(ValueError, match="2 images and 3 flags"):
        IntensityMap(NAMES).fit(torch.rand(2, 4, 4, 4), [True] * 3)


def test_copy_source_is_the_source():
    image = torch.rand(3, 3, 3)
    assert copy_source(image, 0, 1) is image


def test_the_mean_curve_scales_the_mapped_first_frame():
    """T1, then a series of three frames: each is first * 2 or * 0.5 in the head, on average over the subjects."""
    rival = IntensityMap(["T1", "DCE 1", "DCE 2", "DCE 3"])
    curve = MeanCurve(rival, [range(1, 4)])
    for gain in (1.5, 2.5):
        first = torch.full((2, 2, 2), 0.2)
        first[0] = 0
        image = torch.stack([2 * first, first, gain * first, 0.5 * first])
        rival.fit(image, [True] * 4)
        curve.fit(image, [True] * 4)
    curve.fit(torch.full((4, 2, 2, 2), 0.3), [True, False, True, True])  # without its first frame it tells nothing
    t1 = torch.tensor([0.4, 0.0]).reshape(1, 1, 2)
    for j, expected in ((1, 0.2), (2, 0.4), (3, 0.1)):
        torch.testing.assert_close(curve.predict(t1, 0, j).flatten(), torch.tensor([expected, 0.0]))


def test_a_curve_never_seen_raises():
    curve = MeanCurve(IntensityMap(["T1", "DCE 1", "DCE 2"]), [range(1, 3)])
    curve.fit(torch.rand(3, 2, 2, 2), [True, True, False])
    with pytest.raises(ValueError, match="both DCE 1 and DCE 2"):
        curve.predict(torch.rand(2, 2, 2), 0, 2)
