"""Whether imaging-differentiation maps help to tell a label from the images (Seq2Seq, Table 4 and Fig. 7)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..data.subjects import list_of, read_subjects
from ..inference.weights import sha256
from ..options import switch, with_defaults, words
from ..progress import bar
from .channels import load_channels
from .devices import chosen_device
from .folds import Estimate, auc_difference, classification_scores, is_above_chance, person_folds
from .labels import COIN, Labelled, read_labels
from .map_sources import Maps, maps_of
from .pages import Statement, chart, interval_figure, table, write_experiment
from .runs import Runs
from .volume_classifier import outer_fold

BOX = ("sequences", "roi_size", "mask", "spacing", "grid", "normalisation")
FURTHER = {
    **{"positive": "1", "bundle": "", "subject_list": "", "device": "", "amp": ""},
    **{"roi_size": (96, 96, 96), "spacing": 0, "grid": "", "normalisation": "trimmed_mean"},
    **{"network": "resnet18", "pretrained": "", "width": 1.0, "folds": 5, "inner_folds": 4},
    **{"epochs": 50, "learning_rates": (1e-3, 1e-4), "batch_size": 8},
}
QUICK = {"folds": 2, "inner_folds": 2, "epochs": 1, "learning_rates": [1e-3], "width": 0.125, "network": "resnet10"}
NAMES = {"auc": "AUC", "ppv": "PPV", "npv": "NPV", "calibration_error": "calibration error"}
PAPER = "Seq2Seq, Table 4 (MGMT, 574 subjects of BraTS 2021)"
SAID = (
    "Maps beside the images raise the AUC: 0.563 to 0.575 (T1, T2), 0.573 to 0.585 (T1Gd, FLAIR), 0.565 to 0.588 "
    "(all), with standard deviations of 0.020 to 0.040 over folds and no test of the differences."
)


def classify(
    dataset_dir: str,
    output_dir: str,
    *,
    label: str,
    table: str = "",
    sequences: str | Sequence[str] = (),
    maps: str | Sequence[str] = (),
    weights: str | Sequence[str] = (),
    trained_on: str | Sequence[str] = (),
    split: str = "all",
    mask: str = "",
    seed: int = 0,
    quick: bool = False,
    **options: Any,
) -> None:
    """Tells a label of subjects from their images by a 3D ResNet, with and without maps, in nested cross-validation.

    Visits of one person stay in one fold. The inner folds choose epoch and learning rate, the outer ones are scored.
    Writes classify.html, classify.csv and classify.json; the same command goes on where it was stopped.

    Args:
        dataset_dir, output_dir: the folder that holds the subject list, and one for all that is made.
        label: a column of --table, or one of each subject's "labels" in the list. "coin" is tossed for each person if
            there is none: a label that no image can tell, by which a leak is found.
        table: a CSV file with the columns subject and LABEL, and perhaps person.
        sequences: such as T2,FLAIR; by default all of the list.
        maps: the folder that `run differentiation` wrote; several, if several networks made them.
        weights: or a network's, from one file or several, by which the maps are made first; --bundle says whose.
        trained_on: for each of these the subject list that its network was trained on, so that nobody's map comes from
            a network that saw them; "none" where you vouch for it, which the page says.
        split: whose subjects are classified: training, validation, test or all.
        mask: a mask, such as lesion, round whose middle a box of --roi_size 96,96,96 voxels is cropped.
        seed: of all of it.
        quick: a small run that shows that all works, and nothing else.
        options: further ones. --positive 1 is the label's value that counts as 1. --subject_list is another list,
            --grid T1 resamples to an image's grid, --spacing 2 to mm, --normalisation trimmed_mean scales. The network
            is --network resnet18, from scratch or --pretrained FILE (MedicalNet), of --width 1, trained in --folds 5
            and --inner_folds 4 for --epochs 50, with --learning_rates 1e-3,1e-4 to choose from, --batch_size 8, --amp
            bf16 and --device cpu.

    Raises:
        FileNotFoundError, ValueError: what is wrong with the data or the options, such as maps of who was trained on.
    """
    told = with_defaults(FURTHER, options)
    device, positive, bundle = chosen_device(told.pop("device")), str(told.pop("positive")), told.pop("bundle")
    paths = {"dataset_dir": str(dataset_dir), "subject_list": str(told.pop("subject_list"))}
    labelled = read_labels(**paths, split=split, label=str(label), table=table, positive=positive, seed=seed)
    told["learning_rates"] = [float(rate) for rate in np.ravel(told["learning_rates"])]
    told |= {"label": label, "split": split, "seed": seed, "mask": mask, **(QUICK if switch(quick, "quick") else {})}
    told["sequences"] = words(sequences) or read_subjects(list_of(*paths.values()))["sequences"]
    making = {"output_dir": Path(output_dir), "bundle": bundle, "device": device, **paths}
    making |= {"split": split, "grid": told["grid"]}
    made = maps_of(labelled, words(maps), words(weights), words(trained_on), **making)
    images = load_channels(labelled, made.folders if made else (), **paths, **{name: told[name] for name in BOX})
    runs = Runs(output_dir, {**told, **_origin(labelled, images, made, told["pretrained"])})
    arms = {"images": slice(len(told["sequences"])), **({"images and maps": slice(None)} if made else {})}
    found = {arm: _cross_validated(runs, arm, images[:, rows], labelled, told, device) for arm, rows in arms.items()}
    print(f"classify.csv, classify.json and {_write(Path(output_dir), runs, labelled, found, made)} are written.")


def _origin(labelled: Sequence[Labelled], images: Tensor, maps: Maps | None, pretrained: str) -> dict[str, Any]:
    """What else a result depends on: who has which label and images, and by which weights the maps were made."""
    known: dict[str, Any] = {"subjects_sha256": hashlib.sha256(json.dumps(labelled).encode()).hexdigest()}
    known["channels_sha256"] = hashlib.sha256(images.half().numpy()).hexdigest()
    known |= {"weights_sha256": maps.weights_sha256, "vouched": maps.is_vouched} if maps else {}
    return known | ({"pretrained_sha256": sha256(pretrained)} if pretrained else {})


def _cross_validated(
    runs: Runs,
    arm: str,
    images: Tensor,
    labelled: Sequence[Labelled],
    options: Mapping[str, Any],
    device: str,
) -> NDArray:
    """The probability [N] of each subject, by networks that saw nobody of its outer fold, the same in all arms."""
    labels, people = np.array([each.label for each in labelled]), [each.person for each in labelled]
    seed = options["seed"]
    folds = person_folds(people, labels, options["folds"], np.random.default_rng(seed))
    found = np.empty(len(labels))
    for k in bar(range(options["folds"]), desc=f"classifying by {arm}", unit="folds"):
        test = folds == k
        name = f"{arm.replace(' ', '_')}/fold_{k}"
        made = runs(
            name,
            lambda t=test, s=seed * 100 + k: outer_fold(images, labels, people, t, options, s, device),
            arm=arm,
            fold=k,
        )
        found[test] = made["probabilities"]
    return found


def _write(
    folder: Path, runs: Runs, labelled: Sequence[Labelled], probabilities: Mapping[str, NDArray], maps: Maps | None
) -> Path:
    labels, people = np.array([each.label for each in labelled]), [each.person for each in labelled]
    scores = {arm: classification_scores(labels, found, people) for arm, found in probabilities.items()}
    gain = auc_difference(labels, *list(probabilities.values())[::-1], people) if maps else None
    settings = runs.settings
    rows = [
        {"arm": arm, "metric": name, **_known(number)}
        for arm, found in scores.items()
        for name, number in found.items()
    ]
    return write_experiment(
        folder,
        "classify",
        f"Classification of {settings['label']}" + (", with and without maps" if maps else ""),
        about=(
            f"{len(labels)} subjects of {len(set(people))} people, {int(labels.sum())} of them with label 1; "
            f"{', '.join(settings['sequences'])} in a box of {settings['roi_size']} voxels; {settings['network']} of "
            f"width {settings['width']:g}; {settings['folds']} x {settings['inner_folds']} nested cross-validation by "
            "person."
        ),
        statements=_statements(settings["label"], scores, gain),
        sections=[
            ("Scores", _scores(scores, gain)),
            ("Where the maps come from", f"<p>{escape(maps.origin if maps else 'There are no maps.')}</p>"),
        ],
        rows=rows,
        settings=settings,
        more={"difference": _known(gain) if gain else None},
    )


def _known(number: Estimate) -> dict[str, float | None]:
    """As JSON has it, which knows no nan."""
    return {name: None if math.isnan(value) else round(value, 5) for name, value in number._asdict().items()}


def _scores(scores: Mapping[str, Mapping[str, Estimate]], gain: Estimate | None) -> str:
    names = list(next(iter(scores.values())))
    cells = [[NAMES.get(name, name), *(_text(found[name]) for found in scores.values())] for name in names]
    figure = interval_figure({arm: found["auc"] for arm, found in scores.items()}, "AUC", 0.5)
    note = (
        "Outer folds pooled; 95 % percentile intervals over people, drawn 2,000 times with replacement. A subject is "
        "called 1 from a probability of 0.5 on. The calibration error is the expected one over ten bins."
    )
    told = f"<p>AUC with maps less AUC without, the same people drawn: {_text(gain, signed=True)}.</p>" if gain else ""
    return f'{chart(figure)}{table(["", *scores], cells)}<p class="note">{note}</p>{told}'


def _text(number: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if math.isnan(number.low):
        return f"{number.value:{sign}.3f}"
    return f"{number.value:{sign}.3f} ({number.low:{sign}.3f} to {number.high:{sign}.3f})"


def _statements(label: str, scores: Mapping[str, Any], gain: Estimate | None) -> list[Statement]:
    statements = []
    if label == COIN:
        wrong = [arm for arm, found in scores.items() if is_above_chance(found)]
        why = f"The interval of {', '.join(wrong)} lies above 0.5." if wrong else "No interval lies above 0.5."
        said = "A coin that was tossed for each person cannot be told by any arm; else something leaks."
        statements.append(Statement("Not in the paper", said, not wrong, why))
    elif gain:
        clear = gain.low > 0 or gain.high < 0
        why = f"The difference of the AUCs is {_text(gain, signed=True)}" + ("." if clear else ", and 0 is in it.")
        statements.append(Statement(PAPER, SAID, gain.low > 0 if clear else None, why))
    return statements
