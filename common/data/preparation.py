"""How a subject's files become the network's input: said once, for training, validation, use and evaluation."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from monai.transforms import (
    CenterSpatialCrop,
    CenterSpatialCropd,
    Compose,
    CopyItemsd,
    CropForegroundd,
    DivisiblePadd,
    EnsureTyped,
    Invertd,
    Orientationd,
    RandSpatialCropSamplesd,
    SelectItemsd,
    SpatialPadd,
)

from ..description import Description
from .layouts import find_subjects
from .lesions import LesionChanneld, PartLesiond
from .loading import LoadSubject, MarkMissingd
from .normalisation import ScaleSequencesd
from .series import Frames, channel_names, count_frames, validate_frames
from .subjects import list_of, listed_frames, read_subjects, some, subject_items

logger = logging.getLogger(__name__)

Transform = Callable[[Any], Any]
LITTLE = 0.001  # of an image, that noise in air may be


class Subjects:
    """A folder's subjects, and how each is prepared: loaded onto one grid, turned to `axes`, scaled, cropped to its
    foreground, padded, and what it lacks marked.

    Args:
        sequences: S names, in the network's order.
        dataset_dir, subject_list: see `common.data.subjects.subject_items`.
        pattern: None takes subjects from a list alone. Else a folder without a list is searched, by this pattern or,
            where it is "", by the layouts that are known (`common.data.layouts.find_subjects`).
        grid: see `LoadSubject`.
        normalisation: the rule of `ScaleSequencesd`.
        roi_size: the smallest size, to which images are padded.
        divisible: what the sizes of whole subjects are multiples of; 1 along the axis of a 2D network's slices.
        settings: (TR, TE, TI) in ms, and FA, of the sequences, for networks that are told them, see `LoadSubject`.
        scale_per: see `ScaleSequencesd`.
        axes: where the axes of what the network sees lead to. Images are written on their own grid whatever they are.
        crop: the middle of an image that is taken, -1 for all along an axis; () takes what is not air.
        frames: of the sequences that are series, as a subject list has it: {"DCE": {"times": [0, 60]}}. None is what
            the list says of its training subjects (`common.data.subjects.listed_frames`).
        told: the network is told each subject's times and b values, so that they need not be those of its training.

    Attributes:
        frames: of each series.
        channels: C names of an image's channels: the sequences, and each frame of the series.
        counts: of each sequence, how many frames it has; [] if none is a series.
        trained_alike: by name, what weights must be used with as they were trained.
        sizes: by name, what they need not be used with.
        described: these two and all else that changes an image.
        left_right: the axis, of what the network sees, along which a head is much the same when it is flipped.
    """

    @classmethod
    def as_described(cls, described: Description, **given: Any) -> Subjects:
        """As the network that weights are for sees them: axes and crop are as their description says."""
        shown = {name: described.found[name] for name in ("axes", "crop") if name in described.found}
        if described.network.get("frame_codes") == "value":
            shown["told"] = True
        return cls(**{**shown, **given})

    def __init__(
        self,
        sequences: Sequence[str],
        *,
        dataset_dir: str | os.PathLike = "",
        subject_list: str | os.PathLike = "",
        pattern: str | None = None,
        grid: str = "",
        normalisation: str = "trimmed_mean",
        roi_size: Sequence[int] = (1, 1, 1),
        divisible: Sequence[int] = (1, 1, 1),
        settings: Sequence[Sequence[float]] = (),
        scale_per: str = "image",
        axes: str = "RAS",
        crop: Sequence[int] = (),
        frames: Mapping[str, Frames] | None = MappingProxyType({}),
        told: bool = False,
    ) -> None:
        self.sequences, self.settings = list(sequences), settings
        self.dataset_dir, self.subject_list, self.pattern = dataset_dir, subject_list, pattern
        if frames is None:
            frames = listed_frames(dataset_dir, subject_list, self.sequences)
        for name, each in frames.items():
            validate_frames(each, f"frames of '{name}'")
        if unknown := [name for name in frames if name not in self.sequences]:
            raise ValueError(f"frames has {', '.join(unknown)}, none of the sequences {', '.join(self.sequences)}.")
        self.frames = {name: dict(frames[name]) for name in self.sequences if name in frames}
        counts = {name: count_frames(each) for name, each in self.frames.items()}
        self.channels = channel_names(self.sequences, counts)
        self.counts = [counts.get(name, 1) for name in self.sequences] if counts else []
        self.series = {"frames": counts} if counts else {}
        self.grid, self.roi_size, self.divisible = grid, list(roi_size), list(divisible)
        self.axes, self.crop = axes, list(crop)
        self.left_right = next(k for k, end in enumerate(axes) if end in "LR")
        # Where the sequences are settings, their names are the user's and say nothing; their values are the network's.
        self.scaling = {"rule": normalisation, "per": scale_per, "sequences": [] if settings else self.sequences}
        self.tensors = ["image", "available", "scale", "offset", *(["parameters"] if settings else [])]
        self.tensors += ["frame_values"] if counts else []
        self.told = told
        own = {"scale_per": scale_per} if settings else {"sequences": self.sequences}
        self.trained_alike = {**own, "normalisation": normalisation, "axes": axes, "crop": self.crop}
        self.sizes = {"roi_size": self.roi_size, "divisible": self.divisible}
        if counts:
            (self.sizes if told else self.trained_alike)["frames"] = self.frames
        self.described = {**self.trained_alike, **self.sizes, "sequences": self.sequences, "grid": grid}
        self.described["dataset_dir"] = Path(dataset_dir).name  # what says it may be shared

    def items(self, split: str, sequences: Sequence[str] | None = None, **options: Any) -> list[dict]:
        """The items of a split, see `subject_items`; of all sequences, or of the named ones."""
        if self.pattern and self.subject_list:
            raise ValueError(f"Both pattern {self.pattern!r} and subject_list {self.subject_list}: give one of them.")
        if self.pattern is not None and not self.subject_list:
            options["found"] = find_subjects(self.dataset_dir, self.pattern, split, names=self.sequences)
        wanted = self.sequences if sequences is None else sequences
        items = subject_items(self.dataset_dir, split, wanted, self.subject_list, **options)
        if not self.told and (others := [item["subject"] for item in items if self._other_frames(item)]):
            place = "frames are taken by their place in the series, as the network knows no more"
            warnings.warn(f"{some(others)}: times or b values are not {self.frames}; {place}", stacklevel=2)
        if self.told and (unknown := [item["subject"] for item in items if self._unknown_frames(item)]):
            advice = "tell them with --frames, or put them beside the files"
            warnings.warn(f"{some(unknown)}: {self.frames} is taken for what is not known; {advice}", stacklevel=2)
        return items

    def _other_frames(self, item: Mapping[str, Any]) -> bool:
        """Whether a subject's times (s) or b values are fewer, or more than 10 % and 5 apart from the network's."""
        told = [(each, self.frames.get(name, {})) for name, each in item.get("frames", {}).items()]
        kinds = [(each, own, kind) for each, own in told for kind in each.keys() & own.keys() - {"count", "step"}]
        numbers = [pair for each, own, kind in kinds for pair in zip(each[kind], own[kind], strict=False)]
        fewer = any(len(each[kind]) < len(own[kind]) for each, own, kind in kinds)
        return fewer or not all(math.isclose(*pair, rel_tol=0.1, abs_tol=5) for pair in numbers)

    def _unknown_frames(self, item: Mapping[str, Any]) -> bool:
        """Whether of a series that the subject has neither times nor b values are known."""
        there = {name: item.get("frames", {}).get(name, {}) for name in self.frames if name in item["images"]}
        return any(not each.keys() - {"count"} for each in there.values())

    def called(self) -> str:
        """Those for training, in words: as the list or else its folder is called, and how many they are."""
        file = list_of(self.dataset_dir, self.subject_list)
        listed = read_subjects(file)
        count = sum(any(name in self.sequences for name in entry["images"]) for entry in listed["training"])
        return f"{listed.get('name') or file.parent.name}, {count} subject{'s' * (count != 1)}"

    def training(
        self, random: Sequence[Transform] = (), crops: int | None = None, lesions: Sequence[str] = ()
    ) -> Compose:
        """For training: what is random comes after all that is not, so that a `CacheDataset` keeps the latter.

        Args:
            random: what is done to an image anew each time.
            crops: so many random boxes of `roi_size` are cropped from a subject; None takes the middle, padded.
            lesions: names of the masks whose union becomes "lesion" [1, X, Y, Z] (0 where a subject has none).
        """
        if crops is not None:
            size = [RandSpatialCropSamplesd("image", roi_size=self.roi_size, num_samples=crops, random_size=False)]
        else:
            size = [CenterSpatialCropd("image", roi_size=self.roi_size), self._divisible()]
        if not lesions:
            return Compose([*self._prepared(), *size, *random, *self._finished()])
        turned = Orientationd(lesions, axcodes="RAS", labels=None, allow_missing_keys=True)
        loaded = [*self._scaled("image", masks=lesions), turned, LesionChanneld("image", lesions), *self._cropped()]
        kept = SelectItemsd(["subject", *self.tensors])
        parted = [PartLesiond("image"), *self._finished(), EnsureTyped("lesion", track_meta=False)]
        return Compose([*loaded, kept, *size, *random, *parted])

    def validation(self) -> Compose:
        """For validation: a whole subject, and as "label" what it looks like."""
        return Compose([*self._prepared(), self._divisible(), *self._finished(), CopyItemsd("image", names="label")])

    def prepared(self) -> Compose:
        """What both begin with."""
        return Compose(self._prepared())

    def use(self) -> Compose:
        """For making images, see `restored`."""
        scaled = [*self._scaled("image"), self._with_folder]
        return Compose([*scaled, *self._cropped(), self._divisible(), MarkMissingd("image")])

    def _with_folder(self, data: dict) -> dict:
        """Adds the "folder" that the subject's files lie below: `dataset_dir`, or else the list's."""
        place = self.dataset_dir or (list_of("", self.subject_list) if self.subject_list else "")
        folder = Path(os.path.abspath(Path(place).expanduser()))
        return {**data, "folder": str(folder.parent if folder.is_file() else folder)}

    def loaded(self) -> Compose:
        """`use` of images that are loaded already, see `common.inference.serving`."""
        return Compose(self.use().transforms[1:])

    def evaluation(self, truth: str, masks: Sequence[str], disturb: Transform) -> Compose:
        """As in use, with the truth as "label", the masks, and as "source" the images that the network gets, whole.

        Args:
            truth: "images" or "reference", see `LoadSubject`.
            masks: names of the masks to load.
            disturb: what is done to the images before the network gets them.
        """
        loaded = self._scaled(["image", "label"], masks=masks, label=truth)
        seen = [disturb, CopyItemsd("image", names="source")]
        return Compose([*loaded, *seen, *self._cropped(), self._divisible(), MarkMissingd("image")])

    @staticmethod
    def restored(preparation: Compose, *more: Transform) -> Compose:
        """What brings "pred" back to the grid that "image" was loaded on; and then `more`."""
        back = Invertd("pred", preparation, orig_keys="image", nearest_interp=False, to_tensor=True)
        return Compose([back, *more])

    def _scaled(self, keys: str | list[str], **loaded: Any) -> list[Transform]:
        return [
            LoadSubject(self.sequences, self.grid, settings=self.settings, told=self.frames, **self.series, **loaded),
            Orientationd("image", axcodes="RAS", labels=None),
            ScaleSequencesd(keys, **self.scaling, **self.series),
        ]

    def _cropped(self) -> list[Transform]:
        # Along the slices the outer ones stand in for those that lack, as within the network; in plane, air.
        slices = [size if multiple == 1 else -1 for size, multiple in zip(self.roi_size, self.divisible, strict=True)]
        # Not before: rivals and disturbances see the same image whatever the axes are.
        turned = [] if self.axes == "RAS" else [Orientationd("image", axcodes=self.axes, labels=None)]
        if self.crop:
            box = [self._warn_of_tissue_outside, CenterSpatialCropd("image", roi_size=self.crop)]
        else:
            box = [CropForegroundd("image", source_key="image", allow_smaller=True)]
        return [
            *turned,
            *box,
            SpatialPadd("image", spatial_size=slices, mode="edge"),
            SpatialPadd("image", spatial_size=self.roi_size),
        ]

    def _warn_of_tissue_outside(self, data: dict) -> dict:
        tissue = (data["image"] > 0).any(0, keepdim=True)
        inside = CenterSpatialCrop(self.crop)(tissue)
        outside = 1 - float(inside.sum()) / max(float(tissue.sum()), 1)
        if outside > LITTLE:
            logger.warning(
                f"{data['subject']}: {outside:.1%} of what is not air lies outside the middle {self.crop} voxels "
                f"({self.axes}) that the network was trained on; nothing is made there."
            )
        return data

    def _prepared(self) -> list[Transform]:
        return [*self._scaled("image"), *self._cropped(), SelectItemsd(["subject", *self.tensors])]

    def _divisible(self) -> Transform:
        return DivisiblePadd("image", k=self.divisible)

    def _finished(self) -> list[Transform]:
        return [MarkMissingd("image"), EnsureTyped(self.tensors, track_meta=False)]
