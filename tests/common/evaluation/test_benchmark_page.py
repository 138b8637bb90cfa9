"""Methods that do not make the same pairs are compared by those that all make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.evaluation.benchmark_page import _of_most_pairs, _of_shared_pairs
from common.evaluation.runs import Run


def run(folder: Path, name: str, pairs: set[tuple[str, str]]) -> Run:
    made = Run.read(name, str(folder), "declared")
    scores = {method: {k: v for k, v in of.items() if k[1:] in pairs} for method, of in made.scores.items()}
    return made._replace(scores=scores)


def test_pairs_that_all_make(results: Callable[..., Path]):
    one, both = {("T1", "T2")}, {("T1", "T2"), ("T2", "T1")}
    first, second = results("one", [20, 22, 27]), results("two", [24, 25, 26])
    kept, said = _of_shared_pairs([run(first, "all", both), run(second, "directed", one)])
    assert all({key[1:] for key in each.scores["network"]} == one for each in kept)
    assert said == ["Compared by what directed can make: T1 to T2."]
    assert _of_shared_pairs([run(first, "all", both), run(second, "other", both)])[1] == []
    three = [run(first, "all", both), run(second, "directed", one), run(second, "other", both)]
    assert [each.name for each in _of_most_pairs(three)] == ["all", "other"]
    with pytest.raises(ValueError, match="No pair is made by all of"):
        _of_shared_pairs([run(first, "all", one), run(second, "directed", {("T2", "T1")})])
