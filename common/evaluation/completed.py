"""Pictures of completed subjects with their truth, from the files that `run inference` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..data.series import files_of
from ..data.subjects import SPLITS, list_of, read_subjects
from ..files import what_it_is
from ..inference import products

UNKNOWN = {"bundle": "a bundle", "bundle_version": "unknown", "weights_sha256": "unknown", "trained_on": "not stated"}


def draw_completed(
    completed_dir: str, dataset_dir: str, *, subject_list: str = "", plane: str = "", slice: int | None = None
) -> list[Path]:
    """Draws `<completed_dir>/<subject>/<subject>.png` anew: as the inference drew it, with the truth where it is known.

    Args:
        completed_dir: the output folder of `run inference`.
        dataset_dir: the folder that holds the subject list; its "withheld" images are the truth.
        subject_list: another list than `subjects.json`.
        plane: axial, coronal or sagittal alone; by default all three.
        slice: the one to show, of that plane or else axial, counted from 0 at the patient's foot, back or left.

    Returns:
        The pictures' paths.
    """
    folder = list_of(dataset_dir, subject_list).parent
    entries = _entries(dataset_dir, subject_list)
    drawn = []
    for subject_dir in sorted({path.parent for path in Path(completed_dir).glob("*/*_*.json")}):
        sidecars = _sidecars(subject_dir)
        if not sidecars:
            continue
        first, entry = next(iter(sidecars.values())), entries.get(subject_dir.name, {})
        listed = {**entry.get("images", {}), **entry.get("withheld", {})}
        listed = {name: files_of(files)[0] for name, files in listed.items()}  # of a series, the first frame is drawn
        named = {name: files_of(each)[0] for sidecar in sidecars.values() for name, each in sidecar["sources"].items()}
        images = {name: _acquired(folder, file, listed, name) for name, file in named.items()}
        drawn.append(
            products.draw_completed(
                subject_dir,
                first["subject"],
                grid_file=_acquired(folder, first["grid"], listed),
                images={**entry.get("images", {}), **images},
                made={name: list(sidecar["sources"]) for name, sidecar in sidecars.items()},
                origin={**UNKNOWN, **first},
                uncertain=[name for name in sidecars if _is_of(subject_dir, sidecars[name], f"{name}_uncertainty")],
                withheld=entry.get("withheld"),
                plane=plane,
                index=slice,
            )
        )
    if not drawn:
        raise FileNotFoundError(f"No completed subject in {completed_dir}, the output_dir of `run inference`.")
    return drawn


def _acquired(folder: Path, path: str, listed: dict[str, str], sequence: str = "") -> str:
    """The file that a sidecar names as seen from the list's folder, or by its name where it lies elsewhere."""
    seen = folder / path
    alike = [listed[sequence]] if sequence in listed else [f for f in listed.values() if Path(f).name == path]
    return str(seen) if seen.is_file() or not alike else alike[0]


def _sidecars(folder: Path) -> dict[str, dict[str, Any]]:
    """By target, of the completed images alone: differentiation maps and scores lie in such folders too."""
    found = {path.stem: _read(path) for path in sorted(folder.glob("*_*.json"))}
    return {s["target"]: s for name, s in found.items() if name == f"{s.get('subject')}_{s.get('target')}"}


def _is_of(folder: Path, sidecar: dict[str, Any], name: str) -> bool:
    """Whether there is another image `name` of the same weights and sources, and not one of an earlier run."""
    path = folder / f"{sidecar['subject']}_{name}.json"
    other = _read(path) if path.is_file() else {}
    return bool(other) and all(other.get(key) == sidecar.get(key) for key in ("weights_sha256", "sources", "grid"))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
        return content
    except ValueError as error:
        reason = what_it_is(path) or error
        raise ValueError(f"{path} is damaged ({reason}). Run the inference of {path.parent.name} again.") from None


def _entries(dataset_dir: str, subject_list: str) -> dict[str, dict[str, Any]]:
    listed = read_subjects(list_of(dataset_dir, subject_list))
    return {entry["subject"]: entry for split in SPLITS for entry in listed[split]}
