"""A picture of every completed subject, from the files that `run inference` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.transforms import LoadImage, Orientation, ResampleToMatch
from torch import Tensor

from ..data.check import same_grid
from ..data.subjects import SPLITS, list_of, read_subjects
from ..files import what_it_is
from .pictures import completion_picture


def draw_completed(completed_dir: str, dataset_dir: str, *, subject_list: str = "", axis: int = 2) -> list[Path]:
    """Draws `<completed_dir>/<subject>/<subject>.png`: sources, synthesised, true where known, and the error.

    Intensities are shown relative to each acquired image's 99.5th percentile; a synthesised image, which has no scale
    of its own, is brought to its truth's by one factor where the truth is known.

    Args:
        completed_dir: the output folder of `run inference`.
        dataset_dir: the folder that holds the subject list; its "withheld" images are the truth.
        subject_list: another list than `subjects.json`.
        axis: the spatial axis that the slices are taken along, after RAS: 0 sagittal, 1 coronal, 2 axial.

    Returns:
        The pictures' paths.
    """
    read, folder = _Reader(), list_of(dataset_dir, subject_list).parent
    known = _known_images(dataset_dir, subject_list)

    def acquired(subject: str, path: str, sequence: str = "") -> str:
        """The file that a sidecar names as seen from the list's folder, or by its name where it lies elsewhere."""
        seen, listed = folder / path, known.get(subject, {})
        alike = [listed[sequence]] if sequence in listed else [f for f in listed.values() if Path(f).name == path]
        return str(seen) if seen.is_file() or not alike else alike[0]

    made = []
    for sidecar_dir in sorted({path.parent for path in Path(completed_dir).glob("*/*_*.json")}):
        sidecars = _sidecars(sidecar_dir)
        if not sidecars:
            continue
        subject = sidecars[0]["subject"]
        names = [s["target"] for s in sidecars]
        grid = read(acquired(subject, sidecars[0]["grid"]))
        sources = {n: read(acquired(subject, path, n), grid) for s in sidecars for n, path in s["sources"].items()}
        synthesised = {name: read(sidecar_dir / f"{subject}_{name}.nii.gz") for name in names}
        truth = {name: read(file, grid) for name, file in known.get(subject, {}).items() if name in names}
        for name in truth:
            synthesised[name] = synthesised[name] * _factor(synthesised[name], truth[name])
        path = sidecar_dir / f"{subject}.png"
        spacing = tuple(float(v) for v in nib.affines.voxel_sizes(np.asarray(grid.affine)))
        completion_picture(
            path,
            sources=_arrays(sources),
            synthesised=_arrays(synthesised),
            truth=_arrays(truth),
            spacing=spacing,
            axis=axis,
            title=subject,
        )
        made.append(path)
    if not made:
        raise FileNotFoundError(f"No completed subject in {completed_dir}, the output_dir of `run inference`.")
    return made


def _sidecars(folder: Path) -> list[dict[str, Any]]:
    """Of the completed images alone: uncertainties, differentiation maps and scores lie in such folders too."""
    found = {}
    for path in sorted(folder.glob("*_*.json")):
        try:
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found[path.stem], dict):
                raise ValueError(f"it holds a {type(found[path.stem]).__name__}")
        except ValueError as error:
            reason = what_it_is(path) or error
            raise ValueError(f"{path} is damaged ({reason}). Run the inference of {folder.name} again.") from None
    return [content for name, content in found.items() if name == f"{content.get('subject')}_{content.get('target')}"]


class _Reader:
    """Files as RAS images [1, X, Y, Z], on another's grid where it is given."""

    def __init__(self) -> None:
        self.load = LoadImage(image_only=True, ensure_channel_first=True, reader="NibabelReader")
        self.orient = Orientation("RAS", labels=None)
        self.match = ResampleToMatch(mode="bilinear", padding_mode="zeros")

    def __call__(self, path: str | Path, grid: Tensor | None = None) -> Tensor:
        image = self.orient(self.load(path))
        if grid is None or not same_grid(image.shape[1:], image.affine, grid.shape[1:], grid.affine):
            return image
        return self.match(image, img_dst=grid)


def _arrays(images: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: np.asarray(image[0]) for name, image in images.items()}


def _factor(made: Tensor, truth: Tensor) -> float:
    """The least-squares factor from a synthesised image to its truth, over the truth's foreground."""
    inside = truth > 0
    return float((made[inside] * truth[inside]).sum() / (made[inside] ** 2).sum().clamp(min=1e-12))


def _known_images(dataset_dir: str, subject_list: str) -> dict[str, dict[str, str]]:
    """Per subject the files of its sequences, those withheld from inference among them."""
    listed = read_subjects(list_of(dataset_dir, subject_list))
    entries = [entry for split in SPLITS for entry in listed[split]]
    return {entry["subject"]: {**entry["images"], **entry.get("withheld", {})} for entry in entries}
