"""What trained weights say of themselves: a JSON beside them, which stands in for the options of their training.

In a configuration, `"normalisation": "$@described('normalisation', 'trimmed_mean')"` is what the weights were trained
with, or the configuration's own where they have no description. An option given on the command line or by an overlay
takes that expression's place; if the weights were trained with another one, `check_trained_alike` refuses it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import what_it_is, write_text

ADVICE = "Copy it again, or remove it and give the options of the training."
KINDS = {
    **{"network": dict, "sequences": list, "normalisation": str, "sha256": str, "roi_size": list, "divisible": list},
    **{"axes": str, "crop": list, "frames": dict},
    **{"trained_on": str, "expected": dict, "uncertainty": dict},
}


class Description:
    """What is known of weights, called with the name of an option and the configuration's own value.

    Args:
        path: of the weights; there may be none, or no description beside them.

    Attributes:
        found: what their description says.
        network: the options of their network.
    """

    def __init__(self, path: str | Path) -> None:
        self.found = read(path)
        self.network: dict[str, Any] = self.found.get("network", {})

    def __call__(self, name: str, own: Any) -> Any:
        return self.found.get(name, self.network.get(name, own))


def read(path: str | Path) -> dict[str, Any]:
    """The description of the weights in `path`, empty without one.

    Raises:
        ValueError: it is no JSON object.
    """
    file = description_file(path)
    if not Path(path).is_file() or not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({what_it_is(file) or error}). {ADVICE}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} must hold a JSON object, not {type(found).__name__}. {ADVICE}")
    for name, kind in KINDS.items():
        if name in found and not isinstance(found[name], kind):
            raise ValueError(f"{file} is damaged: {name} is {found[name]!r}, no {kind.__name__}. {ADVICE}")
    return found


def write(path: Path, network: object, **more: Any) -> None:
    """Describes the weights in `path`, whole or not at all."""
    write_text(description_file(path), json.dumps(describe(network, **more), indent=4) + "\n")


def describe(network: object, **more: Any) -> dict[str, Any]:
    """`more`, and the options of a network."""
    options = {**getattr(network, "options", {}), **getattr(network, "chosen", {})}
    return json.loads(json.dumps({**more, "network": options}))


def expected(found: Mapping[str, Any], target: str, sources: Sequence[str]) -> dict[str, Any]:
    """The score that weights are described to have (`common.evaluation.expected`); {} where it does not say.

    Args:
        found: their description.
        target: a sequence.
        sources: those that it is made from, in the network's order.

    Returns:
        psnr (dB) and ssim, each [mean, standard deviation over subjects or None], their number "subjects", convention,
        region, and which subjects "of" which list they were.
    """
    table = found.get("expected", {})
    numbers = table.get("scores", {}).get(target, {}).get("+".join(sources))
    return {**numbers, **{name: table[name] for name in ("convention", "region", "of")}} if numbers else {}


def error_bound(spread: Any, numbers: Mapping[str, Any]) -> Any:
    """What a stated share of an image's voxels is off by at most, see `common.evaluation.calibration`.

    Args:
        spread: standard deviation over sources, an array or a tensor; nan, all of it, where there was one.
        numbers: of the target: "one" and "several".
    """
    constant, slope = numbers.get("several", [numbers["one"], 0.0])
    bound = (constant**2 + (slope * spread) ** 2) ** 0.5
    bound[spread != spread] = numbers["one"]
    return bound


def description_file(path: str | Path) -> Path:
    """model.json of model.pt."""
    return Path(path).with_suffix(".json")


def check_trained_alike(
    path: str | Path, found: Mapping[str, Any], options: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
    """Raises a ValueError with both values where weights were trained with another one of these.

    Args:
        path: of the weights.
        found: their description.
        options: of the network.
        settings: of the configuration.
    """
    there = {f"network_def#{k}": v for k, v in found.get("network", {}).items()} | dict(found)
    changes = differences(there, {**{f"network_def#{k}": v for k, v in options.items()}, **settings})
    if changes:
        raise ValueError(
            f"{path} was trained with {'; '.join(changes)}. Leave such options and overlays out: those of the training "
            "are known."
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What both know and know otherwise, as "name 'there', now 'here'"; of mappings, their items."""
    found = []
    for name, value in json.loads(json.dumps(here)).items():
        if isinstance(value, dict) and isinstance(there.get(name), dict):
            found += differences(there[name], value)
        elif name in there and there[name] != value:
            found.append(f"{name} {there[name]!r}, now {value!r}")
    return found


def changes(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """`differences`, and what one of them alone knows."""
    here = json.loads(json.dumps(here, default=str))
    alone = [f"{name} only there" for name in there if name not in here]
    return [*differences(there, here), *alone, *(f"{name} only now" for name in here if name not in there)]
