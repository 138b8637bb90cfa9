"""The page of `subsets`: scores, paired tests, and what of the paper is seen."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from .cases import Cases
from .masks import picture
from .pages import Statement, chart, interval_figure, table, verdict, write_experiment
from .paired import LEVEL, Difference, differences
from .regions import Regions

PAPER = "Seq2Seq (Han et al., MedIA 2024), Table 3"
MADE, ZEROS = " synthesised", " zeros"
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # by arm, subject and measure
Differences = Mapping[tuple[str, str, str], Difference]  # by arm, reference and region
EQUAL = (
    "A dot is the mean difference of Dice over the test subjects, a line its 95 % interval by a paired bootstrap (or "
    "Student's, where that is wider), dashed the margin. p (worse) is the paper's one-sided paired t-test: above 0.05 "
    "it is no proof of equality, only that nothing was shown with so few subjects. p (margin) is the larger of the "
    "bootstrap's and the t-test's, of being worse by the margin or more: below 0.05 the arm is not inferior. Both by "
    "Holm's correction over the table."
)


def values(scores: Scores, arm: str, measure: str) -> list[float]:
    """Of the arm's subjects."""
    return [numbers[measure] for numbers in scores[arm].values()]


def text(scores: Scores, regions: Regions) -> str:
    """Mean Dice of each arm, for the terminal."""
    lines = [f"{'Dice':<28}" + "".join(f"{name:>12}" for name in regions.names)]
    for arm in scores:
        means = [statistics.fmean(values(scores, arm, f"{name}_dice")) for name in regions.names]
        lines.append(f"{arm:<28}" + "".join(f"{mean:12.3f}" for mean in means))
    return "\n".join(lines)


def compared(
    scores: Scores, arms: Sequence[tuple[str, str]], names: Sequence[str], margin: float, seed: int
) -> Differences:
    """Dice of arms against references: one family of tests."""
    keys = {" | ".join((*pair, name)): (*pair, name) for pair in arms for name in names}
    pairs = {key: tuple(values(scores, each, f"{name}_dice") for each in (a, b)) for key, (a, b, name) in keys.items()}
    return {keys[key]: found for key, found in differences(pairs, margin, seed).items()} if pairs else {}


def scores_table(scores: Scores, arms: Sequence[str], regions: Regions) -> str:
    """Mean and standard deviation over subjects; of each column the best is bold."""
    columns = [(f"{name}_{measure}", measure) for measure in ("dice", "assd") for name in regions.names]
    means = {c: {arm: statistics.fmean(values(scores, arm, c)) for arm in arms} for c, _ in columns}
    best = {c: (max if measure == "dice" else min)(means[c].values()) for c, measure in columns}

    def cell(arm: str, column: str, digits: int) -> str:
        shown = f"{means[column][arm]:.{digits}f} ± {statistics.stdev(values(scores, arm, column)):.{digits}f}"
        return f"<b>{shown}</b>" if means[column][arm] == best[column] else shown

    header = ["", *(f"{escape(c.rsplit('_', 1)[0])} {'Dice ↑' if m == 'dice' else 'ASSD mm ↓'}" for c, m in columns)]
    return table(header, [[escape(arm), *(cell(arm, c, 3 if m == "dice" else 2) for c, m in columns)] for arm in arms])


def tests(found: Differences, margin: float) -> str:
    """A chart of the differences and a table of the tests, with what they do not show."""
    shown = {f"{arm} − {other}, {name}": (d.mean, d.low, d.high) for (arm, other, name), d in found.items()}
    rows = [
        [
            f"{escape(arm)} − {escape(other)}, {escape(name)}",
            f"{d.mean:+.3f}",
            f"{d.low:+.3f} to {d.high:+.3f}",
            *(f"{p:.3g}" for p in (d.p_worse, d.p_worse_holm, d.p_margin, d.p_margin_holm)),
            d.verdict(margin),
        ]
        for (arm, other, name), d in found.items()
    ]
    head = ["Dice", "difference", "95 % interval", "p (worse)", "Holm", "p (margin)", "Holm", f"margin {margin:g}"]
    figure = chart(interval_figure(shown, "difference of Dice", -margin))
    return f'<p class="note">{EQUAL}</p>{figure}{table(head, rows)}'


