"""Every source to every target on the test subjects, beside the rivals."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from ..files import prepare_folder
from ..inference.inferers import Route
from ..inference.weights import origin
from ..options import words
from ..progress import bar
from .conventions import CONVENTIONS, brain_mask, score
from .metrics import load_lpips
from .relaxometry import FROM, PHYSICS
from .rivals import IntensityMap, copy_source
from .scores import ScoreTable
from .volumes import KeptVolumes


class ScoreMatrix:
    """Scores the predictions of a `MatrixInferer`, prints the table and writes the scores under each convention.

    Attach it to an evaluator whose postprocessing leaves, per subject, "pred" [routes, X, Y, Z] and the truth "label"
    [S, X, Y, Z] (training units) in the output, and in the batch "source" [S, X, Y, Z], the images as the network got
    them, which the rivals get too, "available" [S], "subject", and whatever masks the subject has, all on one grid.
    Everything is computed on the engine's device.

    Args:
        sequences: S names, in the network's order.
        routes: what each channel of "pred" is, `MatrixInferer.routes`.
        training: subjects that the intensity map is fitted on, each with "image" and "available"; none for no map.
        output_dir: where `scores_<convention>.csv` and `.json` go.
        weights, metadata_file: the network's weights and the bundle's metadata.json, for the JSON.
        conventions: names of `CONVENTIONS`.
        brain: the batch's key of the brain mask; without it, the target's non-background.
        regions: keys of further masks, scored where a subject has them.
        lpips_weights: AlexNet's weights: a file, "download", or "none" to report LPIPS as missing.
        physics: score the rivals of `common.evaluation.relaxometry`, too: the batch has "parameters" [S, 3], and all
            images of a subject one scale.
        ceiling: beside the network's numbers of a pair, those of the target's own reconstruction, which no translation
            through the same latent space can be expected to exceed, as "ceiling_psnr" and so on.
        keep: the volumes of so many subjects, those with the worst scores, or of the named ones, are written for the
            report.
        info: what else the JSON shall say: the truth, the seed, the run's configuration.

    Attributes:
        tables: the scores by convention.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        routes: Sequence[Route],
        training: Sequence[dict[str, Any]],
        output_dir: str,
        weights: str,
        metadata_file: str,
        conventions: Sequence[str] = ("declared",),
        brain: str = "brain",
        regions: Sequence[str] = (),
        lpips_weights: str = "none",
        keep: int | str | Sequence[str] = 0,
        ceiling: bool = False,
        physics: bool = False,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        conventions = words(conventions)
        if unknown := set(conventions) - CONVENTIONS.keys():
            raise ValueError(f"conventions has {', '.join(sorted(unknown))}; there are: {', '.join(CONVENTIONS)}.")
        self.sequences = list(sequences)
        self.routes = list(routes)
        self.training = training
        self.output_dir = Path(output_dir)
        self.conventions = conventions
        self.brain = brain
        self.regions = words(regions)
        self.lpips_weights = lpips_weights
        self.lpips = None
        self.origin = origin(metadata_file, weights)
        self.keep = keep
        self.ceiling = ceiling
        self.physics = physics
        self.info = dict(info or {})
        self.map: IntensityMap | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        """Empty tables; the intensity map is fitted once. The folder can be written to."""
        prepare_folder(self.output_dir, "output_dir")
        self.tables = {name: ScoreTable(name, CONVENTIONS[name].region) for name in self.conventions}
        self.volumes = KeptVolumes(self.output_dir / "volumes", self.sequences, self.keep)
        self.masks: set[str] = set()
        self.lpips = load_lpips(self.lpips_weights, device=engine.state.device)
        self.truths: dict[str, str] = {}
        if self.map is None:
            self.map = IntensityMap(self.sequences)
            if not len(self.training):
                warnings.warn("No training subjects in the list: scores without the intensity map", stacklevel=2)
            for item in bar(self.training, desc="fitting the intensity map", unit="subjects"):
                self.map.fit(item["image"], item["available"].tolist())

    def update(self, engine: Engine) -> None:
        """Scores one subject."""
        output = engine.state.output[0]  # postprocessing returns it there, not in the batch
        batch = {k: v.to(engine.state.device) if torch.is_tensor(v) else v for k, v in engine.state.batch[0].items()}
        label, pred = output["label"].to(engine.state.device), output["pred"]
        self.truths[batch["subject"]] = batch["label_sha256"]
        available = batch["available"].tolist()
        regions = {name: batch[name][0] > 0 for name in self.regions if name in batch and (batch[name] > 0).any()}
        self.masks.add("the subject list's" if self.brain in batch else "the target's non-background")
        brains = [batch[self.brain][0] > 0 if self.brain in batch else brain_mask(image) for image in label]
        ceilings = self._ceilings(pred, label, brains, available) if self.ceiling else {}
        routes = bar(self.routes, desc=f"scoring {batch['subject']}", unit="pairs", leave=False)
        for channel, route in enumerate(routes):
            sources = route.given([i for i, there in enumerate(available) if there], len(available))
            if not available[route.target] or not sources:
                continue
            name = self._name(route)
            methods = self._methods(route, sources, pred[channel], batch["source"])
            methods |= self._physics(route, sources, batch) if self.physics else {}
            for method, make in methods.items():
                made = self._make(make)
                for convention, table in self.tables.items() if made is not None else ():
                    numbers = score(
                        made.to(label.device),
                        label[route.target],
                        brains[route.target],
                        convention=convention,
                        lpips=self.lpips,
                        regions=regions,
                    )
                    if method == "network":
                        numbers |= ceilings.get((route.target, convention), {})
                    table.add(batch["subject"], method, name, self.sequences[route.target], numbers)
        subject = batch["subject"]
        self.volumes.offer(subject, self._worst(subject), pred, batch["source"], label, available, brains)

    def _ceilings(
        self, pred: Tensor, label: Tensor, brains: Sequence[Tensor], available: Sequence[bool]
    ) -> dict[tuple[int, str], dict[str, float]]:
        """By target and convention, the scores of each available sequence made from itself."""
        count = len(self.sequences)
        return {
            (j, name): {f"ceiling_{k}": v for k, v in score(made, label[j], brains[j], convention=name).items()}
            for j, made in enumerate(pred[: count**2 : count + 1])
            for name in self.conventions
            if available[j]
        }

    def _name(self, route: Route) -> str:
        if len(route.sources) > 1:
            every = len(route.sources) == len(self.sequences) - 1
            return "others" if every else "+".join(self.sequences[i] for i in route.sources)
        return ">".join(self.sequences[k] for k in (*route.sources, *route.via))

    def _methods(
        self, route: Route, sources: tuple[int, ...], pred: Tensor, images: Tensor
    ) -> dict[str, Callable[[], Tensor]]:
        """The network and, of several sources by their mean, its two rivals."""
        j = route.target
        if sources == (j,):
            return {"network": lambda: pred}

        def mean(of: Callable[[Tensor, int, int], Tensor]) -> Tensor:
            return torch.stack([of(images[i], i, j) for i in sources]).mean(0)

        made = {"network": lambda: pred, "copy": lambda: mean(copy_source), "map": lambda: mean(self.map.predict)}
        return made if len(self.training) else {name: made[name] for name in ("network", "copy")}

    @staticmethod
    def _physics(route: Route, sources: tuple[int, ...], batch: Mapping[str, Any]) -> dict[str, Callable[[], Tensor]]:
        """The rivals from physics that so many sources do for; one between settings needs two."""
        if sources == (route.target,):
            return {}
        settings = batch["parameters"].tolist()
        images, timings = batch["source"][list(sources)], [settings[i] for i in sources]
        return {
            name: partial(predict, images, timings, settings[route.target])
            for name, predict in PHYSICS.items()
            if len(sources) >= FROM[name]
        }

    @staticmethod
    def _make(make: Callable[[], Tensor]) -> Tensor | None:
        try:
            return make()
        except ValueError as error:  # a pair that no training subject has
            warnings.warn(str(error), stacklevel=2)
            return None

    def _worst(self, subject: str) -> float:
        """The network's mean PSNR over the pairs, under the first convention."""
        rows = self.tables[self.conventions[0]].rows
        values = [r["psnr"] for r in rows if (r["subject"], r["method"]) == (subject, "network")]
        return float(np.mean([value for value in values if np.isfinite(value)] or [np.inf]))

    def write(self, engine: Engine) -> None:
        """Prints the tables and writes their files."""
        info = {
            "sequences": self.sequences,
            **self.info,
            "lpips": self.lpips.sha256 if self.lpips else "missing",
            **self.origin,
            "brain_mask": " and ".join(sorted(self.masks)),
            "label_sha256": self.truths,
            "monai": monai.__version__,
            "torch": torch.__version__,
        }
        for table in self.tables.values():
            table.write(self.output_dir, info=info)
            table.print_table()
        files = ", ".join(f"scores_{name}.csv and .json" for name in self.tables)
        print(f"Scored against the subjects' {self.info.get('truth', 'images')}; {files} are in {self.output_dir}.")
