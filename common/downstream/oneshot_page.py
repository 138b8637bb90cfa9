"""The page of `oneshot`: a curve over the number of subjects, scores, paired tests, and what of the paper is seen."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .masks import picture
from .pages import Statement, chart, curve_figure, table, verdict, write_experiment
from .regions import Regions
from .subsets_page import Differences, compared, is_within, is_worse, tests

PAPER = "VQ-Seq2Seq (Han et al., MICCAI 2024), Table 3"
REFERENCE = "mean"
Scores = Mapping[str, Mapping[int, Sequence[Mapping[str, Mapping[str, float]]]]]  # by space, subjects and draw


def of_draws(draws: Sequence[Mapping[str, Mapping[str, float]]], measure: str) -> list[float]:
    """Of each draw the mean over the test subjects."""
    return [statistics.fmean(numbers[measure] for numbers in draw.values()) for draw in draws]


def of_subjects(draws: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Of each test subject and measure, the mean over the draws."""
    first = draws[0]
    return {
        name: {each: statistics.fmean(draw[name][each] for draw in draws) for each in numbers}
        for name, numbers in first.items()
    }


def text(scores: Scores, regions: Regions) -> str:
    """Mean Dice over draws and subjects, for the terminal."""
    lines = [f"{'Dice':<28}" + "".join(f"{name:>12}" for name in regions.names)]
    for space, counts in scores.items():
        for count, draws in counts.items():
            means = [statistics.fmean(of_draws(draws, f"{name}_dice")) for name in regions.names]
            said = _arm(space, count) if count else f"{space}, labels"
            lines.append(f"{said:<28}" + "".join(f"{mean:12.3f}" for mean in means))
    return "\n".join(lines)


def scores_table(scores: Scores, regions: Regions) -> str:
    """Mean over subjects and draws, and the standard deviation over the draws."""
    columns = [(name, measure) for measure in ("dice", "assd") for name in regions.names]
    rows = []
    for space, counts in scores.items():
        for count, draws in counts.items():
            cells = []
            for name, measure in columns:
                values, digits = of_draws(draws, f"{name}_{measure}"), 3 if measure == "dice" else 1
                spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
                cells.append(f"{statistics.fmean(values):.{digits}f}{spread}")
            said = f"{count} subject{'s' * (count > 1)}" if count else "labels"
            rows.append([f"{escape(space)}, {said}", str(len(draws)) if count else "", *cells])
    header = [f"{escape(name)} {'Dice ↑' if m == 'dice' else 'ASSD mm ↓'}" for name, m in columns]
    note = (
        "Mean over the test subjects; ± is the standard deviation over the draws of the training subjects. Labels "
        "are the true ones, taken to the latent's grid and back: the best that a segmenter there can do."
    )
    return f'<p class="note">{note}</p>' + table(["", "draws", *header], rows)


def curves(scores: Scores, regions: Regions) -> str:
    """A chart for each region: Dice over the number of subjects, with bars from the worst to the best draw."""
    charts = []
    for name in regions.names:
        lines = {
            space: {count: of_draws(draws, f"{name}_dice") for count, draws in counts.items() if count}
            for space, counts in scores.items()
        }
        figure = curve_figure(lines, "training subjects", f"{name}: Dice")
        places = sorted({count for line in lines.values() for count in line})
        figure.update_xaxes(type="log", tickvals=places, ticktext=[str(place) for place in places])
        charts.append(f"<div>{chart(figure)}</div>")
    return f'<div class="grid">{"".join(charts)}</div>'


def _arm(space: str, count: int) -> str:
    return f"{space} ({count})"


def against_mean(scores: Scores, names: Sequence[str], margin: float, seed: int) -> Differences:
    """Dice of the other spaces against the common latent's, of each number of subjects, averaged over the draws."""
    if REFERENCE not in scores:
        return {}
    flat = {_arm(space, n): of_subjects(each[n]) for space, each in scores.items() for n in each if n}
    others = [space for space in scores if space != REFERENCE]
    pairs = [(_arm(space, n), _arm(REFERENCE, n)) for space in others for n in scores[space] if n]
    return compared(flat, pairs, names, margin, seed)


