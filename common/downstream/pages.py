"""An experiment's page, CSV and JSON: its numbers beside what the paper says, seen here or not."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go

from ..evaluation.files import write_csv, write_text
from ..evaluation.page import COLOURS, chart, page, table
from .runs import versions

SCOPE = (
    "What segments or classifies here measures synthesis. It is for research only: it is made for no patient, and its "
    "numbers on simulated data say nothing of any."
)
LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0, "xanchor": "left"}


class Statement(NamedTuple):
    """What a paper says, whether it is seen here (None: it cannot be told), and why, in plain text."""

    paper: str
    said: str
    seen: bool | None
    why: str


def verdict(shown: Iterable[bool], refuted: Iterable[bool]) -> bool | None:
    """A statement of several parts is seen where all are shown, not seen where another one is refuted, else None."""
    parts = list(zip(shown, refuted, strict=True))
    if all(is_shown for is_shown, _ in parts):
        return True
    return False if any(is_refuted and not is_shown for is_shown, is_refuted in parts) else None


def write_experiment(
    output_dir: str | Path,
    name: str,
    title: str,
    *,
    about: str,
    statements: Sequence[Statement],
    sections: Sequence[tuple[str, str]],
    rows: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `<name>.html`, `<name>.csv` and `<name>.json` into a folder.

    Args:
        output_dir, name: the folder, and what the files are called.
        title: of the page.
        about: plain text: what was done, with which data.
        statements: what the paper says.
        sections: pairs of a heading and the HTML below it, as for `common.evaluation.page.page`.
        rows: of the CSV, each with the same names.
        settings: seeds, sizes, weights' sha256: what the numbers depend on.
        more: what else the JSON says.

    Returns:
        The page's path.
    """
    folder = Path(output_dir)
    known = {"settings": dict(settings), "versions": versions()}
    statements_json = [statement._asdict() for statement in statements]
    record = {**known, "statements": statements_json, "rows": [dict(row) for row in rows], **(more or {})}
    write_text(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
    write_csv(folder / f"{name}.csv", list(rows[0]), [list(row.values()) for row in rows])
    facts = [[escape(key), escape(_plain(value))] for part in known.values() for key, value in part.items()]
    whole = [
        ("", f'<p>{escape(about)}</p><p class="note">{escape(SCOPE)}</p>'),
        *([("What the paper says", _statements(statements))] if statements else []),
        *sections,
        ("How it was made", table(["", ""], facts)),
    ]
    write_text(folder / f"{name}.html", page(title, whole))
    return folder / f"{name}.html"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _statements(statements: Sequence[Statement]) -> str:
    """Text, not a table: sentences would have to be read sideways."""
    words = {True: "seen", False: "not seen", None: "cannot be told"}
    return "\n".join(
        f"<p>{escape(each.paper)}: {escape(each.said)}<br><b>Here: {words[each.seen]}.</b> {escape(each.why)}</p>"
        for each in statements
    )


def curve_figure(curves: Mapping[str, Mapping[float, Sequence[float]]], x: str, y: str) -> go.Figure:
    """A line for each method: the mean over repetitions at each place, with bars from the least to the largest.

    Args:
        curves: by method and place on the x axis, the values of the repetitions.
        x, y: what the axes are called.
    """
    figure = go.Figure()
    for k, (name, curve) in enumerate(curves.items()):
        means = [statistics.fmean(values) for values in curve.values()]
        above = [max(values) - mean for values, mean in zip(curve.values(), means, strict=True)]
        below = [mean - min(values) for values, mean in zip(curve.values(), means, strict=True)]
        figure.add_scatter(
            x=list(curve),
            y=means,
            error_y={"array": above, "arrayminus": below, "thickness": 1.5},
            name=escape(name),
            mode="lines+markers",
            line={"color": COLOURS[k % len(COLOURS)]},
            hovertemplate=f"{escape(name)}: %{{y:.3f}}<extra></extra>",
        )
    figure.update_xaxes(title=escape(x))
    figure.update_yaxes(title=escape(y))
    return figure.update_layout(height=400, margin={"t": 70}, legend=LEGEND)


def interval_figure(intervals: Mapping[str, tuple[float, float, float]], x: str, line: float = 0.0) -> go.Figure:
    """A row for each name: an estimate and its interval, with a vertical line at what no effect would give.

    Args:
        intervals: by name, the estimate, and the interval's ends.
        x: what is estimated.
        line: where.
    """
    names = [escape(name) for name in intervals]
    values, low, high = zip(*intervals.values(), strict=True)
    figure = go.Figure()
    figure.add_scatter(
        x=values,
        y=names,
        error_x={
            "array": [end - value for end, value in zip(high, values, strict=True)],
            "arrayminus": [value - end for end, value in zip(low, values, strict=True)],
        },
        mode="markers",
        marker={"size": 9},
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure.add_vline(line, line={"dash": "dash", "color": "#888"})
    figure.update_xaxes(title=escape(x))
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    return figure.update_layout(height=110 + 34 * len(names), margin={"l": 40, "t": 20, "b": 50}, showlegend=False)


__all__ = ["Statement", "chart", "curve_figure", "interval_figure", "table", "verdict", "write_experiment"]
