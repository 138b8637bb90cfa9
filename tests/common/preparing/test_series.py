"""Which contrast a series is: a table of what scanners write, and the best of several."""

from __future__ import annotations

import pytest

from common.data.names import SEQUENCES
from common.preparing.series import Series, as_lines, choose, table, told

SAID = [
    # description, TR, TE, TI in ms, scanning sequence, image type, agent: sequence or why not
    ("ax T2 FLAIR", 9000, 100, 2500, "SE", "ORIGINAL\\PRIMARY\\M", "", "FLAIR"),
    ("t2_tirm_tra_dark-fluid", 9000, 90, 2500, "SE_IR", "", "", "FLAIR"),
    ("3D_Brain_VIEW_FLAIR", 4800, 300, 1650, "IR", "", "", "FLAIR"),
    ("t1_mprage_sag_p2_iso", 2300, 3, 900, "GR_IR", "ORIGINAL\\PRIMARY\\M", "", "T1"),
    ("t1_mprage_sag_p2_iso_KM", 2300, 3, 900, "GR_IR", "", "", "T1Gd"),
    ("t1_mprage", 2300, 3, 900, "GR_IR", "", "Gadovist", "T1Gd"),
    ("Ax T1 +C", 500, 10, 0, "SE", "", "", "T1Gd"),
    ("Ax T1 PRE CONTRAST", 500, 10, 0, "SE", "", "NONE", "T1"),
    ("Ax T1 FLAIR", 2000, 10, 800, "SE_IR", "", "", "T1"),
    ("sT1W_3D_TFE", 8, 3.7, 0, "GR", "", "", "T1"),
    ("T2W_TSE", 3000, 80, 0, "SE", "ORIGINAL\\PRIMARY\\M_SE\\M\\SE", "", "T2"),
    ("pd_tse", 3000, 20, 0, "SE", "", "", "PD"),
    ("", 5000, 100, 0, "SE", "", "", "T2"),
    ("", 500, 10, 0, "SE", "", "", "T1"),
    ("", 5000, 100, 0, "", "", "", "neither"),
    ("T1 3D", 5000, 100, 0, "SE", "", "", "says T1, but TR 5000, TE 100, TI 0 ms are those of T2"),
    ("localizer", 20, 5, 0, "GR", "", "", "a localiser"),
    ("3-plane loc", 20, 5, 0, "GR", "", "", "a localiser"),
    ("ep2d_diff_ADC", 5000, 100, 0, "EP", "DERIVED\\PRIMARY\\DIFFUSION\\ADC", "", "a map"),
    ("t1_mprage", 2300, 3, 900, "GR", "ORIGINAL\\PRIMARY\\P\\ND", "", "phase"),
    ("b1000", 5000, 100, 0, "SE", "", "", "diffusion"),
    ("t2_fl2d_tra_hemo", 700, 20, 0, "GR", "", "", "susceptibility"),
    ("ax", 3000, 80, 0, "EP", "", "", "echo-planar"),
    ("TOF_3D_multi-slab", 20, 4, 0, "GR", "", "", "an angiography"),
    ("FLAIR synthesised from T1", 0, 0, 0, "RM", "DERIVED\\SECONDARY", "", "made by a network"),
]


@pytest.mark.parametrize(("description", "tr", "te", "ti", "scanning", "kinds", "agent", "expected"), SAID)
def test_rules(description: str, tr: float, te: float, ti: float, scanning: str, kinds: str, agent: str, expected: str):
    said = {"SeriesDescription": description, "RepetitionTime": tr / 1000, "EchoTime": te / 1000}
    said |= {"InversionTime": ti / 1000, "ScanningSequence": scanning, "ImageType": kinds, "ContrastBolusAgent": agent}
    sequence, reason = told(said, (256, 256, 30))
    assert sequence == expected if expected in SEQUENCES else (sequence == "" and expected in reason)


def test_shapes_that_are_no_volume():
    assert told({"SeriesDescription": "t1"}, (256, 256, 30, 5)) == ("", "more than one volume")
    assert told({"SeriesDescription": "t1"}, (256, 256, 3))[1] == "fewer than 8 slices, no volume"


def of(name: str, spacing: tuple[float, ...], kinds: str = "ORIGINAL") -> Series:
    return Series(name, None, {"SeriesDescription": "t1", "ImageType": kinds}, (256, 256, 30), spacing)


def test_the_best_of_several():
    """Original, thin, small, last; the user's word is above all."""
    candidates = [
        of("series2", (1, 1, 5)),
        of("series3", (1, 1, 1), "DERIVED\\SECONDARY\\MPR"),
        of("series9", (0.5, 0.5, 3)),
        of("series10", (0.5, 0.5, 3)),
        of("series11", (0.9, 0.9, 3)),
    ]
    assert choose(candidates)["T1"].name == "series10"
    assert [each.sequence for each in candidates] == ["", "", "", "T1", ""]
    assert candidates[0].reason.startswith("T1 is taken from series10 (original before reformatted")
    text = as_lines(table(candidates))
    assert len(text.splitlines()) == 6 and "left out" in text and "(0.5, 0.5, 3)" in text


def test_map():
    candidates = [of("series2", (1, 1, 5)), of("series3", (1, 1, 1))]
    assert choose(candidates, {"T1": "2"})["T1"].name == "series2"
    assert candidates[1].reason == "--map takes T1 from 2"
    for each in candidates:
        each.sequence = ""
    assert choose(candidates, {"T1": "", "T2": "series3"}) == {"T2": candidates[1]}