def write_page(folder: Path, scores: Scores, plan: Any, settings: Mapping[str, Any]) -> Path:
    """Writes oneshot.html, .csv and .json; returns the page's path.

    Args:
        folder: to write to.
        scores: see `common.downstream.oneshot`.
        plan: of the experiment, with its cases.
        settings: what the results depend on.
    """
    cases, counts = plan.cases, list(plan.counts)
    names, test = cases.regions.names, plan.test(0)
    found = against_mean(scores, names, float(settings["margin"]), settings["seed"]) if len(test) > 1 else {}
    shown = {
        f"{space}, {n}": folder / "predictions" / space / f"{n}_0" for space in scores for n in {counts[0], counts[-1]}
    }
    sections = [("Dice over the number of training subjects", curves(scores, cases.regions))] if len(counts) > 1 else []
    sections += [("Dice and surface distance", scores_table(scores, cases.regions))]
    if found:
        sections += [("Against the common latent, paired over subjects", tests(found, float(settings["margin"])))]
    sections += [("Masks, of the first draw", picture(test[:3], shown, cases, cases.sequences[-1]))]
    rows = [
        {"space": space, "training_subjects": count, "draw": draw, "subject": name, **numbers}
        for space, each in scores.items()
        for count, draws in each.items()
        for draw, subjects in enumerate(draws)
        for name, numbers in subjects.items()
    ]
    return write_experiment(
        folder,
        "oneshot",
        "Segmentation from one subject, or a few",
        about=_about(plan, settings),
        statements=statements(found, counts),
        sections=sections,
        rows=rows,
        settings=settings,
        more={"tests": {" | ".join(key): each._asdict() for key, each in found.items()}},
    )


def _about(plan: Any, settings: Mapping[str, Any]) -> str:
    what = "A small 2D U-Net, trained from nothing on the images or on what an encoder makes of them, "
    if plan.gap:
        what += (
            f"on the slices on one side of a gap of {plan.gap:g} mm and tested on those on the other side, both ways. "
            "Slices of one subject are no independent test, and two ways no spread: this shows that it runs on real "
            "lesions, and an order at best."
        )
    else:
        what += f"on a number of drawn subjects, and tested on {len(plan.test(0))} others, always the same."
    return (
        f"{what} Labels are taken to the latent's grid by the nearest voxel, predicted probabilities back to the "
        "image's linearly. Dice, and the average symmetric surface distance (ASSD) in mm, by BraTS' convention for what"
        " is empty."
    )


def statements(found: Differences, counts: Sequence[int]) -> list[Statement]:
    """Of Table 3, at the fewest subjects, and of what the paper leaves open."""
    if not found:
        return []
    said, least = [], counts[0]
    for space, words in (("images", "images"), ("features", "Seq2Seq's features")):
        keys = [key for key in found if key[0] == _arm(space, least)]
        rows = [found[key] for key in keys]
        why = "; ".join(f"{key[2]} {found[key].mean:+.3f} (Holm's p {found[key].p_worse_holm:.3g})" for key in keys)
        seen = verdict(map(is_worse, rows), map(is_within, rows))
        text = f"From one subject the common latent segments better than {words} do."
        said += [Statement(PAPER, text, seen, f"Dice of {words} − mean, {least} training: {why}.")] if keys else []
    images = {n: [d for key, d in found.items() if key[0] == _arm("images", n)] for n in counts}
    most = images[counts[-1]]
    if most and len(counts) > 1:
        ahead = [str(n) for n, rows in images.items() if all(each.mean > 0 for each in rows)]
        told = f"On the mean, images are ahead in every region with {', '.join(ahead) or 'none'} of {counts} subjects."
        caught = verdict(map(is_within, most), map(is_worse, most))
        said.append(Statement("Not in the paper", "With the most subjects the images have caught up.", caught, told))
    return said
