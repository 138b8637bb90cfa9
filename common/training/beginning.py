"""A training that begins with other weights."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from ..distributed import is_main_process
from ..inference.weights import check_sha256, read_state

logger = logging.getLogger(__name__)


def begin_with(network: nn.Module, init_weights: str | Path) -> list[str]:
    """Copies the tensors of a weights file that the network has in the same shape; the others stay as they are.

    Returns:
        The names of those that do not fit, which are logged: with both shapes, or where they are missing.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, not the described one, or nothing in it fits.
    """
    if not Path(init_weights).is_file():
        raise FileNotFoundError(f"No weights at {init_weights}: pass another --init_weights FILE, or none.")
    check_sha256(init_weights)
    found, own = read_state(init_weights), network.state_dict()
    fits = {name: value for name, value in found.items() if name in own and own[name].shape == value.shape}
    if not fits:
        raise ValueError(f"Nothing in {init_weights} fits this network: it is another method's, or of other options.")
    network.load_state_dict(fits, strict=False)
    left = {
        name: f"{_shape(found, name)} in the file, {_shape(own, name)} in the network"
        for name in sorted((own.keys() | found.keys()) - fits.keys())
    }
    if is_main_process():
        logger.info(f"{len(fits)} tensors begin as in {init_weights}.")
        for name, difference in left.items():
            logger.warning(f"{name} does not: {difference}.")
    return list(left)


def _shape(state: dict, name: str) -> str:
    return "x".join(map(str, state[name].shape)) or "a number" if name in state else "none"
