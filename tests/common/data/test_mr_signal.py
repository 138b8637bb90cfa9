from math import exp, log

import numpy as np
import pytest

from common.data.mr_signal import (
    PRESETS,
    RELAXIVITY,
    TISSUES,
    Acquisition,
    corrupt,
    enhanced_t1,
    nulling_ti,
    resolve,
    spin_echo,
)


def signal(tissue: str, acquisition: str | Acquisition) -> float:
    t1, t2, pd, dose = TISSUES[tissue]
    if resolve(acquisition).gadolinium:
        t1 = enhanced_t1(t1, dose)
    return float(spin_echo(pd, t1, t2, acquisition))


def test_tissue_table():
    assert TISSUES["white_matter"][:3] == (850, 75, 0.70)
    assert TISSUES["grey_matter"][:3] == (1400, 95, 0.82)
    assert TISSUES["csf"][:3] == (4300, 1900, 1.0)


@pytest.mark.parametrize(
    ("pd", "t1", "t2", "times", "by_hand", "literal"),
    [
        (0.70, 850, 75, (600, 10, 0), 0.70 * (1 - exp(-600 / 850)) * exp(-10 / 75), 0.3101868),
        (1.0, 4300, 1900, (4000, 100, 0), (1 - exp(-4000 / 4300)) * exp(-100 / 1900), 0.5744918),
        (0.82, 1400, 95, (9000, 120, 2481),
         0.82 * abs(1 - 2 * exp(-2481 / 1400) + exp(-9000 / 1400)) * exp(-120 / 95), 0.1534186),
        # Before its null point the longitudinal magnetization is negative: the magnitude counts.
        (1.0, 1000, 100, (3000, 20, 100), -(1 - 2 * exp(-0.1) + exp(-3)) * exp(-0.2), 0.6221435),
    ],
)  # fmt: skip
def test_equation(pd, t1, t2, times, by_hand, literal):
    value = spin_echo(pd, t1, t2, Acquisition(*times))
    assert value == pytest.approx(by_hand, rel=1e-12)
    assert value == pytest.approx(literal, rel=1e-6)


def test_broadcasts_over_maps():
    pd = np.full((2, 3), 0.7)
    assert spin_echo(pd, 850, np.full(3, 75.0), "T2").shape == (2, 3)


def test_contrasts():
    csf, grey, white, lesion = "csf", "grey_matter", "white_matter", "lesion"
    assert signal(white, "T1") > signal(grey, "T1") > signal(csf, "T1")
    assert signal(lesion, "T1") < signal(white, "T1")
    assert signal(csf, "T2") > signal(lesion, "T2") > signal(grey, "T2") > signal(white, "T2")
    assert signal(grey, "PD") > signal(white, "PD")
    assert signal(csf, "FLAIR") < 0.01 * signal(white, "FLAIR")
    assert signal(lesion, "FLAIR") > 1.2 * signal(grey, "FLAIR") > signal(white, "FLAIR")


def test_gadolinium():
    assert (PRESETS["T1Gd"].tr, PRESETS["T1Gd"].te) == (PRESETS["T1"].tr, PRESETS["T1"].te)
    for tissue, values in TISSUES.items():
        assert (signal(tissue, "T1Gd") > 1.3 * signal(tissue, "T1")) == (values.gadolinium > 0)
    assert {tissue for tissue, values in TISSUES.items() if values.gadolinium} == {"rim", "vessel"}
    assert RELAXIVITY == 0.0045
    assert enhanced_t1(1000, 0.5) == pytest.approx(1 / (0.001 + 0.00225))
    assert enhanced_t1(1000, 0) == pytest.approx(1000)


def test_nulling_ti():
    assert nulling_ti(9000, 4300) == pytest.approx(4300 * log(2 / (1 + exp(-9000 / 4300))))
    assert PRESETS["FLAIR"].ti == round(nulling_ti(9000, 4300))
    assert spin_echo(1, 1234, 100, Acquisition(5000, 20, nulling_ti(5000, 1234))) == pytest.approx(0, abs=1e-12)


