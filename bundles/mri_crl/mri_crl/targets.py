"""Which images are wanted: by the name of a setting, by (TR, TE, TI) in ms, or as a BIDS sidecar says it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from .common.data.acquisition import NAMES, Parameters, check_parameters, four, parameters_by_name, read_sidecar
from .common.data.mr_signal import FSE9
from .common.description import Description
from .common.inference.inferers import resolve_targets
from .common.options import words

logger = logging.getLogger(__name__)
Wanted = str | Sequence[float]


def trained_settings(described: Description) -> dict[str, list[float]]:
    """Name to (TR, TE, TI) in ms, and FA, of what weights were trained with, else of the paper's nine settings."""
    return described("acquisitions", {name: [each.tr, each.te, each.ti] for name, each in FSE9.items()})


class Targets:
    """The S named settings of a network, and behind them further ones that were asked for by their parameters.

    Args:
        targets: None (what a subject lacks), "all" (every named setting), or one or several of: a name, (TR, TE, TI) in
            ms, (TR, TE, TI, FA) of a gradient echo, a sidecar's path that ends in .json.
        sequences: the S names, in the network's order.

    Attributes:
        names: [S + F], the F further ones called like `TR8000_TE100_TI2000`.
        further: their parameters.

    Raises:
        ValueError: an unknown name, or parameters that no scanner could play or whose unit is wrong.
    """

    def __init__(self, targets: Wanted | Sequence[Wanted] | None, sequences: Sequence[str]) -> None:
        self.names, self.further = list(sequences), []
        single = bool(targets) and not isinstance(targets[0], str | Sequence)
        several = [targets] if single else words(targets)
        self._wanted = targets if targets in (None, "all") else [self._name(each) for each in several]
        resolve_targets(self._wanted, self.names, ())  # unknown names are known before any work is done

    def _name(self, wanted: Wanted) -> str:
        if isinstance(wanted, str) and not wanted.endswith(".json"):
            return wanted
        parameters = _parameters(wanted)
        name = parameters_name(parameters)
        if name not in self.names:
            self.names.append(name)
            self.further.append(parameters)
        return name

    def slots(self, available: Sequence[int]) -> list[int]:
        """What is wanted of a subject, as indices into `names`."""
        return resolve_targets(self._wanted, self.names, available)

    def settings(self, parameters: Tensor) -> Tensor:
        """Parameters [S, 4] of a subject's sequences to those of all `names`, [S + F, 4]."""
        return torch.cat([parameters, torch.tensor(four(self.further)).view(-1, len(NAMES)).to(parameters)])


def parameters_name(parameters: Parameters) -> str:
    """(8000, 100, 2000) to `TR8000_TE100_TI2000`, and (2000, 3, 900, 9) to `TR2000_TE3_TI900_FA9`, for file names."""
    return "_".join(f"{name}{value:g}" for name, value in parameters_by_name(parameters).items())


def warn_outside(parameters: Tensor, trained_range: Tensor) -> list[str]:
    """Logs and returns a sentence for each parameter of [T, 4] that lies outside the `trained_range` of its family."""
    texts = []
    if trained_range.ndim == 3:
        for is_gradient_echo, known in zip((False, True), trained_range.unbind(1), strict=True):
            rows = parameters[(parameters[:, 3] > 0) == is_gradient_echo]
            texts += warn_outside(rows, known) if len(rows) else []
        return texts
    for k, (name, low, high) in enumerate(zip(NAMES, *trained_range.tolist(), strict=False)):
        times = {round(time, 3) for time in parameters[:, k].tolist()}
        beyond = sorted(time for time in times if not low - 1e-3 <= time <= high + 1e-3)
        if beyond:
            values, unit = ", ".join(f"{time:g}" for time in beyond), "degrees" if name == "FA" else "ms"
            texts.append(
                f"{name} {values} {unit} lies outside {low:g} to {high:g} {unit}, on which the network was trained."
            )
    for text in texts:
        logger.warning(f"{text} The image is an extrapolation.")
    return texts


def _parameters(wanted: Wanted) -> Parameters:
    if isinstance(wanted, str):
        if (found := read_sidecar(wanted)) is None:
            raise ValueError(f"{wanted}: has no RepetitionTime and EchoTime.")
        return found
    if len(wanted) not in (3, 4):
        raise ValueError(
            f"targets has {wanted!r}; give (TR, TE, TI) in ms, with FA of a gradient echo, a name, or a sidecar's path."
        )
    return check_parameters(*wanted, where=f"targets {list(wanted)}")
