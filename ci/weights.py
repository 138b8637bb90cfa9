"""Weights by one command: `./ci/weights NAME [--dataset_dir DIR]`; of `--recipe general` see `ci.general`.

A phantom is simulated, the small network (configs/small.json) trained on it, its test subjects scored against their
noise-free truth, a model card written, and bundle, weights and card packed into dist/. All else lies in demo/<name>/.
What is finished there is used again; remove the folder to begin anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ci.general import general_weights
from ci.package import package
from ci.runs import ROOT, simulate
from common import workflows
from common.data.subjects import read_subjects
from common.evaluation.scores import ScoreTable
from common.files import write_text
from common.inference.weights import read_state, sha256
from common.options import from_caller, run_command
from common.training.checkpoints import read_last

DATA: dict[str, dict[str, object]] = {
    "mri_crl": {"sequences": "fse9", "one_gain": True},
    "mri_aldm": {"spacing": 3.0},
    "mri_wavelet_flow": {"spacing": 3.0},
}
SPLIT = {"validation": 0.1, "test": 0.3}
CARD = """\
# Demonstration weights of {name} {version}

For trying things out. They were trained on simulated images alone. Research only. Not for clinical use.

| | |
|---|---|
| network | {parameters:.2f} million numbers, of `configs/{overlay}.json`, {size:.1f} MB |
| sha256 of model.pt | `{sha256}` |
| made by | `{command}` |
| data | `{data}` |
| subjects | {training} trained on, {validation} to choose the epoch, {test} for the scores below |
| sequences | {sequences} |
| trained for | {epochs} |

The data are the MNI152 template's tissues, deformed at random, with random lesions; the images follow from T1, T2 and
proton density by the spin-echo equation, with bias field and Rician noise. No subject is a person.

## Scores on simulated subjects

{simulated}

## Scores on real scans

{real}

## What they are not for

- For any decision about a patient, and not in place of an image that was not acquired.
- For real scans, whose contrast, anatomy, disease and artefacts they have not seen: train on your own kind of data.
- To judge or compare the methods: network, data and time are a fraction of the papers'.
- For other sequences than those above, for images that are not registered, or with the skull.
"""
SCORES = """\
Convention `{convention}`, measured {region}, {subjects} subjects, truth: {truth}. `copy` is the source image itself,
`map` the mean target value per source intensity, fitted on the same folder's training subjects, if it has any: a
network that does not beat it has learned no more than a look-up table.

