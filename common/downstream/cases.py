"""The subjects of an experiment with segmentation: a list's items by split, their label map and its regions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.subjects import list_of, subject_items
from ..inference.weights import sha256
from ..progress import bar
from .regions import Regions
from .synthesis import Synthesis

SPLITS = ("training", "validation", "test")
Items = Sequence[Mapping[str, Any]]


class Cases:
    """What is segmented, and from what.

    Args:
        dataset_dir, subject_list: see `common.data.subjects.subject_items`.
        sequences: in the order of the channels.
        mask: name of the label map in the subject list.
        regions: text of `Regions`.
        grid: the sequence onto whose grid others are resampled.

    Attributes:
        items: by split.
        settings: what results depend on.

    Raises:
        ValueError: there is no subject to train on, a subject has no such mask, or a region is not within the one
            before it.
    """

    def __init__(
        self,
        dataset_dir: str,
        subject_list: str = "",
        *,
        sequences: Sequence[str],
        mask: str = "tumour",
        regions: str,
        grid: str = "",
    ) -> None:
        self.sequences, self.mask, self.regions, self.grid = list(sequences), mask, Regions(regions), grid
        self.regions.check_nested()  # as which predictions are written
        self.where = {"dataset_dir": str(dataset_dir), "subject_list": str(subject_list)}
        self.items: dict[str, Items] = {
            split: subject_items(dataset_dir, split, self.sequences, subject_list, required=split == "training")
            for split in SPLITS
        }
        for item in (item for items in self.items.values() for item in items):
            if mask not in item["masks"]:
                known = ", ".join(item["masks"]) or "none"
                raise ValueError(f"Subject {item['subject']} has no mask '{mask}', only {known}: name one by --mask.")
        self.settings = {
            "subject_list_sha256": sha256(list_of(dataset_dir, subject_list)),
            "files_sha256": self._files_sum(),
            **{"sequences": self.sequences, "mask": mask, "regions": self.regions.text, "grid": grid},
        }

    def _files_sum(self) -> str:
        """Of the contents of all images and masks."""
        items = [item for items in self.items.values() for item in items]
        files = [file for item in items for file in (*item["images"].values(), item["masks"][self.mask])]
        sums = [sha256(file) for file in bar(files, desc="reading files", unit="files", leave=False)]
        return hashlib.sha256(json.dumps(sums).encode()).hexdigest()

    def check_paired(self) -> None:
        """Raises a ValueError with fewer than two test subjects."""
        if len(self.items["test"]) < 2:
            raise ValueError(f"The list has {len(self.items['test'])} test subjects: paired tests need two or more.")

    def subset(self, name: str) -> list[str]:
        """T1Gd+FLAIR, or all, as sequences in the channels' order.

        Raises:
            ValueError: it has others.
        """
        parts = self.sequences if name == "all" else name.split("+")
        if unknown := [part for part in parts if part not in self.sequences]:
            raise ValueError(f"{name} has {', '.join(unknown)}, none of the sequences {', '.join(self.sequences)}.")
        return [each for each in self.sequences if each in parts]

    def given(self, subset: Sequence[str], synthesis: Synthesis | None = None) -> dict[str, list[dict[str, Any]]]:
        """Subjects by split with a subset's images alone; with a `synthesis` also the others, made from these.

        Raises:
            ValueError: a subject lacks one, and there is no synthesis.
        """
        if synthesis:
            return {split: synthesis.fill(items, subset, self.sequences) for split, items in self.items.items()}
        for item in (item for items in self.items.values() for item in items):
            if lacking := [name for name in subset if name not in item["images"]]:
                raise ValueError(
                    f"Subject {item['subject']} has no {', '.join(lacking)}: leave it out of the list, or let what is "
                    "missing be synthesised by --fill."
                )
        return {split: [only(item, subset) for item in items] for split, items in self.items.items()}


def only(item: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A subject with these of its images alone."""
    return {**item, "images": {name: item["images"][name] for name in names}}
