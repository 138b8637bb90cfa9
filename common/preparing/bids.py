"""Synthesised images as a BIDS derivative, from what `complete` wrote."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import replacing, write_text

ENDINGS = {"T1": "T1w", "T1Gd": "T1w", "T2": "T2w", "FLAIR": "FLAIR", "PD": "PDw"}
VERSION = "1.10.0"


def write_bids(completed_dir: Path, output_dir: Path, raw: Path) -> list[Path]:
    """Copies each `<subject>/<subject>_<target>.nii.gz` to `sub-<label>/anat/sub-<label>_desc-synth_<suffix>.nii.gz`.

    Args:
        completed_dir: what `complete` wrote.
        output_dir: becomes a derivative of BIDS, with `dataset_description.json`.
        raw: the folder of the scans.

    Returns:
        The images.

    Raises:
        ValueError: there is none, two subjects' names become one label, or BIDS has no suffix for a sequence.
    """
    written: dict[Path, Path] = {}
    origin: dict[str, Any] = {}
    for source, said in _made(completed_dir):
        if said["target"] not in ENDINGS:
            raise ValueError(f"BIDS has no suffix for {said['target']} ({source}); it has for {', '.join(ENDINGS)}.")
        place = output_dir / bids_path(said["subject"], said["target"])
        if place in written:
            raise ValueError(f"{source} and {written[place]} would both be {place}: rename their subjects.")
        written[place] = source
        origin = said
        with replacing(place) as partial:
            shutil.copyfile(source, partial)
            text = json.dumps(sidecar(said), indent=1)
            write_text(place.with_name(place.name.replace(".nii.gz", ".json")), text)
    if not written:
        raise ValueError(f"{completed_dir} holds no image that `complete` made.")
    made_by = {"Name": origin.get("bundle", "mri-contrast"), "Version": origin.get("bundle_version", "unknown")}
    text = {"Name": "Synthesised MRI contrasts", "BIDSVersion": VERSION, "DatasetType": "derivative"}
    text["DatasetLinks"] = {"raw": raw.resolve().as_uri()}
    write_text(output_dir / "dataset_description.json", json.dumps({**text, "GeneratedBy": [made_by]}, indent=1))
    write_text(output_dir / "README.md", "Images made by a network, not acquired. Not for clinical use.\n")
    return list(written)


def _made(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(folder.glob("*/*_*.json")):
        said = json.loads(path.read_text(encoding="utf-8"))
        if path.stem == f"{said.get('subject')}_{said.get('target')}":
            yield path.with_suffix(".nii.gz"), said


def bids_path(subject: str, target: str) -> Path:
    """Where an image stands in the data set, by its subject's name, such as `sub-01_ses-02` or any other."""
    parts = re.fullmatch(r"sub-([A-Za-z0-9]+)(?:_ses-([A-Za-z0-9]+))?", subject)
    label, session = parts.groups() if parts else (re.sub(r"[^A-Za-z0-9]", "", subject) or "0", None)
    entities = [f"sub-{label}", *([f"ses-{session}"] if session else [])]
    agent = ["ce-gadolinium"] if target == "T1Gd" else []
    name = "_".join([*entities, *agent, "desc-synth", ENDINGS[target]])
    return Path(*entities, "anat", f"{name}.nii.gz")


def sidecar(said: dict[str, Any]) -> dict[str, Any]:
    """BIDS' fields, before those of `complete`."""
    sources = said["sources"]
    return {
        "Description": f"{said['target']} synthesised from {', '.join(sources)}; not acquired, not for clinical use",
        "Sources": [f"bids:raw:{file}" for file in sources.values()],
        "SynthesizedFrom": list(sources),
        "SkullStripped": True,
        **{key: value for key, value in said.items() if key != "sources"},
    }
