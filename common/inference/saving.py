"""Synthesised images back on the subject's own grid, each with a sidecar that says what it is."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import logging
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import torch
from monai.transforms import Transform

from ..data.finding import is_synthesised  # in the header of the only files that are replaced here
from ..data.normalisation import unscale
from ..data.series import UNITS, consecutive, count_frames, files_of, step_of, times_of, write_b_values
from ..description import error_bound, expected, read
from ..files import prepare_folder, replacing, write_text
from ..options import switch
from ..scales import Scales
from .inferers import resolve_targets, sources_of, split_frames
from .nifti import image_like
from .weights import origin

logger = logging.getLogger(__name__)
DONE = ".done"


@functools.cache  # so that it is said once
def drawing() -> ModuleType | None:
    """`common.inference.products`, which draws; where matplotlib is not installed None, and a word."""
    try:
        from . import products
    except ModuleNotFoundError as error:
        logger.warning(f"No pictures are drawn beside the images: {error.name} is not installed (pip install it).")
        return None
    return products


def located(data: Mapping[Hashable, Any], file: str | Sequence[str | None]) -> str | list[str | None]:
    """An image's file for a sidecar that may be shared: as seen from the folder of the subjects, or its name alone.

    Of a series in files of one frame each, all of them.
    """
    if not isinstance(file, str):
        return [each and located(data, each) for each in file]
    path, folder = Path(file), Path(data.get("folder", ""))
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) and folder.is_absolute() else path.name


class SaveVolumes(Transform):
    """Base of what writes volumes `<output_dir>/<subject>/<subject>_<name>.nii.gz`, each with a JSON sidecar.

    Args:
        output_dir: made if need be.
        sequences: S names, in the network's order.
        targets: see `common.inference.inferers.resolve_targets`.
        weights: file whose sha256 the sidecar names.
        metadata_file: the bundle's metadata.json, for its name and version.
        scales: see `SaveCompleted`; what has other units does without.
        pictures: draw what was made of a subject, beside it.
        frames: of the sequences that are series, see `common.data.preparation.Subjects`.

    Attributes:
        rows: of each sequence, its channels.
    """

    def __init__(
        self,
        output_dir: str,
        sequences: Sequence[str],
        targets: str | Sequence[str] | None,
        weights: str,
        metadata_file: str,
        scales: Scales | None = None,
        pictures: bool | str = True,
        frames: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        resolve_targets(targets, sequences, ())  # unknown names are known before any work is done
        self.output_dir = Path(output_dir)
        self.sequences = sequences
        self.targets = targets
        self.weights = weights
        self.metadata_file = metadata_file
        self.pictures = switch(pictures, "pictures")
        self.frames = frames or {}
        self.rows = consecutive([count_frames(self.frames.get(name, {})) for name in sequences])
        self._marks: dict[str, str] = {}
        self._written: list[str] = []  # of the present subject

    @functools.cached_property
    def _origin(self) -> dict[str, Any]:
        return origin(self.metadata_file, self.weights)

    @functools.cached_property
    def _described(self) -> dict[str, Any]:
        return read(self.weights)

    def prepare(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Before the first subject of `common.data.subjects.subject_items`.

        Raises:
            NotWritten: `output_dir` cannot be written to, or has no room for as many float32 voxels.
        """
        logger.info(f"{self.weights} was trained on: {self._origin['trained_on']}.")
        needed = 0
        for item in items:
            files = {name: item["images"][name] for name in self.sequences if name in item["images"]}
            with contextlib.suppress(Exception):  # what cannot be read is told when its turn comes
                voxels = math.prod(nib.load(files_of(next(iter(files.values())))[0]).shape[:3])
                needed += 4 * voxels * self.count([self.sequences.index(name) for name in files])
        prepare_folder(self.output_dir, "output_dir", needed, "the images, where they cannot be compressed,")

    def planned(self, available: Sequence[int]) -> list[int]:
        """Indices of the sequences that are made of a subject that has these."""
        return resolve_targets(self.targets, self.sequences, available)

    def count(self, available: Sequence[int]) -> int:
        """How many volumes are written of a subject that has these sequences."""
        return len(self.planned(available))

    def left(self, items: Sequence[Mapping[str, Any]], asked: str = "") -> list[Mapping[str, Any]]:
        """Of subjects, those that are not done: from the same files, by the same weights and as asked, see `finished`.

        Args:
            items: see `common.data.subjects.subject_items`.
            asked: a text for the options that change what is made.
        """
        self._marks = {item["subject"]: self._mark(item, asked) for item in items}
        left = [item for item in items if not self._is_done(item["subject"])]
        if done := len(items) - len(left):
            logger.info(f"{done} of {len(items)} subjects are done in {self.output_dir}; --again true makes them anew.")
        return left

    def finished(self, subject: str) -> None:
        """Leaves word that all of a subject was made, in a hidden file; only where `left` was asked."""
        if subject in self._marks and self._written:
            done = {"mark": self._marks[subject], "files": self._written}
            write_text(self.output_dir / subject / DONE, json.dumps(done))
        self._written = []

    def _mark(self, item: Mapping[str, Any], asked: str) -> str:
        """A sum over all that a subject's images depend on."""
        files = [Path(file) for files in item["images"].values() for file in files_of(files)]
        files += [path for file in files if (path := file.with_name(f"{file.name.split('.')[0]}.json")).is_file()]
        seen = {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()}
        told = json.dumps([item, seen, self._origin, asked], sort_keys=True, default=str)
        return hashlib.sha256(told.encode()).hexdigest()

    def _is_done(self, subject: str) -> bool:
        folder = self.output_dir / subject
        try:
            done = json.loads((folder / DONE).read_text(encoding="utf-8"))
            return done["mark"] == self._marks[subject] and all((folder / name).is_file() for name in done["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _draw(self, data: Mapping[Hashable, Any], kind: str = "completed", **what: Any) -> None:
        """`products.draw_<kind>` of a subject, if that is wanted and can be done."""
        if self.pictures and (products := drawing()):
            shown = {"grid_file": data["grid_file"], "images": data["images"], "origin": self._origin, **what}
            getattr(products, f"draw_{kind}")(self.output_dir / data["subject"], data["subject"], **shown)

    def _available(self, data: Mapping[Hashable, Any]) -> list[int]:
        """The sequences that a subject has, of a series any frame."""
        return [j for j, rows in enumerate(self.rows) if data["available"][rows].any()]

    def _save(
        self,
        image: torch.Tensor,
        data: Mapping[Hashable, Any],
        target: int,
        sources: Sequence[int],
        kind: str = "",
        frames: Mapping[str, Any] | None = None,
        **more,
    ) -> None:
        """Image [T, X, Y, Z], with `frames` as one 4D image, else T is 1; and a sidecar that says `more` besides
        subject, target, sources, grid and weights.

        Raises:
            ValueError: an acquired image would be overwritten; and what `save_like` raises.
        """
        name, volume = self.sequences[target], image.movedim(0, -1) if frames else image[0]
        self._save_as(volume, data, name + kind, sources, frames=frames, target=name, **more)

    def _save_as(
        self,
        volume: torch.Tensor,
        data: Mapping[Hashable, Any],
        name: str,
        sources: Sequence[int],
        step: float = 0.0,
        frames: Mapping[str, Any] | None = None,
        **more,
    ) -> Path:
        """Volume [X, Y, Z], or with channels or frames [X, Y, Z, T], and its sidecar; returns the NIfTI's path.

        What tells the `frames` apart (`common.data.series.Frames`) stands beside it as beside an acquired series.
        """
        path = self.output_dir / data["subject"] / f"{data['subject']}_{name}.nii.gz"
        acquired = [file for files in data["images"].values() for file in files_of(files)]
        if path.exists() and (not is_synthesised(path) or any(path.samefile(file) for file in acquired)):
            raise ValueError(f"{path} is an acquired image and is not overwritten; pass another --output_dir.")
        steps = (step_of(frames), "sec") if frames else (step,)
        image = image_like(volume.numpy(), data["grid_file"], path, *steps)
        names = [self.sequences[i] for i in sources]
        sidecar = {
            "subject": data["subject"],
            "sources": {name: located(data, data["images"][name]) for name in names},
            "grid": located(data, data["grid_file"]),
            **self._origin,
            **more,
            **times_of(frames or {}),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "note": "Made by a network, not acquired. Not for clinical use.",
        }
        with replacing(path) as partial:
            nib.save(image, partial)
            write_b_values(path, frames or {})
            # Before the image takes its place: there is none that says nothing of itself.
            write_text(path.with_name(f"{data['subject']}_{name}.json"), json.dumps(sidecar, indent=1))
        logger.info(f"written: {path}")
        self._written.append(path.name)
        return path


class SaveCompleted(SaveVolumes):
    """Writes `<subject>_<target>.nii.gz` for each wanted target and, where "pred" has 2 S channels, its uncertainty.

    A missing target has no scale of its own to go back to: it is written in normalised units times the scale that is
    likely beside those of its sources, by what the weights know of the training subjects' (`common.scales`). So is the
    uncertainty, `<subject>_<target>_uncertainty.nii.gz`: what a share of voxels is off by at most, where the weights'
    description says how that goes with the spread; else the spread (no file where it is nan: there is none).

    Args:
        scales: of the training subjects, `network.scales()`. A sequence that has none beside others that have was in
            no training image, and is left out; that is logged. Where none has one, the weights were made elsewhere and
            nothing is known.
        frames: of the sequences that are series, see `common.data.preparation.Subjects`: each becomes one 4D image.
        targets: see `common.inference.inferers.split_frames`.
        others: see `SaveVolumes`.

    Raises:
        ValueError: a target that is wanted by name was in no training image, or a series has no such frame.
    """

    def __init__(
        self,
        output_dir: str,
        sequences: Sequence[str],
        targets: str | Sequence[str] | None,
        scales: Scales,
        weights: str,
        metadata_file: str,
        pictures: bool | str = True,
        frames: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        targets, self.asked = split_frames(targets, frames or {})
        super().__init__(output_dir, sequences, targets, weights, metadata_file, pictures=pictures, frames=frames)
        self.scales = scales
        trained = scales.mean.isfinite().all(1).tolist()
        self.untrained = [j for j, known in enumerate(trained) if any(trained) and not known]
        if lacking := [j for j in resolve_targets(targets, sequences, ()) if j in self.untrained]:
            message = f"The weights were trained without any {', '.join(sequences[j] for j in lacking)}"
            if targets not in (None, "all"):
                raise ValueError(f"{message}, which targets names. Name others, or train on a list that has it.")
            logger.warning(f"{message}, which is not made.")

    def planned(self, available: Sequence[int]) -> list[int]:
        """See `SaveVolumes`."""
        return [j for j in super().planned(available) if j not in self.untrained]

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        available = self._available(data)
        targets = self.planned(available)
        if not targets:
            logger.warning(f"{data['subject']} lacks nothing that can be made; name what you want with --targets.")
        pred = torch.as_tensor(data["pred"])
        count, made, uncertain = self.rows[-1].stop, {}, []
        for j in targets:
            sources = sources_of(j, available)
            made[self.sequences[j]] = [self.sequences[i] for i in sources]
            image = pred[self.rows[j]]
            self._save_image(data, image, j, sources)
            if len(pred) > count and self._save_uncertainty(data, image, pred[count:][self.rows[j]], j, sources):
                uncertain.append(self.sequences[j])
        if made:
            self._draw(data, made=made, uncertain=uncertain)
        return data

    def count(self, available: Sequence[int]) -> int:
        """See `SaveVolumes`."""
        return sum(self.rows[j].stop - self.rows[j].start for j in self.planned(available))

    def _given(self, data: Mapping[Hashable, Any], sources: Sequence[int]) -> torch.Tensor:
        """Scale and offset [S, 2]; the frames of a series have one."""
        return self.scales.given(torch.stack([data["scale"][rows.start] for rows in self.rows]), sources)

    def _save_frames(
        self, image: torch.Tensor, data: Mapping[Hashable, Any], j: int, sources: Sequence[int], kind: str = "", **more
    ) -> None:
        """Frames [T, X, Y, Z]: of a series as one 4D image, of those that are asked for."""
        frames = self.frames.get(self.sequences[j])
        if asked := self.asked.get(self.sequences[j]):
            image, more = image[asked], {**more, "series_frames": [k + 1 for k in asked]}
            frames = {kind: [told[k] for k in asked] for kind, told in (frames or {}).items() if kind in UNITS}
            frames = frames or {"count": len(asked)}
        self._save(image, data, j, sources, kind, frames, **more)

    def _save_image(self, data: Mapping[Hashable, Any], image: torch.Tensor, j: int, sources: Sequence[int]) -> None:
        found = self._given(data, sources)[j]
        scale, offset = found.tolist()
        known = math.isfinite(scale)
        if known:
            image = unscale(image, *found[:, None].expand(-1, len(image)))
        more = {
            "units": f"normalised * scale + offset {self._whose(sources)}" if known else "normalised, 0 to 1",
            "scale": scale if known else None,
            "offset": offset if known else None,
            **self._expected(j, sources),
        }
        self._save_frames(image, data, j, sources, **more)

    def _expected(self, j: int, sources: Sequence[int]) -> dict[str, Any]:
        """What such an image scored, where the weights' description says so; it is logged, too."""
        target, names = self.sequences[j], [self.sequences[i] for i in sources]
        found = expected(self._described, target, names)
        if not found:
            return {}
        (psnr, spread), count = found["psnr"], found["subjects"]
        likely = f"{psnr:.1f} dB" + (f" +- {spread:.1f}" if spread is not None else "")
        where = f"{found['convention']}, {found['region']}, {count} subject{'s' * (count != 1)}"
        logger.info(f"{target} from {', '.join(names)}: expect {likely} ({where})")
        return {"expected": found}

    def _whose(self, sources: Sequence[int]) -> str:
        """How a scale was found, in words that can follow it."""
        told = [self.sequences[i] for i in self.scales.informative(sources)]
        return f"predicted from those of {', '.join(told)}" if told else "of the training subjects"

    def _save_uncertainty(
        self, data: Mapping[Hashable, Any], image: torch.Tensor, spread: torch.Tensor, j: int, sources: Sequence[int]
    ) -> bool:
        target, scale = self.sequences[j], self._given(data, sources)[j, 0].item()
        calibrated = self._described.get("uncertainty", {})
        if bounds := calibrated.get("bounds", {}).get(target):
            spread = torch.where(image > 0, error_bound(spread, bounds), 0)
            of = f"{calibrated['share']:.0%} of voxels are off by less"
            quantity = {"quantity": f"{of}, as they were in {calibrated['of']}", "share": calibrated["share"]}
        elif spread.isnan().any():
            names = ", ".join(self.sequences[i] for i in sources)
            logger.warning(
                f"{data['subject']}: {target} is made from {names} alone; without a spread no uncertainty is written."
            )
            return False
        else:
            told = "unbiased standard deviation of the synthesised image over the ways to make it"
            quantity = {"quantity": f"{told}; 0 also where only one source has tissue"}
        known = math.isfinite(scale)
        units = f"normalised * scale {self._whose(sources)}" if known else "normalised, 0 to 1"
        more = {**quantity, "units": units, "scale": scale if known else None}
        spread = spread * scale if known else spread
        self._save_frames(spread, data, j, sources, "_uncertainty", **more)
        return True
