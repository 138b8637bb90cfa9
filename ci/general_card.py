"""The card of general weights, in Markdown: what they were trained on, and how each person left out was served."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import nibabel as nib
import numpy as np

from common.data.subjects import SPLITS
from common.description import read
from common.evaluation.scores import ScoreTable, is_sequence
from common.inference.weights import read_state

CARD = """\
# General weights of {name}

Any of {sequences} from any others, of registered brain images without skull. Research only. Not for clinical use.

| | |
|---|---|
| network | {parameters:.2f} million numbers, {size:.1f} MB in half precision |
| sha256 of model.pt | `{sha256}` |
| trained on | {trained_on} |
| made by | `{command}` |

{about}

## Scores of persons that were left out

Convention `declared`, in the brain; means over subjects' pairs of one source and one target, and over targets made from
all others. `copy` is the source, `map` the best intensity map of the other persons; `simulated` are weights that saw no
real image, `real` those that saw all persons but this one. The shipped weights saw all: none of these scores is theirs.

{scores}

By pair, of `real`: mean over subjects, beside it the map's.

{pairs}

## Brightness

What is written of a missing sequence is scaled by what the others' scales let expect. Median in the brain, made / true:

{medians}

## How far off

Of the voxels, the share that is off by less than the uncertainty that is written, and by less than twice it; the bound
was taken from the other persons (mean over persons, and the least):

{kept}

## Pictures

Of each subject all sequences, each made from all others by weights that did not see that person, beside the truth.

{pictures}
"""


def general_card(
    name: str, weights: Path, scores: Sequence[Path], completed: Path, listed: Mapping[str, Any], command: str
) -> str:
    """The card.

    Args:
        name: of the bundle.
        weights: the file that is shipped.
        scores: of each person a folder with scores in simulated/ and real/.
        completed: a folder per person of images that were made of all sequences.
        listed: the real subjects.
        command: that makes the weights.
    """
    described = read(weights)
    tables = {stage: [ScoreTable.read(folder / stage) for folder in scores] for stage in ("simulated", "real")}
    return CARD.format(
        name=name,
        command=command,
        sequences=", ".join(described["sequences"]),
        parameters=sum(value.numel() for value in read_state(weights).values()) / 1e6,
        size=weights.stat().st_size / 1e6,
        sha256=described["sha256"],
        trained_on=described["trained_on"],
        about=listed.get("about", ""),
        scores=_scores(tables),
        pairs=_pairs([row for table in tables["real"] for row in table.rows], described["sequences"]),
        pictures="\n".join(f"![{path.stem}](gallery/{path.name})" for path in sorted(completed.glob("*/*/*.png"))),
        medians=_medians(sorted(completed.glob("*/*/*.json")), listed, described["sequences"]),
        kept=_table(
            ["target", "within", "within twice"],
            [
                [target, *(f"{each[0]:.2f} ({each[1]:.2f})" for each in shares.values())]
                for target, shares in described["uncertainty"].get("kept", {}).items()
            ],
        ),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _scores(tables: Mapping[str, Sequence[ScoreTable]]) -> str:
    """A row per subject, kind of source and metric."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for stage, each in tables.items():
        for row in (row for table in each for row in table.rows if row["source"] != row["target"]):
            if not is_sequence(row["source"]) and row["source"] != "others":
                continue
            column = stage if row["method"] == "network" else row["method"]
            kind = "all others" if row["source"] == "others" else "one source"
            for metric in ("psnr", "ssim", "psnr_lesion", "psnr_tumour"):
                if stage == "real" or row["method"] == "network":
                    cell = found.setdefault((row["subject"], kind, metric), {}).setdefault(column, [])
                    cell += [row[metric]] if math.isfinite(row.get(metric, math.nan)) else []
    columns = ("copy", "map", "simulated", "real")
    rows = [
        [*key, *(f"{fmean(cells[c]):.{3 if key[2] == 'ssim' else 2}f}" if cells.get(c) else "-" for c in columns)]
        for key, cells in found.items()
        if any(cells.values())
    ]
    return _table(["subject", "from", "metric", *columns], rows)


def _pairs(rows: Sequence[Mapping[str, Any]], sequences: Sequence[str]) -> str:
    """Source by target, network and map."""

    def mean(method: str, source: str, target: str) -> float:
        pair = (method, source, target)
        values = [row["psnr"] for row in rows if (row["method"], row["source"], row["target"]) == pair]
        return fmean(values) if values else math.nan

    body = [
        [
            source,
            *(
                "" if source == t else f"{mean('network', source, t):.1f} ({mean('map', source, t):.1f})"
                for t in sequences
            ),
        ]
        for source in [*sequences, "others"]
    ]
    return _table(["from", *sequences], body)


def _medians(sidecars: Sequence[Path], listed: Mapping[str, Any], sequences: Sequence[str]) -> str:
    """A row per subject: by target, the median of what was made over that of the true image, where both have tissue."""
    files = {entry["subject"]: entry["images"] for split in SPLITS for entry in listed[split]}
    rows: dict[str, dict[str, str]] = {}
    for path in sidecars:
        said = json.loads(path.read_text())
        if path.stem != f"{said['subject']}_{said['target']}" or said["target"] not in files.get(said["subject"], {}):
            continue
        made = np.asarray(nib.load(path.with_suffix(".nii.gz")).dataobj)
        true = np.asarray(nib.load(files[said["subject"]][said["target"]]).dataobj)
        both = (made > 0) & (true > 0) if made.shape == true.shape else np.zeros((), bool)
        if both.any():
            ratio = np.median(made[both]) / np.median(true[both])
            rows.setdefault(said["subject"], {})[said["target"]] = f"{ratio:.2f}"
    return _table(["subject", *sequences], [[s, *(found.get(t, "-") for t in sequences)] for s, found in rows.items()])
