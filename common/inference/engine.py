"""The engine of `run inference`: subject after subject, one bad one never stops the others."""

from __future__ import annotations

import logging
from typing import Any

from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch import nn

from ..data.loaders import subject_loader
from ..ending import root_cause

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

    Args:
        dataset: subjects, such as a `SubjectDataset`.
        network: with its weights, on the device that it runs on.
        num_workers: that load.
        kwargs: as for `SupervisedEvaluator`.
    """

    def __init__(self, *, dataset: Dataset, network: nn.Module, num_workers: int = 0, **kwargs: Any) -> None:
        device = next(network.parameters()).device
        super().__init__(device, subject_loader(dataset, num_workers), network, **kwargs)
        self.failures: dict[str, str] = {}

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict:
        subject = batchdata["subject"][0]
        if "error" in batchdata:
            self.failures[subject] = batchdata["error"][0]
        else:
            try:
                output = super()._iteration(engine, batchdata)
                logger.info(f"{subject}: done")
                return output
            except Exception as error:
                self.failures[subject] = str(root_cause(error))
        logger.error(f"{subject}: {self.failures[subject]}")
        return {}

    def run(self, global_epoch: int = 1) -> None:
        """Over all subjects.

        Raises:
            SystemExit: some failed; the message names each with its reason.
        """
        self.failures = {}
        super().run(global_epoch)
        if self.failures:
            lines = [f"  {subject}: {reason}" for subject, reason in self.failures.items()]
            raise SystemExit("\n".join([f"{len(lines)} of {self.state.epoch_length} subjects failed:", *lines]))
