"""Pictures of volumes that lie on one RAS grid: images in columns, slices of the body's planes in rows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from scipy.ndimage import binary_erosion

from ..files import replacing

PANEL = 2.3  # inches that the widest slice takes
TALLEST = 4.0  # inches
GAP = 0.08
SIDE = 0.3  # left of the slices, for the names of the planes
LINE = 0.19  # a line of text
ERROR_SHARE = 0.3  # an error map's range as a share of the grey scale: one meaning of a colour in every picture
FEWEST = 4  # voxels across that a plane needs to be worth a row
STAMP = "#ffb347"
OUTLINE = [withStroke(linewidth=2, foreground="black")]


class Plane(NamedTuple):
    """Slices along one axis of a RAS volume, and the letters at a slice's left, right, top and bottom."""

    name: str
    axis: int
    letters: str


PLANES = (Plane("axial", 2, "RLAP"), Plane("coronal", 1, "RLSI"), Plane("sagittal", 0, "APSI"))


class Column(NamedTuple):
    """One image of a picture.

    Attributes:
        name, role: stand above it.
        volume: [X, Y, Z], RAS.
        white: the intensity at the scale's upper end.
        black: that at its lower end.
        colours: a colour map of matplotlib's; one that is not grey gets a bar.
        made: whether it is stamped as synthesised.
        foreground: whether what is above 0 in it is to be seen; a latent's values have no such meaning.
    """

    name: str
    role: str
    volume: np.ndarray
    white: float
    black: float = 0.0
    colours: str = "gray"
    made: bool = False
    foreground: bool = True


class Row(NamedTuple):
    """The slice `index` along a plane's axis, and what is said of it."""

    plane: Plane
    index: int
    said: str = ""

    @property
    def label(self) -> str:
        return f"{self.plane.name} {self.index}" + f", {self.said}" * bool(self.said)


