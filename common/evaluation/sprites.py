"""Sprite sheets for the report's viewer: the slices of a kept subject's images as a few small pictures.

Errors are drawn from the volumes, not from the pictures: on a scale of their own they lose less to 8 bits and to WebP.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..inference.differentiation import differentiation_maps
from ..inference.pictures import ERROR_SHARE, PLANES, Plane, upright, white_level
from ..progress import bar
from .scores import evaluated_again

SLICES = 30  # per plane, at most: enough to see every region, few enough for one file
MARGIN = 4  # voxels around the brain
QUALITY = 90  # of the WebP pictures: noisy brains are 2 of 255 grey levels off on average, at half the size of lossless


class Layout(NamedTuple):
    """Which slices of a plane are shown, `voxels` along its axis, and the box [X, Y, Z] that they are cut to."""

    plane: Plane
    voxels: np.ndarray
    box: tuple[slice, ...]

    def tiles(self, image: np.ndarray) -> np.ndarray:
        """Of [X, Y, Z] the upright slices, float32 [slices, rows, columns]."""
        cut = image[self.box].astype(np.float32)
        first = self.box[self.plane.axis].start
        return np.stack([upright(cut, self.plane.axis, int(voxel) - first) for voxel in self.voxels])


def sheet(tiles: np.ndarray) -> str:
    """Slices [n, rows, columns] in [0, 1] as one grey WebP picture in base64, filled row by row.

    It is `columns(tiles)` slices wide.
    """
    count, height, width = tiles.shape
    across = columns(tiles)
    down = -(-count // across)
    filled = np.zeros((down * across, height, width), dtype=np.uint8)
    filled[:count] = (tiles.clip(0, 1) * 255).round()
    picture = filled.reshape(down, across, height, width).swapaxes(1, 2).reshape(down * height, across * width)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=QUALITY, method=4)
    return base64.b64encode(file.getvalue()).decode()


def columns(tiles: np.ndarray) -> int:
    """How many slices [n, rows, columns] stand side by side: the sheet comes out about square."""
    count, height, width = tiles.shape
    return min(count, max(1, round((count * height / width) ** 0.5)))


def layout(brain: np.ndarray, plane: Plane) -> Layout:
    """Evenly spaced slices through the brain, bool [X, Y, Z], and its box; without a brain, through the volume."""
    spans = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    spans = [span if span.size else np.arange(size) for span, size in zip(spans, brain.shape, strict=True)]
    first, last = spans[plane.axis][[0, -1]]
    voxels = np.linspace(first, last, min(SLICES, last - first + 1)).round().astype(int)
    return Layout(plane, voxels, tuple(slice(max(k[0] - MARGIN, 0), k[-1] + MARGIN + 1) for k in spans))


class Subject(NamedTuple):
    """The available sequences' images: what the network was given and what is true [S, X, Y, Z], the truth's white
    levels [S], predictions [S, S, X, Y, Z].
    """

    source: np.ndarray
    label: np.ndarray
    white: list[float]
    pred: np.ndarray
    brain: np.ndarray
    spacing: np.ndarray


def _draw_sheets(chosen: Layout, subject: Subject) -> dict[str, list]:
    """The "sheets" of `draw_subject` along one plane."""
    true = np.stack([chosen.tiles(image) for image in subject.label])  # (S, slices, rows, columns)
    given = np.stack([chosen.tiles(image) for image in subject.source])
    made = np.stack([[chosen.tiles(image) for image in row] for row in subject.pred])  # (S, S, slices, rows, columns)
    white = np.reshape(subject.white, (-1, 1, 1, 1))
    errors = np.abs(made - true) / (ERROR_SHARE * white)
    maps = None
    if len(true) > 1:
        maps = differentiation_maps(*map(torch.from_numpy, (made, true)), range(len(true))).numpy()
        maps = maps / (ERROR_SHARE * white)
    return {
        "source": [sheet(tiles) for tiles in given / white],
        "true": [sheet(tiles) for tiles in true / white],
        "synthesised": [[sheet(tiles) for tiles in row] for row in made / white],
        "error": [[sheet(tiles) for tiles in row] for row in errors],
        "differentiation": [None] if maps is None else [sheet(tiles) for tiles in maps],
    }


def _draw_plane(plane: Plane, subject: Subject) -> dict[str, Any]:
    chosen = layout(subject.brain, plane)
    brain = chosen.tiles(subject.brain)
    height, width = brain.shape[1:]
    across, up = (float(subject.spacing[axis]) for axis in range(3) if axis != plane.axis)
    return {
        "name": plane.name,
        "letters": plane.letters,
        "size": [width, height],
        "mm": [width * across, height * up],
        "columns": columns(brain),
        "voxels": chosen.voxels.tolist(),
        "fullest": int(brain.sum(axis=(1, 2)).argmax()),
        "sheets": _draw_sheets(chosen, subject),
    }


def draw_subject(path: Path) -> dict[str, Any]:
    """What the viewer needs of `volumes/<subject>.npz`.

    A true image and those synthesised in its place go from 0 to the truth's white level, errors and differentiation
    to `ERROR_SHARE` of that.

    Returns:
        "subject", "sequences" (the S available ones) and "planes", a dict per plane:

        - "name" and "letters", see `Plane`;
        - "size" of a slice in pixels, and "mm": width and height;
        - "voxels": where the slices lie along the axis; "fullest": the index of the one with most brain;
        - "sheets" in base64, each `columns` slices wide: "source" and "true" [S], "synthesised" and "error"
          [source][target], and "differentiation" [S], None where there is no other sequence.
    """
    with evaluated_again(path), np.load(path, allow_pickle=False) as volumes:
        available = np.flatnonzero(volumes["available"])
        source, label = volumes["source"][available], volumes["label"][available]
        pred = volumes["pred"][np.ix_(available, available)]
        brain, spacing, names = volumes["brain"], volumes["spacing"], volumes["sequences"][available].tolist()
    subject = Subject(source, label, [white_level(image.astype(np.float32)) for image in label], pred, brain, spacing)
    planes = [_draw_plane(plane, subject) for plane in bar(PLANES, desc=f"drawing {path.stem}", unit="planes")]
    return {"subject": path.stem, "sequences": names, "planes": planes}
