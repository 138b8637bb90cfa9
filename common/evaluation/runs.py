"""Evaluated runs that may be compared: those measured alike. The others are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .scores import ScoreTable, is_sequence

Key = tuple[str, str, str]  # subject, source, target

# What has to be equal in two runs' JSON, and what to do where it is not.
CONDITIONS = {
    "convention": "evaluate both under one convention",
    "truth": "evaluate both with the same --truth",
    "brain_mask": "evaluate both on one subject list, with or without brain masks",
    "disturbance": "evaluate both with the same --disturbance",
    "level": "evaluate both with the same --level",
    "seed": "evaluate both with the same --seed",
    "grid": "evaluate both with the same --grid",
    "lpips": "evaluate both with the same --lpips_weights",
}


class Run(NamedTuple):
    """One evaluated run.

    Attributes:
        name: what it is called in the comparison.
        info: its JSON: convention, truth, weights' sha256 ...
        scores: by method ("network", "copy", "map"), then by subject, source and target, the metrics. Only plain pairs
            with source != target: "others" and paths over a third sequence stay out.
    """

    name: str
    info: dict[str, Any]
    scores: dict[str, dict[Key, dict[str, float]]]

    @classmethod
    def read(cls, name: str, folder: str, convention: str) -> Run:
        """See `ScoreTable.read`."""
        table = ScoreTable.read(folder, convention)
        scores: dict[str, dict[Key, dict[str, float]]] = {"network": {}}
        for row in table.rows:
            method, subject, source, target = (row.pop(key) for key in ("method", "subject", "source", "target"))
            if source != target and is_sequence(source):
                scores.setdefault(method, {})[subject, source, target] = row
        return cls(name, table.info, scores)

    def condition(self, name: str) -> Any:
        """One of `CONDITIONS`; level and seed of a disturbance are none where nothing was disturbed."""
        if name in ("level", "seed") and self.info.get("disturbance") == "none":
            return None
        return self.info.get(name)


def read_runs(folders: Sequence[str], convention: str = "declared", names: Sequence[str] = ()) -> list[Run]:
    """The runs in these output folders of `run evaluating`.

    Args:
        folders: two or more.
        convention: whose scores are read.
        names: what to call the runs; by default, by their folders' names.

    Raises:
        FileNotFoundError: a folder has no scores under the convention.
        ValueError: fewer than two folders, names that do not tell them apart, or runs that were not measured alike.
    """
    if len(folders) < 2:
        raise ValueError("Name two or more folders with results to compare.")
    names = list(names) or [Path(folder).resolve().name for folder in folders]
    if len(names) != len(folders) or len(set(names)) < len(names):
        raise ValueError(f"{len(folders)} runs need as many different names, not {', '.join(names)}; pass --names A,B.")
    runs = [Run.read(name, folder, convention) for name, folder in zip(names, folders, strict=True)]
    for other in runs[1:]:
        check_alike(runs[0], other)
    return runs


def check_alike(first: Run, other: Run) -> None:
    """Lets pass what was measured alike.

    Raises:
        ValueError: the two differ in a condition, a subject or a pair; it names both runs, both values and the remedy.
    """
    start = f"{first.name} and {other.name} do not compare:"
    for name, remedy in CONDITIONS.items():
        mine, others = first.condition(name), other.condition(name)
        unshared = name == "lpips" and "missing" in (mine, others)  # then it is not among the metrics compared
        if mine != others and not unshared:
            raise ValueError(f"{start} {name} is {mine!r} in {first.name} and {others!r} in {other.name}; {remedy}.")
    for what, form in (("subjects", "{0}"), ("pairs", "{1} to {2}"), ("scores", "{0} from {1} to {2}")):
        mine, others = ({form.format(*key) for key in run.scores["network"]} for run in (first, other))
        if mine != others:
            raise ValueError(
                f"{start} {first.name} has {len(mine)} {what}{_alone(mine - others)}, {other.name} has {len(others)}"
                f"{_alone(others - mine)}; evaluate both on the same subjects and sequences."
            )
    mine, others = (run.info.get("label_sha256", {}) for run in (first, other))
    for subject in mine.keys() & others.keys():
        # Older scores have one of all sequences together.
        ours, theirs = ({"image": of} if isinstance(of, str) else of for of in (mine[subject], others[subject]))
        if not (shared := ours.keys() & theirs.keys()):
            raise ValueError(f"{start} they do not tell of the same true images of {subject}; evaluate both again.")
        for name in shared:
            if ours[name] != theirs[name]:
                raise ValueError(
                    f"{start} the true {name} of {subject} has the sha256 {ours[name][:12]} in {first.name} and "
                    f"{theirs[name][:12]} in {other.name}; evaluate both on the same files."
                )


def _alone(names: set[str]) -> str:
    """Up to three of the names that one run has and the other lacks."""
    shown = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
    return f" ({shown} it alone)" if names else ""
