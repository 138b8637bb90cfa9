"""The skeleton of this project's HTML pages: one file each, opened from disk, that fetches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

# The reader's browser refuses whatever is not in the file itself.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"

# Paul Tol's "bright" scheme: told apart by the colour-blind, readable on light and on dark.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")

# Charts leave background and text to the page's style sheet, which follows the reader's light or dark theme.
TEMPLATE = go.layout.Template(
    layout={
        "colorway": COLOURS,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "margin": {"l": 60, "r": 10, "t": 20, "b": 40},
        "dragmode": False,  # a finger on a chart scrolls the page
        "xaxis": {"automargin": True, "gridcolor": "rgba(128,128,128,0.25)", "zeroline": False},
        "yaxis": {"automargin": True, "gridcolor": "rgba(128,128,128,0.25)", "zeroline": False},
    }
)

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2430; --faint: #5c6878; --line: #d8dee6; --mark: #e6f0e6 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181e; --ink: #e4e8ee; --faint: #9aa6b4; --line: #333c48; --mark: #20382a }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem clamp(0.75rem, 3vw, 2rem) 3rem; max-width: 70rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.2 }
h2 { font-size: 1.15rem; margin: 2rem 0 0.5rem; padding-top: 1rem; border-top: 1px solid var(--line) }
.note { color: var(--faint); font-size: 0.9rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { padding: 0.3rem clamp(0.35rem, 1.2vw, 0.7rem); border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 6rem; position: sticky; left: 0;
  background: var(--paper) }
th { color: var(--faint); font-weight: 600 }
td:has(b) { background: var(--mark) }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); gap: 1rem }
.grid > div { min-width: 0 }
.js-plotly-plot :not(.heatmap-label) > text { fill: var(--ink) !important }
.js-plotly-plot .hovertext path { fill: var(--paper) !important }
"""

# A chart is drawn before the page below it is read and laid out, and phones turn: it follows its place's width.
RESIZE = """
for (const chart of document.querySelectorAll(".plotly-graph-div"))
  new ResizeObserver(() => Plotly.Plots.resize(chart)).observe(chart.parentElement);
"""


def chart(figure: go.Figure) -> str:
    """A plotly figure as an HTML div for `page`, as wide as its place, in the page's colours; the figure is unchanged.

    plotly reads tags in labels: escape names that are not your own with `html.escape`. Traces that need WebGL stay
    empty in browsers without it.
    """
    figure = go.Figure(figure).update_layout(template=TEMPLATE)
    config = {"displayModeBar": False}
    return figure.to_html(full_html=False, include_plotlyjs=False, config=config)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table that scrolls sideways where it is too wide. Cells are HTML; one with a `<b>` stands out."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def page(title: str, sections: Sequence[tuple[str, str]], *, script: str = "") -> str:
    """A whole HTML document with plotly.js in it, for wide and narrow screens, light and dark.

    Args:
        title: plain text.
        sections: pairs of a heading, plain text, and the HTML below it: `table`, `chart`, `p.note` for small
            print, a `div.grid` of divs that stand side by side where there is room. An empty heading is left out.
        script: JavaScript that runs after everything else.
    """
    heads = [f"<h2>{escape(heading)}</h2>\n" if heading else "" for heading, _ in sections]
    body = "\n".join(f"<section>\n{head}{html}\n</section>" for head, (_, html) in zip(heads, sections, strict=True))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<script>{get_plotlyjs()}</script>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
<script>{RESIZE}{script}</script>
</body>
</html>
"""
