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

from ..translation import MISSING
from .acquisition import image_parameters
from .doubts import remaining_skull, uncovered
from .grids import same_grid
from .images import ERROR, image_problems, read_image, unreadable

logger = logging.getLogger(__name__)


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
        ValueError: grids differ and `grid` is not set, the subject lacks the `grid` sequence, or a file has what
            `common.data.check` calls an error, but for headers that the list trusts.
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
        if series := [name for name, file in files.items() if not isinstance(file, str)]:
            raise ValueError(
                f"Subject {subject}: {', '.join(series)} has a file per frame; the network takes one volume. Leave it "
                "out of its sequences, or list the frame that is meant."
            )
        if not files:
            raise ValueError(f"Subject {subject} has none of the sequences {', '.join(self.sequences)}.")
        if self.grid and self.grid not in files:
            raise ValueError(
                f"Subject {subject} has no {self.grid}, onto whose grid its {', '.join(files)} were to be resampled. "
                "Name another with --grid."
            )
        grid_name = self.grid or next(iter(files))
        like = self._load(data, files[grid_name])
        others = {name: file for name, file in files.items() if name != grid_name}
        images = {name: self._match(data, name, file, like, grid_name) for name, file in others.items()}
        images[grid_name] = like
        for text in uncovered({name: image[0].numpy() for name, image in images.items()}).values():
            logger.warning(f"{subject}: {text}.")
        for name, image in images.items():
            if text := remaining_skull(image[0].numpy(), like.affine.numpy()):
                logger.warning(f"{subject}: {name} {text}.")
        d = {"subject": subject, "images": files, "grid_file": files[grid_name], "image": self._stack(images, like)}
        d["available"] = torch.tensor([name in files for name in self.sequences])
        if self.settings:
            d["parameters"] = torch.tensor([self._parameters(name, data) for name in self.sequences])
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
                name: self._match(data, f"the reference of {name}", data["reference"][name], like, grid_name)
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

    def _load(self, data: Mapping[Hashable, Any], file: str, is_image: bool = True) -> MetaTensor:
        where, trust = f"Subject {data['subject']}: {file}", data.get("trust_headers", False)
        # By nibabel alone: MONAI's reader may take the qform where the header's spacings differ from the sform's.
        try:
            found, voxels = read_image(Path(file))
            problems = [*image_problems(found, voxels, is_image=is_image, trust_headers=trust)]
        except Exception as error:  # a damaged file raises anything, and seldom names itself
            advice = unreadable(Path(file), error)
            raise ValueError(f"{where} cannot be read ({advice}).") from None
        for code, severity, reason in problems:
            if severity == ERROR:
                raise ValueError(f"{where}: {reason} ({code}).")
        affine = torch.as_tensor(np.array(found.affine), dtype=torch.float64)
        return MetaTensor(torch.as_tensor(voxels.reshape(voxels.shape[:3]).astype(np.float32))[None], affine)

    def _match(
        self,
        data: Mapping[Hashable, Any],
        name: str,
        file: str,
        like: MetaTensor,
        grid_name: str,
        is_image: bool = True,
    ) -> MetaTensor:
        subject, image = data["subject"], self._load(data, file, is_image)
        difference = same_grid(tuple(image.shape[1:]), image.affine.numpy(), tuple(like.shape[1:]), like.affine.numpy())
        if not difference:
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
