"""A page is one file that fetches nothing and shows names as they are."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from common.evaluation.page import COLOURS, chart, page, table

NAME = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """Collects the start tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text += data


def test_nothing_is_fetched():
    html = page("Title", [("Chart", chart(go.Figure(go.Scatter(y=[1, 2]))))])
    tags = Tags(html.replace(get_plotlyjs(), "")).tags
    assert not [attributes for _, attributes in tags if {"src", "href"} & attributes.keys()]
    assert not re.search(r"@import|url\(", html.replace(get_plotlyjs(), ""))
    (policy,) = (a["content"] for tag, a in tags if tag == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';") and "http" not in policy


def test_plotly_is_there_once():
    figure = go.Figure(go.Scatter(y=[1, 2]))
    html = page("Title", [("One", chart(figure)), ("Two", chart(figure))])
    assert (
        html.count(get_plotlyjs()) == 1 and html.count("Plotly.newPlot(") - get_plotlyjs().count("Plotly.newPlot(") == 2
    )
    assert html.index(get_plotlyjs()) < html.index('class="plotly-graph-div"')


def test_sections_stand_in_order_under_their_headings():
    html = page("Title", [("", "<p>first</p>"), ("A & B", "<p>second</p>")], script="run();")
    parsed = Tags(html.replace(get_plotlyjs(), ""))
    assert [tag for tag, _ in parsed.tags if tag in ("h1", "h2", "p")] == ["h1", "p", "h2", "p"]
    assert re.sub(r"\s+", " ", parsed.text).strip().endswith("Title first A & B second")
    assert html.index("<p>second</p>") < html.index("run();")


def test_names_are_text():
    parsed = Tags(page(NAME, [(NAME, "")]).replace(get_plotlyjs(), ""))
    assert parsed.text.count(NAME) == 3, "title, heading, section"
    assert "</script>" not in chart(go.Figure(go.Scatter(y=[1], text=[NAME], name=NAME))).split("<script>")[1][:-40]


def test_light_and_dark_wide_and_narrow():
    html = page("Title", [])
    assert "prefers-color-scheme: dark" in html and 'content="width=device-width, initial-scale=1"' in html


def test_a_chart_takes_the_pages_colours_and_leaves_the_figure():
    figure = go.Figure(go.Scatter(y=[1, 2]), layout={"title": "mine", "template": "plotly_dark"})
    before = figure.to_json()
    html = chart(figure)
    assert figure.to_json() == before
    assert "mine" in html and "rgba(0,0,0,0)" in html and json.dumps(list(COLOURS)).replace(" ", "") in html


def test_a_table():
    parsed = Tags(table(["name", "PSNR"], [["one", "<b>1.0</b>"], ["two", "0.5"]]))
    assert [tag for tag, _ in parsed.tags] == [
        "div",
        "table",
        "tr",
        "th",
        "th",
        "tr",
        "td",
        "td",
        "b",
        "tr",
        "td",
        "td",
    ]
    assert parsed.text.split() == ["namePSNR", "one1.0", "two0.5"]
