"""A bundle as the server uses it: its own workflows, with overrides and nothing in between."""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
from monai.bundle import ConfigParser, create_workflow

from common.data.grids import same_grid
from common.data.series import files_of
from common.data.subjects import SPLITS
from common.description import description_file, read
from common.evaluation.scores import ScoreTable
from common.inference.engine import root_cause
from common.inference.weights import sha256
from common.options import from_caller, words

from .options import TRAINING
from .studies import Studies

logger = logging.getLogger(__name__)


class ServedBundle:
    """One bundle, its configuration and the weights that it has at the moment.

    Args:
        folder: of the bundle, as in this repository or unpacked from a package.
        overlays: configurations to lay over each of its own: names in its configs/, or paths.
        work_dir: `weights/<bundle>/model.pt` is what was trained here and has precedence over the bundle's own.

    Raises:
        FileNotFoundError: there is no such bundle, or none of its overlays.
    """

    def __init__(self, folder: Path, overlays: Sequence[str], work_dir: Path) -> None:
        self.name, self.folder = folder.name, folder
        if not (folder / "configs" / "inference.json").is_file():
            raise FileNotFoundError(f"There is no bundle in {folder}; set --conf bundles_dir and --conf bundles.")
        self.overlays = [self._config(overlay) for overlay in overlays]
        self.trained = work_dir / "weights" / self.name
        self.output_dir = work_dir / "completed" / self.name
        self.scores_dir = work_dir / "scores" / self.name
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        self.metadata = json.loads((folder / "configs" / "metadata.json").read_text())
        self.training = self._parser("train")

    @property
    def weights(self) -> Path:
        """What was trained here, else the bundle's own."""
        own = self.folder / "models" / "model.pt"
        return self.trained / "model.pt" if (self.trained / "model.pt").exists() else own

    @property
    def inference(self) -> ConfigParser:
        """With what the present weights say of themselves."""
        parser = self._parser("inference")
        parser["weights"] = str(self.weights)
        return parser

    @property
    def sequences(self) -> list[str]:
        """That the present weights know."""
        return self.inference.get_parsed_content("sequences")

    def complete(self, studies: Studies, output_dir: Path, **overrides: Any) -> dict[str, str]:
        """Runs inference.json; returns why subjects failed, by name."""
        weights = str(self.check_weights())
        workflow = self._workflow("inference", studies, output_dir, weights=weights, **overrides)
        try:
            workflow.run()
        except SystemExit:  # its message is for the command line
            return workflow.evaluator.failures
        return {}

    def synthesise(
        self,
        studies: Studies,
        entry: Mapping[str, Any],
        image: str,
        target: Any,
        *,
        source: str | Sequence[str] | None = None,
        resample: bool = False,
        **overrides: Any,
    ) -> tuple[Path, dict[str, Any]]:
        """One image of a subject that one bundle makes, in a temporary file, and what its sidecar says.

        Args:
            studies: those that the subject belongs to.
            entry: the subject's, as in a subject list.
            image: the sequence on whose grid it is made.
            target: the sequence to make, or (TR, TE, TI) in ms, with FA in degrees or without, where the bundle takes
                them; None is the one that the subject lacks.
            source: the sequences to make it from, which the image is one of; None is all that the subject has.
            resample: bring sources on other grids to the image's, by their headers; else they are refused.
            overrides: of inference.json.

        Raises:
            ValueError: an unknown sequence, no or several missing ones, other grids, or what the workflow says.
        """
        if not set(self.sequences) & set(entry["images"]):
            raise ValueError(
                f"{entry['subject']} has {', '.join(entry['images'])}, none of which {self.name} knows: it makes "
                f"images from {', '.join(self.sequences)}."
            )
        target = self._one_target(target, entry)
        wanted = self.sources(source)
        images = {name: file for name, file in entry["images"].items() if name in wanted}
        if image not in images:
            raise ValueError(
                f"The image is {entry['subject']}'s {image}, which is not among the sources {', '.join(wanted)}: "
                'choose an image that is, or another "source".'
            )
        if not resample:
            _check_one_grid(entry["subject"], images, image)
        with tempfile.TemporaryDirectory() as folder:
            listed = studies.write_one({**entry, "images": images}, Path(folder) / "one.json")
            choice = {"subject_list": str(listed), "split": "test", "targets": target, "grid": image}
            failures = self.complete(studies, Path(folder), **choice, **overrides)
            if failures:
                raise ValueError("; ".join(f"{subject}: {reason}" for subject, reason in failures.items()))
            [made] = (path for path in Path(folder).glob("*/*.nii.gz") if "_uncertainty." not in path.name)
            sidecar = json.loads(made.with_name(made.name.replace(".nii.gz", ".json")).read_text())
            handle, path = tempfile.mkstemp(prefix=made.name.replace(".nii.gz", "_"), suffix=".nii.gz")
            os.close(handle)
            shutil.copyfile(made, path)
        return Path(path), sidecar

    def train(self, studies: Studies, *, pretrained: bool = True, **overrides: Any) -> Path:
        """Trains on the studies' own subjects and puts the weights where the next request finds them.

        Args:
            studies: whose training and validation subjects.
            pretrained: go on from the present weights, else from none.
            overrides: of the training's configuration.

        Raises:
            ValueError: the studies have no subjects for it, or what the workflow says.
            FileNotFoundError: there are no weights to go on from.
        """
        if lacking := [split for split in ("training", "validation") if not studies.subjects[split]]:
            raise ValueError(
                f"{studies.list} has no {' and no '.join(lacking)} subject. From three people on each split has one "
                "by itself; or write subjects.json: mri-contrast list DIR --help."
            )
        if pretrained:
            self.check_weights()
        folder = self.trained / "training"
        shutil.rmtree(folder, ignore_errors=True)  # of a training that was stopped
        for stage, config in ({"": "train"} if pretrained else self._stages()).items():
            paths = {
                f"{earlier}_weights": str(folder / earlier / "model.pt")
                for earlier in ("autoencoder", "translation")
                if f"{earlier}_weights" in self.training
            }
            if pretrained:
                own = str(self.weights)
                described = {"_target_": f"{self.name}.common.description.Description", "path": own}
                paths = {**dict.fromkeys(paths, own), "network": self._pretrained(), "described": described}
            changes = {**paths, "ckpt_dir": str(folder / stage), **overrides}
            if self.training.get("perceptual_weights") == "download":
                changes["perceptual_weights"] = "none"  # a server fetches nothing
            self._workflow(config, studies, self.trained / "eval" / stage, **changes).run()
        self._take(folder)
        return self.weights

    def put_weights(self, file: BinaryIO, ending: str) -> dict[str, Any]:
        """Takes weights from elsewhere, if they are this bundle's and, as described, were trained as it is configured.

        Args:
            file: a zip with model.pt and its description model.json, as training writes them, or model.pt alone.
            ending: of its name.

        Raises:
            ValueError: it is neither, or does not fit.
        """
        folder = self.trained / "upload"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            _unpack(file, folder, ending)
            own = self.folder / "models" / "model.pt"
            if read(own).get("sha256") == sha256(folder / "model.pt"):  # its own again, which it describes
                shutil.copyfile(description_file(own), folder / "model.json")
            parser = self._parser("inference")
            parser["weights"] = str(folder / "model.pt")
            parser.get_parsed_content("network")
            described = (folder / "model.json").is_file()
            self._take(folder)
        except Exception as error:
            cause = root_cause(error)
            text = str(cause) if isinstance(cause, ValueError) else "torch reads no tensors in it."
            raise ValueError(f"The upload is no weights of {self.name}, which keeps those it has: {text}") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        when = int(self.weights.stat().st_mtime)
        return {"checksum": f"SHA256:{sha256(self.weights)}", "modified_time": when, "described": described}

    def score(self, studies: Studies, split: str = "test", **overrides: Any) -> list[dict[str, Any]]:
        """Every source to every target on a split's subjects, under the declared convention: the means.

        Raises:
            ValueError: the split is unknown or has no subject.
            FileNotFoundError: there are no weights.
        """
        self.check_split(split)
        changes = {"weights": str(self.check_weights()), "split": split, **overrides}
        self._workflow("train", studies, self.scores_dir, ["evaluate"], **changes).run()
        means = json.dumps(ScoreTable.read(self.scores_dir).summary())
        return json.loads(means, parse_constant=lambda name: None)  # JSON has no nan

    def check_split(self, split: Any) -> None:
        """Raises a ValueError for a split that there is not."""
        if split not in (*SPLITS, "all"):  # see `targets`
            raise ValueError(f'"split" is {split!r}; it must be one of {", ".join(SPLITS)} or all.')

    def check_weights(self) -> Path:
        """The weights' path.

        Raises:
            FileNotFoundError: there are none.
        """
        if not self.weights.is_file():
            raise FileNotFoundError(
                f"{self.name} has no weights: {self.weights} is not there. Put them there, or train here: POST "
                f'/train/{self.name} with the body {{"pretrained": false}}.'
            )
        return self.weights

    def training_defaults(self) -> dict[str, Any]:
        """What a training's configuration says of what a request may change."""
        return {name: self.training.get_parsed_content(name) for name in TRAINING}

    def targets(self, target: Any) -> list[Any] | None:
        """What a request's "target" means: None is what a subject lacks, else one sequence, or (TR, TE, TI) in ms,
        of a gradient echo with FA in degrees.

        Raises:
            ValueError: no sequence has that name.
        """
        if target in (None, "", "missing"):
            return None
        if "acquisitions" in self.inference and isinstance(target, list) and len(target) in (3, 4):
            return [_times(target)]
        if target not in self.sequences:  # no other text may reach a configuration, which evaluates what begins with $
            raise ValueError(f'"target" is {target!r}; {self.name} makes {", ".join(self.sequences)}.')
        return [target]

    def sources(self, source: Any) -> list[str]:
        """What a request's "source" means: all, or those named.

        Raises:
            ValueError: no sequence has that name.
        """
        names = self.sequences if source in (None, "", "all") else words(source)
        if unknown := [str(name) for name in names if name not in self.sequences]:
            raise ValueError(f'"source" has {", ".join(unknown)}; {self.name} knows {", ".join(self.sequences)}.')
        return names

    def _take(self, folder: Path) -> None:
        """Weights, and then their description, to where they are used; no older description stays beside them."""
        (self.trained / "model.json").unlink(missing_ok=True)
        for file in sorted(folder.glob("model.*"), reverse=True):
            os.replace(file, self.trained / file.name)
        shutil.rmtree(folder)

    def _one_target(self, target: Any, entry: Mapping[str, Any]) -> list[Any]:
        missing = [name for name in self.sequences if name not in entry["images"]]
        targets = self.targets(target) or missing
        if len(targets) != 1:
            raise ValueError(
                f"{entry['subject']} lacks {', '.join(missing) or 'nothing'}: say which image is wanted with "
                f'"target", one of {", ".join(self.sequences)}.'
            )
        return targets

    def _stages(self) -> dict[str, str]:
        """A bundle's trainings from the start: the folder of the weights to the configuration."""
        try:
            stages = importlib.import_module(f"{self.name}.stages")
        except ModuleNotFoundError:
            return {"": "train"}
        return {stages.FOLDERS[stage]: config for stage, config in stages.TRAININGS.items()}

    def _pretrained(self) -> dict[str, str]:
        network = "@begun" if "begun" in self.training else "@network_def"
        target = f"{self.name}.common.inference.weights.load_weights"
        return {"_target_": target, "network": network, "path": str(self.weights), "device": "@device"}

    def _config(self, name: str) -> Path:
        path = self.folder / "configs" / f"{name}.json"
        if not path.is_file():
            path = from_caller(name)
        if not path.is_file():
            raise FileNotFoundError(f"{self.name} has no configuration '{name}' in its configs/, and it is no file.")
        return path

    def _parser(self, config: str) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(self._config(config)), *map(str, self.overlays)])
        parser["bundle_root"] = str(self.folder)
        return parser

    def _workflow(
        self,
        config: str,
        studies: Studies,
        output_dir: Path,
        further: Sequence[str] = (),
        **overrides: Any,
    ) -> Any:
        files = [self._config(config), *self.overlays, *map(self._config, further)]
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a configuration can run any code
            return create_workflow(
                workflow_type="inference" if config == "inference" else "train",
                config_file=[str(file) for file in files],
                logging_file=False,
                **{
                    "bundle_root": str(self.folder),
                    "dataset_dir": str(studies.folder),
                    "subject_list": str(studies.list),
                    "output_dir": str(output_dir),
                    **overrides,
                },
            )


