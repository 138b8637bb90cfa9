"""From a subject's files to one image [S, X, Y, Z], and the mark of the sequences that it lacks."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, ResampleToMatch, Transform

from ..translation import MISSING
from .acquisition import image_parameters
from .check import not_3d, read_image, same_grid, unreadable


class LoadSubject(Transform):
    """Loads a subject of the list (`common.data.subjects.subject_items`) onto one grid.

    Returns "subject", "image" [S, X, Y, Z] (a missing sequence is 0), "available" [S] bool, "images" (the files),
    "grid_file" (the one whose grid it is), and each of `masks` that the subject has, [1, X, Y, Z].

    Args:
        sequences: S names, in the network's order.
        grid: the sequence onto whose grid the others are resampled (linear; masks nearest). "" resamples nothing and
            refuses a subject whose files lie on different grids. No registration is done.
        masks: names of masks to load.
        label: what to add as "label" [S, X, Y, Z]: "" nothing, "images" a copy of the image, "reference" the noise-free
            truth, which only a phantom has. "label_sha256" comes with it: by that, runs know whether they had the same.
        settings: (TR, TE, TI) [S, 3] in ms that the sequences have by default. If given, "parameters" [S, 3] is added:
            what the subject list or an image's own sidecar says, else these.

    Raises:
        ValueError: grids differ and `grid` is not set, the subject lacks the `grid` sequence, or a voxel is not finite.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        grid: str = "",
        masks: Sequence[str] = (),
        label: str = "",
        settings: Sequence[Sequence[float]] = (),
    ) -> None:
        self.sequences = list(sequences)
        self.grid = grid
        self.masks = list(masks)
        self.label = label
        self.settings = dict(zip(self.sequences, settings, strict=True)) if settings else {}
        if grid and grid not in self.sequences:
            raise ValueError(f"grid is '{grid}', which is none of the sequences {', '.join(self.sequences)}.")
        if label not in ("", "images", "reference"):
            raise ValueError(f"label is '{label}'; it must be 'images', 'reference' or ''.")

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
        like = self._load(subject, files[grid_name])
        others = {name: file for name, file in files.items() if name != grid_name}
        images = {name: self._match(subject, name, file, like, grid_name) for name, file in others.items()}
        images[grid_name] = like
        d = {"subject": subject, "images": files, "grid_file": files[grid_name], "image": self._stack(images, like)}
        d["available"] = torch.tensor([name in files for name in self.sequences])
        if self.settings:
            d["parameters"] = torch.tensor([self._parameters(name, data) for name in self.sequences])
        for name in self.masks:
            if name in data.get("masks", {}):
                d[name] = self._match(subject, name, data["masks"][name], like, grid_name, mode="nearest")
        if self.label == "images":
            d["label"] = d["image"].clone()
        elif self.label == "reference":
            lacking = [name for name in files if name not in data.get("reference", {})]
            if lacking:
                raise ValueError(
                    f"Subject {subject} has no reference of {', '.join(lacking)}; only a phantom has them."
                )
            truth = {
                name: self._match(subject, f"the reference of {name}", data["reference"][name], like, grid_name)
                for name in files
            }
            d["label"] = self._stack(truth, like)
        if self.label:
            d["label_sha256"] = hashlib.sha256(d["label"].as_tensor().numpy()).hexdigest()
        return d

    def _parameters(self, name: str, data: Mapping[Hashable, Any]) -> tuple[float, float, float]:
        listed = data.get("parameters", {}).get(name)
        where = f"Subject {data['subject']}, sequence {name}"
        return image_parameters(data["images"].get(name), listed, self.settings[name], where)

    def _load(self, subject: str, file: str) -> MetaTensor:
        # By nibabel alone: MONAI's reader may take the qform where the header's spacings differ from the sform's.
        try:
            found, voxels = read_image(Path(file))
        except Exception as error:  # a damaged file raises anything, and seldom names itself
            advice = unreadable(Path(file), error)
            raise ValueError(f"Subject {subject}: {file} cannot be read ({advice}).") from None
        if voxels.dtype.kind not in "biuf":
            raise ValueError(f"Subject {subject}: {file} has voxels of {voxels.dtype}. Convert it to magnitude.")
        voxels = voxels[..., 0] if voxels.ndim == 4 and voxels.shape[3] == 1 else voxels
        if voxels.ndim != 3:
            raise ValueError(f"Subject {subject}: {file} is not 3D: {not_3d(voxels.shape)}.")
        affine = torch.as_tensor(np.array(found.affine), dtype=torch.float64)
        image = MetaTensor(torch.as_tensor(voxels.astype(np.float32))[None], affine)
        if not torch.isfinite(image).all():
            raise ValueError(f"Subject {subject}: {file} has NaN or infinite voxels. Repair or drop it.")
        return image

    def _match(
        self, subject: str, name: str, file: str, like: MetaTensor, grid_name: str, mode: str = "bilinear"
    ) -> MetaTensor:
        image = self._load(subject, file)
        difference = same_grid(tuple(image.shape[1:]), image.affine.numpy(), tuple(like.shape[1:]), like.affine.numpy())
        if not difference:
            return image
        if not self.grid:
            raise ValueError(
                f"Subject {subject}: {name} and {grid_name} lie on different grids: {difference}. Register them first, "
                f"or if the patient lay still resample all to one of them with --grid {grid_name}."
            )
        matched = ResampleToMatch(mode=mode, padding_mode="zeros")(image, img_dst=like)
        if mode == "bilinear" and image.any() and not matched.any():
            raise ValueError(
                f"Subject {subject}: {name} ({file}) has nothing in the grid of {grid_name}: {difference}. Are they of "
                "one session? Register them first."
            )
        return matched

    def _stack(self, images: Mapping[str, MetaTensor], like: MetaTensor) -> MetaTensor:
        empty = torch.zeros_like(like.as_tensor())
        stacked = torch.cat([images[name].as_tensor() if name in images else empty for name in self.sequences])
        return MetaTensor(stacked).copy_meta_from(like)


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
