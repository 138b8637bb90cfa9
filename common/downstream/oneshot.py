"""`oneshot`: how far a segmentation comes that one subject trains, or a few, on images and on latents.

VQ-Seq2Seq's Table 3 (Han et al., MICCAI 2024): nnU-Net on the common latent of one subject. Which one it was is not
printed, and neither is how labels and latents meet; here labels are taken to the latent's grid (nearest) and predicted
probabilities back to the image's (linear).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..options import switch, words
from .cases import Cases, Items
from .devices import chosen_device
from .labels import check_unseen
from .latents import Encoder, LatentSpace, Space
from .masks import save_mask, score_masks, true_regions
from .oneshot_page import text, write_page
from .regions import BRATS
from .runs import Runs
from .segmenter import Settings, predict, prepared, train

QUICK = [1, 2], [2, 1]
SPACES = ("images", "features", "mean", "codes")
Scores = dict[str, dict[int, list[dict[str, dict[str, float]]]]]  # by space, number of subjects and draw


def oneshot(
    dataset_dir: str,
    output_dir: str,
    *,
    sequences: str | Sequence[str] = "T1,T1Gd,T2,FLAIR",
    spaces: str | Sequence[str] = SPACES,
    mask: str = "tumour",
    regions: str = BRATS,
    bundle: str = "mri_seq2seq",
    weights: str = "",
    vq_bundle: str = "mri_vq_seq2seq",
    vq_weights: str = "",
    trained_on: str | Sequence[str] = (),
    subjects: int | Sequence[int] = (1, 2, 5, 10, 20),
    draws: int | Sequence[int] = 10,
    gap: float = 0,
    margin: float = 0.02,
    subject_list: str = "",
    grid: str = "",
    device: str = "",
    quick: bool = False,
    **training: Any,
) -> None:
    """Trains segmenters on one subject, and on a few, from images and from what networks' encoders make of them.

    It measures the networks, and segments for no user. Writes oneshot.html, .csv and .json; the same command goes on.

    Args:
        dataset_dir: the folder with the subject list, whose subjects have a label map.
        output_dir: for the page, and all that is made for it.
        sequences: of the images.
        spaces: images; features, Seq2Seq's, as three principal components of the training subjects; mean, the common
            latent of VQ-Seq2Seq; codes, its codes as one-hot.
        mask: the label map's name in the subject list.
        regions: which of its values belong to each, the larger first, such as lesion=1; by default BraTS'.
        bundle, weights: of the features; the weights by default the bundle's own.
        vq_bundle, vq_weights: of mean and codes.
        trained_on: subject lists that these were trained on; test subjects that they have seen are refused.
        subjects: how many train, such as 1,2,5.
        draws: how often they are drawn; several numbers, 10,3,3, are for each of `subjects`.
        gap: in mm; then the slices of all subjects on one side of it train, those on the other are the test.
        margin: by so much less Dice a space may be worse than mean and count as not inferior.
        subject_list: another list than subjects.json.
        grid: the sequence onto whose grid the others are resampled, where they lie on different ones.
        device: such as cuda:0 or cpu; by default a GPU where there is one.
        quick: a run of a minute, to see that all works; its numbers mean nothing.
        training: --steps 1000, --batch_size 8 (slices), --slices 1 (3 is 2.5D), --filters 16,32,64,128, --learning_rate
            0.004, --seed 0 of the small U-Net.
    """
    cases = Cases(dataset_dir, subject_list, sequences=words(sequences), mask=mask, regions=regions, grid=grid)
    check_unseen(dataset_dir, subject_list, words(trained_on), "all" if gap else "test")
    quick, device = switch(quick, "quick"), chosen_device(str(device))
    settings, numbers = Settings.of(training, quick), QUICK if quick else (_numbers(subjects), _numbers(draws))
    plan = _Plan(cases, *numbers, float(gap), settings.seed)
    nets = {"features": (bundle, weights), "mean": (vq_bundle, vq_weights), "codes": (vq_bundle, vq_weights)}
    known = _spaces(words(spaces), nets, cases, settings.multiple, device)
    runs = Runs(output_dir, {**cases.settings, **settings._asdict(), "gap": float(gap)})
    scores = _Experiment(runs, plan, settings, device).run(known)
    written = {**runs.settings, "margin": margin, **_origin(known), "unseen_checked_by": words(trained_on)}
    print(f"{text(scores, cases.regions)}\n{write_page(Path(output_dir), scores, plan, written)}")


def _origin(spaces: Mapping[str, Space]) -> dict[str, str]:
    return {key: value for space in spaces.values() for key, value in space.origin.items()}


class _Plan:
    """Which subjects train and which are tested: drawn, or with a gap the slices on both sides of it.

    Raises:
        ValueError: there are not so many.
    """

    def __init__(self, cases: Cases, subjects: Sequence[int], draws: Sequence[int], gap: float, seed: int) -> None:
        self.cases, self.seed, self.gap = cases, seed, gap
        if gap:
            items = [item for each in cases.items.values() for item in each]
            self.counts = {len(items): 2}
            self.halves = [[{**item, "part": part} for item in items] for part in _halves(items, cases, gap)]
            return
        cases.check_paired()
        most = len(cases.items["training"])
        if min([*subjects, *draws]) < 1 or max(subjects) > most:
            raise ValueError(f"subjects is {list(subjects)} and draws {list(draws)}: from 1 to the list's {most}.")
        draws = [*draws, *[draws[-1]] * len(subjects)]
        self.counts = dict(zip(subjects, draws, strict=False))

    def training(self, count: int, draw: int) -> Items:
        """The first ones of a shuffle, so that a draw's fewer subjects are among its more."""
        if self.gap:
            return self.halves[draw]
        items = self.cases.items["training"]
        order = np.random.default_rng([self.seed, draw]).permutation(len(items))[:count]
        return [items[k] for k in order]

    def test(self, draw: int) -> Items:
        return self.halves[1 - draw] if self.gap else self.cases.items["test"]


