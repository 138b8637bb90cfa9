"""Every setting to every other, each image at its own parameters, with what training did not see marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .common.data.preparation import Subjects
from .common.evaluation.evaluator import MatrixEvaluator
from .common.inference.inferers import MatrixInferer
from .common.options import words
from .inference import AtParameters, with_parameters

# The translations that the paper reports.
PAPERS_TRANSLATIONS = [
    *(("FSE5", target) for target in ("FSE9", "FSE1", "FSE7")),
    *(("FSE7", target) for target in ("FSE5", "FSE1", "FSE9")),
]


class SettingsEvaluator(MatrixEvaluator):
    """A `MatrixEvaluator` whose report lists some translations by themselves, and has the rivals from physics.

    Args:
        inferer: of the network's slots.
        subjects: of a list.
        held_out: names of settings that training did not see; the intensity map does not see them either.
        translations: pairs of names; None are the paper's.
        others: see `MatrixEvaluator`.
    """

    def __init__(
        self,
        *,
        inferer: MatrixInferer,
        subjects: Subjects,
        held_out: str | Sequence[str] = (),
        translations: Sequence[Sequence[str]] | None = None,
        **others: Any,
    ) -> None:
        held_out = words(held_out)
        chosen = PAPERS_TRANSLATIONS if translations is None else translations
        super().__init__(
            inferer=AtParameters(inferer),
            subjects=subjects,
            mapped=[name for name in subjects.sequences if name not in held_out],
            info={"held_out": held_out, "translations": [list(pair) for pair in chosen]},
            prepare_batch=with_parameters,
            physics=subjects.scaling["per"] == "subject",  # else images do not compare
            **others,
        )