def test_resolve():
    assert resolve("T2") is PRESETS["T2"]
    own = Acquisition(2000, 30, 700)
    assert resolve(own) is own
    assert resolve("IR", {"IR": (2000, 30, 700)}) == own
    assert resolve("IR", {"IR": own}) is own
    assert resolve("T2", {"T2": [3500, 90, 0]}) == Acquisition(3500, 90, 0)
    assert resolve("T1Gd", {"T1Gd": (700, 12, 0)}) == Acquisition(700, 12, 0, gadolinium=True)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((0, 10), "TR=0 ms, TE=10 ms"),
        ((500, -1), "TR=500 ms, TE=-1 ms"),
        ((500, 500), "TE must be shorter than TR: TE=500 ms, TR=500 ms"),
        ((500, 10, -5), "TI=-5 ms, TR=500 ms"),
        ((500, 10, 900), "TI=900 ms, TR=500 ms"),
        ((float("nan"), 10), "finite"),
    ],
)
def test_impossible_times(times, message):
    with pytest.raises(ValueError, match=message):
        Acquisition(*times)


def test_unknown_names_and_values():
    with pytest.raises(ValueError, match=r"'DWI'.*T1, T1Gd, T2, FLAIR, PD"):
        resolve("DWI")
    for values in ((500, 10), 500, (500, 10, "long")):
        with pytest.raises(ValueError, match=r"'X' needs three numbers \(TR, TE, TI\)"):
            resolve("X", {"X": values})


def ball(level: float) -> np.ndarray:
    axes = np.ogrid[-1:1:40j, -1:1:40j, -1:1:40j]
    return np.where(sum(axis**2 for axis in axes) < 0.8, level, 0).astype(np.float32)


def test_rician_noise():
    image = ball(500)
    noisy = corrupt(image, np.random.default_rng(0), bias=0, noise=0.05)
    assert noisy.dtype == np.float32
    assert np.all(noisy[image == 0] == 0)
    assert (noisy - image)[image > 0].std() == pytest.approx(25, rel=0.03)
    # Rice's second moment: E[M^2] = A^2 + 2 sigma^2.
    assert (noisy[image > 0] ** 2).mean() == pytest.approx(500**2 + 2 * 25**2, rel=0.005)


def test_noise_where_the_brain_gives_no_signal():
    image = ball(500)
    brain = image > 0
    image[:20] = 0
    dark = corrupt(image, np.random.default_rng(0), 0, 0.05, brain=brain)[:20][brain[:20]]
    # Without signal Rice's law is Rayleigh's, of mean sigma * sqrt(pi / 2).
    assert dark.mean() == pytest.approx(25 * np.sqrt(np.pi / 2), rel=0.03)


def test_bias_field():
    image = ball(500)
    field = corrupt(image, np.random.default_rng(1), bias=0.3, noise=0)[image > 0] / 500
    assert 0.7 - 1e-5 <= field.min() < 0.9 and 1.1 < field.max() <= 1.3 + 1e-5
    smooth = corrupt(image, np.random.default_rng(1), bias=0.3, noise=0)
    inside = (image[1:] > 0) & (image[:-1] > 0)
    assert np.abs(np.diff(smooth, axis=0))[inside].max() < 0.1 * 500
    np.testing.assert_array_equal(corrupt(image, np.random.default_rng(1), bias=0, noise=0), image)


@pytest.mark.parametrize(("bias", "noise"), [(1.0, 0.03), (-0.1, 0.03), (0.2, -0.01), (0.2, float("nan"))])
def test_corrupt_rejects(bias, noise):
    with pytest.raises(ValueError, match=f"bias={bias}, noise={noise}"):
        corrupt(ball(1), np.random.default_rng(0), bias, noise)