def _halves(items: Items, cases: Cases, gap: float) -> list[tuple[float, float]]:
    """Heights in mm below and above a gap in the middle of the lesions' slices."""
    regions = [true_regions(item, cases) for item in items]
    heights = [each.affine[2, 3] + each.affine[2, 2] * each.as_tensor()[0].nonzero()[:, 2] for each in regions]
    middle = float(torch.cat(heights).median())
    return [(-np.inf, middle - gap / 2), (middle + gap / 2, np.inf)]


def _numbers(value: int | str | Sequence[int]) -> list[int]:
    return [int(each) for each in (words(value) if isinstance(value, str) else np.ravel(value))]


def _spaces(
    names: Sequence[str], networks: Mapping[str, tuple[str, str]], cases: Cases, multiple: int, device: str
) -> dict[str, Space]:
    """By name; mean and codes share their encoder."""
    if unknown := [name for name in names if name not in SPACES]:
        raise ValueError(f"There is no space {unknown[0]}; there are: {', '.join(SPACES)}.")
    if {"mean", "codes"} & {*names} and not networks["mean"][1]:
        raise ValueError(
            "mean and codes need --vq_weights FILE, of a training by `mri-contrast train mri_vq_seq2seq`; without one "
            "pass --spaces images,features."
        )
    needed = {networks[name] for name in names if name != "images"}
    encoders = {each: Encoder(*each, cases, device) for each in needed}
    return {
        name: Space(cases, multiple)
        if name == "images"
        else LatentSpace(cases, multiple, encoders[networks[name]], name)
        for name in names
    }


class _Experiment:
    """Trains, predicts and scores, each once."""

    def __init__(self, runs: Runs, plan: _Plan, settings: Settings, device: str) -> None:
        self.runs, self.plan, self.settings, self.device = runs, plan, settings, device

    def run(self, spaces: Mapping[str, Space]) -> Scores:
        """All spaces, numbers of subjects and draws; and, as of 0 subjects, the true labels in a latent's grid."""
        scores: Scores = {}
        for name, space in spaces.items():
            if name != "images":
                found = self.runs(f"{name}/labels", lambda n=name, s=space: self._labels(n, s), **space.origin)
                scores[name] = {0: [found["subjects"]]}
            for count, draws in self.plan.counts.items():
                done = [self._arm(name, space, count, draw) for draw in range(draws)]
                scores.setdefault(name, {})[count] = done
        return scores

    def _arm(self, name: str, space: Space, count: int, draw: int) -> dict[str, dict[str, float]]:
        training, test = self.plan.training(count, draw), self.plan.test(draw)
        arm, folder = f"{name}/{count}_{draw}", self.folder / name / f"{count}_{draw}"

        def run() -> dict[str, Any]:
            space.fit(training)
            regions, own = len(self.plan.cases.regions.names), {"codes": space.codes, "device": self.device}
            network, loss = train(training, space, self.settings, regions=regions, name=arm, **own)
            for item, case in zip(test, prepared(test, space, arm), strict=True):
                made = predict(network, case["image"], self.settings.slices, self.device)
                save_mask(made, item, self.plan.cases, folder / f"{item['subject']}.nii.gz")
            return {"loss": loss, "subjects": score_masks(test, folder, self.plan.cases)}

        names = [item["subject"] for item in training]
        return self.runs(arm, run, **space.origin, training=names)["subjects"]

    def _labels(self, name: str, space: Space) -> dict[str, Any]:
        """What the true labels score after the way to a latent's grid and back: no segmenter there can do better."""
        test, folder = self.plan.test(0), self.folder / name / "labels"
        space.fit(self.plan.training(next(iter(self.plan.counts)), 0))
        for item, case in zip(test, prepared(test, space, f"{name}/labels"), strict=True):
            save_mask(case["label"], item, self.plan.cases, folder / f"{item['subject']}.nii.gz")
        return {"subjects": score_masks(test, folder, self.plan.cases)}

    @property
    def folder(self) -> Path:
        return self.runs.folder / "predictions"
