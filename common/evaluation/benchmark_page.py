"""The page of `common.benchmark`: methods by quality and by cost, and the same slices of each beside the truth."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from ..files import replacing
from ..inference.pictures import PLANES, fullest, upright, white_level
from .compare import leaderboard_sections, standings, write_standings
from .files import write_csv, write_text
from .leaderboard import leaderboard_text
from .page import page, table
from .runs import Run, check_alike
from .scores import evaluated_again

COSTS = {
    "steps": ("steps", "{:,.0f}"),
    "batch_size": ("batch", "{:.0f}"),
    "seconds_per_step": ("s per step", "{:.3f}"),
    "step_gib": ("GiB, training", "{:.2f}"),
    "parameters": ("parameters trained", "{:,.0f}"),
    "subject_gmacs": ("GMACs per image", "{:,.0f}"),
    "subject_seconds": ("s per image", "{:.2f}"),
    "subject_gib": ("GiB, use", "{:.2f}"),
}
MOST = 4  # pairs that are drawn


def write_page(
    folder: Path,
    scores: Mapping[str, Path],
    costs: Mapping[str, Mapping[str, float]],
    *,
    failures: Mapping[str, str],
    how: str,
    convention: str,
) -> None:
    """Writes leaderboard.html, leaderboard.csv, tests.csv, costs.csv and pictures.png, and prints the leaderboard.

    Args:
        folder: to write in.
        scores: by method, the output folder of its evaluation.
        costs: by method, `COSTS`.
        failures: by method, why it has none of them.
        how: what all were trained alike by.
        convention: whose scores are compared.

    Raises:
        ValueError: two were not scored alike, or no pair is made by all.
    """
    every = [Run.read(name, str(path), convention) for name, path in scores.items()]
    runs, left_out = _of_shared_pairs(every)
    lines, tests = standings(runs)
    write_standings(folder, lines, tests)
    write_csv(folder / "costs.csv", ["name", *COSTS], [[name, *(of[c] for c in COSTS)] for name, of in costs.items()])
    draw_methods(folder / "pictures.png", scores, _pairs(runs))
    notes = [f"Every method: {how} (whole epochs; the numbers stand under Cost), one seed, on one list.", *left_out]
    notes += [f"{name} is not among them: {reason}" for name, reason in failures.items()]
    said = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    (_, board), *others = leaderboard_sections(runs, lines, tests)
    picture = base64.b64encode((folder / "pictures.png").read_bytes()).decode()
    sections = [
        ("", board + said),
        ("Cost", _cost_table(costs)),
        ("Pictures", f'<img style="max-width:100%" src="data:image/png;base64,{picture}" alt="the methods\' images">'),
    ]
    if len(most := _of_most_pairs(every)) > 1 and left_out:
        print(leaderboard_text(most, *standings(most)) + "\n")
        sections.append(("Those that make more", leaderboard_sections(most, *standings(most))[0][1]))
    write_text(folder / "leaderboard.html", page("Benchmark", [*sections, *others]))
    print("\n".join([leaderboard_text(runs, lines, tests), *notes, f"leaderboard.html and its files are in {folder}."]))


def _of_shared_pairs(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs with the pairs that each of them made, and what is left out by that.

    Raises:
        ValueError: see `write_page`.
    """
    made = {run.name: {key[1:] for key in run.scores["network"]} for run in runs}
    shared = set.intersection(*made.values())
    if not shared:
        raise ValueError(f"No pair is made by all of {', '.join(made)}: compare fewer at a time, by --bundles.")
    kept = []
    for run in runs:
        scores = {method: {k: v for k, v in of.items() if k[1:] in shared} for method, of in run.scores.items()}
        kept.append(run._replace(scores=scores))
        check_alike(kept[0], kept[-1])
    fewest = [name for name, pairs in made.items() if pairs == shared]
    if all(pairs == shared for pairs in made.values()):
        return kept, []
    named = ", ".join(f"{source} to {target}" for source, target in sorted(shared))
    return kept, [f"Compared by what {', '.join(fewest)} can make: {named}."]


def _of_most_pairs(runs: Sequence[Run]) -> list[Run]:
    """The runs that made the most pairs, and the same ones."""
    made = {run.name: {key[1:] for key in run.scores["network"]} for run in runs}
    most = max(made.values(), key=len)
    return [run for run in runs if made[run.name] == most]


def _pairs(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Up to `MOST` pairs that all made, of as many targets as there are."""
    pairs = list(dict.fromkeys(key[1:] for key in runs[0].scores["network"]))
    targets = list(dict.fromkeys(target for _, target in pairs))
    firsts = [next(pair for pair in pairs if pair[1] == target) for target in targets]
    return [*firsts, *(pair for pair in pairs if pair not in firsts)][: max(1, min(MOST, len(pairs)))]


def draw_methods(path: Path, scores: Mapping[str, Path], pairs: Sequence[tuple[str, str]]) -> None:
    """A row per pair, its fullest axial slice: the source, the truth, then each method's image, which is scaled by the
    truth's white level in that method's training units."""
    kept = {name: _kept(folder) for name, folder in scores.items()}
    first, axis = next(iter(kept.values())), PLANES[0].axis
    places = {name: {s: k for k, s in enumerate(each["sequences"].tolist())} for name, each in kept.items()}
    with style.context("dark_background"):
        figure = Figure(figsize=(1.9 * (len(kept) + 2), 2.2 * len(pairs)), layout="constrained")
        axes = figure.subplots(len(pairs), len(kept) + 2, squeeze=False)
        for row, (source, target) in zip(axes, pairs, strict=True):
            i, j = (next(iter(places.values()))[name] for name in (source, target))
            index = fullest([first["label"][j].astype(np.float32)], axis)
            shown = [(f"{source}, given", first["source"][i], white_level(first["source"][i].astype(np.float32)))]
            shown += [(f"{target}, true", first["label"][j], white_level(first["label"][j].astype(np.float32)))]
            for name, each in kept.items():
                i, j = places[name][source], places[name][target]
                shown.append((name, each["pred"][i, j], white_level(each["label"][j].astype(np.float32))))
            for ax, (title, volume, white) in zip(row, shown, strict=True):
                ax.imshow(upright(volume.astype(np.float32), axis, index), cmap="gray", vmin=0, vmax=white)
                ax.set_title(title, fontsize=8)
                ax.set_axis_off()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format="png")


def _kept(folder: Path) -> dict[str, Any]:
    """The kept volumes of one subject, see `KeptVolumes`."""
    files = sorted((folder / "volumes").glob("*.npz"))
    file = files[0] if files else folder / "volumes" / "(no subject).npz"
    with evaluated_again(file), np.load(file, allow_pickle=False) as volumes:
        return dict(volumes)


def _cost_table(costs: Mapping[str, Mapping[str, float]]) -> str:
    note = (
        "Time per step with its batch, without validation; of an image made from all others of a subject, without "
        "reading and writing. Memory is CUDA's, or on a CPU all of the process."
    )
    rows = [[escape(name), *(form.format(of[c]) for c, (_, form) in COSTS.items())] for name, of in costs.items()]
    return f'<p class="note">{note}</p>' + table(["", *(label for label, _ in COSTS.values())], rows)
