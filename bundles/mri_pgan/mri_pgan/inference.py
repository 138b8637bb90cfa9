"""What a network of one direction is asked for, and what it is scored by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .common.distributed import unwrapped
from .common.evaluation.validation import SynthesisMetric
from .common.inference.inferers import (
    CompletionInferer,
    MatrixInferer,
    Route,
    available_sequences,
    resolve_targets,
)
from .network import SOURCE, TARGET

ONLY = Route((SOURCE,), (), TARGET)


class DirectedInferer(CompletionInferer):
    """A `CompletionInferer` of two sequences that makes the second from the first, and says so if asked for the first.

    Raises:
        ValueError: another target is wanted, or when it is called, the subject lacks the source.
    """

    def __init__(self, sequences: Sequence[str], targets: str | Sequence[str] | None = None, **others: Any) -> None:
        super().__init__(sequences, sequences[TARGET] if targets == "all" else targets, **others)
        if targets not in (None, "all"):
            self._check(resolve_targets(targets, sequences, ()))

    def _check(self, targets: Sequence[int], available: Sequence[int] = (SOURCE,)) -> None:
        source, target = self.sequences
        if targets and (list(targets) != [TARGET] or SOURCE not in available):
            wanted = ", ".join(self.sequences[j] for j in targets)
            lacks = "" if SOURCE in available else f", and this subject has no {source}"
            raise ValueError(
                f"{wanted} cannot be made: this network makes {target} from {source} alone{lacks}. Train another one "
                f"for the other direction, with --sequences {target},{source}."
            )

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        available = available_sequences(inputs, unwrapped(network))
        self._check(resolve_targets(self.targets, self.sequences, available), available)
        return super().__call__(inputs, network, *args, **kwargs)


class DirectedMatrixInferer(MatrixInferer):
    """A `MatrixInferer` of whose routes only the first sequence to the second counts; the others have no source."""

    def __init__(self, sequences: Sequence[str], **others: Any) -> None:
        super().__init__(sequences, **others)
        self.routes = [route if route == ONLY else Route((), (), route.target) for route in self.routes]


class TargetMetric(SynthesisMetric):
    """A `SynthesisMetric` of the second sequence alone."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:
        return super()._compute_tensor(y_pred, y)[:, TARGET:]
