"""What score to expect of an image, told before anyone looks: stored with the weights, by target and sources."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from ..description import description_file
from ..files import write_text
from ..inference.weights import check_sha256, sha256
from .calibration import calibration
from .scores import ScoreTable, is_sequence


def expect(scores_dir: str, *, weights: str, convention: str = "declared") -> None:
    """Stores an evaluation's scores in the description beside the weights, for each target and what it is made from.

    Every sidecar then says what such an image scored. Evaluate with --multi_source subsets on subjects that the
    training did not see: without it there are scores for one source and for all, alone. Of subjects whose volumes were
    kept (--keep 9) it is stored, too, how far images were off: their uncertainty is then a bound that 68 % of voxels
    keep (`common.evaluation.calibration`).

    Args:
        scores_dir: folder with the evaluation's scores.
        weights: file of the weights that were evaluated.
        convention: whose scores are stored.

    Raises:
        FileNotFoundError: no such scores or weights.
        ValueError: the scores are of other weights, or of disturbed images.
    """
    table, described = ScoreTable.read(scores_dir, convention), check_sha256(weights)
    scored, own = table.info.get("weights_sha256"), sha256(weights)
    if scored != own:
        raise ValueError(
            f"{scores_dir} has scores of weights with the sha256 {scored}, {weights} has {own}; evaluate these."
        )
    if (disturbance := table.info.get("disturbance", "none")) != "none":
        raise ValueError(f"{scores_dir} scored disturbed images ({disturbance}); evaluate without --disturbance.")
    told = stored([table], f"{table.info.get('dataset_dir', '')}, {table.info.get('split', 'unknown')} subjects")
    kept = sorted((Path(scores_dir) / "volumes").glob("*.npz"))
    off = {"uncertainty": {"of": told["of"], **calibration(kept)}} if kept else {}
    text = json.dumps({"sha256": own, **described, "expected": told, **off}, indent=4)
    write_text(file := description_file(weights), text + "\n")
    print(
        f"{file} says what to expect of {', '.join(told['scores'])}, by {len(table.subjects)} subjects ({told['of']})."
    )


def stored(tables: Sequence[ScoreTable], of: str) -> dict[str, Any]:
    """What a description holds of the scores of different subjects, `of` these in words, see `expected_scores`."""
    return {
        "convention": tables[0].convention,
        "region": tables[0].region,
        "of": of,
        "scores": expected_scores([row for table in tables for row in table.rows]),
    }


def expected_scores(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By target and by sources such as "T1+T2": [mean, deviation or None] of psnr and ssim, and how many subjects.

    A row "others" counts for those that its subject had.

    Args:
        rows: of one `ScoreTable` or of several.
    """
    rows = [row for row in rows if row["method"] == "network" and row["source"] != row["target"]]
    single: dict[tuple[str, str], list[str]] = {}
    for row in (row for row in rows if is_sequence(row["source"])):
        single.setdefault((row["subject"], row["target"]), []).append(row["source"])
    by_sources: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in (row for row in rows if ">" not in row["source"]):
        others = row["source"] == "others"
        sources = "+".join(single.get((row["subject"], row["target"]), [])) if others else row["source"]
        if math.isfinite(row["psnr"]) and math.isfinite(row["ssim"]):
            by_sources.setdefault((row["target"], sources), {})[row["subject"]] = row
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for (target, sources), found in by_sources.items():
        numbers = {name: mean_and_deviation([row[name] for row in found.values()]) for name in ("psnr", "ssim")}
        scores.setdefault(target, {})[sources] = {**numbers, "subjects": len(found)}
    return scores


def mean_and_deviation(values: list[float]) -> list[float | None]:
    """Rounded to 4 digits after the point; one value has no deviation."""
    return [round(fmean(values), 4), round(stdev(values), 4) if len(values) > 1 else None]
