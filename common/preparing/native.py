"""What was made on the prepared grid, back on the grid of an image as the scanner made it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from ..data.finding import SYNTHESISED
from ..files import replacing, write_text
from .grids import resampled

RECORD = "preparation.json"


class Made(NamedTuple):
    """One synthesised image, or its uncertainty: the file, its sidecar, and how its subject was prepared."""

    file: Path
    said: dict[str, Any]
    record: dict[str, Any]

    @property
    def target(self) -> str:
        return self.said["target"]

    @property
    def is_uncertainty(self) -> bool:
        return self.file.name.endswith("_uncertainty.nii.gz")


def records(prepared_dir: Path) -> list[dict[str, Any]]:
    """How each subject of a folder was prepared.

    Raises:
        ValueError: none was.
    """
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(prepared_dir.glob(f"*/{RECORD}"))]
    if not found:
        raise ValueError(
            f"{prepared_dir} was not made by `mri-contrast prepare`, so that no image's own grid is known: pass what "
            "was, or --prepare."
        )
    return found


def record_of(image: Path) -> dict[str, Any]:
    """How the subject of a prepared image was prepared.

    Raises:
        ValueError: it was not.
    """
    if not (path := image.with_name(RECORD)).is_file():
        raise ValueError(f"{image} was not made by `mri-contrast prepare`, so that no DICOM study is known to join.")
    return json.loads(path.read_text(encoding="utf-8"))


def made_images(completed_dir: Path, prepared_dir: Path) -> Iterator[Made]:
    """The synthesised images, each with its uncertainty where there is one, of an inference on what `prepare` made."""
    for record in records(prepared_dir):
        subject = record["subject"]
        for sidecar in sorted((completed_dir / subject).glob(f"{subject}_*.json")):
            said = json.loads(sidecar.read_text(encoding="utf-8"))
            if sidecar.stem.removesuffix("_uncertainty") == f"{subject}_{said.get('target')}":
                yield Made(sidecar.with_suffix(".nii.gz"), said, record)


def sequence_of_grid(record: Mapping[str, Any], wanted: str) -> str:
    """Whose own grid is meant: the reference's by "native", else that of the sequence which is named.

    Raises:
        ValueError: the session has no such image.
    """
    name = record["reference"] if wanted == "native" else wanted
    if name not in record["images"]:
        known = ", ".join(["native", *record["images"]])
        raise ValueError(f"{record['subject']} has no {name} for --on_grid; there are: {known}.")
    return name


def on_grid(made: Made, grid: nib.Nifti1Image, transform: np.ndarray) -> np.ndarray:
    """float32 [X, Y, Z] of a synthesised image on a grid that lies in an image's own mm, in one resampling.

    Raises:
        ValueError: it is a series.
    """
    image = nib.load(made.file)
    if image.ndim > 3:
        raise ValueError(f"{made.file.name} is a series, which no other grid and no DICOM is made of: take NIfTI.")
    return resampled(image, grid, np.linalg.inv(transform))


def write_on_grid(made: Made, wanted: str) -> Path:
    """Writes `<name>_on_<sequence>.nii.gz` and its sidecar beside the image of that name; returns its path."""
    name = sequence_of_grid(made.record, wanted)
    image = made.record["images"][name]
    grid = nib.Nifti1Image(np.zeros(image["shape"][:3], np.uint8), np.array(image["affine"]))
    found = nib.Nifti1Image(on_grid(made, grid, np.array(image["transform"])), grid.affine)
    found.header["descrip"] = SYNTHESISED
    found.header.set_xyzt_units("mm")
    path = made.file.with_name(made.file.name.replace(".nii.gz", f"_on_{name}.nii.gz"))
    with replacing(path) as partial:
        nib.save(found, partial)
        said = {**made.said, "grid": f"the own grid of {name}, {Path(str(image['series'])).name}"}
        write_text(path.with_name(path.name.replace(".nii.gz", ".json")), json.dumps(said, indent=1))
    return path
