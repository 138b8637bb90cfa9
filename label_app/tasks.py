"""MONAI Label's four kinds of task, each a call of a bundle."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import name_to_device

from common.preparing.native import record_of

from .bundles import ServedBundle
from .options import training_options
from .results import DICOM, ENDINGS, Format
from .studies import Studies

logger = logging.getLogger(__name__)


def device(request: Mapping[str, Any]) -> dict[str, torch.device]:
    """The override for a request's device; none where it names none, and the CPU where there is no CUDA.

    Raises:
        ValueError: no device has that name.
    """
    name = request.get("device")
    if not name:
        return {}
    try:
        found = torch.device(name_to_device(str(name)))
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f'"device" is {name!r}; it must be cpu, cuda or cuda:0 and so on.')
    return {"device": found}


class Synthesise(InferTask):
    """One image of a subject from its others."""

    def __init__(self, bundle: ServedBundle, studies: Studies) -> None:
        config = {"target": ["missing", *bundle.sequences], "source": ["all", *bundle.sequences], "resample": False}
        config |= {"result_extension": list(ENDINGS), "result_dtype": "float32"}
        super().__init__(InferType.OTHERS, [], 3, bundle.metadata["description"], config)
        self.bundle, self.studies = bundle, studies

    def is_valid(self) -> bool:
        return True  # without weights too, so that a request is told what is missing

    def get_path(self, validate: bool = True) -> str | None:
        """Where /model gets and removes weights: those trained or uploaded here, never the bundle's own."""
        path = self.bundle.trained / "model.pt"
        return str(path) if path.exists() else None

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        source, file, form = request.get("source"), request["image"], Format.of(request)
        scan = self.studies.find(file)
        if scan:
            entry, image = self.studies.entries[scan.subject], scan.sequence
        elif source in self.bundle.sequences:
            entry, image = {"subject": "upload", "images": {source: file}}, source
        else:
            raise ValueError(
                f'{Path(file).name} is not in the studies, so nothing says which sequence it is: pass "source", one '
                f"of {', '.join(self.bundle.sequences)}."
            )
        record = record_of(Path(entry["images"][image])) if form.ending == DICOM else {}
        choice = {"source": source, "resample": request.get("resample") in (True, "true", "True")}
        made, sidecar = self.bundle.synthesise(
            self.studies, entry, image, request.get("target"), **choice, **device(request)
        )
        if form.ending == DICOM:
            return str(form.write_dicom(made, sidecar, record, image)), sidecar
        return str(form.write(made)), sidecar


class CompleteSubjects(BatchInferTask):
    """Every subject's missing images, or `target` of every subject, in the work folder and as labels.

    They lie in `completed/<bundle>/<subject>/` with a sidecar each. As labels they belong to the subject's first image,
    and their tag is the sequence.
    """

    def __init__(self, bundles: dict[str, ServedBundle], studies: Studies) -> None:
        self.bundles, self.studies = bundles, studies

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Any) -> dict[str, Any]:
        bundle = self.bundles[request["model"]]
        targets = bundle.targets(request.get("target"))
        started = time.time()
        failed = bundle.complete(self.studies, bundle.output_dir, targets=targets, **device(request))
        completed: dict[str, Any] = {}
        for subject, entry in self.studies.entries.items():
            label = f"{subject}_{next(iter(entry['images']))}"
            for sidecar in sorted((bundle.output_dir / subject).glob(f"{subject}_*.json")):
                made, info = sidecar.with_suffix(".nii.gz"), json.loads(sidecar.read_text())
                if sidecar.stat().st_mtime < started or sidecar.stem != f"{subject}_{info['target']}":
                    continue  # an earlier batch's, or an image's uncertainty
                datastore.save_label(label, str(made), info["target"], {"model": bundle.name, "params": info})
                completed.setdefault(subject, {"label": label, "made": {}})["made"][info["target"]] = str(made)
        for subject, reason in failed.items():
            logger.error(f"{subject}: {reason}")
        return {"completed": completed, "failed": failed}


class FineTune(TrainTask):
    """A training on the studies' own subjects, from the present weights or from none."""

    def __init__(self, bundle: ServedBundle, studies: Studies) -> None:
        super().__init__(f"{bundle.name}, trained on the studies' own subjects")
        self.bundle, self.studies = bundle, studies

    def config(self) -> dict[str, Any]:
        return {"pretrained": True, **self.bundle.training_defaults()}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        pretrained = request.get("pretrained", True) in (True, "true", "True")
        options = training_options(request)
        weights = self.bundle.train(self.studies, pretrained=pretrained, **options, **device(request))
        return {"model": self.bundle.name, "weights": str(weights), "subjects": len(self.studies.subjects["training"])}


class Declared(ScoringMethod):
    """Every source to every target on one split's subjects, see docs/evaluation.md."""

    def __init__(self, bundles: dict[str, ServedBundle], studies: Studies) -> None:
        super().__init__("PSNR, SSIM and NMSE of every source to every target under the convention `declared`")
        self.bundles, self.studies = bundles, studies

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        bundle = self.bundles[request["model"]]
        split = request.get("split") or "test"
        summary = bundle.score(self.studies, split, **device(request))
        return {"model": bundle.name, "split": split, "files": str(bundle.scores_dir), "scores": summary}
