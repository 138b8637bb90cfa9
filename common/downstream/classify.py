"""Whether imaging-differentiation maps help to tell a label from the images (Seq2Seq, Table 4 and Fig. 7)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .. import workflows
from ..data.subjects import list_of, read_subjects
from ..inference.weights import sha256
from ..options import switch, words
from .channels import load_channels, map_file
from .devices import chosen_device
from .folds import Estimate, auc_difference, classification_scores, is_at_chance, person_folds
from .labels import COIN, Labelled, people_seen, read_labels, unseen_by
from .pages import Statement, chart, interval_figure, table, write_experiment
from .runs import Runs
from .volume_classifier import outer_fold

QUICK = {"folds": 2, "inner_folds": 2, "epochs": 1, "learning_rates": [1e-3], "width": 0.125, "network": "resnet10"}
PAPER = "Seq2Seq, Table 4 (MGMT, 574 subjects of BraTS 2021)"
SAID = (
    "Maps beside the images raise the AUC: 0.563 to 0.575 (T1, T2), 0.573 to 0.585 (T1Gd, FLAIR), 0.565 to 0.588 "
    "(all), with standard deviations of 0.020 to 0.040 over folds and no test of the differences."
)


class Maps(NamedTuple):
    """Where each subject's maps lie, and in words whom their networks saw."""

    folders: list[str]
    origin: str
    weights_sha256: list[str]


def classify(
    dataset_dir: str,
    output_dir: str,
    *,
    label: str,
    table: str = "",
    positive: str = "1",
    sequences: str | Sequence[str] = (),
    maps: str | Sequence[str] = (),
    weights: str | Sequence[str] = (),
    trained_on: str | Sequence[str] = (),
    bundle: str = "",
    split: str = "all",
    subject_list: str = "",
    mask: str = "",
    roi_size: Sequence[int] = (96, 96, 96),
    spacing: float = 0,
    grid: str = "",
    normalisation: str = "trimmed_mean",
    network: str = "resnet18",
    pretrained: str = "",
    width: float = 1.0,
    folds: int = 5,
    inner_folds: int = 4,
    epochs: int = 50,
    learning_rates: float | Sequence[float] = (1e-3, 1e-4),
    batch_size: int = 8,
    amp: str = "",
    device: str = "",
    seed: int = 0,
    quick: bool = False,
) -> None:
    """Tells a label of subjects from their images by a 3D ResNet, with and without maps, in nested cross-validation.

    People, not subjects, are divided into folds: visits of one person stay together. The inner folds choose epoch and
    learning rate, the outer ones are scored, pooled, with intervals over people. Writes classify.html, classify.csv and
    classify.json; the same command goes on where it was stopped.

    Args:
        dataset_dir: the folder that holds the subject list.
        output_dir: folder for all of it.
        label: a column of --table, or one of each subject's "labels" in the list. "coin" is tossed for each person if
            there is none: a label that no image can tell, by which a leak is found.
        table: a CSV file with the columns subject and LABEL, and perhaps person.
        positive: the value of the label that counts as 1.
        sequences: such as T2,FLAIR; by default all of the list.
        maps: the folder that `run differentiation` wrote; several, if several networks made them.
        weights: or the file of a network's weights, one or several, by which the maps are made first.
        trained_on: for each of these the subject list that its network was trained on, so that nobody's map comes from
            a network that saw them; "none" where you vouch for it, which the page says.
        bundle: whose weights they are, such as mri_seq2seq.
        split: whose subjects are classified: training, validation, test or all.
        subject_list: another list than the folder's own.
        mask: a mask, such as lesion, round whose middle a box is cropped.
        roi_size: of the box, in voxels.
        spacing: in mm, to which images are resampled first.
        grid: the sequence onto whose grid the others are resampled, where they lie on different ones.
        normalisation: how images are brought to [0, 1].
        network: resnet10, resnet18, resnet34 or resnet50.
        pretrained: a file of MedicalNet's weights to begin with; by default it begins from scratch.
        width: of its layers, 1 being its own.
        folds, inner_folds: of the two levels.
        epochs: of each training, of which the best is kept.
        learning_rates: one or several to choose from.
        batch_size: of the classifier.
        amp: bf16 for mixed precision.
        device: such as cuda:0 or cpu; by default a GPU where there is one.
        seed: of all of it.
        quick: a small run that shows that all works, and nothing else.

    Raises:
        FileNotFoundError, ValueError: what is wrong with the data or the options, such as maps of who was trained on.
    """
    paths = {"dataset_dir": str(dataset_dir), "subject_list": str(subject_list)}
    sequences = words(sequences) or read_subjects(list_of(*paths.values()))["sequences"]
    labelled = read_labels(**paths, split=split, label=str(label), table=table, positive=str(positive), seed=seed)
    options: dict[str, Any] = {"network": network, "pretrained": pretrained, "width": width, "amp": amp}
    options |= {"epochs": epochs, "batch_size": batch_size, "folds": folds, "inner_folds": inner_folds}
    options["learning_rates"] = [float(rate) for rate in np.ravel(learning_rates)]
    options |= QUICK if switch(quick, "quick") else {}
    box = {"sequences": sequences, "roi_size": list(roi_size), "mask": mask, "spacing": spacing, "grid": grid}
    box["normalisation"] = normalisation
    device = chosen_device(device)
    networks = (words(maps), words(weights), words(trained_on))
    made = _maps(labelled, Path(output_dir), *networks, bundle, device, {**paths, "split": split, "grid": grid})
    known = {"label": label, "split": split, "seed": seed, **box, **options}
    known |= {"subjects_sha256": hashlib.sha256(json.dumps(labelled).encode()).hexdigest()}
    known |= {"maps": made.origin, "weights_sha256": made.weights_sha256} if made else {}
    known |= {"pretrained_sha256": sha256(pretrained)} if pretrained else {}
    runs = Runs(output_dir, known)
    images = load_channels(labelled, made.folders if made else (), **paths, **box)
    arms = {"images": slice(len(sequences)), **({"images and maps": slice(None)} if made else {})}
    probabilities = {
        arm: _cross_validated(runs, arm, images[:, channels], labelled, options, seed, device)
        for arm, channels in arms.items()
    }
    page = _write(Path(output_dir), runs, labelled, probabilities, made)
    print(f"classify.csv, classify.json and {page} are written.")


