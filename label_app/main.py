"""The MONAI Label app: `./ci/label STUDIES` starts a server with it; docs/label.md shows its use."""

from __future__ import annotations

import json
import logging
import multiprocessing.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from monailabel.config import settings
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.utils.sessions import Sessions

from common.options import from_caller, words
from label_app.bundles import ServedBundle
from label_app.datastore import Scans
from label_app.options import TASKS, chosen, training_options
from label_app.studies import Studies, unknown_image
from label_app.tasks import CompleteSubjects, Declared, FineTune, Synthesise, device
from label_app.told import told_over_http, without_paths

logger = logging.getLogger(__name__)


class SynthesisApp(MONAILabelApp):
    """Bundles on a studies folder. `conf` may have:

    bundles: names, separated by commas; all by default.
    bundles_dir: the folder that holds them, here or unpacked from packages.
    overlay: configurations to lay over the bundles' own, such as "small", which trains small networks.
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
        self.uploads, self.session_dir = work_dir / "uploads", work_dir / "sessions"
        self.bundles_dir = folder = from_caller(conf.get("bundles_dir") or ROOT / "bundles")
        all_names = sorted(path.parents[1].name for path in folder.glob("*/configs/inference.json"))
        overlays = words(conf.get("overlay"))
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

    def on_init_complete(self) -> None:
        """What a client sends is kept in the work folder, readable by nobody else, and not beyond the server's end."""
        multiprocessing.util.get_temp_dir()  # stays where it is: a socket's path may be 100 letters long
        for kept in (self.uploads, self.session_dir):
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(mode=0o700)
        tempfile.tempdir = str(self.uploads)
        super().on_init_complete()

    def _load_sessions(self, load: bool = False) -> Sessions | None:
        return Sessions(str(self.session_dir), settings.MONAI_LABEL_SESSION_EXPIRY) if load else None

    def bundle(self, name: Any) -> ServedBundle:
        """One of those served.

        Raises:
            ValueError: there is none of that name.
        """
        if not isinstance(name, str) or name not in self.bundles:
            raise ValueError(f'"model" is {name!r}; this server has {", ".join(self.bundles)}.')
        return self.bundles[name]

    def roots(self) -> list[str]:
        """The folders that no answer names, nearest first."""
        own = (self.work_dir, self.studies, self.bundles_dir, ROOT, Path.home(), sys.prefix)
        return [path for root in own for path in (str(root), os.path.realpath(root))]

    def checked(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        """The part of a task's request that is known; what would fail later is told now.

        Raises:
            ValueError, FileNotFoundError: an option is impossible, or there are no weights.
        """
        with told_over_http():
            request = chosen(request, TASKS[method])
            bundle = self.bundle(request.get("model"))
            device(request)
            if method == "train":
                training_options(request)
            if method == "batch_infer":
                bundle.targets(request.get("target"))
            if method == "scoring":
                if request.get("method") not in self._scoring_methods:
                    raise ValueError(f"There is no scoring but {', '.join(self._scoring_methods)}.")
                bundle.check_split(request.get("split") or "test")
            if method != "train" or request.get("pretrained", True) in (True, "true", "True"):
                bundle.check_weights()
        return request

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        with told_over_http():
            self.bundle(request.get("model"))
            image = request["image"]
            received = Path(image).parent == self.uploads or self.session_dir in Path(image).parents
            if not received and image not in self.datastore().list_images():
                raise unknown_image(image, self.studies_list.scans)
            result = super().infer(request, datastore)
            result["params"] = json.loads(without_paths(json.dumps(result["params"], ensure_ascii=False), self.roots()))
            return result

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        strategy = request.get("strategy")
        if strategy not in self._strategies:
            raise ValueError(f"There is no strategy {strategy!r}; this server has {', '.join(self._strategies)}.")
        return super().next_sample(request)

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        with told_over_http():
            return super().batch_infer(request, datastore)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        with told_over_http():
            return super().train(request)

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        with told_over_http():
            return super().scoring(request, datastore)