def upright(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A slice of a RAS volume as rows x columns: patient's right (or front) on the left, front (or top) up."""
    return np.flip(volume.take(index, axis)).T


def white_level(image: np.ndarray) -> float:
    """The intensity shown white: the foreground's p99.5."""
    foreground = image[image > 0]
    return float(np.percentile(foreground, 99.5)) if foreground.size else 1.0


def error_column(name: str, role: str, volume: np.ndarray, white: float) -> Column:
    """An error, or what is told like one, of an image whose grey scale ends at `white`."""
    said = f"{role}, 0 to {ERROR_SHARE:.0%} of white"
    return Column(name, said, volume, ERROR_SHARE * white, colours="inferno", foreground=False)


def _filled(volumes: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """How much foreground the slices along an axis have, over all volumes."""
    others = tuple(k for k in range(3) if k != axis)
    return sum((volume > 0).sum(axis=others) for volume in volumes)


def fullest(volumes: Sequence[np.ndarray], axis: int) -> int:
    """The slice with the most foreground; the middle one of those nearly as full, for volumes without background."""
    filled = _filled(volumes, axis)
    full = np.flatnonzero(filled >= 0.97 * filled.max())
    return int(full[len(full) // 2])


def highest(spread: np.ndarray, axis: int, volumes: Sequence[np.ndarray]) -> int:
    """The slice with the highest mean square of `spread`, of those that are half as full as the fullest.

    Squares, so that a small place counts where much is at odds. The foreground's rim does not: there, and in the
    outermost slices, which are little else, sources disagree in every subject.
    """
    filled = _filled(volumes, axis)
    others = tuple(k for k in range(3) if k != axis)
    inside = np.any([volume > 0 for volume in volumes], axis=0)
    inside = binary_erosion(inside, np.ones([1 if k == axis else 3 for k in range(3)]))
    mean = np.square(np.where(inside, spread, 0)).sum(axis=others) / inside.sum(axis=others).clip(min=1)
    return int(np.where(2 * filled >= filled.max(), mean, -1).argmax())


def rows_of(
    volumes: Sequence[np.ndarray],
    *,
    plane: str = "",
    index: int | None = None,
    spread: np.ndarray | None = None,
    said: str = "",
) -> list[Row]:
    """What a picture shows: the fullest slice of each plane, and the axial one where `spread` is highest.

    Args:
        volumes: RAS, whose foreground is looked for.
        plane: the name of one, which is then shown alone.
        index: its slice, counted from 0 at the patient's left, back or foot; without a plane, the axial one's.
        spread: [X, Y, Z].
        said: of the slice where it is highest.

    Raises:
        ValueError: an unknown plane, or a slice that is not there.
    """
    if plane or index is not None:
        known = {each.name: each for each in PLANES}
        if (plane or "axial") not in known:
            raise ValueError(f"plane is '{plane}'; it must be one of {', '.join(known)}.")
        chosen = known[plane or "axial"]
        last = volumes[0].shape[chosen.axis] - 1
        if index is not None and not 0 <= index <= last:
            raise ValueError(f"There is no {chosen.name} slice {index}; they are 0 to {last}.")
        return [Row(chosen, fullest(volumes, chosen.axis) if index is None else index)]
    shape = volumes[0].shape
    sizes = {each: min(n for axis, n in enumerate(shape) if axis != each.axis) for each in PLANES}
    shown = [each for each in PLANES if sizes[each] >= min(FEWEST, max(sizes.values()))]
    rows = [Row(each, fullest(volumes, each.axis)) for each in shown]
    if spread is not None:
        rows.append(Row(PLANES[0], highest(spread, 2, volumes), said))
    return rows


def draw(
    path: str | Path,
    columns: Sequence[Column],
    rows: Sequence[Row],
    *,
    spacing: Sequence[float],
    title: str,
    notes: Sequence[str] = (),
) -> None:
    """Writes a PNG: a column per image, a row per slice, all cut to the foreground's box, in millimetres of one scale.

    Args:
        path: the file to write.
        columns: of one shape.
        rows: see `rows_of`.
        spacing: voxel size along X, Y and Z in mm.
        title: stands above the picture.
        notes: stand below it.

    Raises:
        ValueError: the shapes differ.
    """
    figure = compose(columns, rows, spacing=spacing, title=title, notes=notes)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)


def compose(
    columns: Sequence[Column], rows: Sequence[Row], *, spacing: Sequence[float], title: str, notes: Sequence[str] = ()
) -> Figure:
    """The figure that `draw` writes. All is laid out in inches, so that no text is cut and no voxel stretched."""
    if len({column.volume.shape for column in columns}) != 1:
        raise ValueError(f"Expected images of one shape, got {[column.volume.shape for column in columns]}")
    box = _box([column.volume for column in columns if column.foreground])
    sizes = [_size(row.plane, box, spacing) for row in rows]
    scale = min(PANEL / max(width for width, _ in sizes), TALLEST / max(height for _, height in sizes))
    panels = [(scale * width, scale * height) for width, height in sizes]
    across = max(0.6 * PANEL, *(width for width, _ in panels)) + GAP
    width = max(SIDE + across * len(columns) + GAP, 4.0)
    above, below = _wrapped(title, width, 13), [line for note in notes for line in _wrapped(note, width, 9)]
    head, foot = (1.5 * len(above) + 2.4) * LINE, (len(below) + 2.2) * LINE
    tops = [head, *(head + np.cumsum([height + GAP for _, height in panels]))]
    with style.context("dark_background"):
        sheet = _Sheet(width, tops[-1] + foot)
        for k, line in enumerate(above):
            sheet.text(width / 2, (1.5 * k + 0.9) * LINE, line, 13, width)
        for row, (_, height), top in zip(rows, panels, tops, strict=False):
            sheet.text(SIDE / 2, top + height / 2, row.label, 9, height, rotation=90)
        for k, column in enumerate(columns):
            middle = SIDE + across * (k + 0.5)
            sheet.text(middle, head - 1.7 * LINE, column.name, 11, across - GAP)
            sheet.text(middle, head - 0.7 * LINE, column.role, 8, across - GAP, color="#bbbbbb")
            for row, (w, h), top in zip(rows, panels, tops, strict=False):
                _show(sheet.axes(middle - w / 2, top, w, h), column, row, box, letters=k == 0)
            if column.colours != "gray":
                _bar(sheet.axes(middle - 0.3 * across, tops[-1] + 0.02, 0.6 * across, 0.06), column)
        for k, line in enumerate(below):
            sheet.text(width / 2, sheet.height - (len(below) - k - 0.3) * LINE, line, 9, width, color="#dddddd")
    return sheet.figure


class _Sheet:
    """A figure on which places are inches from its upper left corner."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        return self.figure.add_axes((left / self.width, bottom / self.height, width / self.width, height / self.height))

    def text(self, x: float, y: float, text: str, size: float, room: float, **how: object) -> None:
        """Centred, and smaller where it would not fit into `room` inches."""
        fitting = min(size, size * 0.95 * room / _length(text, size))
        centred = {"ha": "center", "va": "center", "parse_math": False, "fontsize": fitting, **how}
        self.figure.text(x / self.width, 1 - y / self.height, text, **centred)


def _length(text: str, size: float) -> float:
    """Of a line of text, in inches."""
    return max(TextPath((0, 0), text, size=size).get_extents().width / 72, 0.01) if text.strip() else 0.01


def _wrapped(text: str, room: float, size: float) -> list[str]:
    """Its lines, of as many characters as usually fit."""
    return textwrap.wrap(text, max(int(room / (0.0085 * size)), 10))


def _box(volumes: Sequence[np.ndarray], margin: int = 3) -> tuple[slice, ...]:
    """The box [X, Y, Z] that holds the foreground of all: skull-stripped grids are mostly empty."""
    filled = np.any([volume > 0 for volume in volumes], axis=0)
    spans = [np.flatnonzero(filled.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    spans = [span if span.size else np.arange(size) for span, size in zip(spans, filled.shape, strict=True)]
    ends = zip(spans, filled.shape, strict=True)
    return tuple(slice(max(int(k[0]) - margin, 0), min(int(k[-1]) + margin + 1, size)) for k, size in ends)


def _size(plane: Plane, box: Sequence[slice], spacing: Sequence[float]) -> tuple[float, float]:
    """Width and height in mm of a box's slices."""
    across, up = (spacing[k] * (box[k].stop - box[k].start) for k in range(3) if k != plane.axis)
    return across, up


def _show(ax: Axes, column: Column, row: Row, box: Sequence[slice], letters: bool) -> None:
    axis = row.plane.axis
    image = upright(column.volume[tuple(slice(None) if k == axis else box[k] for k in range(3))], axis, row.index)
    ax.imshow(image, cmap=column.colours, vmin=column.black, vmax=column.white, aspect="auto")
    ax.set_axis_off()
    written = {"transform": ax.transAxes, "path_effects": OUTLINE, "fontsize": 8}
    if letters:
        left, right, top, bottom = row.plane.letters
        for x, y, letter in ((0.04, 0.5, left), (0.96, 0.5, right), (0.5, 0.96, top), (0.5, 0.04, bottom)):
            ax.text(x, y, letter, ha="center", va="center", **written)
    if column.made:
        ax.text(0.02, 0.02, "synthesised", ha="left", va="bottom", color=STAMP, **{**written, "fontsize": 7})


def _bar(ax: Axes, column: Column) -> None:
    shades = ScalarMappable(Normalize(column.black, column.white), column.colours)
    ax.figure.colorbar(shades, cax=ax, orientation="horizontal").set_ticks([])
