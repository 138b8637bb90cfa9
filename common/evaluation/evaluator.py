"""The engine of `run evaluating`: every source to every target, scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator, default_prepare_batch
from monai.inferers import Inferer
from monai.transforms import Orientationd

from ..data.loaders import subject_loader
from ..data.preparation import Subjects
from ..inference.inferers import tell_frames
from ..inference.progress import SubjectProgress
from ..options import words
from ..translation import TranslationNetwork
from .disturbances import Disturbd
from .matrix import ScoreMatrix


class MatrixEvaluator(SupervisedEvaluator):
    """Scores the network and its rivals on a split's subjects; the intensity map is fitted on those for training.

    Args:
        network: with its weights, on the device that it runs on.
        inferer: a `MatrixInferer`, or another one with `routes`.
        subjects: of a list.
        split: whose subjects are scored.
        truth: "images" or "reference", see `common.data.loading.LoadSubject`.
        regions: names of masks, see `ScoreMatrix`.
        disturbance, level, seed: see `Disturbd`.
        mapped: sequences that the map is fitted on; by default all.
        info: what else the scores' JSON shall say.
        val_handlers: further ones.
        prepare_batch: as for `SupervisedEvaluator`.
        scoring: as for `ScoreMatrix`: output_dir, weights, metadata_file, conventions, lpips_weights, keep, ceiling.

    Attributes:
        matrix: what scores.
        disturb: what disturbs the images.
    """

    def __init__(
        self,
        *,
        network: TranslationNetwork,
        inferer: Inferer,
        subjects: Subjects,
        split: str = "test",
        truth: str = "images",
        regions: str | Sequence[str] = (),
        disturbance: str = "none",
        level: int = 1,
        seed: int = 0,
        mapped: Sequence[str] | None = None,
        info: Mapping[str, Any] | None = None,
        val_handlers: Sequence[Any] = (),
        prepare_batch: Callable[..., Any] = default_prepare_batch,
        **scoring: Any,
    ) -> None:
        masks = ["brain", *words(regions)]
        self.disturb = Disturbd("image", disturbance, level, seed)
        preparation = subjects.evaluation(truth, masks, self.disturb)
        oriented = Orientationd(["pred", "label", *masks], axcodes="RAS", labels=None, allow_missing_keys=True)
        run = {"truth": truth, "seed": seed, "disturbance": disturbance, "level": level, "split": split}
        self.matrix = ScoreMatrix(
            subjects.sequences,
            inferer.routes,
            Dataset(subjects.items("training", mapped, required=False), subjects.prepared()),
            regions=regions,
            frames=subjects.frames,
            info={**network.options, **network.chosen, **subjects.described, **run, **(info or {})},
            **scoring,
        )
        super().__init__(
            device=next(network.parameters()).device,
            val_data_loader=subject_loader(Dataset(subjects.items(split), preparation)),
            network=network,
            inferer=inferer,
            postprocessing=subjects.restored(preparation, oriented),
            val_handlers=[self.matrix, *val_handlers],
            prepare_batch=prepare_batch,
        )
        SubjectProgress("scoring").attach(self)
        self.add_event_handler(Events.ITERATION_STARTED, tell_frames)
