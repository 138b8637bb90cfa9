"""The contrasts that radiology knows, from relaxation and settings."""

import numpy as np
import pytest
from numpy.random import RandomState

from common.data.mr_signal import GradientEcho, gradient_echo
from common.data.tissues import CANONICAL, INDEX, RELAXATION, Patient, draw_setting, signal_table

PATIENTS = [Patient.drawn(RandomState(seed)) for seed in range(30)]


def shown(sequence: str, tissue: str) -> np.ndarray:
    """Signal of a tissue at the canonical setting, in each of the patients."""
    gadolinium = sequence == "T1Gd"
    return np.array([p.signal(CANONICAL[sequence], gadolinium=gadolinium)[INDEX[tissue]] for p in PATIENTS])


def by_pulses(t1: float, t2: float, timing: GradientEcho) -> float:
    """The magnetisation of an MPRAGE pulse by pulse, until it repeats itself."""
    angle, ready, signal = np.deg2rad(timing.flip), 1.0, 0.0
    half = timing.pulses * timing.spacing / 2

    def recovered(value: float, time: float) -> float:
        return 1 - (1 - value) * np.exp(-time / t1)

    for _ in range(30):
        value = recovered(-ready, timing.ti - half)
        for pulse in range(int(timing.pulses)):
            if pulse == timing.pulses // 2:
                signal = abs(value) * np.sin(angle) * np.exp(-1.6 * timing.te / t2)
            value = recovered(value * np.cos(angle), timing.spacing)
        ready = recovered(value, timing.tr - timing.ti - half)
    return signal


@pytest.mark.parametrize(("t1", "t2"), [(850, 80), (1331, 95), (4300, 1500)])
def test_mprage_pulse_by_pulse(t1: float, t2: float):
    timing = GradientEcho(tr=2000, te=3, flip=9, ti=900)
    assert gradient_echo(1.0, t1, t2, timing) == pytest.approx(by_pulses(t1, t2, timing), rel=1e-6)


def test_spoiled_gradient_echo_is_ernsts():
    flip, e1 = np.deg2rad(70), np.exp(-200 / 850)
    expected = 0.7 * np.sin(flip) * (1 - e1) / (1 - np.cos(flip) * e1) * np.exp(-1.6 * 4 / 80)
    assert gradient_echo(0.7, 850, 80, GradientEcho(tr=200, te=4, flip=70)) == pytest.approx(expected)


def test_a_train_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"A train of 1200 ms around TI=900 ms does not fit TR=1400 ms"):
        GradientEcho(tr=1400, te=3, flip=9, ti=900, pulses=160)
    assert GradientEcho(tr=1400, te=3, flip=9, ti=900).pulses == pytest.approx(2 * 500 / 7.5), "as many as fit"
    assert GradientEcho(tr=2000, te=3, flip=9, ti=900).pulses == 160


@pytest.mark.parametrize(
    ("times", "message"),
    [((2000, 3, 0), "above 0"), ((2000, 3, 120), "up to 90"), ((7, 3, 9, 450), "TI must be 0 .* below TR")],
)
def test_a_gradient_echo_that_no_scanner_plays_is_refused(times: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        GradientEcho(*times)


def test_the_truth_of_t1():
    white, grey, fluid = (shown("T1", name) for name in ("white_matter", "cortex", "ventricle"))
    assert (white > grey).all() and (grey > fluid).all()
    assert (shown("T1", "black_hole") < white).all()
    for lesion in ("plaque", "gliosis", "oedema", "tumour", "rim", "necrosis", "infarct", "cavity"):
        assert (shown("T1", lesion) < white).mean() > 0.9, lesion


def test_the_truth_of_t2():
    white, grey, fluid = (shown("T2", name) for name in ("white_matter", "cortex", "ventricle"))
    assert (white < grey).all() and (grey < fluid).all()
    assert (shown("T2", "plaque") > 1.3 * white).all()


def test_the_truth_of_flair():
    white, grey, fluid = (shown("FLAIR", name) for name in ("white_matter", "cortex", "ventricle"))
    assert np.median(grey / white) > 1.03 and (fluid < white).all() and (fluid < grey).all()
    for lesion in ("plaque", "gliosis", "oedema", "infarct"):
        contrast = shown("FLAIR", lesion) / white
        assert (contrast > 1.1).mean() >= 0.9 and np.median(contrast) > 1.3, lesion
    assert (shown("FLAIR", "cavity") < white).all()


def test_gadolinium_shows_only_where_it_is_taken_up():
    without, given = (np.array([shown(name, tissue) for tissue in RELAXATION]) for name in ("T1", "T1Gd"))
    enhancing = np.array([each.gadolinium > 0 for each in RELAXATION.values()])
    np.testing.assert_allclose(given[~enhancing], without[~enhancing], rtol=1e-12)
    assert (given[INDEX["rim"]] > 1.4 * without[INDEX["rim"]]).all()
    assert (given[INDEX["vessel"]] > 2 * without[INDEX["vessel"]]).all()


@pytest.mark.parametrize("sequence", list(CANONICAL))
def test_drawn_settings_are_of_their_sequence(sequence: str):
    """Fluid against white matter tells T1 and FLAIR from T2 and PD at any clinical setting."""
    rng = RandomState(0)
    for patient in PATIENTS:
        setting = draw_setting(sequence, rng, patient.t1[INDEX["csf"]])
        signal = patient.signal(setting)
        ratio = signal[INDEX["ventricle"]] / signal[INDEX["white_matter"]]
        assert ratio > 1.5 if sequence == "T2" else ratio < 1.5 if sequence == "PD" else ratio < 0.95


def test_signal_table_has_the_change_with_water():
    patient, names = PATIENTS[0], ["T1", "T2"]
    table = signal_table(patient, [CANONICAL[name] for name in names], names)
    assert table.shape == (len(RELAXATION), 4)
    white, fluid = table[INDEX["white_matter"]], table[INDEX["csf"]]
    assert white[2] < 0 < white[3], "water darkens T1 and brightens T2"
    assert not fluid[2:].any(), "fluid has no texture"
