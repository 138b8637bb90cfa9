"""The report's charts of one convention's scores, as plotly figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from .contribution import Contribution
from .metric_names import Metric
from .page import COLOURS
from .scores import METHODS, ScoreTable

Pair = tuple[str, str]
Means = dict[Pair, dict[str, float]]  # by source and target, then by method

SCALE = [[0, "rgba(68,119,170,0.04)"], [1, "rgba(68,119,170,0.6)"]]  # text stands out on it, on light and on dark
GREY = [[0, "rgba(128,128,128,0.12)"], [1, "rgba(128,128,128,0.12)"]]
RIVALS = {"map": COLOURS[1], "copy": "#888888"}


def pair_means(table: ScoreTable) -> dict[str, Means]:
    """By metric the mean over subjects of every pair and method; those without a finite value are left out."""
    result: dict[str, Means] = {metric: {} for metric in table.metrics}
    for entry in table.summary():
        for metric, means in result.items():
            if entry[metric]["n"]:
                means.setdefault((entry["source"], entry["target"]), {})[entry["method"]] = entry[metric]["mean"]
    return {metric: means for metric, means in result.items() if any("network" in v for v in means.values())}


def arrow(source: str, target: str) -> str:
    """A pair's name as HTML, which plotly's labels are, too."""
    return f"{escape(source)} → {escape(target)}"


def _cell(source: str, target: str, values: dict[str, float], metric: Metric) -> str:
    """The network's value and, below it, its difference to the intensity map's, marked where it is the worse."""
    text = f"{values['network']:.{metric.digits}f}"
    if "map" not in values:
        return text + "<br><i>itself</i>" * (source == target)
    gain = values["network"] - values["map"]
    difference = f"{gain:+.{metric.digits}f}".replace("-", "−")
    return f"{text}<br>{difference}" + (" <b>▼</b>" if gain * metric.sign < 0 else "")


def _hover(pair: Pair, values: dict[str, float], metric: Metric) -> str:
    lines = [f"<b>{arrow(*pair)}</b>" + (", reconstruction" if pair[0] == pair[1] else "")]
    for method in (m for m in METHODS if m in values):
        line = f"{method} {values[method]:.{metric.digits}f}"
        if method != "network":
            line += f" (network {values['network'] - values[method]:+.{metric.digits}f})".replace("-", "−")
        lines.append(line)
    return "<br>".join(lines)


def matrix_figure(means: Means, metric: Metric, label: Callable[[str], str] = str) -> go.Figure:
    """Sources down, targets across: the bluer, the better the network; its reconstructions are grey.

    `label` is what a sequence is called beside its row or column.
    """
    pairs = {pair: values for pair, values in means.items() if "network" in values}
    sources, targets = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True))

    def grid(of: Callable[[Pair], Any], same: bool, empty: Any = "") -> list[list[Any]]:
        return [[of((s, t)) if (s, t) in pairs and (s == t) is same else empty for t in targets] for s in sources]

    figure = go.Figure()
    for same, scale in ((False, SCALE), (True, GREY)):
        figure.add_heatmap(
            x=[escape(label(name)) for name in targets],
            y=[escape(label(name)) for name in sources],
            z=grid(lambda pair: pairs[pair]["network"], same, None),
            text=grid(lambda pair: _cell(*pair, pairs[pair], metric), same),
            hovertext=grid(lambda pair: _hover(pair, pairs[pair], metric), same),
            texttemplate="%{text}",
            textfont={"size": 12},  # else plotly shrinks it until it cannot be read on a phone
            hovertemplate="%{hovertext}<extra></extra>",
            hoverongaps=False,
            hoverlabel={"bordercolor": "#888888"},
            colorscale=scale,
            reversescale=metric.sign < 0,
            showscale=False,
            xgap=2,
            ygap=2,
        )
    figure.update_xaxes(title="target", side="top", showgrid=False, type="category")
    standing = {"text": "source", "standoff": 12}  # clear of long names
    figure.update_yaxes(title=standing, autorange="reversed", showgrid=False, type="category")
    return figure.update_layout(height=90 + 58 * len(sources), margin={"l": 40, "r": 4, "t": 60, "b": 10})


def subjects_figure(table: ScoreTable, name: str, means: Means, metric: Metric) -> go.Figure:
    """A row per pair: every subject's score and their box, and the trivial rivals' means as lines across it."""
    pairs = [pair for pair, values in means.items() if "network" in values and pair[0] != pair[1]]
    targets = list(dict.fromkeys(target for _, target in means))
    pairs.sort(key=lambda pair: targets.index(pair[1]))  # within a target the sources keep their order
    rows = [
        row
        for row in table.rows
        if row["method"] == "network"
        and (row["source"], row["target"]) in pairs
        and math.isfinite(row.get(name, math.nan))
    ]
    figure = go.Figure()
    figure.add_box(
        x=[row[name] for row in rows],
        y=[arrow(row["source"], row["target"]) for row in rows],
        hovertext=[escape(row["subject"]) for row in rows],
        hovertemplate=f"%{{hovertext}}: %{{x:.{metric.digits}f}}<extra></extra>",
        name="network, a dot per subject",
        orientation="h",
        boxpoints="all",
        pointpos=0,
        jitter=0.6,
        hoveron="points",
        line={"width": 1.5, "color": COLOURS[0]},
        fillcolor="rgba(68,119,170,0.15)",
        marker={"size": 5, "opacity": 0.7},
    )
    for rival, colour in RIVALS.items():
        known = [pair for pair in pairs if rival in means[pair]]
        figure.add_scatter(
            x=[means[pair][rival] for pair in known],
            y=[arrow(*pair) for pair in known],
            hovertemplate=f"{rival} %{{x:.{metric.digits}f}}<extra></extra>",
            name=f"{rival}, mean",
            mode="markers",
            marker={"symbol": "line-ns", "size": 20, "line": {"width": 3, "color": colour}, "color": colour},
        )
    order = [arrow(*pair) for pair in pairs]
    figure.update_xaxes(title=metric.label)
    figure.update_yaxes(categoryorder="array", categoryarray=order, autorange="reversed", type="category")
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0, "xanchor": "left"}
    return figure.update_layout(
        height=120 + 36 * len(pairs), margin={"l": 40, "r": 10, "t": 50, "b": 50}, legend=legend
    )


def contribution_figure(ranking: Sequence[Contribution]) -> go.Figure:
    """Two bars per sequence."""
    names = [escape(c.sequence) for c in ranking]
    figure = go.Figure()
    figure.add_bar(x=names, y=[c.totipotency for c in ranking], name="totipotency")
    figure.add_bar(x=names, y=[c.differentiation for c in ranking], name="differentiation")
    figure.update_xaxes(type="category")
    figure.update_yaxes(title="sum of z-scores", zeroline=True, zerolinecolor="#888888")
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1, "x": 0}
    return figure.update_layout(height=320, legend=legend)
