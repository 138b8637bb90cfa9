"""The engine of `run inference`: subject after subject, one bad one never stops the others."""

from __future__ import annotations

import logging
from typing import Any

from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch import nn

from ..data.loaders import subject_loader
from ..ending import root_cause
from ..files import DiskFull
from ..memory import advising
from .inferers import FEWER, tell_frames
from .progress import SubjectProgress
from .saving import SaveVolumes

logger = logging.getLogger(__name__)


class SubjectDataset(Dataset):
    """A `Dataset` that hands on, in place of a subject that cannot be loaded, its name and the "error"."""

    def _transform(self, index: int) -> Any:
        try:
            return super()._transform(index)
        except Exception as error:
            return {"subject": self.data[index]["subject"], "error": str(root_cause(error))}


class CompletionEvaluator(SupervisedEvaluator):
    """A `SupervisedEvaluator` that reports what failed at the end, and then exits with status 1.

    Where the disk is full nothing more can be kept: the subjects that are left are not begun.

    Args:
        dataset: subjects, such as a `SubjectDataset`.
        network: with its weights, on the device that it runs on.
        num_workers: that load.
        kwargs: as for `SupervisedEvaluator`.
    """

    def __init__(self, *, dataset: Dataset, network: nn.Module, num_workers: int = 0, **kwargs: Any) -> None:
        device = next(network.parameters()).device
        super().__init__(device, subject_loader(dataset, num_workers), network, **kwargs)
        SubjectProgress("completing").attach(self)
        self.add_event_handler(Events.ITERATION_STARTED, tell_frames)
        last = kwargs.get("postprocessing")
        self.savers = [each for each in getattr(last, "transforms", [last]) if isinstance(each, SaveVolumes)]
        self.failures: dict[str, str] = {}

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict:
        subject = batchdata["subject"][0]
        if "error" in batchdata:
            self.failures[subject] = batchdata["error"][0]
        else:
            try:
                with advising(FEWER):
                    output = super()._iteration(engine, batchdata)
                for saver in self.savers:
                    saver.finished(subject)
                logger.info(f"{subject}: done")
                return output
            except Exception as error:
                self.failures[subject] = str(root_cause(error))
                if isinstance(root_cause(error), DiskFull):
                    engine.terminate()
        logger.error(f"{subject}: {self.failures[subject]}")
        return {}

    def run(self, global_epoch: int = 1) -> None:
        """Over all subjects.

        Raises:
            NotWritten: there is no room for what is to be written, or it cannot be written there at all.
            SystemExit: some failed; the message names each with its reason.
        """
        self.failures = {}
        items = self.data_loader.dataset.data
        if not items:
            logger.info("No subject is left to do.")
            return
        for saver in self.savers:
            saver.prepare(items)
        super().run(global_epoch)
        if self.failures:
            lines = [f"  {subject}: {reason}" for subject, reason in self.failures.items()]
            if left := len(items) - self.state.iteration if self.should_terminate else 0:
                lines.append(f"  {left} more were not begun.")
            raise SystemExit("\n".join([f"{len(self.failures)} of {len(items)} subjects failed:", *lines]))
