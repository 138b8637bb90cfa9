"""The engine that scores the network while it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler, StatsHandler, TensorBoardStatsHandler, from_engine
from monai.inferers import Inferer
from torch import nn

from ..data.loaders import CachedSubjects, subject_loader
from ..data.preparation import Subjects
from ..distributed import is_main_process
from ..evaluation.validation import SynthesisMetric
from ..files import prepare_folder
from ..inference.inferers import CompletionInferer
from ..inference.progress import SubjectProgress
from .handlers import SampleImages


class Validator(SupervisedEvaluator):
    """A `SupervisedEvaluator` of a list's validation subjects with the usual handlers: log, curves and sample images.

    Args:
        network: on the device that it runs on.
        subjects: of a list; if it has none for validation, the evaluator has nothing to run on.
        output_dir: of curves and images.
        sequences: the subjects' that are known; by default all.
        inferer: by default each sequence is made from all the others (`CompletionInferer`).
        slab: of that, see `common.inference.inferers.SubjectInferer`.
        cache_rate, num_workers: see `monai.data.CacheDataset`; the latter load, too.
        key_val_metric: by name, what decides on the best epoch; by default `SynthesisMetric`, as "val_psnr".
        val_handlers: further ones, attached before the usual ones and in every process.
        kwargs: as for `SupervisedEvaluator`.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        subjects: Subjects,
        output_dir: str,
        sequences: Sequence[str] | None = None,
        inferer: Inferer | None = None,
        slab: int = 16,
        cache_rate: float = 1.0,
        num_workers: int = 0,
        key_val_metric: Mapping[str, Metric] | None = None,
        val_handlers: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        listed = subjects.dataset_dir or subjects.subject_list
        items = subjects.items("validation", sequences, required=False) if listed else []
        dataset = CachedSubjects(items, subjects.validation(), cache_rate=cache_rate, num_workers=num_workers)
        every = CompletionInferer(subjects.sequences, "all", roi_size=subjects.roi_size, slab=slab)
        scored = from_engine(["pred", "label"])
        handlers = list(val_handlers)
        if is_main_process():
            prepare_folder(output_dir, "output_dir")
            curves = TensorBoardStatsHandler(log_dir=output_dir, iteration_log=False)
            handlers += [StatsHandler(iteration_log=False), curves, SampleImages(output_dir)]
        super().__init__(
            device=next(network.parameters()).device,
            network=network,
            inferer=inferer or every,
            val_data_loader=subject_loader(dataset, num_workers),
            key_val_metric=key_val_metric
            or {"val_psnr": IgniteMetricHandler(SynthesisMetric(counts=subjects.counts), output_transform=scored)},
            val_handlers=handlers,
            **kwargs,
        )
        SubjectProgress("validating", leave=False).attach(self)
