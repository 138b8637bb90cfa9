"""What is asked for, by name, by parameters, by sidecar, and along one parameter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mri_crl.common.data.acquisition import four

from mri_crl.inference import bids
from mri_crl.sweep import series
from mri_crl.targets import Targets, parameters_name, warn_outside

NAMES = ["PD", "T2", "IR"]
SETTINGS = {"PD": [8000, 10, 0], "T2": [8000, 100, 0], "IR": [8000, 100, 2000]}


@pytest.mark.parametrize(
    ("targets", "slots", "further"),
    [
        (None, [1, 2], []),
        ("all", [0, 1, 2], []),
        ("T2", [1], []),
        (("IR", "PD"), [2, 0], []),
        ([5000, 50, 0], [3], [(5000, 50, 0)]),
        ((5000, 50, 0), [3], [(5000, 50, 0)]),
        ([[5000, 50, 0], "PD", [5000, 60.5, 900]], [3, 0, 4], [(5000, 50, 0), (5000, 60.5, 900)]),
        ([[5000, 50, 0], [5000, 50, 0]], [3, 3], [(5000, 50, 0)]),
        ([2000, 3, 900, 9], [3], [(2000, 3, 900, 9)]),
        ([], [], []),
    ],
)
def test_targets(targets, slots: list[int], further: list):
    wanted = Targets(targets, NAMES)
    assert wanted.slots([0]) == slots and wanted.further == further
    settings = wanted.settings(torch.tensor([[1.0, 2, 3, 0]] * 3))
    assert settings.shape == (3 + len(further), 4) and settings[3:].tolist() == four(further)
    assert wanted.names[3:] == [parameters_name(each) for each in further]


def test_names_for_files():
    assert parameters_name((8000.0, 98.78, 2025.0)) == "TR8000_TE98.78_TI2025"
    assert parameters_name((2000.0, 3.0, 900.0, 9.0)) == "TR2000_TE3_TI900_FA9"


def test_a_sidecar_as_target(tmp_path: Path):
    file = tmp_path / "wanted.json"
    file.write_text(json.dumps({"RepetitionTime": 5.0, "EchoTime": 0.05}))
    wanted = Targets(str(file), NAMES)
    assert wanted.further == [(5000, 50, 0)] and wanted.slots([]) == [3]
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"wanted.json: has no RepetitionTime"):
        Targets([str(file)], NAMES)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("T1", "targets has T1; this network makes PD, T2, IR"),
        ([8, 0.1, 2], r"TR is 8 ms.*looks like seconds"),
        ([[8000, 100]], r"targets has \[8000, 100\]; give \(TR, TE, TI\)"),
    ],
)
def test_bad_targets(targets, message: str):
    with pytest.raises(ValueError, match=message):
        Targets(targets, NAMES)


def test_a_warning_outside_of_what_was_trained(caplog: pytest.LogCaptureFixture):
    trained = torch.tensor([[2000.0, 9.62, 0.0], [8000.0, 104.2, 2025.0]])
    assert warn_outside(torch.tensor([[2000.0, 9.62, 0.0], [8000.0, 104.2, 2025.0]]), trained) == []
    texts = warn_outside(torch.tensor([[9000.0, 50.0, 3000.0], [9000.0, 5.0, 2500.0]]), trained)
    assert [text.split(" lies")[0] for text in texts] == ["TR 9000 ms", "TE 5 ms", "TI 2500, 3000 ms"]
    assert "outside 9.62 to 104.2 ms" in texts[1] and len(caplog.messages) == 3


def test_each_family_has_a_range_of_its_own():
    """A box around both would hold an echo of either that is far from all that were trained."""
    spin, gradient = [[400.0, 8, 0, 0], [9000.0, 150, 3000, 0]], [[6.0, 2, 0, 5], [2900.0, 5, 1200, 80]]
    trained = torch.tensor([spin, gradient]).transpose(0, 1)
    assert warn_outside(torch.tensor([spin[1], gradient[0]]), trained) == []
    texts = warn_outside(torch.tensor([[9000.0, 150, 0, 2], [6.0, 8, 0, 0]]), trained)
    assert [text.split(" lies")[0] for text in texts] == ["TR 6 ms", "TR 9000 ms", "TE 150 ms", "FA 2 degrees"]
    assert "5 to 80 degrees" in texts[-1]


def test_the_sidecar_of_a_gradient_echo_is_read_as_one(tmp_path: Path):
    for k, parameters in enumerate([(2000.0, 3.0, 900.0, 9.0), (200.0, 4.0, 0.0, 90.0), (8000.0, 98.78, 2025.0)]):
        file = tmp_path / f"{k}.json"
        file.write_text(json.dumps(bids(parameters)))
        assert Targets(str(file), NAMES).further == [parameters]


def test_a_series_along_one_parameter():
    assert series("FA", 10, 30, 3, [100, 3, 0, 9], {}) == [(100, 3, 0, 10), (100, 3, 0, 20), (100, 3, 0, 30)]
    assert series("TI", 1000, 2000, 3, "IR", SETTINGS) == [(8000, 100, 1000), (8000, 100, 1500), (8000, 100, 2000)]
    assert series("TE", 10, 100, 2, [5000, 7, 0], SETTINGS) == [(5000, 10, 0), (5000, 100, 0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("FA", 0, 80, 3, (100, 3, 0, 9)), "A sweep of FA lies above 0 degrees"),
        (("TI", 100, 200, 3, (2000, 40)), r"at is \(2000, 40\); give \(TR, TE, TI\) in ms"),
        (("FA", 1, 2, 3, "PD"), "sweep is 'FA'; it must be one of TR, TE, TI"),
        (("TI", 1000, 2000, 3, "T9"), "at is 'T9'"),
        (("TI", 1000, 2000, 1, "IR"), "two images or more"),
        (("TI", 1000, 9000, 3, "IR"), "sweep of TI: TI must be 0 .* below TR"),
        (("TR", 1, 9, 3, "PD"), "sweep of TR: TR is 1 ms.*looks like seconds"),
    ],
)
def test_bad_series(arguments: tuple, message: str):
    with pytest.raises(ValueError, match=message):
        series(*arguments, SETTINGS)
