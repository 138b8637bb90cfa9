"""TR, TE and TI from lists and sidecars, and every way in which their unit can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.data.acquisition import check_parameters, image_parameters, inherited_times, read_sidecar
from common.data.mr_signal import FSE9, PRESETS


@pytest.mark.parametrize("name", [*FSE9, *PRESETS])
def test_every_known_sequence_is_plausible_in_both_units(name: str):
    each = {**FSE9, **PRESETS}[name]
    assert check_parameters(each.tr, each.te, each.ti, where="") == (each.tr, each.te, each.ti)
    assert check_parameters(each.tr / 1000, each.te / 1000, each.ti / 1000, where="", seconds=True) == (
        each.tr,
        each.te,
        each.ti,
    )


@pytest.mark.parametrize(
    ("times", "seconds", "message"),
    [
        ((8, 100, 2000), False, r"here: TR is 8 ms, outside 20 to 30000 ms: it looks like seconds"),
        ((8000, 0.1, 2000), False, r"here: TE is 0.1 ms.*looks like seconds"),
        ((8000, 100, 2), False, r"here: TI is 2 ms.*looks like seconds"),
        ((8e6, 100, 0), False, r"TR is 8e\+06 ms.*looks like milliseconds taken for seconds"),
        ((8000, 0.1, 2), True, r"RepetitionTime is 8000 s, outside 0.02 to 30 s: it looks like milliseconds"),
        ((8, 100, 2), True, r"EchoTime is 100 s.*looks like milliseconds"),
        ((8, 0.1, 2000), True, r"InversionTime is 2000 s.*looks like milliseconds"),
        ((8e9, 100, 0), False, r"TR is 8e\+09 ms.*check it"),
        ((8000, 9000, 0), False, r"TE is 9000 ms"),
        ((500, 600, 0), False, r"here: TE must be shorter than TR: TE=600"),
        ((2000, 10, 2500), False, r"here: TI must be 0 .* below TR"),
        ((0, 10, 0), False, r"TR is 0 ms; it must be positive\."),
        ((2000, 10, -1), False, r"TI is -1 ms; it must be positive or 0"),
        ((2000, float("nan"), 0), False, "TE must be a number in ms, not nan"),
        ((True, 10, 0), False, "TR must be a number"),
        (("2000", 10, 0), False, "TR must be a number in ms, not '2000'"),
    ],
)
def test_wrong_times_are_refused_with_field_and_value(times: tuple, seconds: bool, message: str):
    with pytest.raises(ValueError, match=message):
        check_parameters(*times, where="here", seconds=seconds)


def sidecar(folder: Path, **fields: object) -> Path:
    file = folder / "sub-1_T2w.json"
    file.write_text(json.dumps(fields))
    return file


def test_a_sidecar_has_seconds(tmp_path: Path):
    file = sidecar(tmp_path, RepetitionTime=8.0, EchoTime=0.09878, InversionTime=2.025, FlipAngle=90)
    assert read_sidecar(file) == (8000, 98.78, 2025)
    assert read_sidecar(sidecar(tmp_path, RepetitionTime=8, EchoTime=0.1)) == (8000, 100, 0)
    assert read_sidecar(sidecar(tmp_path, FlipAngle=90)) is None


MPRAGE = {"RepetitionTime": 2.3, "EchoTime": 0.003, "InversionTime": 0.9}
SPOILED = {"FlipAngle": 20, "InversionTime": 0}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"FlipAngle": 9, "ScanningSequence": "GR\\IR"}, (2300, 3, 900, 9)),
        ({"FlipAngle": 9, "ScanningSequence": ["GR", "IR"]}, (2300, 3, 900, 9)),
        ({"FlipAngle": 9}, (2300, 3, 900, 9)),
        ({"FlipAngle": 9, "RepetitionTimePreparation": 2.5}, (2500, 3, 900, 9)),
        ({"FlipAngle": 90, "ScanningSequence": "GR"}, (2300, 3, 900, 90)),
        ({"FlipAngle": 9, "RepetitionTimePreparation": None}, (2300, 3, 900, 9)),
        ({"FlipAngle": 9, "ScanningSequence": "RM"}, (2300, 3, 900, 9)),
        ({"FlipAngle": 40, "EchoTime": 0.38}, (2300, 380, 900)),
        ({"FlipAngle": 20, "InversionTime": 0, "RepetitionTime": 0.03, "RepetitionTimePreparation": 2}, (30, 3, 0, 20)),
        (
            {"FlipAngle": 20, "InversionTime": 0, "RepetitionTime": None, "RepetitionTimeExcitation": 0.03},
            (30, 3, 0, 20),
        ),
        ({"FlipAngle": 120}, (2300, 3, 900)),
        ({"FlipAngle": 9, "ScanningSequence": "SE\\IR"}, (2300, 3, 900)),
    ],
)
def test_gradient_echoes_by_their_sidecars(tmp_path, more: dict, expected: tuple):
    assert read_sidecar(sidecar(tmp_path, **{**MPRAGE, **more})) == expected


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"FlipAngle": None}, "FlipAngle of a gradient echo must be a number of degrees above 0, not None"),
        ({"FlipAngle": [4, 7]}, r"FlipAngle of a gradient echo .* not \[4, 7\]"),
        ({"FlipAngle": 9, "InversionTime": None}, "An inversion is said .* no InversionTime: add it"),
        (
            {"FlipAngle": 9, "InversionTime": 0, "ScanningSequence": "GR", "SequenceVariant": "SK\\SP\\MP"},
            "no InversionTime",
        ),
        ({"FlipAngle": 9, "RepetitionTime": 0.007}, "an MPRAGE's TR counts from one inversion to the next"),
    ],
)
def test_what_a_gradient_echo_s_sidecar_must_say(tmp_path, more: dict, message: str):
    file = sidecar(tmp_path, **{**MPRAGE, "ScanningSequence": "GR\\IR", **more})
    with pytest.raises(ValueError, match=rf"json: .*{message}"):
        read_sidecar(file)
    image = Path(file.stem + ".nii.gz")
    assert inherited_times(image, {Path(): [file]}, []).get("TI") is None or more.get("RepetitionTime"), "nothing stops"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"EchoTime": 0.1}', "TR is None and TE is 0.1; give both"),
        ('{"RepetitionTime": "8", "EchoTime": 0.1}', "RepetitionTime must be a number in s, not '8'"),
        ("{", "not a readable JSON"),
        ("[]", "must hold a JSON object"),
    ],
)
def test_a_bad_sidecar_is_named(tmp_path: Path, text: str, message: str):
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.json: .*{message}"):
        read_sidecar(file)


def test_the_list_comes_before_the_sidecar_and_that_before_the_setting(tmp_path: Path):
    image, setting = tmp_path / "sub-1_T2w.nii.gz", (3000, 50, 0)
    listed = {"TR": 5000, "TE": 80, "TI": 0}
    assert image_parameters(image, None, setting, "here") == (3000, 50, 0)
    sidecar(tmp_path, RepetitionTime=4.0, EchoTime=0.06)
    assert image_parameters(image, {}, setting, "here") == (4000, 60, 0)
    assert image_parameters(image, listed, setting, "here") == (5000, 80, 0)
    with pytest.raises(ValueError, match="here: TR is 5000 and TE is None"):
        image_parameters(image, {"TR": 5000}, setting, "here")
