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

from ..data.series import UNITS, channel_names, consecutive, count_frames
from ..files import prepare_folder
from ..inference.inferers import Route
from ..inference.weights import origin
from ..options import words
from ..progress import bar
from .conventions import CONVENTIONS, brain_mask, score
from .metrics import load_lpips
from .relaxometry import FROM, PHYSICS
from .rivals import IntensityMap, MeanCurve, copy_source
from .scores import CURVE, ScoreTable
from .series import curve_numbers
from .volumes import KeptVolumes


class ScoreMatrix:
    """Scores the predictions of a `MatrixInferer`, prints the table and writes the scores under each convention.

    Attach it to an evaluator whose postprocessing leaves, per subject, "pred" [routes, X, Y, Z] and the truth "label"
    [S, X, Y, Z] (training units) in the output, and in the batch "source" [S, X, Y, Z], the images as the network got
    them, which the rivals get too, "available" [S], "subject", and whatever masks the subject has, all on one grid.
    Everything is computed on the engine's device.

    A series has a channel for each of its frames. Its numbers are the mean over these, each measured by itself, whose
    PSNR is told too ("psnr_frame_1" ...), and `curve_numbers`. Its rivals' frames come from the source's of that place;
    a further rival, the mean curve, starts from the source's first.

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
        physics: score the rivals of `common.evaluation.relaxometry`, too: the batch has "parameters" [S, 4], and all
            images of a subject one scale.
        ceiling: beside the network's numbers of a pair, those of the target's own reconstruction, which no translation
            through the same latent space can be expected to exceed, as "ceiling_psnr" and so on.
        keep: the volumes of so many subjects, those with the worst scores, or of the named ones, are written for the
            report.
        info: what else the JSON shall say: the truth, the seed, the run's configuration.
        frames: of the sequences that are series, see `common.data.preparation.Subjects`.

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
        frames: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        conventions = words(conventions)
        if unknown := set(conventions) - CONVENTIONS.keys():
            raise ValueError(f"conventions has {', '.join(sorted(unknown))}; there are: {', '.join(CONVENTIONS)}.")
        self.sequences, self.frames = list(sequences), frames or {}
        counts = {name: count_frames(self.frames.get(name, {})) for name in sequences}
        self.names = channel_names(sequences, counts)
        self.channels = consecutive([counts[name] for name in sequences])
        self.routes = list(routes)
        self.made = consecutive([counts[sequences[route.target]] for route in routes])  # of each route, in "pred"
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
        self.curve: MeanCurve | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def start(self, engine: Engine) -> None:
        """Empty tables; the intensity map is fitted once. The folder can be written to."""
        prepare_folder(self.output_dir, "output_dir")
        self.tables = {name: ScoreTable(name, CONVENTIONS[name].region) for name in self.conventions}
        self.volumes = KeptVolumes(self.output_dir / "volumes", self.sequences, self.keep, self.frames)
        self.masks: set[str] = set()
        self.lpips = load_lpips(self.lpips_weights, device=engine.state.device)
        self.truths: dict[str, dict[str, str]] = {}
        if self.map is None:
            self.map = IntensityMap(self.names)
            named = zip(self.sequences, self.channels, strict=True)
            self.curve = MeanCurve(self.map, [channels for name, channels in named if name in self.frames])
            if not len(self.training):
                warnings.warn("No training subjects in the list: scores without the intensity map", stacklevel=2)
            for item in bar(self.training, desc="fitting the intensity map", unit="subjects"):
                for rival in (self.map, self.curve):
                    rival.fit(item["image"], item["available"].tolist())

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
        there = [i for i, channels in enumerate(self.channels) if any(available[c] for c in channels)]
        for made, route in zip(self.made, routes, strict=True):
            sources = route.given(there, len(self.sequences))
            if route.target not in there or not sources:
                continue
            name, target = self._name(route), self.sequences[route.target]
            frames = [k for k, c in enumerate(self.channels[route.target]) if available[c]]
            truth = [(label[c], brains[c]) for c in (self.channels[route.target][k] for k in frames)]
            told = self._told(target, frames, batch)
            found = pred[made.start : made.stop]
            methods = self._methods(route, sources, found, batch["source"], available)
            methods |= self._physics(route, sources, batch) if self.physics else {}
            for method, make in methods.items():
                images = self._make(make, frames)
                for convention, table in self.tables.items() if images is not None else ():
                    options = {"convention": convention, "lpips": self.lpips, "regions": regions}
                    numbers = self._numbers(target, frames, images.to(label.device), truth, options, told)
                    if method == "network":
                        numbers |= ceilings.get((route.target, convention), {})
                    table.add(batch["subject"], method, name, target, numbers)
        subject = batch["subject"]
        worst = self._worst(subject)
        self.volumes.offer(subject, worst, pred, batch["source"], label, available, brains, regions)

    def _numbers(
        self,
        target: str,
        frames: Sequence[int],
        made: Tensor,
        truth: Sequence[tuple[Tensor, Tensor]],
        options: Mapping[str, Any],
        told: Mapping[str, Sequence[float]],
    ) -> dict[str, float]:
        """Of the frames [T, X, Y, Z] that the subject has, each with its truth and brain."""
        each = [score(image, *other, **options) for image, other in zip(made, truth, strict=True)]
        if target not in self.frames:
            return each[0]
        mean = {name: float(np.mean([numbers[name] for numbers in each])) for name in each[0]}
        alone = {f"psnr_frame_{k + 1}": numbers["psnr"] for k, numbers in zip(frames, each, strict=True)}
        places = {"": truth[0][1], **{f"_{name}": mask for name, mask in options["regions"].items()}}
        return mean | alone | curve_numbers(made, torch.stack([image for image, _ in truth]), places, told)

    def _told(self, target: str, frames: Sequence[int], batch: Mapping[str, Any]) -> dict[str, list[float]]:
        """The subject's times in s, or b values in s/mm2, of these frames; {} where there are none."""
        kind = next(iter(self.frames.get(target, {"count": 1})))
        if kind == "count":
            return {}
        values = batch["frame_values"][self.sequences.index(target)]
        return {kind: [float(values[k]) * UNITS[kind] for k in frames]}

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
        self, route: Route, sources: tuple[int, ...], pred: Tensor, images: Tensor, available: Sequence[bool]
    ) -> dict[str, Callable[[int], Tensor]]:
        """How each frame is made by the network and, of several sources by their mean, by its rivals."""
        if sources == (route.target,):
            return {"network": lambda k: pred[k]}

        def mean(of: Callable[[Tensor, int, int], Tensor], k: int) -> Tensor:
            j = self.channels[route.target][k]
            nearest = [self._nearest(i, 0 if of == self.curve.predict else k, available) for i in sources]
            return torch.stack([of(images[i], i, j) for i in nearest]).mean(0)

        made = {"network": lambda k: pred[k], "copy": partial(mean, copy_source)}
        if len(self.training):
            made["map"] = partial(mean, self.map.predict)
            if self.sequences[route.target] in self.frames:
                made[CURVE] = partial(mean, self.curve.predict)
        return made

    def _nearest(self, source: int, frame: int, available: Sequence[bool]) -> int:
        """The channel of a source's frame that is nearest to a place, of those that there are."""
        there = [c for c in self.channels[source] if available[c]]
        return min(there, key=lambda c: abs(c - self.channels[source].start - frame))

    @staticmethod
    def _physics(
        route: Route, sources: tuple[int, ...], batch: Mapping[str, Any]
    ) -> dict[str, Callable[[int], Tensor]]:
        """The rivals from physics that so many sources do for; one between settings needs two."""
        if sources == (route.target,):
            return {}
        settings = batch["parameters"].tolist()
        images, timings = batch["source"][list(sources)], [settings[i] for i in sources]
        return {
            name: lambda k, predict=predict: predict(images, timings, settings[route.target])
            for name, predict in PHYSICS.items()
            if len(sources) >= FROM[name]
        }

    @staticmethod
    def _make(make: Callable[[int], Tensor], frames: Sequence[int]) -> Tensor | None:
        try:
            return torch.stack([make(k) for k in frames])
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
