"""Ranks the sequences by what each contributes: how well it makes the others, and how hard it is to make.

Seq2Seq (Han et al., MedIA 2024), Eq. 4, as the authors' script computes it: every row's PSNR, SSIM and LPIPS becomes a
z-score over all rows with source != target, with the population's standard deviation, and

    A_ij = mean over subjects of z(PSNR) + z(SSIM) - z(LPIPS),  A_ii = 0
    C_t(i) = 1/S sum_j A_ij    totipotency: how well sequence i makes the others
    C_d(i) = -1/S sum_j A_ji   imaging differentiation: how badly the others make sequence i
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from ..files import replacing
from .files import write_csv
from .scores import ScoreTable, is_sequence

SIGNS = {"psnr": 1, "ssim": 1, "lpips": -1}
EPSILON = 1e-9  # the authors': a metric that is the same everywhere counts nothing instead of dividing by zero


class Contribution(NamedTuple):
    """One sequence's C_t and C_d, each with its rank among the sequences, 1 the highest."""

    sequence: str
    totipotency: float
    totipotency_rank: int
    differentiation: float
    differentiation_rank: int


def used_metrics(table: ScoreTable) -> list[str]:
    """The metrics that A is made of: PSNR, SSIM and, where the network's rows have it, LPIPS."""
    known = any(np.isfinite(row.get("lpips", np.nan)) for row in table.rows if row["method"] == "network")
    return ["psnr", "ssim", "lpips"] if known else ["psnr", "ssim"]


def formula(table: ScoreTable) -> str:
    """The same in words."""
    return "PSNR + SSIM - LPIPS" if "lpips" in used_metrics(table) else "PSNR + SSIM, without LPIPS"


def adjacency(table: ScoreTable) -> tuple[list[str], np.ndarray]:
    """The S sequences and Eq. 4's A, [S, S], row: source, column: target.

    "others" and paths over a third sequence are not pairs and stay out. So do rows in which a metric is not finite:
    PSNR is infinite for identical images, and nothing is measurable in a constant one.

    Raises:
        ValueError: PSNR or SSIM is missing, there are fewer than two sequences, or a pair has no row.
    """
    metrics = used_metrics(table)
    if missing := set(metrics) - set(table.metrics):
        raise ValueError(f"Contributions need PSNR and SSIM; the scores have no {' and no '.join(sorted(missing))}.")
    rows = [r for r in table.rows if r["method"] == "network" and is_sequence(r["source"])]
    found = dict.fromkeys(name for row in rows for name in (row["source"], row["target"]))
    names = [name for name in table.info.get("sequences", found) if name in found]
    if len(names) < 2:
        raise ValueError(f"Contributions are ranked among two or more sequences; the scores have {names}.")

    pairs = {(i, j): [] for i in names for j in names if i != j}
    for row in rows:
        numbers = [row.get(metric, np.nan) for metric in metrics]
        if row["source"] != row["target"] and np.isfinite(numbers).all():
            pairs[row["source"], row["target"]].append(numbers)
    if empty := [f"{i} to {j}" for (i, j), values in pairs.items() if not values]:
        raise ValueError(
            f"No subject has a score from {', '.join(empty)}; evaluate on subjects that have all sequences."
        )

    values = np.concatenate([np.array(numbers) for numbers in pairs.values()])  # [rows, metrics]
    mean, std = values.mean(0), values.std(0)
    matrix = np.zeros((len(names), len(names)))
    for (i, j), numbers in pairs.items():
        z = (np.array(numbers) - mean) / (std + EPSILON)
        matrix[names.index(i), names.index(j)] = (z @ [SIGNS[metric] for metric in metrics]).mean()
    return names, matrix


def rank_contributions(table: ScoreTable) -> list[Contribution]:
    """C_t and C_d of each sequence, in the network's order. Equal values share the better rank.

    Raises:
        ValueError: see `adjacency`.
    """
    names, matrix = adjacency(table)
    totipotency, differentiation = matrix.mean(1), -matrix.mean(0)  # Eq. 4

    def rank(values: np.ndarray, value: float) -> int:
        return 1 + int((values > value).sum())

    return [
        Contribution(name, float(t), rank(totipotency, t), float(d), rank(differentiation, d))
        for name, t, d in zip(names, totipotency, differentiation, strict=True)
    ]


def contribution_table(contributions: list[Contribution]) -> str:
    """The ranking as text, as in the paper's Table 2."""
    width = max(len("sequence"), *(len(c.sequence) for c in contributions))
    lines = [f"{'sequence':{width}}      C_t  rank      C_d  rank"]
    for name, t, t_rank, d, d_rank in contributions:
        lines.append(f"{name:{width}}  {t:7.3f}  {t_rank:4}  {d:7.3f}  {d_rank:4}")
    return "\n".join(lines)


def draw_contributions(path: Path, contributions: list[Contribution], title: str) -> None:
    """Writes a PNG: two bars per sequence, C_t and C_d, each with its rank."""
    names, *columns = zip(*contributions, strict=True)
    bars = {"$C_t$: makes the others well": columns[:2], "$C_d$: hard to make from the others": columns[2:]}
    places = np.arange(len(names))
    with style.context("dark_background"):
        figure = Figure(figsize=(2.4 + 1.1 * len(names), 4), layout="constrained")
        ax = figure.subplots()
        for shift, (label, (values, ranks)) in zip((-0.2, 0.2), bars.items(), strict=True):
            drawn = ax.bar(places + shift, values, 0.38, label=label)
            ax.bar_label(drawn, [f"#{rank}" for rank in ranks], fontsize=10)
        ax.axhline(0, linewidth=0.8)
        ax.margins(y=0.12)
        ax.set_xticks(places, names)
        ax.set_title(title, fontsize=11)
        figure.legend(loc="outside lower center", fontsize=10)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def contribution(results_dir: str, convention: str = "declared") -> None:
    """Ranks the sequences by Seq2Seq's Eq. 4; writes `contribution_<convention>.csv` and `.png` beside the scores.

    Args:
        results_dir: the output folder of `run evaluating`.
        convention: whose scores are taken.
    """
    folder = Path(str(results_dir))
    table = ScoreTable.read(folder, convention)
    contributions = rank_contributions(table)
    header, rows = [*Contribution._fields, "metrics"], [(*c, formula(table)) for c in contributions]
    write_csv(folder / f"contribution_{convention}.csv", header, rows)
    title = f"Contribution, convention {convention}\n{formula(table)}, {len(table.subjects)} subjects"
    draw_contributions(folder / f"contribution_{convention}.png", contributions, title)
    print(f"{title}\n\n{contribution_table(contributions)}\n")
    print(f"contribution_{convention}.csv and .png are in {folder}.")
