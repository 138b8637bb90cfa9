"""Images that were synthesised in the place of those that subjects have, or lack: by a network, or from a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.subjects import write_subjects
from ..workflows import complete_folder

Items = Sequence[Mapping[str, Any]]


class Synthesis:
    """Fills in sequences of subjects.

    Args:
        output_dir: what a network makes is in `<output_dir>/<sources>/<subject>`, and is made once.
        synthesised: a folder that `mri-contrast complete` made, to take it from in place of a network.
        bundle, weights: the network; by default mri_seq2seq's own. Weights "none" are refused once they are needed.
        device: for it; "" is the configuration's.

    Attributes:
        origin: sha256 of the weights, and what they were trained on, of all that was filled in.

    Raises:
        ValueError: both a folder and weights.
    """

    def __init__(
        self, output_dir: str | Path, synthesised: str = "", bundle: str = "", weights: str = "", device: str = ""
    ) -> None:
        if synthesised and (bundle or weights not in ("", "none")):
            raise ValueError("Both synthesised and a bundle or weights: one of them makes the images.")
        self.output_dir, self.synthesised = Path(output_dir), str(synthesised)
        self.bundle, self.weights, self.device = bundle, weights, device
        self.origin: dict[str, str] = {}

    def fill(self, items: Items, given: Sequence[str], wanted: Sequence[str]) -> list[dict[str, Any]]:
        """Subjects whose images are the `given` ones that they have, and, made from these, the others of `wanted`."""
        groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
        for item in items:
            groups.setdefault(tuple(name for name in given if name in item["images"]), []).append(item)
        filled = {}
        for sources, those in groups.items():
            targets = [name for name in wanted if name not in sources]
            folder = self._folder(those, sources, targets) if targets else Path()
            for item in those:
                images = {name: item["images"][name] for name in sources}
                made = {name: self._checked(folder, item["subject"], name, sources) for name in targets}
                filled[item["subject"]] = {**item, "images": images | made}
        return [filled[item["subject"]] for item in items]

    def _folder(self, items: Items, sources: Sequence[str], targets: Sequence[str]) -> Path:
        if self.synthesised:
            return Path(self.synthesised)
        if self.weights == "none":
            raise ValueError(f"With --weights none nothing makes the {', '.join(targets)} that --fill asks for.")
        if not sources:
            raise ValueError(f"Subject {items[0]['subject']} has no sequence to make {', '.join(targets)} from.")
        folder = self.output_dir / "+".join(sources)
        images = {item["subject"]: {name: item["images"][name] for name in sources} for item in items}
        entries = [{"subject": name, "images": each} for name, each in images.items()]
        listed = {"sequences": [*sources, *targets], "training": [], "validation": [], "test": entries}
        # A list of its own for each set of subjects: the same sources serve those of training and of test.
        file = write_subjects(folder / f"{items[0]['subject']}_{len(items)}.json", listed)
        options = {"saver#pictures": False, "uncertainty": False, **({"device": self.device} if self.device else {})}
        made = {"bundle": self.bundle, "weights": self.weights, "targets": list(targets)}
        complete_folder(str(folder), str(folder), subject_list=str(file), **made, **options)
        return folder

    def _checked(self, folder: Path, subject: str, name: str, sources: Sequence[str]) -> str:
        """The image's file, whose sidecar says that it was made from these sources."""
        file = folder / subject / f"{subject}_{name}.nii.gz"
        sidecar = file.with_name(f"{subject}_{name}.json")
        if not (file.is_file() and sidecar.is_file()):
            raise ValueError(
                f"There is no {file} with its JSON: make it by `mri-contrast complete DATA {folder} --targets {name}`."
            )
        told = json.loads(sidecar.read_text(encoding="utf-8"))
        if {*told["sources"]} != {*sources}:
            raise ValueError(
                f"{file} was made from {', '.join(told['sources'])}, and here it must be from {', '.join(sources)}; "
                "without --synthesised it is made so."
            )
        origin = {key: told.get(key, "unknown") for key in ("weights_sha256", "trained_on")}
        if self.origin and self.origin != origin:
            raise ValueError(f"{file} was made by other weights than images before it: {origin} and {self.origin}.")
        self.origin = origin
        return str(file)
