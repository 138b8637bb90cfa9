"""What a request may say, by the kind of its task. Nothing else gets any further."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

TRAINING: dict[str, Callable] = {
    "epochs": int,
    "val_interval": int,
    "batch_size": int,
    "num_workers": int,
    "learning_rate": float,
}
INFERENCE = ("target", "source", "resample", "device", "save_label", "label_tag", "result_extension", "result_dtype")
TASKS = {
    "train": ("model", "pretrained", "device", *TRAINING),
    "batch_infer": ("model", "images", "target", "device"),
    "scoring": ("method", "model", "split", "device"),
}


def chosen(request: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Of a request, what is known. Viewers send more, which is left out.

    Raises:
        ValueError: an option is nearly a known one.
    """
    known = list(known)
    for name in request:
        if name not in known and (nearest := difflib.get_close_matches(name, known, 1, cutoff=0.8)):
            raise ValueError(f"There is no option {name!r}; did you mean {nearest[0]!r}?")
    return {name: request[name] for name in known if name in request}


def training_options(request: Mapping[str, Any]) -> dict[str, Any]:
    """Of a request, what a training's configuration may be given.

    Raises:
        ValueError: one of them is no number that is possible.
    """
    given = {name: request[name] for name in TRAINING if request.get(name) not in (None, "")}
    try:
        options = {name: TRAINING[name](value) for name, value in given.items()}
        exact = all(float(given[name]) == value for name, value in options.items())
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{given} must all be numbers.") from None
    if not exact or not all(math.isfinite(value) for value in options.values()):
        raise ValueError(f"{given} must be whole numbers, but for the learning rate, and finite.")
    if low := [name for name, value in options.items() if value <= 0 and (name != "num_workers" or value < 0)]:
        raise ValueError(f"{', '.join(low)} must be above 0: {given}.")
    return options