```
{table}
```"""
TRUTH = {"reference": "the images without bias and noise", "images": "the acquired images"}


def weights(
    name: str,
    *,
    dataset_dir: str = "",
    overlay: str = "small",
    epochs: int = 0,
    subjects: int = 40,
    spacing: float = 0.0,
    seed: int = 77,
    recipe: str = "phantom",
    anatomies: str = "",
    work_dir: str = "",
    output_dir: str = str(ROOT / "dist"),
) -> str:
    """Makes a bundle's weights and packs them; returns the zip.

    Args:
        name: folder of bundles/.
        dataset_dir: folder of real scans with a subject list (`mri-contrast list DIR`), whose test subjects are scored,
            too.
        overlay: configuration of the bundle, by name, that makes the network small.
        epochs: of each training; 0 for those of the overlay.
        subjects: to simulate.
        spacing: their voxel size in mm; 0 for the bundle's own.
        seed: chooses them.
        recipe: phantom makes demonstration weights of it; general takes subjects that are drawn for every step, and
            then the real ones too, see `ci.general`.
        anatomies: folder of label maps, for the general ones.
        work_dir: for phantom, trainings and scores; by default demo/<name>, or demo/<name>_general.
        output_dir: where the zip goes.

    Raises:
        ValueError: there is no such bundle, or work_dir is of other options.
        SystemExit: a run failed.
    """
    if recipe not in ("phantom", "general"):
        raise ValueError(f"recipe is {recipe!r}; there are phantom and general.")
    bundle = workflows.bundle_folder(name)
    if recipe == "general":
        return _general(
            name, dataset_dir, anatomies, "" if overlay == "small" else overlay, epochs, work_dir, output_dir
        )
    work = from_caller(work_dir or ROOT / "demo" / name)
    data = {"seed": seed, **SPLIT, **DATA.get(name, {}), **({"spacing": spacing} if spacing else {})}
    _same_recipe(work, {"subjects": subjects, **data, "overlay": overlay, "epochs": epochs})
    simulate(work / "phantom", subjects, **data)
    _train(name, work, overlay, epochs)
    _score(name, work / "models", work / "phantom", work / "scores", "reference")
    real = from_caller(dataset_dir) if dataset_dir else None
    if real:
        _score(name, work / "models", real, work / "scores_real", "images")
    given = {"dataset_dir": "DIR" if dataset_dir else "", "overlay": overlay, "epochs": epochs, "subjects": subjects}
    command = _command(name, {**given, "spacing": spacing, "seed": seed})
    card = work / "model_card.md"
    write_text(card, _card(bundle, work, overlay, command, _phantom_command(subjects, data)))
    model = str(work / "models" / "model.pt")
    [archive] = package(name, weights=model, card=str(card), output_dir=output_dir)
    return archive


def _general(
    name: str, dataset_dir: str, anatomies: str, overlay: str, epochs: int, work_dir: str, output_dir: str
) -> str:
    """`weights` by `ci.general`."""
    if not dataset_dir:
        raise ValueError("--recipe general needs --dataset_dir: real subjects with a list, two persons at least.")
    work = from_caller(work_dir or ROOT / "demo" / f"{name}_general")
    maps = from_caller(anatomies) if anatomies else ""
    options = {"epochs": epochs, **({"overlay": overlay} if overlay else {})}
    model, card = general_weights(name, from_caller(dataset_dir), maps, work, **options)
    [archive] = package(name, weights=str(model), card=str(card), output_dir=output_dir)
    return archive


def _same_recipe(work: Path, recipe: dict[str, Any]) -> None:
    """The card says how the weights were made, so nothing made otherwise may be used again."""
    file = work / "recipe.json"
    if not file.exists():
        write_text(file, json.dumps(recipe, indent=4) + "\n")
    elif (found := json.loads(file.read_text())) != recipe:
        raise ValueError(f"{work} was begun with {found}, not {recipe}; remove it, or name another --work_dir.")


def _train(name: str, work: Path, overlay: str, epochs: int) -> None:
    options = {"epochs": epochs, "val_interval": max(1, epochs // 5)} if epochs else {}
    options |= {"overlay": overlay, "ckpt_dir": str(work / "models")}
    print(f"Training a small {name} ...", flush=True)
    workflows.train(name, str(work / "phantom"), str(work / "training"), **options)


def _score(name: str, models: Path, data: Path, output_dir: Path, truth: str) -> None:
    options = {"weights": str(models / "model.pt"), "ckpt_dir": str(models), "truth": truth}
    workflows.evaluate(name, str(data), str(output_dir), **options)


def _command(name: str, given: dict[str, object]) -> str:
    changed = [f" --{key} {value}" for key, value in given.items() if value != weights.__kwdefaults__[key]]
    return f"./ci/weights {name}{''.join(changed)}"


def _phantom_command(subjects: int, data: dict[str, object]) -> str:
    words = (f"--{key}" if value is True else f"--{key} {value}" for key, value in data.items())
    return f"mri-contrast phantom DIR {subjects} {' '.join(words)}"


def _card(bundle: Path, work: Path, overlay: str, command: str, data: str) -> str:
    """The model card, in Markdown."""
    model = work / "models" / "model.pt"
    lists = read_subjects(work / "phantom")
    real = (
        "Not measured: `--dataset_dir DIR` of `./ci/weights` scores the test subjects of a folder with a subject list."
    )
    return CARD.format(
        name=bundle.name,
        version=json.loads((bundle / "configs" / "metadata.json").read_text())["version"],
        parameters=sum(value.numel() for value in read_state(model).values()) / 1e6,
        size=model.stat().st_size / 1e6,
        sha256=sha256(model),
        overlay=overlay,
        command=command,
        data=data,
        **{split: len(lists[split]) for split in ("training", "validation", "test")},
        sequences=", ".join(lists["sequences"]),
        epochs=_epochs(work / "models"),
        simulated=_scores(work / "scores"),
        real=_scores(work / "scores_real") if (work / "scores_real").exists() else real,
    )


def _epochs(models: Path) -> str:
    states = {path: read_last(path, whole=False)["progress"]["epoch"] for path in sorted(models.rglob("last.pt"))}
    named = {path: "" if len(states) == 1 else f" ({path.relative_to(models).parent})" for path in states}
    return ", ".join(f"{epoch} epochs{named[path]}" for path, epoch in states.items()).replace(" (.)", " (diffusion)")


def _scores(folder: Path) -> str:
    """Of every convention that the folder has scores under, each by the name that stands in its file."""
    tables = [
        ScoreTable.read(folder, path.stem.removeprefix("scores_")) for path in sorted(folder.glob("scores_*.json"))
    ]
    return "\n\n".join(
        SCORES.format(
            convention=table.convention,
            region=table.region,
            subjects=len(table.subjects),
            truth=TRUTH[table.info["truth"]],
            table=table.table(),
        )
        for table in tables
    )


if __name__ == "__main__":
    run_command(weights)