def _unpack(file: BinaryIO, folder: Path, ending: str) -> None:
    """model.pt of an upload, and model.json if it has one. torch's own files are zips too: the ending tells."""
    if ending.lower() != ".zip":
        with (folder / "model.pt").open("wb") as copy:
            shutil.copyfileobj(file, copy)
        return
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if Path(name).name in ("model.pt", "model.json"):
                    (folder / Path(name).name).write_bytes(archive.read(name))
    except zipfile.BadZipFile as error:
        raise ValueError(f"The upload is no whole zip archive: {error}.") from None
    if not (folder / "model.pt").is_file():
        raise ValueError("The archive has no model.pt: it must hold that and its description, model.json.")


def _times(target: list[Any]) -> list[float]:
    try:
        times = [float(time) for time in target]
    except TypeError:
        times = [math.nan]
    if not all(math.isfinite(time) and time >= 0 for time in times):
        raise ValueError(f'"target" is {target!r}; TR, TE and TI must be times in ms, FA an angle in degrees.')
    return times


def _check_one_grid(subject: str, images: Mapping[str, str], image: str) -> None:
    like = nib.load(files_of(images[image])[0])
    for name, file in images.items():
        other = nib.load(files_of(file)[0])
        if difference := same_grid(other.shape[:3], other.affine, like.shape[:3], like.affine):
            raise ValueError(
                f"Subject {subject}: {name} and {image} lie on different grids: {difference}. Register them first; if "
                'the patient lay still, "resample": true brings them to the image\'s by their headers; or "source": '
                f'"{image}" uses it alone.'
            )
