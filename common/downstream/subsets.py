"""`subsets`: which sequences a segmentation needs, and what a synthesised one in a missing one's place is worth.

Seq2Seq's Table 3 (Han et al., MedIA 2024): nnU-Net trained on subsets of the sequences against all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..options import switch, words
from .cases import Cases, Items, only
from .devices import chosen_device
from .labels import check_unseen
from .masks import score_masks
from .regions import BRATS
from .runs import Runs
from .segmenter import Settings
from .subsets_page import text, write_page
from .synthesis import Synthesis
from .trainers import NnUnetTrainer, SmallTrainer, Trainer, export_named

logger = logging.getLogger(__name__)


def subsets(
    dataset_dir: str,
    output_dir: str,
    *,
    sequences: str | Sequence[str] = "T1,T1Gd,T2,FLAIR",
    subsets: str | Sequence[str] = "all,T1Gd+FLAIR,T1+T2,T1+FLAIR,T2+FLAIR,T1Gd+T2",
    mask: str = "tumour",
    regions: str = BRATS,
    fill: bool = False,
    synthesised: str = "",
    bundle: str = "",
    weights: str = "",
    trained_on: str | Sequence[str] = (),
    trainer: str = "",
    export: bool = False,
    margin: float = 0.02,
    subject_list: str = "",
    grid: str = "",
    device: str = "",
    quick: bool = False,
    **training: Any,
) -> None:
    """Trains a segmenter on each of some subsets of the sequences, and compares it with the one that has them all.

    The latter is then given all but one of them and a synthesised one in its place, and zeros in its place. It measures
    synthesis, and is no product that segments. Writes subsets.html, .csv and .json; the same command goes on.

    Args:
        dataset_dir: the folder with the subject list, whose subjects have a label map.
        output_dir: for the page, and all that is made for it.
        sequences: all of them, in the order of the channels.
        subsets: the first is what the others are compared with.
        mask: the label map's name in the subject list.
        regions: its values in each, the larger first; by default BraTS' whole=1+2+3+4,core=1+3+4,enhancing=3+4.
        fill: make what a subset or a subject lacks from what it has, so that each segmenter gets all channels.
        synthesised: a folder that `mri-contrast complete` made, in place of a network.
        bundle: the method that synthesises, such as mri_seq2seq.
        weights: file of its weights; by default the bundle's own. none leaves out all that is synthesised.
        trained_on: the subject list that these were trained on; test subjects that they have seen are refused.
        trainer: nnUNetTrainer, nnUNetTrainer_5epochs, nnUNetTrainer:2d ... trains by nnU-Net; else a small 2D U-Net is.
        export: only write the data sets for nnU-Net, to OUTPUT_DIR/nnunet.
        margin: by so much less Dice a subset may be worse and count as not inferior.
        subject_list: another list than subjects.json.
        grid: the sequence onto whose grid the others are resampled, where they lie on different ones.
        device: such as cuda:0 or cpu; by default a GPU where there is one.
        quick: a run of a minute, to see that all works; its numbers mean nothing.
        training: of the small U-Net: --steps 1000, --batch_size 8 (slices), --slices 1 (3 is 2.5D), --filters
            16,32,64,128, --learning_rate 0.004, --seed 0.
    """
    cases = Cases(dataset_dir, subject_list, sequences=words(sequences), mask=mask, regions=regions, grid=grid)
    check_unseen(dataset_dir, subject_list, words(trained_on))
    settings, folder = Settings.of(training, switch(quick, "quick")), Path(output_dir)
    synthesis = Synthesis(folder / "synthesised", synthesised, bundle, str(weights), str(device))
    arms = _Arms(cases, folder, synthesis if switch(fill, "fill") else None)
    if switch(export, "export"):
        arms.export(words(subsets))
        return
    arms.run(words(subsets), None if str(weights) == "none" else synthesis, str(trainer), settings, str(device))
    written = {**arms.runs.settings, "margin": margin, **synthesis.origin, "unseen_checked_by": words(trained_on)}
    print(f"{text(arms.scores, cases.regions)}\n{write_page(folder, arms.scores, cases, written)}")


class _Arms:
    """Trains, predicts and scores, each once.

    Args:
        cases: the subjects.
        folder: for all that is made.
        fill: makes what a subset lacks; None leaves it out.
    """

    def __init__(self, cases: Cases, folder: Path, fill: Synthesis | None) -> None:
        self.cases, self.folder, self.fill = cases, folder, fill
        self.scores: dict[str, dict[str, dict[str, float]]] = {}

    def _channels(self, subset: str) -> list[str]:
        return self.cases.sequences if self.fill else self.cases.subset(subset)

    def export(self, subsets: Sequence[str]) -> None:
        """Data sets for nnU-Net."""
        for name in subsets:
            data = self.cases.given(self.cases.subset(name), self.fill)
            where = self.folder / "nnunet"
            logger.info(str(export_named(where, name, data, self._channels(name), self.cases)))

    def run(
        self, subsets: Sequence[str], synthesis: Synthesis | None, trainer: str, settings: Settings, device: str
    ) -> None:
        """All arms: the subsets, and with a `synthesis` the first one's segmenter on what is made and on zeros."""
        self.cases.check_paired()
        where, own = chosen_device(device), (self.folder, self.cases)
        self.trainer: Trainer = NnUnetTrainer(*own, trainer, where) if trainer else SmallTrainer(*own, settings, where)
        told = {"fill": bool(self.fill), "seed": settings.seed, **self.trainer.told}
        self.runs = Runs(self.folder, {**self.cases.settings, **told})
        every = {name: self.cases.given(self.cases.subset(name), self.fill) for name in subsets}
        for name, data in every.items():
            channels = self._channels(name)
            origin = self.fill.origin if self.fill else {}
            self.runs(f"{name}/training", lambda n=name, d=data, c=channels: self.trainer.train(n, d, c), **origin)
            self._test(name, name, data["test"], channels, origin)
        if synthesis:
            self._replaced(subsets[0], synthesis)

    def _replaced(self, model: str, synthesis: Synthesis) -> None:
        channels = self._channels(model)
        items = self.cases.given(self.cases.subset(model), self.fill)["test"]
        for target in channels if len(channels) > 1 else ():
            rest = [name for name in channels if name != target]
            filled = synthesis.fill(items, rest, channels)
            self._test(f"{target} synthesised", model, filled, channels, synthesis.origin)
            self._test(f"{target} zeros", model, [only(item, rest) for item in filled], channels, {})

    def _test(self, arm: str, model: str, items: Items, channels: Sequence[str], origin: Mapping[str, str]) -> None:
        folder = self.folder / "predictions" / arm

        def run() -> dict[str, Any]:
            self.trainer.predict(model, items, channels, folder)
            return {"subjects": score_masks(items, folder, self.cases)}

        trained = self.runs.results[f"{model}/training"]["sha256"]
        self.scores[arm] = self.runs(f"{arm}/test", run, segmenter_sha256=trained, **origin)["subjects"]
