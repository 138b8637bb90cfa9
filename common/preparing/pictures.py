"""What was prepared, to be looked at: a picture of each subject, and a page of all, worst first."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..files import replacing, write_text
from ..inference.pictures import PLANES, upright, white_level
from .session import Image, Prepared

MARGIN_MM = 15.0  # around the brain
WIDTH = 900  # pixels of a picture in the page


def draw_prepared(path: Path, found: Prepared) -> None:
    """A row per sequence: three planes as it came with its own brain mask's outline, and as it is now with the
    reference's brain, so that what lies awry is seen.
    """
    from matplotlib.figure import Figure

    count = len(found.images)
    figure = Figure((12.6, 2.3 * count + 0.7), layout="constrained", facecolor="black")
    axes = figure.subplots(count, 6, squeeze=False, width_ratios=[1] * 6)
    for row, (name, image) in zip(axes, found.images.items(), strict=True):
        _panels(row[:3], image.native, np.asarray(image.native.dataobj, np.float32), image.brain, "#ffb347")
        _panels(row[3:], found.grid, image.prepared, np.asarray(found.grid.dataobj) > 0, "#66ccee")
        row[0].set_title(f"{name} as it came, {image.millilitres:.0f} ml", color="white", fontsize=9, loc="left")
        row[3].set_title(f"{name} prepared: {_said(image, found.reference)}", color="white", fontsize=9, loc="left")
    figure.suptitle(found.subject, color="white", fontsize=11)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=100)


def _said(image: Image, reference: str) -> str:
    placed = image.registered
    if placed is None:
        return "the reference"
    how = f"moved {placed.moved_mm:.2f} mm" if placed.kept else "by its headers"
    return f"{how}, Dice {placed.dice[placed.kept]:.3f} with {reference}"


def _panels(axes: Sequence[Any], grid: nib.Nifti1Image, data: np.ndarray, brain: np.ndarray, colour: str) -> None:
    volume, mask = (
        nib.as_closest_canonical(nib.Nifti1Image(each.astype(np.float32), grid.affine)) for each in (data, brain)
    )
    spacing = nib.affines.voxel_sizes(volume.affine)
    values, inside = volume.get_fdata(dtype=np.float32), mask.get_fdata(dtype=np.float32)
    places = np.argwhere(inside)
    middle = places.mean(0).round().astype(int)
    around = np.ceil(MARGIN_MM / spacing).astype(int)
    box = tuple(map(slice, (places.min(0) - around).clip(min=0), places.max(0) + around + 1))
    values, inside, middle = values[box], inside[box], middle - [each.start for each in box]
    for panel, plane in zip(axes, PLANES, strict=True):
        across, up = (spacing[axis] for axis in range(3) if axis != plane.axis)
        shown, outline = (upright(each, plane.axis, middle[plane.axis]) for each in (values, inside))
        panel.imshow(shown, cmap="gray", vmin=0, vmax=white_level(values), aspect=up / across)
        panel.contour(outline, [0.5], colors=colour, linewidths=0.6)
        panel.set_axis_off()


def write_page(path: Path, records: Sequence[dict], failed: Mapping[str, str]) -> None:
    """One HTML file: what failed, then the subjects by their warnings and how well their brain masks agree."""
    from ..evaluation.page import page, table

    ranked = sorted(records, key=lambda record: (-len(record["warnings"]), record["lowest_dice"]))
    header = ("subject", "images", "reference", "voxels in mm", "lowest Dice", "most moved, mm", "warnings")
    rows = []
    for record in ranked:
        placed = [image["registration"] for image in record["images"].values() if "registration" in image]
        moved = max((each["moved_mm"] for each in placed if each["kept"] == "registered"), default=0.0)
        cells = (record["subject"], ", ".join(record["images"]), record["reference"], record["grid"]["spacing"])
        rows.append((*map(escape, cells), f"{record['lowest_dice']:.3f}", f"{moved:.2f}", str(len(record["warnings"]))))
    sections = [("", table(header, rows))]
    if failed:
        sections.insert(
            0, ("Left out", table(("subject", "why"), [(escape(n), escape(why)) for n, why in failed.items()]))
        )
    for record in ranked:
        said = "".join(f"<p><b>{escape(each)}</b></p>" for each in record["warnings"])
        series = table(
            [escape(cell) for cell in record["series"][0]], [map(escape, row) for row in record["series"][1:]]
        )
        sections.append((record["subject"], f"{said}{_picture(path.parent / record['subject'])}{series}"))
    write_text(path, page("Prepared subjects", sections))


def _picture(folder: Path) -> str:
    """A subject's picture in the page itself, small."""
    from PIL import Image as Picture

    with Picture.open(folder / "preparation.png") as picture, io.BytesIO() as small:
        picture = picture.convert("RGB")
        picture.resize((WIDTH, round(WIDTH * picture.height / picture.width))).save(small, "JPEG", quality=85)
        data = base64.b64encode(small.getvalue()).decode()
    return f'<img alt="before and after" style="max-width:100%" src="data:image/jpeg;base64,{data}">'
