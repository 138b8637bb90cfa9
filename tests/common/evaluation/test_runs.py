"""Only runs that were measured alike are compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.evaluation.runs import read_runs
from common.evaluation.scores import ScoreTable

Results = Callable[..., Path]


def test_the_plain_pairs_are_read(results: Results):
    one, two = read_runs([results("one", [20, 22]), results("two", [21, 23])])
    assert (one.name, two.name) == ("one", "two") and one.info["seed"] == 0
    assert list(one.scores) == ["network", "copy", "map"]
    for scores in one.scores.values():
        assert list(scores) == [("a", "T1", "T2"), ("a", "T2", "T1"), ("b", "T1", "T2"), ("b", "T2", "T1")]
    assert two.scores["network"]["b", "T2", "T1"]["psnr"] == 22


@pytest.mark.parametrize(
    ("what", "value", "remedy"),
    [
        ("convention", "aldm", "one convention"),
        ("truth", "reference", "--truth"),
        ("brain_mask", "the target's non-background", "subject list"),
        ("disturbance", "noise", "--disturbance"),
        ("grid", "T1", "--grid"),
    ],
)
def test_other_conditions_are_refused(results: Results, what: str, value: str, remedy: str):
    one, two = results("one", [20, 22]), results("two", [20, 22])
    file = two / "scores_declared.json"
    content = json.loads(file.read_text())
    first = content.get(what)
    file.write_text(json.dumps(content | {what: value}))
    message = f"one and two do not compare: {what} is {first!r} in one and {value!r} in two; "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*{remedy}"):
        read_runs([one, two])


def test_the_level_counts_only_where_there_is_a_disturbance(results: Results):
    read_runs([results("one", [20, 22], level=1), results("two", [20, 22], level=2)])
    noisy: dict[str, Any] = {"disturbance": "noise"}
    with pytest.raises(ValueError, match="level is 1 in three and 2 in four"):
        read_runs([results("three", [20, 22], level=1, **noisy), results("four", [20, 22], level=2, **noisy)])


def test_the_seed_counts_only_where_there_is_a_disturbance(results: Results):
    read_runs([results("one", [20, 22]), results("two", [20, 22], seed=7)])
    with pytest.raises(ValueError, match="seed is 0 in three and 7 in four"):
        read_runs([results(name, [20], disturbance="noise", seed=k) for name, k in (("three", 0), ("four", 7))])


def test_other_images_under_the_same_name_are_refused(results: Results):
    shas = {"one": {"T1": "ab" * 32, "T2": "ef" * 32}, "two": {"T1": "cd" * 32}}
    one, two = (results(name, [20], label_sha256={"a": sha}) for name, sha in shas.items())
    with pytest.raises(ValueError, match="the true T1 of a has the sha256 abababababab in one and cdcdcdcdcdcd in two"):
        read_runs([one, two])
    read_runs([one, results("three", [20], label_sha256={"a": {"T1": "ab" * 32}})])  # which knows no T2


def test_scores_of_older_versions_have_one_sum_of_all_images(results: Results):
    one, two = (results(name, [20], label_sha256={"a": sha * 32}) for name, sha in (("one", "ab"), ("two", "cd")))
    with pytest.raises(
        ValueError, match="the true image of a has the sha256 abababababab in one and cdcdcdcdcdcd in two"
    ):
        read_runs([one, two])


def test_lpips_of_another_backbone_is_refused(results: Results):
    one, two = (results(name, [20, 22], lpips=sha) for name, sha in (("one", "aa"), ("two", "bb")))
    with pytest.raises(ValueError, match=r"lpips is 'aa' in one and 'bb' in two; .*--lpips_weights"):
        read_runs([one, two])
    read_runs([one, results("three", [20, 22])])  # where it is missing, it is not compared


def test_other_subjects_are_refused(results: Results):
    one, two = results("one", [20, 22, 21]), results("two", [20, 22], subjects=["a", "z"])
    message = r"one has 3 subjects \(b, c it alone\), two has 2 \(z it alone\); evaluate both on the same"
    with pytest.raises(ValueError, match=message):
        read_runs([one, two])


def test_other_pairs_are_refused(results: Results, tmp_path: Path):
    one = results("one", [20, 22])
    table, fewer = ScoreTable.read(one), ScoreTable()
    gap, mixed = ("network", "T2", "T1"), ScoreTable()
    for row in table.rows:
        method, subject, source, target = (row.pop(key) for key in ("method", "subject", "source", "target"))
        if (method, source, target) != gap:
            fewer.add(subject, method, source, target, row)
        if (method, source, target) != gap or subject != "b":
            mixed.add(subject, method, source, target, row)
    fewer.write(tmp_path / "two", table.info)
    mixed.write(tmp_path / "three", table.info)
    with pytest.raises(ValueError, match=r"one has 2 pairs \(T2 to T1 it alone\), two has 1;"):
        read_runs([one, tmp_path / "two"])
    with pytest.raises(ValueError, match=r"one has 4 scores \(b from T2 to T1 it alone\), three has 3;"):
        read_runs([one, tmp_path / "three"])


def test_names_tell_runs_apart(results: Results):
    folders = [results("first/eval", [20, 22]), results("second/eval", [20, 22])]
    assert [run.name for run in read_runs(folders, names=["A", "B"])] == ["A", "B"]
    with pytest.raises(ValueError, match=r"2 runs need as many different names, not eval, eval; pass --names"):
        read_runs(folders)
    with pytest.raises(ValueError, match="as many different names"):
        read_runs(folders, names=["A"])
    with pytest.raises(ValueError, match="two or more folders"):
        read_runs(folders[:1])
    with pytest.raises(FileNotFoundError, match=r"no scores under the convention 'aldm', only declared"):
        read_runs(folders, "aldm", ["A", "B"])
