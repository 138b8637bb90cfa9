"""General weights: `./ci/weights NAME --recipe general --anatomies DIR --dataset_dir REAL`.

A training on simulated subjects alone, then one on simulated and real subjects together: once for every person among
the real ones, without that person, who is scored with it; and at last with all of them, for the weights that are
shipped. So every score is of a person that the scored weights never saw, and none is of the shipped weights, which saw
one person more. Each step that is finished is used again, and each can be made beside the others, by the same commands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from ci.general_card import general_card
from common import workflows
from common.data.names import person_of
from common.data.subjects import SPLITS, read_subjects, write_subjects
from common.description import description_file, read
from common.evaluation.calibration import calibration
from common.evaluation.expected import stored
from common.evaluation.scores import ScoreTable
from common.files import replacing, write_text
from common.inference.weights import read_state, sha256

OVERLAY = "general"
REAL_RATE, REAL_SHARE = 0.0003, 0.7  # of the second training: the learning rate, and how many subjects are real
EXACT = ("reference_scale", "reference_spread")  # scales are any numbers, such as 30,000


def general_weights(
    name: str,
    real: Path,
    anatomies: Path | str,
    work: Path,
    *,
    overlay: str = OVERLAY,
    epochs: int = 0,
) -> tuple[Path, Path]:
    """Makes all of it in a folder; returns the weights, in half precision and described, and their card. The card shows
    pictures of gallery/, which goes where it goes.

    Args:
        name: of the bundle.
        real: folder of real subjects with a list, all of which are used, or the list; "person" of a subject there says
            whose visit it is, where its name does not, and "about" of the list, in Markdown, whose data they are.
        anatomies: folder of label maps; "" is MNI152.
        work: base/, without/<person>/, scores/<person>/simulated and /real, completed/, all/.
        overlay: configuration of the trainings.
        epochs: of the training on simulated subjects; 0 for the overlay's.
    """
    common = {"overlay": overlay, "train#dataset#anatomies": str(anatomies)}
    base = work / "base" / "models" / "model.pt"
    workflows.train(name, "", str(work / "base"), **common, **({"epochs": epochs} if epochs else {}))
    tuned = {**common, "init_weights": str(base), "epochs": 1, "learning_rate": REAL_RATE}
    tuned["train#dataset#real_share"] = REAL_SHARE
    lists = lists_without_one(real, work / "lists")
    for person, file in lists.items():
        data, trained = str(file.parent), work / "without" / person
        workflows.train(name, data, str(trained), subject_list=file.name, **tuned)
        score(name, file, base, work / "scores" / person / "simulated", multi_source=True)
        own = averaged(base, trained / "models" / "model.pt", trained / "model.pt")
        score(name, file, own, work / "scores" / person / "real", multi_source="subsets", keep=9)
        if not (work / "completed" / person).is_dir():
            out = {"output_dir": str(work / "completed" / person), "targets": "all", "split": "test"}
            workflows.complete_folder(data, bundle=name, weights=str(own), subject_list=str(file), **out)
    everyone = all_of(real, work / "lists")
    workflows.train(name, str(everyone.parent), str(work / "all"), subject_list=everyone.name, **tuned)
    scores = [work / "scores" / person for person in lists]
    both = averaged(base, work / "all" / "models" / "model.pt", work / "all" / "model.pt")
    weights = shipped(both, work / "model.pt", [folder / "real" for folder in scores])
    card = work / "model_card.md"
    gallery(sorted((work / "completed").glob("*/*/*.png")), work / "gallery")
    command = f"./ci/weights {name} --recipe general --anatomies DIR --dataset_dir REAL"
    command += f" --epochs {epochs}" if epochs else ""
    write_text(card, general_card(name, weights, scores, work / "completed", read_subjects(real), command))
    return weights, card


def gallery(pictures: Sequence[Path], folder: Path) -> None:
    """The pictures in 128 colours, a third of their size."""
    folder.mkdir(exist_ok=True)
    for path in pictures:
        with Image.open(path) as picture:
            picture.convert("RGB").quantize(128).save(folder / path.name, optimize=True)


def averaged(before: Path, after: Path, file: Path) -> Path:
    """The mean of the weights that a training began and ended with, which keeps more of what it did not see
    (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022); with the scales and description of the end.
    """
    begun, ended = read_state(before), read_state(after)
    mean = {name: value if name in EXACT else (begun[name] + value) / 2 for name, value in ended.items()}
    with replacing(file) as partial:
        torch.save(mean, partial)
        write_text(description_file(file), json.dumps({**read(after), "sha256": sha256(partial)}, indent=4) + "\n")
    return file


def score(name: str, subject_list: Path, weights: Path, output_dir: Path, **options: object) -> None:
    """The list's test subjects, unless that is done."""
    if not (output_dir / "scores_declared.json").is_file():
        options |= {"weights": str(weights), "subject_list": subject_list.name}
        workflows.evaluate(name, str(subject_list.parent), str(output_dir), **options)


def people(listed: Mapping[str, list]) -> dict[str, list[dict]]:
    """By person, the list's subjects."""
    found: dict[str, list[dict]] = {}
    for entry in (entry for split in SPLITS for entry in listed[split]):
        found.setdefault(entry.get("person") or person_of(entry["subject"]), []).append(entry)
    return found


def lists_without_one(real: Path, folder: Path) -> dict[str, Path]:
    """By person, a list that tests that one and trains on all others."""
    listed = read_subjects(real)
    persons = people(listed)
    if len(persons) < 2:
        raise ValueError(f"{real} has {len(persons)} person; one is left out in turn, so two are needed.")
    files = {}
    for person, left_out in persons.items():
        others = [entry for other, entries in persons.items() if other != person for entry in entries]
        files[person] = write_subjects(
            folder / f"without_{person}.json", {**listed, "training": others, "validation": [], "test": left_out}
        )
    return files


def all_of(real: Path, folder: Path) -> Path:
    """A list that trains on everyone."""
    listed = read_subjects(real)
    everyone = [entry for split in SPLITS for entry in listed[split]]
    return write_subjects(folder / "all.json", {**listed, "training": everyone, "validation": [], "test": []})


def shipped(trained: Path, file: Path, scores: Sequence[Path]) -> Path:
    """Weights in half precision, described, with what to expect of them by the `scores` of each person left out."""
    state = read_state(trained)
    halves = {n: v.half() if v.is_floating_point() and n not in EXACT else v for n, v in state.items()}
    with replacing(file) as partial:
        torch.save(halves, partial)
    described = {**read(trained), "sha256": sha256(file)}
    of = f"{len(scores)} real persons, each by weights that were trained without"
    described["expected"] = stored([ScoreTable.read(folder) for folder in scores], of)
    volumes = [path for folder in scores for path in sorted((folder / "volumes").glob("*.npz"))]
    described["uncertainty"] = {"of": of, **calibration(volumes)}
    write_text(description_file(file), json.dumps(described, indent=4) + "\n")
    return file
