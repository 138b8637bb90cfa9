"""Sets evaluated runs side by side: the leaderboard and the paired tests as CSV, as text and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go

from ..files import prepare_folder
from .files import write_csv, write_text
from .leaderboard import Line, best, describe, leaderboard, leaderboard_text, notes, supports
from .metric_names import shown_as
from .page import chart, page, table
from .runs import CONDITIONS, Run, read_runs
from .significance import Comparison, paired_tests

DASHES = {"copy": "dot", "map": "dash"}


def leaderboard_sections(
    runs: Sequence[Run], lines: Sequence[Line], tests: Sequence[Comparison]
) -> list[tuple[str, str]]:
    """The same and more as parts of an HTML page: also each target, and every subject in a chart."""
    overall = [line for line in lines if line.target == "all"]
    remarks = "".join(f'<p class="note">{escape(note)}</p>' for note in notes(runs, lines, tests))
    charts = "".join(f"<div>{chart(figure(overall, metric))}</div>" for metric in overall[0].values)
    targets = dict.fromkeys(line.target for line in lines if line.target != "all")
    by_target = "".join(
        f"<h3>{escape(target)}</h3>{_board([line for line in lines if line.target == target])}" for target in targets
    )
    legend = "A dot is a subject, a line the mean of a trivial rival; the weaker one appears at a click on its name."
    return [
        ("", f"<p>{escape(describe(runs))}</p>{_board(overall)}{remarks}"),
        ("Subjects", f'<p class="note">{legend}</p><div class="grid">{charts}</div>'),
        ("Paired tests", _tests(tests)),
        ("Targets", by_target),
        ("Runs", _facts(runs)),
    ]


def _board(lines: Sequence[Line]) -> str:
    """The lines of one target as a table, the best of each metric bold."""
    metrics = list(lines[0].values)
    rows = []
    for line in lines:
        cells = [f"<b>{line.text(m)}</b>" if line.mean(m) == best(lines, m) else line.text(m) for m in metrics]
        rows.append([escape(line.name) if line.method == "network" else f"<i>{escape(line.name)}</i>", *cells])
    return table(["", *(f"{shown_as(m).label} {'↑' if shown_as(m).sign > 0 else '↓'}" for m in metrics)], rows)


def _tests(tests: Sequence[Comparison]) -> str:
    rows = [
        [
            escape(shown_as(t.metric).label),
            f"{escape(t.first)} − {escape(t.second)}",
            f"{t.difference:+.{shown_as(t.metric).digits}f}",
            f"{t.p:.3g}",
            f"{t.p_holm:.3g}",
        ]
        for t in tests
    ]
    note = "Wilcoxon's signed-rank test, two-sided, over subjects; Holm's correction for each metric's pairs."
    return f'<p class="note">{note}</p>' + table(["metric", "runs", "mean difference", "p", "p (Holm)"], rows)


def _facts(runs: Sequence[Run]) -> str:
    """What each run's JSON says of where its numbers come from; hashes by their start."""
    names = ("bundle", "bundle_version", "weights", "weights_sha256", *CONDITIONS)
    known = [name for name in names if any(name in run.info for run in runs)]
    hashes = ("weights_sha256", "lpips")

    def cell(run: Run, name: str) -> str:
        value = str(run.info.get(name, "-"))
        return escape(value[:12] if name in hashes else value)

    rows = [[escape(run.name), *(cell(run, name) for name in known)] for run in runs]
    return table(["run", *(name.replace("_", " ") for name in known)], rows)


def figure(lines: Sequence[Line], metric: str) -> go.Figure:
    """A box with every subject's dot per run; a line per rival, at its mean."""
    label, _, digits = shown_as(metric)
    runs = [line for line in lines if line.method == "network"]
    result = go.Figure()
    for place, run in enumerate(runs):
        subjects, values = zip(*run.values[metric].items(), strict=True)
        result.add_box(
            x=[place] * len(values),
            y=values,
            name=escape(run.name),
            text=[escape(subject) for subject in subjects],
            hovertemplate=f"%{{text}}: %{{y:.{digits}f}}<extra></extra>",
            hoveron="points",
            boxpoints="all",
            pointpos=0,
            jitter=0.5,
            fillcolor="rgba(128,128,128,0.12)",
            showlegend=False,
        )
    rivals = [line for line in lines if line.method in DASHES and not math.isnan(line.mean(metric))]
    strongest = {rival.method for rival in rivals if rival.mean(metric) == best(rivals, metric)}
    for rival in rivals:
        result.add_scatter(
            x=[-0.5, len(runs) - 0.5],
            y=[rival.mean(metric)] * 2,
            name=f"{escape(rival.name)} {rival.mean(metric):.{digits}f}",
            mode="lines",
            line={"dash": DASHES[rival.method], "color": "#888"},
            hoverinfo="name",
            visible=True if rival.method in strongest else "legendonly",  # a weak one would press the boxes flat
        )
    ticks = {"tickvals": list(range(len(runs))), "ticktext": [escape(run.name) for run in runs]}
    result.update_xaxes(range=[-0.5, len(runs) - 0.5], showgrid=False, **ticks)
    result.update_yaxes(title=label)
    return result.update_layout(height=360, legend={"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0})


def compare(
    *run_dirs: str, convention: str = "declared", names: str | Sequence[str] = (), output_dir: str = "comparison"
) -> None:
    """Compares evaluated runs: writes leaderboard.csv, tests.csv and leaderboard.html, and prints the first two.

    Runs that were not measured alike are refused: another convention, truth, brain mask, disturbance, set of subjects
    or of pairs, or another LPIPS backbone.

    Args:
        run_dirs: output folders of `run evaluating`, two or more.
        convention: whose scores are taken.
        names: what to call the runs, A,B; by default, by their folders' names.
        output_dir: the folder to write in.
    """
    if not isinstance(names, list | tuple):
        names = str(names).split(",")  # fire makes A,B a tuple, but "run A,run B" a string and 1 a number
    runs = read_runs([str(folder) for folder in run_dirs], convention, [str(name).strip() for name in names])
    lines, tests = standings(runs)
    folder = Path(str(output_dir))
    write_standings(folder, lines, tests)
    write_text(folder / "leaderboard.html", page("Leaderboard", leaderboard_sections(runs, lines, tests)))
    print(f"{leaderboard_text(runs, lines, tests)}\n\nleaderboard.csv, tests.csv and leaderboard.html are in {folder}.")


def standings(runs: Sequence[Run]) -> tuple[list[Line], list[Comparison]]:
    """The leaderboard's lines, and the paired tests of all runs with each other."""
    lines = leaderboard(runs)
    boards = {line.name: line for line in lines if (line.target, line.method) == ("all", "network")}
    return lines, paired_tests({m: {run.name: boards[run.name].values[m] for run in runs} for m in supports(runs)})


def write_standings(folder: Path, lines: Sequence[Line], tests: Sequence[Comparison]) -> None:
    """Writes leaderboard.csv and tests.csv."""
    prepare_folder(folder, "output_dir")
    metrics = list(lines[0].values)
    header = ["target", "name", "method", *(f"{m}_{what}" for m in metrics for what in ("mean", "std", "subjects"))]
    rows = [
        [line.target, line.name, line.method]
        + [number for m in metrics for number in (line.mean(m), line.std(m), len(line.values[m]))]
        for line in lines
    ]
    write_csv(folder / "leaderboard.csv", header, rows)
    write_csv(folder / "tests.csv", Comparison._fields, tests)
