"""A subject list as raw data sets of nnU-Net v2, and nnU-Net on them where requirements-downstream.txt is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from ..files import replacing, write_text
from ..inference.weights import sha256
from ..progress import bar
from .regions import Regions

FIRST = 800  # number of the first data set


def place(source: str | Path, target: Path) -> None:
    """A NIfTI file under another name, linked where the disk allows it: data sets of several subsets share images."""
    if target.is_file() and os.path.samefile(source, target):
        return
    with replacing(target) as partial:
        if not str(source).endswith(".nii.gz"):
            nib.save(nib.load(source), partial)
            return
        try:
            os.link(os.path.realpath(source), partial)
        except OSError:  # another disk, or one that knows no links
            shutil.copyfile(source, partial)


def place_images(item: Mapping[str, Any], channels: Sequence[str], folder: Path, zeros: bool = False) -> None:
    """A subject's images as nnU-Net names them: `<subject>_0000.nii.gz` is the first of the channels.

    Args:
        item: the subject.
        channels: sequences.
        folder: to write to.
        zeros: a missing one becomes an image of zeros.

    Raises:
        ValueError: one of them is missing, and that is not wanted.
    """
    lacking = [name for name in channels if name not in item["images"]]
    if lacking and not zeros:
        raise ValueError(
            f"Subject {item['subject']} has no {', '.join(lacking)}; nnU-Net needs every channel. Complete it first "
            "(mri-contrast complete) and pass the folder by --synthesised, or leave it out."
        )
    for k, name in enumerate(channels):
        target = folder / f"{item['subject']}_{k:04d}.nii.gz"
        if name in lacking:
            like = nib.load(next(iter(item["images"].values())))
            with replacing(target) as partial:
                nib.save(nib.Nifti1Image(np.zeros(like.shape, np.float32), like.affine), partial)
        else:
            place(item["images"][name], target)


def place_label(item: Mapping[str, Any], mask: str, regions: Regions, target: Path) -> None:
    """A subject's mask as the label map of `Regions.nested`, on its own grid.

    Raises:
        ValueError: there is none.
    """
    if mask not in item["masks"]:
        raise ValueError(f"Subject {item['subject']} has no mask '{mask}' in the subject list; name another by --mask.")
    found = nib.load(item["masks"][mask])
    label = torch.as_tensor(np.rint(found.get_fdata(dtype=np.float32)))[None]
    made = nib.Nifti1Image(regions.nested(regions.channels(label, item["subject"]))[0].numpy(), found.affine)
    made.header.set_xyzt_units("mm")
    with replacing(target) as partial:
        nib.save(made, partial)


def export(
    items: Mapping[str, Sequence[Mapping[str, Any]]],
    folder: str | Path,
    channels: Sequence[str],
    *,
    mask: str,
    regions: Regions,
    number: int = FIRST,
    name: str = "",
) -> Path:
    """Writes a raw data set of nnU-Net v2, and its split.

    Args:
        items: by split (training, validation, test), as `common.data.subjects.subject_items` gives them. Images that
            were synthesised stand among the others.
        folder: for nnUNet_raw and nnUNet_preprocessed.
        channels: sequences, in the order of the channels.
        mask: the name of the label map.
        regions: of it, each within the one before.
        number: of the data set.
        name: of the data set; the channels by default.

    Returns:
        The data set's folder, `<folder>/nnUNet_raw/Dataset<number>_<name>`. Those for validation are in imagesTr with
        those for training, and told apart in `splits_final.json`, where nnU-Net looks for it.

    Raises:
        ValueError: a subject lacks a channel or the mask, or the regions are not nested.
    """
    regions.check_nested()
    called = f"Dataset{number:03d}_" + re.sub(r"\W", "_", name or "_".join(channels))
    root = Path(folder) / "nnUNet_raw" / called
    kept = [*items["training"], *items["validation"]]
    for split, those in (("Tr", kept), ("Ts", items["test"])):
        for item in bar(those, desc=f"{called} {split}", unit="subjects", leave=False):
            place_images(item, channels, root / f"images{split}")
            place_label(item, mask, regions, root / f"labels{split}" / f"{item['subject']}.nii.gz")
    described = {
        "channel_names": {str(k): name for k, name in enumerate(channels)},
        "labels": regions.labels(),
        "regions_class_order": list(range(1, len(regions.names) + 1)),
        "numTraining": len(kept),
        "validation": _names(items["validation"]),
        "file_ending": ".nii.gz",
    }
    if len(regions.names) == 1:
        del described["regions_class_order"]
    write_text(root / "dataset.json", json.dumps(described, indent=1) + "\n")
    if items["validation"]:  # else nnU-Net divides them by itself, alike for each subset
        split = {"train": _names(items["training"]), "val": _names(items["validation"])}
        file = Path(folder) / "nnUNet_preprocessed" / called / "splits_final.json"
        write_text(file, json.dumps([split], indent=1) + "\n")
    return root


def _sums(folder: Path) -> str:
    """The sha256 of all files of a folder, which an export writes anew."""
    return json.dumps({str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*.*"))})


def _names(items: Sequence[Mapping[str, Any]]) -> list[str]:
    return [item["subject"] for item in items]


class NnUnet:
    """nnU-Net v2 by MONAI's runner.

    Args:
        folder: of `export`.
        trainer: nnUNetTrainer, or one for few epochs, nnUNetTrainer_5epochs.
        configuration: 3d_fullres (the paper's), 2d ...
        device: cpu, or a GPU: cuda or cuda:1.

    Raises:
        ValueError: nnU-Net is not installed.
    """

    def __init__(self, folder: str | Path, trainer: str, configuration: str, device: str) -> None:
        if find_spec("nnunetv2") is None:
            raise ValueError(
                "nnU-Net is not installed: pip install -r requirements-downstream.txt. Without --trainer a small U-Net "
                "of this project's is trained."
            )
        self.folder, self.trainer, self.configuration = Path(folder).resolve(), trainer, configuration
        self.device = torch.device(device)
        # Its programs lie beside this Python, which need not be on the path.
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])

    def train(self, dataset: Path) -> Path:
        """Plans, preprocesses and trains fold 0 of a data set; stopped, it goes on. Returns the model's folder.

        Raises:
            ValueError: the folder has another data set's work under this name, or nnU-Net failed.
        """
        from monai.apps.nnunet import nnUNetV2Runner

        folders = {name.lower(): str(self.folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
        number = int(dataset.name[len("Dataset") :].split("_")[0])
        info = {"dataset_name_or_id": number, **folders, "nnunet_results": str(self.folder / "nnUNet_results")}
        config = self.folder / f"{dataset.name}.json"
        write_text(config, json.dumps(info, indent=1) + "\n")
        runner = nnUNetV2Runner(str(config), self.trainer, str(self.folder), export_validation_probabilities=False)
        done = self.folder / "nnUNet_preprocessed" / dataset.name / f"{self.configuration}.json"
        made_of, model = _sums(dataset), self.folder / "nnUNet_results" / dataset.name
        before = done.read_text(encoding="utf-8") if done.is_file() else ""
        if before != made_of and (before or any(model.rglob("checkpoint_*.pth"))):
            raise ValueError(
                f"What nnU-Net has in {self.folder} for {dataset.name} was made of other images, masks or splits: name "
                "another output_dir."
            )
        if not done.is_file():
            few = min(8, os.cpu_count() or 1)
            options = {"c": f"['{self.configuration}']", "n_proc": f"[{few}]", "npfp": few}
            options |= {"input_config": config, "work_dir": self.folder, "verify_dataset_integrity": True}
            words = [f"--{name}={value}" for name, value in options.items()]
            # Its pools of processes are forked from where they are begun: not from here.
            self._run(sys.executable, "-m", "monai.apps.nnunet", "nnUNetV2Runner", "plan_and_process", *words)
            write_text(done, made_of)
        gpu = self.device.index or 0
        command, environment = runner.train_single_model_command(self.configuration, 0, gpu, {"c": True})
        # The runner passes --device, which nnU-Net does not know, and does not say when the training failed.
        self._run(*command, "-device", self.device.type, environment=environment)
        return self.folder / "nnUNet_results" / dataset.name / f"{self.trainer}__nnUNetPlans__{self.configuration}"

    def predict(self, model: Path, images: Path, output_dir: Path) -> None:
        """Label maps `<output_dir>/<subject>.nii.gz` of a folder of images; stopped, it goes on.

        Raises:
            ValueError: nnU-Net failed.
        """
        stamp = output_dir / "made_of.json"
        made_of = f"{_sums(images)} {sha256(model / 'fold_0' / 'checkpoint_final.pth')}"
        if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == made_of):
            for mask in output_dir.glob("*.nii.gz"):  # of other images, or another model
                mask.unlink()
            write_text(stamp, made_of)
        options = {"-i": images, "-o": output_dir, "-m": model, "-f": 0, "-device": self.device.type}
        words = [str(word) for pair in options.items() for word in pair]
        self._run("nnUNetv2_predict_from_modelfolder", *words, "--continue_prediction", "-npp", "1", "-nps", "1")

    def _run(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        try:
            subprocess.run(command, env=environment, check=True)
        except subprocess.CalledProcessError as error:
            raise ValueError(f"nnU-Net failed: {' '.join(command)} ended with status {error.returncode}.") from None
