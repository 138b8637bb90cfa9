"""The pictures beside what a network made of a subject, drawn from the files that were read and written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, ResampleToMatch

from ..data.grids import same_grid
from ..data.series import files_of
from .pictures import Column, draw, error_column, rows_of, white_level

CHANNELS = 4  # of a latent that are shown


class Reader:
    """Files as RAS volumes [X, Y, Z] on the grid of one of them.

    Attributes:
        spacing: of that grid, in mm.
    """

    def __init__(self, grid_file: str | Path) -> None:
        self.grid = self._load(grid_file)
        self.spacing = nib.affines.voxel_sizes(self.grid.affine.numpy())
        self.match = ResampleToMatch(padding_mode="zeros")

    def __call__(self, file: str | Path | Sequence[str | None]) -> np.ndarray:
        """Of a series the first frame."""
        return self.channels(file, "bilinear")[0]

    def channels(self, file: str | Path, mode: str = "nearest") -> np.ndarray:
        """Those of a series of volumes, [D, X, Y, Z], interpolated so where they lie on another grid."""
        image, grid = self._load(file), self.grid
        if same_grid(image.shape[1:], image.affine, grid.shape[1:], grid.affine):
            image = self.match(image, img_dst=grid, mode=mode)
        return image.numpy()

    def _load(self, file: str | Path | Sequence[str | None]) -> MetaTensor:
        file = file if isinstance(file, Path) else files_of(file)[0]
        found = nib.load(file)  # as `common.data.loading` does; MONAI's reader may take another of its two affines
        voxels = torch.as_tensor(found.get_fdata(dtype=np.float32)).view(*found.shape[:3], -1).movedim(-1, 0)
        affine = torch.as_tensor(np.array(found.affine), dtype=torch.float64)
        return Orientation("RAS", labels=None)(MetaTensor(voxels, affine))


def draw_completed(
    folder: Path,
    subject: str,
    *,
    grid_file: str | Path,
    images: Mapping[str, str | Path],
    made: Mapping[str, Sequence[str]],
    origin: Mapping[str, str],
    uncertain: Collection[str] = (),
    withheld: Mapping[str, str | Path] | None = None,
    plane: str = "",
    index: int | None = None,
) -> Path:
    """Draws `<folder>/<subject>.png`: the sources, then of each target what was synthesised and, where it is known,
    how uncertain it is, the true image and the error.

    Each image is shown relative to its own 99.5th percentile; a synthesised one, whose scale is a guess, is brought to
    its truth's by one factor.

    Args:
        folder: has `<subject>_<target>.nii.gz`, and `<subject>_<target>_uncertainty.nii.gz` of those `uncertain`.
        subject: its name.
        grid_file: whose grid is shown.
        images: the acquired ones.
        made: the targets, each with the names of its sources.
        origin: see `common.inference.weights.origin`.
        withheld: true images that the network was not given.
        plane, index: see `rows_of`.

    Returns:
        The picture's path.
    """
    read, known = Reader(grid_file), {**(withheld or {}), **images}
    sources = dict.fromkeys(name for names in made.values() for name in names if name not in made)
    given = [Column(name, "acquired", image := read(images[name]), white_level(image)) for name in sources]
    columns, spread = list(given), None
    for name, used in made.items():
        image, truth = read(folder / f"{subject}_{name}.nii.gz"), read(known[name]) if name in known else None
        factor = 1.0 if truth is None else _factor(image, truth)
        white = white_level(image if truth is None else truth)
        columns.append(Column(name, "synthesised", factor * image, white, made=True))
        if name in uncertain:
            each = factor * read(folder / f"{subject}_{name}_uncertainty.nii.gz")
            columns.append(error_column(name, "uncertainty", each, white))
            spread = each / white + (0 if spread is None else spread)
        if truth is not None:
            role = "true, not its source" if name not in used else "its own source"
            columns.append(Column(name, role if name in images else "true, withheld", truth, white))
            columns.append(error_column(name, "|error|", np.abs(factor * image - truth), white))
    shown = [column.volume for column in columns if column.foreground]
    rows = rows_of(shown, plane=plane, index=index, spread=spread, said="most disagreement")
    scaled = ["What is synthesised is shown at its truth's scale, by one factor."] * any(name in known for name in made)
    path = folder / f"{subject}.png"
    draw(path, columns, rows, spacing=read.spacing, title=subject, notes=[*scaled, stamp(origin)])
    return path


def draw_differentiation(
    folder: Path,
    subject: str,
    *,
    grid_file: str | Path,
    images: Mapping[str, str | Path],
    targets: Sequence[str],
    origin: Mapping[str, str],
) -> Path:
    """Draws `<folder>/<subject>_differentiation.png`: each of the targets beside its map, `<subject>_<target>_...`."""
    read, columns, spread = Reader(grid_file), [], 0.0
    for name in targets:
        image, found = read(images[name]), read(folder / f"{subject}_{name}_differentiation.nii.gz")
        white = white_level(image)
        columns += [Column(name, "acquired", image, white), error_column(name, "differentiation", found, white)]
        spread = spread + found / white
    shown = [column.volume for column in columns if column.foreground]
    rows = rows_of(shown, spread=spread, said="most differentiation")
    path = folder / f"{subject}_differentiation.png"
    draw(path, columns, rows, spacing=read.spacing, title=subject, notes=[stamp(origin, "Maps made")])
    return path


def draw_latent(
    folder: Path,
    subject: str,
    *,
    grid_file: str | Path,
    images: Mapping[str, str | Path],
    origin: Mapping[str, str],
    codes: int = 0,
) -> Path:
    """Draws `<folder>/<subject>_latent.png`: the sources, the first channels of `<subject>_latent.nii.gz` where these
    have tissue, each from its lowest to its highest value there, and, of so many `codes`, `<subject>_codes.nii.gz`.
    """
    read = Reader(grid_file)
    columns = [Column(name, "acquired", image := read(file), white_level(image)) for name, file in images.items()]
    rows = rows_of([column.volume for column in columns])
    inside = np.any([column.volume > 0 for column in columns], axis=0)
    channels = read.channels(folder / f"{subject}_latent.nii.gz")
    for k, channel in enumerate(channels[:CHANNELS]):
        low, high = (float(end(channel[inside], initial=0.0)) for end in (np.min, np.max))
        shown = {"black": low, "white": high, "foreground": False}
        role = f"of {len(channels)}, {low:.2g} to {high:.2g}"
        columns.append(Column(f"latent {k + 1}", role, np.where(inside, channel, np.nan), **shown))
    if codes:
        chosen = np.where(inside, read.channels(folder / f"{subject}_codes.nii.gz")[0], np.nan)
        columns.append(Column("codes", f"0 to {codes - 1}", chosen, codes - 1, colours="turbo", foreground=False))
    path = folder / f"{subject}_latent.png"
    draw(path, columns, rows, spacing=read.spacing, title=subject, notes=[stamp(origin, "Latent made")])
    return path


def stamp(origin: Mapping[str, str], made: str = "Synthesised") -> str:
    """What stands below every picture: by which network it was made, and on what that was trained."""
    network = f"{origin['bundle']} {origin['bundle_version']}, weights {origin['weights_sha256'][:12]}"
    return f"{made} by {network}, trained on: {origin['trained_on']}. Not acquired. Not for clinical use."


def _factor(made: np.ndarray, truth: np.ndarray) -> float:
    """The least-squares factor from a synthesised image to its truth, over the truth's foreground."""
    inside = truth > 0
    return float((made[inside] * truth[inside]).sum() / max((made[inside] ** 2).sum(), 1e-12))
