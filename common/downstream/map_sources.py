"""Which network's map stands beside a subject's image: one that has not seen the subject's person."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import workflows
from ..data.subjects import list_file, read_subjects
from ..description import read
from ..inference.weights import sha256
from .channels import map_file
from .labels import Labelled, people_seen, unseen_by

NONE = "none"  # in place of a list: nobody was seen, and nothing checks it
WORD = "of whom it has seen nobody by the word of whoever ran this, unchecked"


class Maps(NamedTuple):
    """Of each subject the folder that its maps lie below, in words where they come from, of each network the weights'
    sha256, and whether somebody's word alone says whom it has seen.
    """

    folders: list[str]
    origin: str
    weights_sha256: list[str]
    is_vouched: bool


def maps_of(
    labelled: Sequence[Labelled],
    maps: Sequence[str],
    weights: Sequence[str],
    trained_on: Sequence[str],
    **making: Any,
) -> Maps | None:
    """Of each subject, the maps by a network that has not seen its person; None where there are none.

    Args:
        labelled: the subjects.
        maps: folders of maps.
        weights: or files of weights, by which the maps are made.
        trained_on: of each network, its training's subject list, or "none".
        making: output_dir, bundle and device, and what `run differentiation` is told.

    Raises:
        ValueError: it is not said whom the networks saw, or wrongly, or all of them saw a subject's person.
    """
    if maps and weights:
        raise ValueError(f"Both maps {', '.join(maps)} and weights {', '.join(weights)}: give one of them.")
    networks = maps or weights
    if not networks:
        return None
    if len(trained_on) != len(networks):
        raise ValueError(
            f"{len(networks)} networks made the maps ({', '.join(networks)}), and --trained_on names {len(trained_on)} "
            "lists: for each give the subject list that its network was trained on, or none, for which you vouch."
        )
    known = [_described(each, labelled, is_file=bool(weights)) for each in networks]
    for file, each, found in zip(networks, trained_on, known, strict=True):
        _check_list(file, each, found.get("trained_on", ""))
    chosen = unseen_by(labelled, [set() if each == NONE else people_seen(each) for each in trained_on])
    folders = [_made(file, k, **making) for k, file in enumerate(weights)] or list(maps)
    told = "; ".join(
        f"{file}, {WORD if each == NONE else f'trained on {each}'}"
        for file, each in zip(networks, trained_on, strict=True)
    )
    origin = f"Each person's maps come from a network that has not seen them: {told}."
    sums = [found.get("weights_sha256", "unknown") for found in known]
    return Maps([folders[k] for k in chosen], origin, sums, NONE in trained_on)


def _described(network: str, labelled: Sequence[Labelled], is_file: bool) -> dict[str, Any]:
    """What a file of weights, or the sidecars of a folder of maps, say of the network.

    Raises:
        ValueError: the maps are of several networks.
    """
    if is_file:
        return {**read(network), "weights_sha256": sha256(network)}
    paths = (map_file(network, each.subject, "*") for each in labelled)
    files = (file for path in paths for file in path.parent.glob(path.name.replace(".nii.gz", ".json")))
    found = {file: json.loads(file.read_text(encoding="utf-8")) for file in files}
    networks = {(told.get("weights_sha256"), told.get("trained_on")): file for file, told in found.items()}
    if len(networks) > 1:
        raise ValueError(
            f"{' and '.join(map(str, list(networks.values())[:2]))} were made by different weights, so that no one "
            "list says whom they have seen: give each network's maps a folder of their own."
        )
    return next(iter(found.values()), {})


def _check_list(network: str, subject_list: str, told: str) -> None:
    """A list that is another than the weights tell of would let pass whom they have seen."""
    if subject_list == NONE or not told or told == "not stated":
        return
    file = list_file(subject_list)
    name = read_subjects(file).get("name") or file.parent.name
    if not told.split("; then ")[-1].startswith(f"{name}, "):
        raise ValueError(
            f"{network} says that it was trained on {told!r}, and {subject_list} is called {name!r}: name the list "
            "that it was trained on."
        )


def _made(weights: str, number: int, *, output_dir: Path, bundle: str, device: str, **paths: Any) -> str:
    folder = str(output_dir / f"maps_{number}")
    workflows.run_workflow(
        workflows.bundle_folder(bundle).name,
        "differentiation",
        ["inference", "differentiation"],
        **paths,
        output_dir=folder,
        weights=weights,
        device=f"$torch.device('{device}')",
        **{"dataset#data": "$@saver.left(@subjects.items(@split), 'maps')", "saver#pictures": False},
    )
    return folder
