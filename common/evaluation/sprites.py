"""Sprite sheets for the report's viewer: the slices of a kept subject's images as a few small pictures.

Errors are drawn from the volumes, not from the pictures: on a scale of their own they lose less to 8 bits and to WebP.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..data.series import consecutive, count_frames
from ..inference.differentiation import differentiation_maps
from ..inference.pictures import ERROR_SHARE, PLANES, Plane, upright, white_level
from ..progress import bar
from .scores import evaluated_again
from .series import frame_axis, region_curve

SLICES = 30  # per plane, at most: enough to see every region, few enough for one file
FEWEST = 8  # of a subject with many frames
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


def layout(brain: np.ndarray, plane: Plane, slices: int = SLICES) -> Layout:
    """So many evenly spaced slices at most, through the brain [X, Y, Z], and its box; without one, through all."""
    spans = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    spans = [span if span.size else np.arange(size) for span, size in zip(spans, brain.shape, strict=True)]
    first, last = spans[plane.axis][[0, -1]]
    voxels = np.linspace(first, last, min(slices, last - first + 1)).round().astype(int)
    return Layout(plane, voxels, tuple(slice(max(k[0] - MARGIN, 0), k[-1] + MARGIN + 1) for k in spans))


class Subject(NamedTuple):
    """The S available sequences, the channels `rows` [S] of each and which of the C channels are `there` [C]; images:
    what the network was given and what is true [C, X, Y, Z], the truth's white levels [C], one for all frames of a
    series, and predictions [S, C, X, Y, Z].
    """

    rows: list[range]
    there: np.ndarray
    source: np.ndarray
    label: np.ndarray
    white: list[float]
    pred: np.ndarray
    brain: np.ndarray
    spacing: np.ndarray

    @property
    def slices(self) -> int:
        """Per plane, at most: with frames fewer, so that there are not more pictures."""
        return max(FEWEST, SLICES * len(self.rows) // len(self.there))

    def by_sequence(self, tiles: np.ndarray) -> list[Any]:
        """Of tiles [C, slices, rows, columns] the sheet of each sequence; of a series a list, None of what it lacks."""
        sheets = [sheet(each) if there else None for each, there in zip(tiles, self.there, strict=True)]
        return [sheets[rows[0]] if len(rows) == 1 else [sheets[c] for c in rows] for rows in self.rows]


def _draw_sheets(chosen: Layout, subject: Subject) -> dict[str, list]:
    """The "sheets" of `draw_subject` along one plane."""
    true = np.stack([chosen.tiles(image) for image in subject.label])  # (C, slices, rows, columns)
    given = np.stack([chosen.tiles(image) for image in subject.source])
    made = np.stack([[chosen.tiles(image) for image in row] for row in subject.pred])  # (S, C, slices, rows, columns)
    white = np.reshape(subject.white, (-1, 1, 1, 1))
    errors = np.abs(made - true) / (ERROR_SHARE * white)
    maps, counts = None, [len(rows) for rows in subject.rows]
    if len(made) > 1:
        maps = differentiation_maps(*map(torch.from_numpy, (made, true)), range(len(made)), counts).numpy()
        maps = maps / (ERROR_SHARE * white)
    return {
        "source": subject.by_sequence(given / white),
        "true": subject.by_sequence(true / white),
        "synthesised": [subject.by_sequence(row) for row in made / white],
        "error": [subject.by_sequence(row) for row in errors],
        "differentiation": [None] if maps is None else subject.by_sequence(maps),
    }


def _curves(names: list[str], subject: Subject, frames: dict[str, Any], masks: dict[str, np.ndarray]) -> dict[str, Any]:
    """The "series" of `draw_subject`."""
    found = {}
    for name, rows in zip(names, subject.rows, strict=True):
        if name in frames:

            def curves(images: np.ndarray, rows: range = rows) -> dict[str, list[float | None]]:
                there = subject.there[rows]
                return {place: region_curve(images[rows], there, mask) for place, mask in masks.items() if mask.any()}

            made = {source: curves(row) for source, row in zip(names, subject.pred, strict=True)}
            found[name] = {**frame_axis(frames[name], len(rows)), "true": curves(subject.label), "synthesised": made}
    return found


def _draw_plane(plane: Plane, subject: Subject) -> dict[str, Any]:
    chosen = layout(subject.brain, plane, subject.slices)
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
        "subject", "sequences" (the S available ones), "series": of each that is one its "frames" [T], in words, and its
        curves over "x" [T], "true" and "synthesised" [source], by place, see `region_curve`; and "planes", a dict each:

        - "name" and "letters", see `Plane`;
        - "size" of a slice in pixels, and "mm": width and height;
        - "voxels": where the slices lie along the axis; "fullest": the index of the one with most brain;
        - "sheets" in base64, each `columns` slices wide: "source" and "true" [S], "synthesised" and "error"
          [source][target], and "differentiation" [S], None where there is no other sequence; in place of a series'
          sheet a list of those of its frames, None of those that are missing.
    """
    with evaluated_again(path), np.load(path, allow_pickle=False) as volumes:
        names, there = volumes["sequences"].tolist(), volumes["available"]
        frames = json.loads(str(volumes["frames"])) if "frames" in volumes else {}
        every = consecutive([count_frames(frames.get(name, {})) for name in names])
        chosen = [k for k, rows in enumerate(every) if there[rows].any()]
        channels = [c for k in chosen for c in every[k]]
        source, label = volumes["source"][channels], volumes["label"][channels]
        pred, brain, spacing = volumes["pred"][np.ix_(chosen, channels)], volumes["brain"], volumes["spacing"]
        masks = dict(zip(volumes["regions"].tolist(), volumes["masks"], strict=True)) if frames else {}
    rows, names = consecutive([len(every[k]) for k in chosen]), [names[k] for k in chosen]
    levels = [
        known * white_level(image.astype(np.float32)) for image, known in zip(label, there[channels], strict=True)
    ]
    white = [max(levels[c] for c in each) for each in rows for _ in each]
    subject = Subject(rows, there[channels], source, label, white, pred, brain, spacing)
    planes = [_draw_plane(plane, subject) for plane in bar(PLANES, desc=f"drawing {path.stem}", unit="planes")]
    series = _curves(names, subject, frames, {"brain": brain, **masks})
    return {"subject": path.stem, "sequences": names, "series": series, "planes": planes}
