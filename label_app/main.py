"""The MONAI Label app: `./ci/label STUDIES` starts a server with it; docs/label.md shows its use."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore

from common.inference.engine import root_cause
from common.options import from_caller, words
from label_app.bundles import ServedBundle
from label_app.datastore import Scans
from label_app.studies import Studies, unknown_image
from label_app.tasks import CompleteSubjects, Declared, FineTune, Synthesise

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def told_over_http() -> Iterator[None]:
    """Turns errors into answers with their text, which else would be "Internal Server Error"."""
    try:
        yield
    except HTTPException:
        raise
    except (Exception, SystemExit) as error:
        logger.exception("A request failed")
        cause = root_cause(error)
        status = 404 if isinstance(cause, FileNotFoundError) else 400 if isinstance(cause, ValueError) else 500
        raise HTTPException(status, str(cause) or type(cause).__name__) from error


class SynthesisApp(MONAILabelApp):
    """Bundles on a studies folder. `conf` may have:

    bundles: names, separated by commas; all by default.
    bundles_dir: the folder that holds them, here or unpacked from packages.
    overlays: configurations to lay over the bundles' own, such as "small", which trains small networks.
    work_dir: for what the server makes; `.monailabel` in the studies by default.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        if "://" in studies:
            raise ValueError(f"{studies}: the studies must be a folder of NIfTI files; DICOMweb is not served.")
        work_dir = from_caller(conf.get("work_dir") or Path(studies) / ".monailabel")
        try:
            work_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"{work_dir} cannot be made ({error}): name another folder with --conf work_dir DIR."
            ) from None
        self.studies_list = Studies(Path(studies), work_dir)
        self.work_dir = work_dir
        folder = from_caller(conf.get("bundles_dir") or ROOT / "bundles")
        all_names = sorted(path.parents[1].name for path in folder.glob("*/configs/inference.json"))
        overlays = words(conf.get("overlays"))
        names = words(conf.get("bundles")) or all_names
        self.bundles = {name: ServedBundle(folder / name, overlays, work_dir) for name in names}
        super().__init__(
            app_dir,
            studies,
            conf,
            name="MRI contrast synthesis",
            description="Makes the sequences that a subject lacks. Research only. Not for clinical use.",
        )
        self._auto_update_scoring = False  # scoring takes long: only when asked for
        counts = f"{len(self.studies_list.scans)} images of {len(self.studies_list.entries)} subjects"
        logger.info(f"{counts}; what is made goes to {work_dir}")

    def init_datastore(self) -> Datastore:
        return Scans(self.studies_list, self.work_dir)

    def init_infers(self) -> dict[str, Synthesise]:
        return {name: Synthesise(bundle, self.studies_list) for name, bundle in self.bundles.items()}

    def init_trainers(self) -> dict[str, FineTune]:
        return {name: FineTune(bundle, self.studies_list) for name, bundle in self.bundles.items()}

    def init_scoring_methods(self) -> dict[str, Declared]:
        return {"declared": Declared(self.bundles, self.studies_list)}

    def init_batch_infer(self) -> CompleteSubjects:
        return CompleteSubjects(self.bundles, self.studies_list)

    def datastore(self) -> Datastore:
        self._datastore.refresh()  # a batch's labels come from another process
        return self._datastore

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        with told_over_http():
            self._check(request)
            image = request["image"]
            if not os.path.exists(image) and image not in self.datastore().list_images():
                raise unknown_image(image, self.studies_list.scans)
            return super().infer(request, datastore)

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        with told_over_http():
            self._check(request)
            return super().batch_infer(request, datastore)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        with told_over_http():
            self._check(request)
            return super().train(request)

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        with told_over_http():
            self._check(request)
            return super().scoring(request, datastore)

    def _check(self, request: dict[str, Any]) -> None:
        if request.get("model") not in self.bundles:
            raise ValueError(f'"model" is {request.get("model")!r}; this server has {", ".join(self.bundles)}.')
