"""The engine that scores the network while it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Events
from ignite.metrics import Metric
from monai.engines import SupervisedEvaluator, default_prepare_batch
from monai.handlers import IgniteMetricHandler, StatsHandler, TensorBoardStatsHandler, from_engine
from monai.inferers import Inferer
from torch import nn

from ..data.loaders import CachedSubjects, subject_loader
from ..data.preparation import Subjects
from ..distributed import is_main_process, unwrapped
from ..evaluation.validation import SynthesisMetric
from ..files import prepare_folder
from ..inference.inferers import CompletionInferer, SubjectInferer, slab_starts, tell_frames
from ..inference.progress import SubjectProgress
from .handlers import SampleImages


class OfSlabs:
    """A `prepare_batch` whose labels are 0, which is not scored, where an inferer makes nothing.

    Args:
        inferer: whose slabs are made so, or one that wraps it.
        every: see `slab_starts`.
        network: a `TranslationNetwork`.
        prepare_batch: that of MONAI by default.

    Raises:
        ValueError: the network does not work slice by slice.
    """

    def __init__(
        self, inferer: Inferer, every: int, network: nn.Module, prepare_batch: Callable[..., Any] | None = None
    ) -> None:
        inferer = inferer if isinstance(inferer, SubjectInferer) else getattr(inferer, "inferer", None)
        if not isinstance(inferer, SubjectInferer) or network.spatial_dims == 3:
            raise ValueError(f"every is {every}; only networks of slices are validated by slabs, so leave it out.")
        inferer.every = every
        self.inferer, self.slice_axis = inferer, network.slice_axis
        self.prepare_batch = prepare_batch or default_prepare_batch

    def __call__(self, batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        image, label, *others = self.prepare_batch(batch, *args, **kwargs)
        depth, made = label.shape[self.slice_axis], torch.zeros_like(label, dtype=torch.bool)
        for start in slab_starts(depth, self.inferer.slab, self.inferer.every):
            length = min(self.inferer.slab, depth - start)
            made.narrow(self.slice_axis, start, length).fill_(True)
        return image, torch.where(made | (label < 0), label, 0), *others  # -1 is a missing sequence


class Validator(SupervisedEvaluator):
    """A `SupervisedEvaluator` of a list's validation subjects with the usual handlers: log, curves and sample images.

    Args:
        network: on the device that it runs on.
        subjects: of a list; if it has none for validation, the evaluator has nothing to run on.
        output_dir: of curves and images.
        sequences: the subjects' that are known; by default all.
        inferer: by default each sequence is made from all the others (`CompletionInferer`).
        slab: of that, see `common.inference.inferers.SubjectInferer`.
        every: a network of slices makes, and is scored on, every so-many-th slab only (`slab_starts`).
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
        every: int = 1,
        cache_rate: float = 1.0,
        num_workers: int = 0,
        key_val_metric: Mapping[str, Metric] | None = None,
        val_handlers: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        listed = subjects.dataset_dir or subjects.subject_list
        items = subjects.items("validation", sequences, required=False) if listed else []
        dataset = CachedSubjects(items, subjects.validation(), cache_rate=cache_rate, num_workers=num_workers)
        every_sequence = CompletionInferer(subjects.sequences, "all", roi_size=subjects.roi_size, slab=slab)
        scored = from_engine(["pred", "label"])
        inferer = inferer or every_sequence
        if every > 1:
            kwargs["prepare_batch"] = OfSlabs(inferer, every, unwrapped(network), kwargs.get("prepare_batch"))
        handlers = list(val_handlers)
        if is_main_process():
            prepare_folder(output_dir, "output_dir")
            curves = TensorBoardStatsHandler(log_dir=output_dir, iteration_log=False)
            handlers += [StatsHandler(iteration_log=False), curves, SampleImages(output_dir)]
        super().__init__(
            device=next(network.parameters()).device,
            network=network,
            inferer=inferer,
            val_data_loader=subject_loader(dataset, num_workers),
            key_val_metric=key_val_metric
            or {"val_psnr": IgniteMetricHandler(SynthesisMetric(counts=subjects.counts), output_transform=scored)},
            val_handlers=handlers,
            **kwargs,
        )
        SubjectProgress("validating", leave=False).attach(self)
        self.add_event_handler(Events.ITERATION_STARTED, tell_frames)
