from math import exp, pi, sqrt

import numpy as np
import pytest
from scipy.integrate import quad

from common.data.dynamic import (
    DIFFUSIVITY,
    HAEMATOCRIT,
    KINETICS,
    Kinetics,
    apparent_diffusion,
    arterial_plasma,
    concentration,
    convolve_exponential,
    diffusion_weighted,
    wash_in,
    wash_out,
)
from common.data.mr_signal import TISSUES, GradientEcho, enhanced_t1, gradient_echo

RIM = Kinetics(0.12, 0.3, 0.06)


def parker(minutes: float) -> float:
    """Blood, mmol/l, written out."""
    first = 0.809 / (0.0563 * sqrt(2 * pi)) * exp(-((minutes - 0.17046) ** 2) / (2 * 0.0563**2))
    second = 0.330 / (0.132 * sqrt(2 * pi)) * exp(-((minutes - 0.365) ** 2) / (2 * 0.132**2))
    return first + second + 1.050 * exp(-0.1685 * minutes) / (1 + exp(-38.078 * (minutes - 0.483)))


def test_tables_have_all_tissues():
    assert list(KINETICS) == list(DIFFUSIVITY) == list(TISSUES)
    assert max(DIFFUSIVITY, key=DIFFUSIVITY.get) == "csf" and min(DIFFUSIVITY, key=DIFFUSIVITY.get) == "white_matter"


def test_arterial_plasma():
    # First pass at 0.17046 min: 0.809 / (0.0563 sqrt(2 pi)) = 5.7326, recirculation adds 0.3365, the rest is nothing.
    assert arterial_plasma(60 * 0.17046) * (1 - HAEMATOCRIT) == pytest.approx(5.7326 + 0.3365, abs=2e-3)
    # After 5 min only the exponential is left: 1.050 exp(-0.1685 * 5) = 0.45217.
    assert arterial_plasma(300) * 0.58 == pytest.approx(0.45217, abs=1e-4)
    np.testing.assert_array_equal(arterial_plasma([-1e6, -1, 0]), 0)
    times = np.linspace(1, 400, 37)
    np.testing.assert_allclose(arterial_plasma(times) * 0.58, [parker(t / 60) for t in times], rtol=1e-9)


@pytest.mark.parametrize("rate", [1e-4, 0.4, 30.0])
def test_convolution_is_exact_between_samples(rate):
    t = 0.1 * np.arange(60)
    line = convolve_exponential(2 + 3 * t, rate, 0.1)  # int (2 + 3u) exp(-k (t-u)) du, by parts
    expected = (2 + 3 * t) / rate - 2 * np.exp(-rate * t) / rate - 3 * (1 - np.exp(-rate * t)) / rate**2
    np.testing.assert_allclose(line, expected, rtol=1e-5, atol=1e-9 / rate**2)


def test_concentration_is_that_of_the_integral():
    for seconds in (20.0, 60.0, 210.0, 450.0):
        t = seconds / 60
        integral, _ = quad(lambda u, t=t: parker(u) * exp(-0.4 * (t - u)), 0, t, points=[min(0.3, t / 2)], epsabs=1e-9)
        expected = (0.06 * parker(t) + 0.12 * integral) / (1 - HAEMATOCRIT)
        assert concentration(seconds, RIM) == pytest.approx(expected, rel=2e-3)
    assert concentration([-10, 0], RIM).tolist() == [0, 0]
    # Without exchange it is the plasma's share, however it is sampled.
    np.testing.assert_allclose(concentration([60, 61.5], Kinetics(0, 0, 0.04)), 0.04 * arterial_plasma([60, 61.5]))


def test_vessels_are_brightest_and_necrosis_does_not_enhance():
    curves = {name: concentration([60, 210, 450], kinetics) for name, kinetics in KINETICS.items()}
    assert (curves["vessel"] > curves["rim"]).all() and (curves["rim"] > 3 * curves["grey_matter"]).all()
    assert not curves["necrosis"].any() and not curves["csf"].any()


def test_spoiled_gradient_echo_of_the_agent():
    # White matter, 1 mmol/l: R1 = 1 / 850 + 0.0045 per ms, E1 = exp(-0.0283824) = 0.972017; then Ernst's equation.
    e1 = exp(-5 * (1 / 850 + 0.0045))
    assert e1 == pytest.approx(0.972017, abs=1e-6)
    by_hand = 0.7 * np.sin(pi / 12) * (1 - e1) / (1 - np.cos(pi / 12) * e1) * exp(-1.6 * 2 / 75)
    signal = gradient_echo(0.7, enhanced_t1(850, 1.0), 75, GradientEcho(tr=5, te=2, flip=15))
    assert signal == pytest.approx(by_hand, rel=1e-9) and by_hand == pytest.approx(0.079505, abs=2e-6)


def test_diffusion():
    # exp(-800 * 0.75e-3) = exp(-0.6) = 0.548812
    np.testing.assert_allclose(diffusion_weighted([200.0], [0, 800], [0.75e-3]), [[200, 109.7623]], rtol=1e-6)
    truth = np.array([[0.7e-3, 3e-3], [1.1e-3, 0.0]])
    series = diffusion_weighted(np.full((2, 2), 500.0), [0, 150, 800, 1500], truth)
    np.testing.assert_allclose(apparent_diffusion(series, [0, 150, 800, 1500]), truth, atol=1e-12)
    # Two frames: log(1000 / 500) / 1000.
    assert apparent_diffusion([1000.0, 500.0], [0, 1000]) == pytest.approx(0.693147e-3, rel=1e-6)
    assert apparent_diffusion([[1000.0, 0.0]], [0, 1000]).tolist() == [0]


def test_wash_in_and_out():
    series = np.array([[100.0, 160, 220, 200, 190], [100, 90, 80, 70, 60], [100, 110, 120, 130, 140]])
    times = [0, 60, 120, 300, 420]
    np.testing.assert_array_equal(wash_in(series), [120, 0, 40])
    np.testing.assert_array_equal(wash_out(series), [30, 30, 0])
    np.testing.assert_array_equal(wash_in(series, times), [60, 0, 40 / 7])  # 120 in 2 min, 40 in 7 min
    np.testing.assert_allclose(wash_out(series, times), [6, 5, 0])  # 30 in 5 min, 30 in 6 min
    np.testing.assert_array_equal(wash_in(series, baseline=2), [220 - 130, 0, 140 - 105])
    np.testing.assert_array_equal(wash_in(series, times, baseline=2)[:1], [90])  # within a minute
    np.testing.assert_array_equal(wash_in(series.astype(np.uint8)), [120, 0, 40])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wash_in(np.ones(3), [0, 60]), "one time per frame: 2 .*(3,)"),
        (lambda: wash_in(np.ones(3), [0, 60, 60]), "ascend"),
        (lambda: wash_out(np.ones(3), baseline=3), "baseline is 3 of 3"),
        (lambda: wash_in(np.ones(3), baseline=0), "baseline is 0"),
        (lambda: apparent_diffusion(np.ones((2, 3)), [0, 1]), "one b value per frame"),
        (lambda: apparent_diffusion(np.ones(2), [800, 800]), "two different"),
        (lambda: concentration(10, Kinetics(0.1, 0, 0.1)), "ve > 0"),
        (lambda: concentration(10, Kinetics(-0.1, 0.2, 0.1)), "Ktrans >= 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
