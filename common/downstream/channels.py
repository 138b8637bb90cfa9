"""Subjects as a classifier's input: their images, beside them perhaps maps, cropped to a box."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, ResizeWithPadOrCrop, Spacingd, SpatialCrop
from torch import Tensor

from ..data.loading import LoadSubject
from ..data.normalisation import ScaleSequencesd
from ..data.subjects import subject_items
from ..progress import bar
from .labels import Labelled

SUFFIX = "differentiation"


class LoadChannels(LoadSubject):
    """Loads maps as further sequences; what is said of images is not said of them."""

    @staticmethod
    def _warn(subject: str, images: Mapping[str, MetaTensor], like: MetaTensor) -> None:
        LoadSubject._warn(subject, {k: v for k, v in images.items() if not k.endswith(SUFFIX)}, like)


def map_file(folder: str | Path, subject: str, sequence: str) -> Path:
    """Where `run differentiation` writes a map below its output folder."""
    return Path(folder) / subject / f"{subject}_{sequence}_{SUFFIX}.nii.gz"


def load_channels(
    labelled: Sequence[Labelled],
    maps: Sequence[str],
    *,
    dataset_dir: str,
    subject_list: str,
    sequences: Sequence[str],
    roi_size: Sequence[int],
    mask: str = "",
    spacing: float = 0,
    grid: str = "",
    normalisation: str = "trimmed_mean",
) -> Tensor:
    """The subjects' images [N, S, X, Y, Z] in [0, 1]; with maps [N, 2 S, X, Y, Z], a map being on its image's scale.

    Args:
        labelled: subjects of a list; each must have all of the sequences.
        maps: of each subject the folder that its maps lie below; () for none.
        dataset_dir, subject_list, sequences: see `common.data.subjects.subject_items`.
        roi_size: of the box, in voxels.
        mask: the box lies round the middle of this mask; "" is the middle of what is not air.
        spacing: in mm, to which all is resampled; 0 leaves it.
        grid: see `LoadSubject`.
        normalisation: the rule of `ScaleSequencesd`.

    Raises:
        FileNotFoundError: a map is not there.
        ValueError: a subject lacks a sequence or the mask.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sequences that are not asked for
        items = {each["subject"]: each for each in subject_items(dataset_dir, "all", sequences, subject_list)}
    names = [f"{name}_{SUFFIX}" for name in sequences] if maps else []
    loaded = Compose(
        [
            LoadChannels([*sequences, *names], grid, masks=[mask] if mask else []),
            Orientationd(["image", *([mask] if mask else [])], axcodes="RAS", labels=None, allow_missing_keys=True),
        ]
    )
    found = []
    for k, each in enumerate(bar(labelled, desc="preparing subjects", unit="subjects")):
        item = dict(items.get(each.subject, {"subject": each.subject, "images": {}, "masks": {}}))
        _check(item, sequences, mask)
        if maps:
            item["images"] = {**item["images"], **_maps_of(maps[k], each.subject, sequences)}
        found.append(_boxed(_scaled(loaded(item), sequences, normalisation), mask, spacing, roi_size))
    return torch.stack(found)


def _check(item: Mapping[str, Any], sequences: Sequence[str], mask: str) -> None:
    if lacking := [name for name in sequences if name not in item["images"]]:
        raise ValueError(
            f"Subject {item['subject']} has no {', '.join(lacking)}, and what is missing could tell the label: leave "
            "the subject out, or name other --sequences."
        )
    if mask and mask not in item["masks"]:
        known = ", ".join(item["masks"]) or "none"
        raise ValueError(f"Subject {item['subject']} has no mask '{mask}' to crop round; it has {known}.")


def _maps_of(folder: str, subject: str, sequences: Sequence[str]) -> dict[str, str]:
    files = {f"{name}_{SUFFIX}": map_file(folder, subject, name) for name in sequences}
    if absent := [str(file) for file in files.values() if not file.is_file()]:
        raise FileNotFoundError(
            f"No map {absent[0]}: make the maps of all subjects with `run differentiation`, or give --weights."
        )
    return {name: str(file) for name, file in files.items()}


def _scaled(data: dict[str, Any], sequences: Sequence[str], normalisation: str) -> dict[str, Any]:
    """Images by the rule, each map by its image's scale."""
    count = len(sequences)
    image, maps = data["image"][:count], data["image"][count:]
    told = {"subject": data["subject"], "image": image, "available": data["available"][:count]}
    scaled = ScaleSequencesd("image", normalisation, sequences=sequences)(told)
    scale = scaled["scale"][: len(maps)].view(-1, 1, 1, 1)
    return {**data, "image": torch.cat([scaled["image"], (maps / scale).clamp(0, 1)])}


def _boxed(data: dict[str, Any], mask: str, spacing: float, roi_size: Sequence[int]) -> Tensor:
    if spacing:
        modes = {"image": "bilinear", mask: "nearest"} if mask else {"image": "bilinear"}
        data = Spacingd(list(modes), pixdim=[spacing] * 3, mode=list(modes.values()))(data)
    there = (data[mask] if mask else data["image"]).amax(0) > 0
    if not there.any():
        raise ValueError(f"Subject {data['subject']}: the mask '{mask}' is empty, there is nothing to crop round.")
    places = there.nonzero()
    middle = ((places.amin(0) + places.amax(0) + 1) // 2).tolist()
    cropped = SpatialCrop(roi_center=middle, roi_size=roi_size)(data["image"])
    return ResizeWithPadOrCrop(roi_size)(cropped).as_tensor().float()
