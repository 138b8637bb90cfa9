"""Every source to every target on the test subjects, beside the two trivial rivals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import monai
import torch
from ignite.engine import Engine, Events
from torch import Tensor
from tqdm import tqdm

from ..inference.weights import sha256
from .conventions import brain_mask, score
from .metrics import load_lpips
from .rivals import IntensityMap, copy_source
from .scores import ScoreTable


class ScoreMatrix:
    """Scores the predictions of a `MatrixInferer`, prints the table and writes `scores.csv` and `scores.json`.

    Attach it to an evaluator whose postprocessing leaves, per subject, "pred" [S * S, X, Y, Z] and "label"
    [S, X, Y, Z] (training units) in the output, and in the batch "available" [S], "subject", and whatever masks the
    subject has, all on one grid.

    Args:
        sequences: S names, in the network's order.
        training: subjects that the intensity map is fitted on, each with "image" and "available".
        output_dir: where the two files go.
        weights: file whose sha256 the JSON names.
        brain: the batch's key of the brain mask; without it, the target's non-background.
        regions: keys of further masks, scored where a subject has them.
        lpips_weights: AlexNet's weights: a file, "download", or "none" to report LPIPS as missing.
        truth: what the label is, for the JSON: "images" as acquired, or the noise-free "reference".
        seed: for the JSON.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        training: Iterable[dict[str, Any]],
        output_dir: str,
        weights: str,
        brain: str = "brain",
        regions: Sequence[str] = (),
        lpips_weights: str = "none",
        truth: str = "images",
        seed: int = 0,
    ) -> None:
        self.sequences = list(sequences)
        self.training = training
        self.output_dir = Path(output_dir)
        self.brain = brain
        self.regions = list(regions)
        self.lpips = load_lpips(lpips_weights)
        self.weights = weights
        self.info = {"lpips": self.lpips.sha256 if self.lpips else "missing", "truth": truth, "seed": seed}
        self.table = ScoreTable("declared")
        self.masks: set[str] = set()

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.fit)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def fit(self, engine: Engine) -> None:
        """Fits the intensity map."""
        self.map = IntensityMap(self.sequences)
        for item in tqdm(self.training, desc="fitting the intensity map"):
            self.map.fit(item["image"], item["available"].tolist())

    def update(self, engine: Engine) -> None:
        """Scores one subject."""
        batch, output = engine.state.batch[0], engine.state.output[0]
        label, count = output["label"], len(self.sequences)  # postprocessing returns it there, not in the batch
        pred = output["pred"].unflatten(0, (count, count))
        available = batch["available"].nonzero()[:, 0].tolist()
        regions = {name: batch[name][0] > 0 for name in self.regions if name in batch and (batch[name] > 0).any()}
        self.masks.add("the subject list's" if self.brain in batch else "the target's non-background")
        for j in available:
            brain = batch[self.brain][0] > 0 if self.brain in batch else brain_mask(label[j])
            for i in available:
                made: dict[str, Callable[[], Tensor]] = {
                    "network": lambda i=i, j=j: pred[i, j],
                    "copy": lambda i=i, j=j: copy_source(label[i], i, j),
                    "map": lambda i=i, j=j: self.map.predict(label[i], i, j),
                }
                for method in made if i != j else ["network"]:
                    self._add(batch["subject"], method, i, j, made[method], label[j], brain, regions)

    def _add(
        self,
        subject: str,
        method: str,
        i: int,
        j: int,
        make: Callable[[], Tensor],
        truth: Tensor,
        brain: Tensor,
        regions: dict,
    ) -> None:
        try:
            made = make()
        except ValueError as error:  # a pair that no training subject has
            warnings.warn(str(error), stacklevel=2)
            return
        numbers = score(made, truth, brain, lpips=self.lpips, regions=regions)
        self.table.add(subject, method, self.sequences[i], self.sequences[j], numbers)

    def write(self, engine: Engine) -> None:
        """Prints the table and writes both files."""
        versions = {"monai": monai.__version__, "torch": torch.__version__}
        masks = " and ".join(sorted(self.masks))
        info = {
            **self.info,
            "weights": self.weights,
            "weights_sha256": sha256(self.weights),
            "brain_mask": masks,
            **versions,
        }
        self.table.write(self.output_dir, info=info)
        self.table.print_table()
        print(
            f"Scored against the subjects' {self.info['truth']}; scores.csv and scores.json are in {self.output_dir}."
        )
