"""What segments in `subsets`: the small U-Net of this project, or nnU-Net; one after the other's manner of use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import torch

from ..files import replacing
from ..inference.weights import read_state, sha256
from .cases import Cases, Items
from .masks import save_mask
from .nnunet import FIRST, NnUnet, export, place_images
from .segmenter import Settings, create_network, predict, preparation, prepared, train


class Trainer(Protocol):
    """Trains a segmenter under a name, and writes its masks; `told` is what its results depend on."""

    told: Mapping[str, Any]

    def train(self, name: str, items: Mapping[str, Items], channels: Sequence[str]) -> dict[str, Any]:
        """Of the training items; returns what is to be remembered of it."""

    def predict(self, name: str, items: Items, channels: Sequence[str], folder: Path) -> None:
        """Writes `<folder>/<subject>.nii.gz`; a channel that an item lacks is 0."""


class SmallTrainer:
    """`common.downstream.segmenter`, whose networks are kept as `<output_dir>/models/<name>.pt`."""

    def __init__(self, output_dir: Path, cases: Cases, settings: Settings, device: str) -> None:
        self.folder, self.cases = output_dir / "models", cases
        self.settings, self.device = settings, device
        self.told = {"trainer": "DynUNet, 2D", **settings._asdict()}

    def _preparation(self, channels: Sequence[str]) -> Any:
        return preparation(channels, self.cases.mask, self.cases.regions, self.settings.multiple, self.cases.grid)

    def train(self, name: str, items: Mapping[str, Items], channels: Sequence[str]) -> dict[str, Any]:
        regions, prepare = len(self.cases.regions.names), self._preparation(channels)
        own = {"regions": regions, "name": name, "device": self.device}
        network, loss = train(items["training"], prepare, self.settings, **own)
        with replacing(self.folder / f"{name}.pt") as partial:
            torch.save(network.state_dict(), partial)
        return {"loss": loss, "sha256": sha256(self.folder / f"{name}.pt")}

    def predict(self, name: str, items: Items, channels: Sequence[str], folder: Path) -> None:
        inputs, regions = len(channels) * self.settings.slices, len(self.cases.regions.names)
        network = create_network(inputs, regions, self.settings.filters).to(self.device).eval()
        network.load_state_dict(read_state(self.folder / f"{name}.pt"))
        for item, case in zip(items, prepared(items, self._preparation(channels), name), strict=True):
            made = predict(network, case["image"], self.settings.slices, self.device)
            save_mask(made, item, self.cases, folder / f"{item['subject']}.nii.gz")


class NnUnetTrainer:
    """nnU-Net on data sets that are exported to `<output_dir>/nnunet`, one for each name.

    `trainer` is nnU-Net's class, and with a colon the configuration: nnUNetTrainer_5epochs:2d. It is 3d_fullres else.
    """

    def __init__(self, output_dir: Path, cases: Cases, trainer: str, device: str) -> None:
        self.folder, self.cases = output_dir / "nnunet", cases
        name, _, configuration = trainer.partition(":")
        self.nnunet = NnUnet(self.folder, name, configuration or "3d_fullres", device)
        self.told = {"trainer": f"nnU-Net, {trainer}", "nnunetv2": version("nnunetv2")}

    def train(self, name: str, items: Mapping[str, Items], channels: Sequence[str]) -> dict[str, Any]:
        model = self.nnunet.train(export_named(self.folder, name, items, channels, self.cases))
        return {"model": str(model.relative_to(self.folder)), "sha256": sha256(model / "fold_0/checkpoint_final.pth")}

    def predict(self, name: str, items: Items, channels: Sequence[str], folder: Path) -> None:
        [model] = (self.folder / "nnUNet_results").glob(f"Dataset???_{plain(name)}/*__{self.nnunet.configuration}")
        images = folder / "images"
        for item in items:
            place_images(item, channels, images, zeros=True)
        self.nnunet.predict(model, images, folder)


def plain(name: str) -> str:
    """An arm's name in that of a data set of nnU-Net."""
    return re.sub(r"\W", "_", name)


def export_named(folder: Path, name: str, items: Mapping[str, Items], channels: Sequence[str], cases: Cases) -> Path:
    """`export` under an arm's name, with a number that no other one in the folder has."""
    known = {path.name.split("_", 1)[1]: path for path in sorted((folder / "nnUNet_raw").glob("Dataset*_*"))}
    number = int(known[plain(name)].name[7:10]) if plain(name) in known else FIRST + len(known)
    own = {"mask": cases.mask, "regions": cases.regions}
    return export(items, folder, channels, number=number, name=plain(name), **own)
