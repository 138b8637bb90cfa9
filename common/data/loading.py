"""From a subject's files to one image [S, X, Y, Z], and the mark of the sequences that it lacks."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ResampleToMatch, Transform

from ..layout import MISSING
from .acquisition import Parameters, four, image_parameters
from .doubts import remaining_skull, uncovered
from .grids import same_grid
from .images import ERROR, image_problems, read_image, unreadable
from .series import channel_names, files_of, frame_values

logger = logging.getLogger(__name__)
REFERENCE = "the reference of "


class LoadSubject(Transform):
    """Loads a subject of the list (`common.data.subjects.subject_items`) onto one grid.

    Each sequence is a channel; a series has one for each frame, in order, so that S counts channels (`channels` has
    their names). Frames that a subject lacks, between others or at the end, are missing as sequences are.

    Returns "subject", "image" [S, X, Y, Z] (a missing sequence is 0), "available" [S] bool, "images" (the files),
    "grid_file" (the one whose grid it is), and each of `masks` that the subject has, [1, X, Y, Z].

    Args:
        sequences: S names, in the network's order.
        grid: the sequence onto whose grid the others are resampled (linear; masks nearest). "" resamples nothing and
            refuses a subject whose files lie on different grids. No registration is done.
        masks: names of masks to load.
        label: what to add as "label" [S, X, Y, Z]: "" nothing, "images" a copy of the image, "reference" the noise-free
            truth, which only a phantom has. "label_sha256" comes with it, by sequence: by that, runs know
            whether they had the same.
        frames: how many a series has, by name; 1 for others.
        settings: (TR, TE, TI) in ms, and FA, that sequences have by default. If given, "parameters" [S, 4] is added:
            what the subject list or an image's own sidecar says, else these.
        told: of series, what tells the frames apart of those that are missing, or of which the list says nothing, see
            `series.frame_values`. If given, "frame_values" [S, T] is added, 0 of what is unknown and after the last.

    Raises:
        ValueError: grids differ and `grid` is not set, the subject lacks the `grid` sequence, a series has more frames
            than are taken, or a file has what `common.data.check` calls an error, but for headers that the list trusts.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        grid: str = "",
        masks: Sequence[str] = (),
        label: str = "",
        settings: Sequence[Sequence[float]] = (),
        frames: Mapping[str, int] | None = None,
        told: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.told = told or {}
        self.sequences = list(sequences)
        self.frames = {name: (frames or {}).get(name, 1) for name in self.sequences}
        self.channels = channel_names(self.sequences, self.frames)
        self.grid = grid
        self.masks = list(masks)
        self.label = label
        self.settings = dict(zip(self.sequences, settings, strict=True)) if settings else {}
        if grid and grid not in self.sequences:
            raise ValueError(f"grid is '{grid}', which is none of the sequences {', '.join(self.sequences)}.")
        if label not in ("", "images", "reference"):
            raise ValueError(f"label is '{label}'; it must be 'images', 'reference' or ''.")
        if settings and len(self.channels) > len(self.sequences):
            raise ValueError(f"Networks that are told TR, TE and TI take no series, such as {', '.join(frames or {})}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        subject = data["subject"]
        files = {name: data["images"][name] for name in self.sequences if name in data["images"]}
        if not files:
            raise ValueError(f"Subject {subject} has none of the sequences {', '.join(self.sequences)}.")
        if self.grid and self.grid not in files:
            raise ValueError(
                f"Subject {subject} has no {self.grid}, onto whose grid its {', '.join(files)} were to be resampled. "
                "Name another with --grid."
            )
        grid_name = self.grid or next(iter(files))
        like = self._load(data, grid_name, files[grid_name])
        others = {name: file for name, file in files.items() if name != grid_name}
        images = {name: self._match(data, name, file, like, grid_name) for name, file in others.items()}
        images[grid_name] = like
        self._warn(subject, images, like)
        grid_file = files_of(files[grid_name])[0]
        d = {"subject": subject, "images": files, "grid_file": grid_file, "image": self._stack(images, like)}
        there = {name: image.as_tensor().flatten(1).any(1) for name, image in images.items()}  # an empty one is refused
        none = {name: torch.zeros(count, dtype=torch.bool) for name, count in self.frames.items()}
        d["available"] = torch.cat([there.get(name, none[name]) for name in self.sequences])
        if self.settings:
            d["parameters"] = torch.tensor(four([self._parameters(name, data) for name in self.sequences]))
        if self.told:
            own = {name: frames for name, frames in data.get("frames", {}).items() if name in files}
            told = zip(frame_values(self.sequences, self.told, own), self.frames.values(), strict=True)
            most = max(self.frames.values())
            d["frame_values"] = torch.tensor([(each[:count] + most * [0.0])[:most] for each, count in told])
        for name in self.masks:
            if name in data.get("masks", {}):
                d[name] = self._match(data, name, data["masks"][name], like, grid_name, is_image=False)
        if self.label == "images":
            d["label"] = d["image"].clone()
        elif self.label == "reference":
            lacking = [name for name in files if name not in data.get("reference", {})]
            if lacking:
                raise ValueError(
                    f"Subject {subject} has no reference of {', '.join(lacking)}; only a phantom has them."
                )
            truth = {
                name: self._match(data, f"{REFERENCE}{name}", data["reference"][name], like, grid_name)
                for name in files
            }
            d["label"] = self._stack(truth, like)
        if self.label:
            each = d["label"].as_tensor().split([self.frames[name] for name in self.sequences])
            known = ((name, image) for name, image in zip(self.sequences, each, strict=True) if name in files)
            d["label_sha256"] = {name: hashlib.sha256(image.numpy()).hexdigest() for name, image in known}
        return d

    @staticmethod
    def _warn(subject: str, images: Mapping[str, MetaTensor], like: MetaTensor) -> None:
        """Of each image's first frame that there is."""
        first = {name: next(row for row in image.as_tensor() if row.any()).numpy() for name, image in images.items()}
        for text in uncovered(first).values():
            logger.warning(f"{subject}: {text}.")
        for name, image in first.items():
            if text := remaining_skull(image, like.affine.numpy()):
                logger.warning(f"{subject}: {name} {text}.")

    def _parameters(self, name: str, data: Mapping[Hashable, Any]) -> Parameters:
        listed = data.get("parameters", {}).get(name)
        where = f"Subject {data['subject']}, sequence {name}"
        return image_parameters(data["images"].get(name), listed, self.settings[name], where)

    def _load(
        self, data: Mapping[Hashable, Any], name: str, value: str | Sequence[str | None], is_image: bool = True
    ) -> MetaTensor:
        """[T, X, Y, Z], one frame of all that is no series; frames that are missing are 0."""
        count = self.frames.get(name.removeprefix(REFERENCE), 1)
        if isinstance(value, str):
            image = self._volume(data, value, is_image, is_series=count > 1)
        else:
            frames = [file and self._volume(data, file, is_image) for file in value]
            image = next(frame for frame in frames if frame is not None)
            for file, frame in zip(value, frames, strict=True):
                if frame is not None and (found := _difference(frame, image)):
                    raise ValueError(
                        f"Subject {data['subject']}: {name} has frames on different grids, {file}: {found}."
                    )
            rows = [torch.zeros_like(image.as_tensor()) if frame is None else frame.as_tensor() for frame in frames]
            image = MetaTensor(torch.cat(rows)).copy_meta_from(image)
        if len(image) > count:
            raise ValueError(
                f"Subject {data['subject']}: {name} has {len(image)} frames, and {count} are taken. Leave it out of "
                "the sequences, or list the frames that are meant."
            )
        missing = torch.zeros(count - len(image), *image.shape[1:])
        return MetaTensor(torch.cat([image.as_tensor(), missing])).copy_meta_from(image) if len(missing) else image

    def _volume(
        self, data: Mapping[Hashable, Any], file: str, is_image: bool = True, is_series: bool = False
    ) -> MetaTensor:
        where, trust = f"Subject {data['subject']}: {file}", data.get("trust_headers", False)
        # By nibabel alone: MONAI's reader may take the qform where the header's spacings differ from the sform's.
        try:
            found, voxels = read_image(Path(file))
            options = {"is_image": is_image, "trust_headers": trust, "is_series": is_series}
            problems = [*image_problems(found, voxels, **options)]
        except Exception as error:  # a damaged file raises anything, and seldom names itself
            advice = unreadable(Path(file), error)
            raise ValueError(f"{where} cannot be read ({advice}).") from None
        for code, severity, reason in problems:
            if severity == ERROR:
                raise ValueError(f"{where}: {reason} ({code}).")
        affine = torch.as_tensor(np.array(found.affine), dtype=torch.float64)
        frames = np.moveaxis(voxels.reshape(*voxels.shape[:3], -1), -1, 0).astype(np.float32, order="C")
        return MetaTensor(torch.as_tensor(frames), affine)

    def _match(
        self,
        data: Mapping[Hashable, Any],
        name: str,
        file: str | Sequence[str | None],
        like: MetaTensor,
        grid_name: str,
        is_image: bool = True,
    ) -> MetaTensor:
        subject, image = data["subject"], self._load(data, name, file, is_image)
        if not (difference := _difference(image, like)):
            return image
        if not self.grid:
            raise ValueError(
                f"Subject {subject}: {name} and {grid_name} lie on different grids: {difference}. Register them "
                "first (`mri-contrast prepare`), "
                f"or if the patient lay still resample all to one of them with --grid {grid_name}."
            )
        mode = "bilinear" if is_image else "nearest"
        matched = ResampleToMatch(mode=mode, padding_mode="zeros")(image, img_dst=like)
        if is_image and image.any() and not matched.any():
            raise ValueError(
                f"Subject {subject}: {name} ({file}) has nothing in the grid of {grid_name}: {difference}. Are they of "
                "one session? Register them first."
            )
        return matched

    def _stack(self, images: Mapping[str, MetaTensor], like: MetaTensor) -> MetaTensor:
        empty = {name: torch.zeros(count, *like.shape[1:]) for name, count in self.frames.items()}
        stacked = torch.cat([images[name].as_tensor() if name in images else empty[name] for name in self.sequences])
        return MetaTensor(stacked).copy_meta_from(like)


def _difference(image: MetaTensor, like: MetaTensor) -> str:
    """What tells their grids apart, see `same_grid`."""
    return same_grid(tuple(image.shape[1:]), image.affine.numpy(), tuple(like.shape[1:]), like.affine.numpy())


class MarkMissingd(MapTransform):
    """Makes the sequences that a subject lacks -1 everywhere; the last step of preprocessing, in training as in use.

    Zeros alone would not do: a window of air from a scan that is there would look missing.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = torch.where(d["available"].view(-1, 1, 1, 1), d[key], MISSING)
        return d
