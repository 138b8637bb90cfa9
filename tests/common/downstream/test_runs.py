import json

import pytest

from common.downstream.runs import Runs


def test_an_arm_is_run_once(tmp_path):
    calls = []

    def run():
        calls.append(1)
        return {"accuracy": 0.5, "seeds": (0, 1)}

    first = Runs(tmp_path, {"seed": 0})
    second = Runs(tmp_path, {"seed": 0})
    assert first("1000/maps", run, size=3) == second("1000/maps", run, size=3) == {"accuracy": 0.5, "seeds": [0, 1]}
    assert len(calls) == 1 and second.results == first.results
    record = json.loads((tmp_path / "arms" / "1000" / "maps.json").read_text())
    assert record["settings"] == {"seed": 0, "size": 3} and {"torch", "monai"} <= record["versions"].keys()


def test_an_arm_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        Runs(tmp_path, {})("arm", lambda: (_ for _ in ()).throw(RuntimeError("stopped")))
    assert Runs(tmp_path, {})("arm", lambda: {"value": 1}) == {"value": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"seed": 1}, "seed 0, now 1"), ({}, "seed only there"), ({"seed": 0, "noise": 1}, "noise only now")],
)
def test_results_of_other_settings_are_refused(tmp_path, settings, message):
    Runs(tmp_path, {"seed": 0})("arm", lambda: {"value": 1})
    with pytest.raises(ValueError, match=rf"arm\.json was made with {message}.*another output_dir"):
        Runs(tmp_path, settings)("arm", lambda: {"value": 2})


def test_a_damaged_result_is_named(tmp_path):
    Runs(tmp_path, {})("arm", lambda: {"value": 1})
    (tmp_path / "arms" / "arm.json").write_text('{"result"')
    with pytest.raises(ValueError, match=r"arm\.json is damaged"):
        Runs(tmp_path, {})("arm", lambda: {"value": 2})