def _maps(
    labelled: Sequence[Labelled],
    folder: Path,
    maps: Sequence[str],
    weights: Sequence[str],
    trained_on: Sequence[str],
    bundle: str,
    device: str,
    paths: Mapping[str, str],
) -> Maps | None:
    """Of each subject, the maps by a network that did not see its person.

    Raises:
        ValueError: it is not said whom the networks saw, or there is a subject whom all of them saw.
    """
    if maps and weights:
        raise ValueError(f"Both maps {', '.join(maps)} and weights {', '.join(weights)}: give one of them.")
    networks = maps or weights
    if not networks:
        return None
    if len(trained_on) != len(networks):
        raise ValueError(
            f"{len(networks)} networks made the maps ({', '.join(networks)}), and --trained_on names {len(trained_on)} "
            "lists: for each give the subject list that its network was trained on, or none, for which you vouch."
        )
    seen = [set() if each == "none" else people_seen(each) for each in trained_on]
    chosen = unseen_by(labelled, seen)
    if weights:
        maps = [_made(file, folder / f"maps_{k}", bundle, device, paths) for k, file in enumerate(weights)]
    told = [
        "of people unknown to it, by the word of whoever ran this" if each == "none" else f"trained on {each}, checked"
        for each in trained_on
    ]
    sums = [sha256(file) for file in weights] or [_made_by(Path(each), labelled[0].subject) for each in maps]
    return Maps([maps[k] for k in chosen], "; ".join(told), sums)


def _made(weights: str, folder: Path, bundle: str, device: str, paths: Mapping[str, str]) -> str:
    workflows.run_workflow(
        workflows.bundle_folder(bundle).name,
        "differentiation",
        ["inference", "differentiation"],
        **paths,
        output_dir=str(folder),
        weights=weights,
        device=f"$torch.device('{device}')",
        **{"dataset#data": "$@saver.left(@subjects.items(@split), 'maps')", "saver#pictures": False},
    )
    return str(folder)


def _made_by(folder: Path, subject: str) -> str:
    """The sha256 of the weights, as a map's sidecar tells it."""
    sidecars = sorted((folder / subject).glob(map_file("", "*", "*").name.replace(".nii.gz", ".json")))
    found = json.loads(sidecars[0].read_text(encoding="utf-8")) if sidecars else {}
    return found.get("weights_sha256", "unknown")


def _cross_validated(
    runs: Runs,
    arm: str,
    images: Tensor,
    labelled: Sequence[Labelled],
    options: Mapping[str, Any],
    seed: int,
    device: str,
) -> NDArray:
    """The probability [N] of each subject, by networks that saw nobody of its outer fold, the same in all arms."""
    labels, people = np.array([each.label for each in labelled]), [each.person for each in labelled]
    folds = person_folds(people, labels, options["folds"], np.random.default_rng(seed))
    found = np.empty(len(labels))
    for k in range(options["folds"]):
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
    cells = [[arm, *(_text(number) for number in found.values())] for arm, found in scores.items()]
    header = ["channels", *(name.replace("_", " ") for name in next(iter(scores.values())))]
    figure = interval_figure({arm: found["auc"] for arm, found in scores.items()}, "AUC", 0.5)
    note = (
        "Outer folds pooled; 95 % percentile intervals over people, drawn 2,000 times with replacement. A subject is "
        "called 1 from a probability of 0.5 on. The calibration error is the expected one over ten bins."
    )
    told = f"<p>AUC with maps less AUC without, the same people drawn: {_text(gain, signed=True)}.</p>" if gain else ""
    return f'{chart(figure)}{table(header, cells)}<p class="note">{note}</p>{told}'


def _text(number: Estimate, signed: bool = False) -> str:
    sign = "+" if signed else ""
    if math.isnan(number.low):
        return f"{number.value:{sign}.3f}"
    return f"{number.value:{sign}.3f} ({number.low:{sign}.3f} to {number.high:{sign}.3f})"


def _statements(label: str, scores: Mapping[str, Any], gain: Estimate | None) -> list[Statement]:
    statements = []
    if label == COIN:
        wrong = [arm for arm, found in scores.items() if not is_at_chance(found)]
        why = f"0.5 is outside the interval of {', '.join(wrong)}." if wrong else "0.5 is in every interval."
        said = "A coin that was tossed for each person cannot be told by any arm; else something leaks."
        statements.append(Statement("Not in the paper", said, not wrong, why))
    elif gain:
        clear = gain.low > 0 or gain.high < 0
        why = f"The difference of the AUCs is {_text(gain, signed=True)}" + ("." if clear else ", and 0 is among it.")
        statements.append(Statement(PAPER, SAID, gain.low > 0 if clear else None, why))
    return statements
