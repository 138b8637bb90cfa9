"""One picture that shows a completed subject: what was given, what was synthesised, and how wrong it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import replacing

PANEL = 2.5  # inches
ERROR_SHARE = 0.3  # the error map's range as a share of the grey scale: one meaning of a colour in every picture

Images = Mapping[str, np.ndarray]


class Panel(NamedTuple):
    """One image of the picture: name, [rows, columns], the intensity at the scale's upper end, colour map."""

    name: str
    image: np.ndarray
    white: float
    colours: str = "gray"


def _volume(image: np.ndarray, axis: int) -> np.ndarray:
    """[X, Y, Z] from that or from a slice, which then stands alone on its axis."""
    image = np.asarray(image, dtype=np.float32)
    if image.ndim not in (2, 3):
        raise ValueError(f"Expected a volume [X, Y, Z] or a slice, got shape {image.shape}")
    return np.expand_dims(image, axis) if image.ndim == 2 else image


def _fullest(volumes: Sequence[np.ndarray], axis: int) -> int:
    """The slice with the most foreground; the middle one of those nearly as full, for volumes without background."""
    others = tuple(k for k in range(3) if k != axis)
    filled = sum((volume > 0).sum(axis=others) for volume in volumes)
    full = np.flatnonzero(filled >= 0.97 * filled.max())
    return int(full[len(full) // 2])


def upright(volume: np.ndarray, axis: int, index: int) -> np.ndarray:
    """A slice of a RAS volume as rows x columns: patient's right (or front) on the left, front (or top) up."""
    return np.flip(volume.take(index, axis)).T


def _box(images: Sequence[np.ndarray], margin: int = 4) -> tuple[slice, slice]:
    """The rows and columns that hold foreground in any image: skull-stripped grids are mostly empty."""
    filled = np.any([image > 0 for image in images], axis=0)
    spans = (np.flatnonzero(filled.any(axis)) for axis in (1, 0))
    return tuple(slice(max(k[0] - margin, 0), k[-1] + margin + 1) if k.size else slice(None) for k in spans)


def white_level(image: np.ndarray) -> float:
    """The intensity shown white: the foreground's p99.5."""
    foreground = image[image > 0]
    return float(np.percentile(foreground, 99.5)) if foreground.size else 1.0


def _panels(made: np.ndarray, true: np.ndarray | None, name: str) -> list[Panel]:
    """A row's right half: the synthesised image and, with a truth, that and their difference."""
    white = white_level(made if true is None else true)
    panels = [Panel(f"{name}, synthesised", made, white)]
    if true is not None:
        panels += [Panel(f"{name}, true", true, white)]
        panels += [Panel("|error|", np.abs(made - true), ERROR_SHARE * white, "inferno")]
    return panels


def _show(ax: Axes, panel: Panel, aspect: float) -> None:
    shown = ax.imshow(panel.image, cmap=panel.colours, vmin=0, vmax=panel.white, aspect=aspect)
    ax.set_title(panel.name, fontsize=12)
    if panel.colours != "gray":
        bar = ax.figure.colorbar(shown, cax=ax.inset_axes((1.03, 0, 0.05, 1)), extend="max", extendfrac=0.03)
        bar.ax.tick_params(labelsize=10)


def _draw(rows: list[list[Panel]], *, aspect: float, side: str, title: str) -> Figure:
    """The panels on a dark grid; `side` names the patient's side in the upper left corner."""
    height, width = rows[0][0].image.shape
    columns = max(map(len, rows))
    size = (columns * (PANEL + 0.12) + 0.7, len(rows) * (PANEL * aspect * height / width + 0.45) + 0.45 * bool(title))
    with style.context("dark_background"):
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.06, h_pad=0.08)
        axes = figure.subplots(len(rows), columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for line, panels in zip(axes, rows, strict=True):
            for ax, panel in zip(line, panels, strict=False):
                _show(ax, panel, aspect)
            line[0].text(0, 1, side, transform=line[0].transAxes, fontsize=11, va="top")
        if title:
            figure.suptitle(title, fontsize=14)
    return figure


def _slices(groups: Sequence[Images], axis: int, index: int | None) -> list[Images]:
    """The groups' images as upright slices, all cut to the same box."""
    groups = [{name: _volume(image, axis) for name, image in group.items()} for group in groups]
    volumes = [volume for group in groups for volume in group.values()]
    if len({volume.shape for volume in volumes}) != 1:
        raise ValueError(f"Expected images of one shape, got {[volume.shape for volume in volumes]}")
    index = _fullest(volumes, axis) if index is None else index
    box = _box([upright(volume, axis, index) for volume in volumes])
    return [{name: upright(v, axis, index)[box] for name, v in group.items()} for group in groups]


def completion_picture(
    path: str | Path,
    *,
    sources: Images,
    synthesised: Images,
    truth: Images | None = None,
    spacing: Sequence[float] = (1, 1, 1),
    axis: int = 2,
    index: int | None = None,
    title: str = "",
) -> None:
    """Writes a PNG with one row per synthesised sequence: the sources, the synthesised, the true image, their error.

    The synthesised and the true image share one grey scale, the truth's (without a truth, the synthesised image's).

    Args:
        path: the file to write.
        sources: by name, RAS volumes [X, Y, Z] of one grid, or slices of them along `axis`.
        synthesised: likewise.
        truth: likewise; sequences that it lacks get no error map.
        spacing: voxel size along X, Y and Z in mm.
        axis: 0 sagittal, 1 coronal, 2 axial.
        index: the slice; by default the one with most foreground.
        title: stands above the picture.

    Raises:
        ValueError: nothing was synthesised, or the shapes differ.
    """
    if not synthesised:
        raise ValueError("There is no synthesised image to show")
    given, made, true = _slices([sources, synthesised, truth or {}], axis, index)
    left = [Panel(name, image, white_level(image)) for name, image in given.items()]
    rows = [left + _panels(image, true.get(name), name) for name, image in made.items()]
    across, up = (spacing[k] for k in range(3) if k != axis)
    figure = _draw(rows, aspect=up / across, side="A" if axis == 0 else "R", title=title)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
