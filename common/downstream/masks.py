"""Predicted masks as files on the subjects' own grids, what they score there, and a picture of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from matplotlib.figure import Figure
from monai.data import MetaTensor
from monai.transforms import ResampleToMatch

from ..files import replacing
from ..inference.pictures import upright, white_level
from ..inference.products import Reader
from ..progress import bar
from .cases import Cases, Items
from .segmenter import score

OVERLAY = ("#ccbb44", "#ee6677", "#66ccee", "#aa3377")  # of a label map's values 1, 2 ...


def true_regions(item: Mapping[str, Any], cases: Cases) -> MetaTensor:
    """A subject's regions [R, X, Y, Z] on the grid of its label map, turned to RAS."""
    found = Reader(item["masks"][cases.mask]).grid
    return MetaTensor(cases.regions.channels(found.as_tensor().round(), item["subject"])).copy_meta_from(found)


def slices_of(image: MetaTensor, part: tuple[float, float] | None) -> slice:
    """The axial slices of a RAS image that lie in a part of the body, from low to high in mm; all without one."""
    if part is None:
        return slice(None)
    heights = image.affine[2, 3] + image.affine[2, 2] * torch.arange(image.shape[-1])
    inside = ((heights >= part[0]) & (heights <= part[1])).nonzero()[:, 0].tolist()
    if not inside:
        raise ValueError(f"No slice lies from {part[0]:g} to {part[1]:g} mm; ask for a smaller --gap.")
    return slice(inside[0], inside[-1] + 1)


def save_mask(probabilities: MetaTensor, item: Mapping[str, Any], cases: Cases, path: Path) -> None:
    """Writes where probabilities [R, x, y, z], of any grid, are above 0.5, as a label map of `Regions.nested`.

    They are interpolated linearly to the grid of the subject's label map, turned to RAS.
    """
    truth = true_regions(item, cases)
    found = ResampleToMatch(mode="bilinear", padding_mode="border")(probabilities, img_dst=truth)
    label = torch.zeros_like(truth.as_tensor()[0], dtype=torch.uint8)
    there = slices_of(truth, item.get("part"))
    label[..., there] = cases.regions.nested(found.as_tensor())[0][..., there]
    made = nib.Nifti1Image(label.numpy(), truth.affine.numpy())
    made.header.set_xyzt_units("mm")
    with replacing(path) as partial:
        nib.save(made, partial)


def score_masks(items: Items, folder: Path, cases: Cases) -> dict[str, dict[str, float]]:
    """By subject, `common.downstream.segmenter.score` of `<folder>/<subject>.nii.gz`, a label map as `save_mask`'s."""
    scores = {}
    for item in bar(items, desc="scoring", unit="subjects", leave=False):
        truth, read = true_regions(item, cases), Reader(item["masks"][cases.mask])
        label = torch.as_tensor(read.channels(folder / f"{item['subject']}.nii.gz"))
        predicted = torch.cat([label > k for k in range(len(cases.regions.names))])
        there = slices_of(truth, item.get("part"))
        both = (predicted[..., there], truth.as_tensor()[..., there])
        scores[item["subject"]] = score(*both, cases.regions.names, read.spacing)
    return scores


def picture(items: Items, folders: Mapping[str, Path], cases: Cases, shown: str) -> str:
    """A row per subject, in the axial slice with most of the lesion: an image, the true mask, and each arm's on it.

    Args:
        items: the subjects, with the sequence `shown`.
        folders: by arm, those of `save_mask`.
        cases: what was segmented.
        shown: the sequence below the masks.

    Returns:
        HTML, the picture in it.
    """
    columns, rows = [shown, "true", *folders], []
    for item in items:
        read, regions = Reader(item["masks"][cases.mask]), true_regions(item, cases)
        there, truth = slices_of(regions, item.get("part")), cases.regions.nested(regions.as_tensor())[0].numpy()
        image = read(item["images"][shown])
        index = int((truth > 0).sum((0, 1))[there].argmax()) + (there.start or 0)
        made = [read.channels(folder / f"{item['subject']}.nii.gz")[0] for folder in folders.values()]
        ends = [np.flatnonzero((image > 0).any(axes)) for axes in ((1, 2), (0, 2))]
        box = tuple(slice(each[0], each[-1] + 1) for each in ends)
        grey = np.clip(upright(image[box], 2, index) / white_level(image), 0, 1)
        rows.append([_coloured(grey, upright(each[box], 2, index)) for each in (0 * truth, truth, *made)])
    figure = Figure(figsize=(1.9 * len(columns), 2.2 * len(rows) + 0.3), layout="constrained", facecolor="black")
    white = {"color": "white", "fontsize": 9}
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for row, item, line in zip(axes, items, rows, strict=True):
        for ax, each in zip(row, line, strict=True):
            ax.imshow(each, interpolation="nearest")
            ax.set_axis_off()
        row[0].text(-0.06, 0.5, item["subject"], transform=row[0].transAxes, rotation=90, va="center", **white)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(name, **white)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    data = base64.b64encode(file.getvalue()).decode()
    keys = [f'<span style="color:{OVERLAY[k]}">■</span> {escape(name)}' for k, name in enumerate(cases.regions.names)]
    return f'<p class="note">{" · ".join(keys)}</p><img style="max-width:100%" src="data:image/png;base64,{data}">'


def _coloured(grey: np.ndarray, label: np.ndarray) -> np.ndarray:
    image = np.repeat(grey[..., None], 3, -1)
    for k, colour in enumerate(OVERLAY):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        image[label == k + 1] = 0.4 * image[label == k + 1] + 0.6 * rgb
    return image