def write_page(folder: Path, scores: Scores, cases: Cases, settings: Mapping[str, Any]) -> Path:
    """Writes subsets.html, .csv and .json; returns the page's path."""
    names, margin, seed = cases.regions.names, float(settings["margin"]), settings["seed"]
    plain = [arm for arm in scores if not arm.endswith((MADE, ZEROS))]
    made = [arm for arm in scores if arm.endswith(MADE)]
    first = plain[0]
    against = compared(scores, [(arm, first) for arm in plain[1:]], names, margin, seed)
    pairs = [pair for arm in made for pair in ((arm, arm.replace(MADE, ZEROS)), (arm, first))]
    extension = compared(scores, pairs, names, margin, seed)
    items = cases.items["test"][:4]
    folders = {arm: folder / "predictions" / arm for arm in plain}
    sections = [("Dice and surface distance", scores_table(scores, plain, cases.regions))]
    sections += [("Subsets against " + first, tests(against, margin))] if against else []
    if made:
        both = [each for arm in made for each in (arm, arm.replace(MADE, ZEROS))]
        sections += [
            (f"The segmenter of {first}, one sequence replaced", scores_table(scores, [first, *both], cases.regions)),
            ("Synthesised against zeros and against real", tests(extension, margin)),
        ]
    sections.append(("Masks", picture(items, folders, cases, cases.sequences[-1])))
    return write_experiment(
        folder,
        "subsets",
        "Segmentation by a subset of the sequences",
        about=_about(cases, settings),
        statements=[
            *(paper_statements(against, first) if _is_papers(cases, first, settings) else ()),
            *extension_statements(extension, first),
        ],
        sections=sections,
        rows=[{"arm": arm, "subject": name, **numbers} for arm in scores for name, numbers in scores[arm].items()],
        settings=settings,
        more={"tests": {" | ".join(key): d._asdict() for key, d in {**against, **extension}.items()}},
    )


def _is_papers(cases: Cases, first: str, settings: Mapping[str, Any]) -> bool:
    """Whether the subsets are compared with what the paper compares them with, and have nothing synthesised."""
    return cases.subset(first) == cases.sequences and {"T1Gd", "FLAIR"} <= {*cases.sequences} and not settings["fill"]


def _about(cases: Cases, settings: Mapping[str, Any]) -> str:
    return (
        f"A segmenter ({settings['trainer']}) for each subset of the sequences, trained from nothing on the same "
        f"{len(cases.items['training'])} subjects and tested on {len(cases.items['test'])} others. Dice, and the "
        "average symmetric surface distance (ASSD) in mm; where prediction and truth are both empty they are 1 and 0, "
        "where one of them is, 0 and the image's diagonal (BraTS' convention)."
    )


def is_worse(found: Difference) -> bool:
    return found.p_worse_holm < LEVEL


def is_within(found: Difference) -> bool:
    """Not worse by the margin."""
    return found.p_margin_holm < LEVEL


def paper_statements(against: Differences, first: str) -> list[Statement]:
    """Of Table 3, where the subsets and regions of this run can say anything of it."""
    without = [key for key in against if key[2] == "enhancing" and "T1Gd" not in key[0]]
    blind = [key for key in against if key[2] == "whole" and "FLAIR" not in key[0]]
    chosen = [key for key in against if {*key[0].split("+")} == {"T1Gd", "FLAIR"}]
    said = [
        ("The enhancing tumour is lost without T1Gd.", without, is_worse, is_within),
        ("The whole tumour is worse without FLAIR.", blind, is_worse, is_within),
        (f"T1Gd + FLAIR are no worse than {first}.", chosen, is_within, is_worse),
    ]
    return [
        Statement(PAPER, words, verdict(map(shown, rows), map(refuted, rows)), _means(against, keys))
        for words, keys, shown, refuted in said
        if (rows := [against[key] for key in keys])
    ]


def extension_statements(extension: Differences, first: str) -> list[Statement]:
    """What BraSyn scores and the paper does not."""
    zeros = [key for key in extension if key[1].endswith(ZEROS)]
    real = [key for key in extension if key[1] == first]
    if not zeros:
        return []
    above = [extension[key] for key in zeros]
    ahead = verdict((each.low > 0 for each in above), map(is_worse, above))
    below = [extension[key] for key in real]
    behind = verdict(map(is_worse, below), map(is_within, below))
    source = "Everybody's expectation (BraSyn), not in the paper"
    return [
        Statement(source, "A synthesised sequence is better than zeros in its place.", ahead, _means(extension, zeros)),
        Statement(source, "A real one is better than a synthesised one.", behind, _means(extension, real)),
    ]


def _means(found: Differences, keys: Sequence[tuple[str, str, str]]) -> str:
    """In words; of many the best, the worst and how many are above 0."""
    told = sorted(keys, key=lambda key: -found[key].mean) if len(keys) > 6 else keys
    shown = [f"{arm} − {other}, {name} {found[arm, other, name].mean:+.3f}" for arm, other, name in told]
    if len(keys) <= 6:
        return f"Difference of Dice: {'; '.join(shown)}."
    above = sum(found[key].low > 0 for key in keys)
    below = sum(found[key].high < 0 for key in keys)
    return (
        f"Of {len(keys)} differences of Dice {above} lie above 0 with their interval and {below} below; from "
        f"{shown[0]} to {shown[-1]}."
    )
