"""One HTML file about an evaluated run, to be opened from disk: where it fails, its scores and its images."""

from __future__ import annotations

import base64
import json
import math
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import plotly.graph_objects as go
from matplotlib import colormaps
from matplotlib.colors import to_hex

from ..inference.pictures import ERROR_SHARE
from .charts import Means, arrow, contribution_figure, matrix_figure, pair_means, subjects_figure
from .contribution import formula, rank_contributions
from .files import write_text
from .metric_names import place, shown_as
from .page import COLOURS as COLORWAY
from .page import TEMPLATE, chart, page, table
from .scores import CURVE, METHODS, ScoreTable, is_sequence
from .significance import FEWEST
from .sprites import draw_subject

SHOWN = 10  # rows of the table of failures
ORDER = ("network", "map", "copy")  # of the columns: what has to be beaten stands beside the network
COLOURS = [to_hex(colormaps["inferno"](k)) for k in range(256)]
CURVES = {"curves": {"colorway": COLORWAY, "layout": {"template": TEMPLATE.to_plotly_json()}}}
TRUTHS = {
    "reference": "simulated: the phantom's noise-free images",
    "images": "the data set's own images, acquired unless the data set is a simulation",
}
MATRIX_NOTE = """<p class="note">The network's mean over subjects; the bluer, the better. Below it, its difference to
the intensity map, ▼ where the map is better. Grey: a sequence made from itself. *: never seen in training. Point at a
cell for the rivals.</p>"""
FURTHER = {
    "fit": "PD, T1 and T2 of each voxel, fitted to three settings or more by the spin-echo equation",
    "prior": "the same, expected of tissues as they are",
    "between": "linearly between the two nearest settings",
    CURVE: "of a series the first frame as the map makes it, times the training subjects' mean relative curve",
}
SUBJECTS_NOTE = """<p class="note">The lines are the means of the trivial rivals: copying the source, and the intensity
map. Values that are not finite, such as the PSNR of identical images, are left out of charts and means.</p>"""


class Case(NamedTuple):
    """A subject and a pair: PSNR in dB of the network and of its rivals, and by how much it beats the map."""

    subject: str
    source: str
    target: str
    network: float
    copy: float
    map: float
    gain: float


def cases(scores: ScoreTable) -> list[Case]:
    """Every subject and pair with source != target, first where the network falls furthest behind the intensity map.

    Those that the map has no score for come last, the lowest PSNR first.
    """
    psnr: dict[tuple[str, ...], dict[str, float]] = {}
    for row in scores.rows:
        if row["source"] != row["target"] and math.isfinite(value := row.get("psnr", math.nan)):
            psnr.setdefault((row["subject"], row["source"], row["target"]), {})[row["method"]] = value
    rows = []
    for key, values in psnr.items():
        if "network" in values:
            network, copy, intensity = (values.get(method, math.nan) for method in METHODS)
            rows.append(Case(*key, network, copy, intensity, network - intensity))
    return sorted(rows, key=lambda row: (math.isnan(row.gain), row.gain, row.network))


def by_subject(rows: Sequence[Case]) -> dict[str, list[Case]]:
    """The pairs of two sequences of each subject, the one with the lowest mean PSNR first."""
    groups: dict[str, list[Case]] = {}
    for row in filter(lambda row: is_sequence(row.source), rows):
        groups.setdefault(row.subject, []).append(row)
    return dict(sorted(groups.items(), key=lambda item: statistics.fmean(row.network for row in item[1])))


def _pairs(means: Means) -> Means:
    """Those of two different sequences."""
    return {(s, t): values for (s, t), values in means.items() if s != t and is_sequence(s)}


def shared(means: Means) -> Means:
    """The pairs that every method scored: only over those do averages compare."""
    return {pair: values for pair, values in means.items() if values.keys() >= {*METHODS}}


def averages(means: Means) -> dict[str, float]:
    """Each method's mean over the shared pairs; empty if there is none."""
    pairs = shared(means).values()
    return {method: statistics.fmean(v[method] for v in pairs) for method in ORDER} if pairs else {}


def verdict(scores: ScoreTable, means: Means) -> str:
    """Whether the network is shown to beat the intensity map in PSNR, as HTML."""
    pairs, mean = shared(means), averages(means)
    gain = scores.gain(pairs)
    if gain is None:
        return "No pair was scored for the network and its rivals alike."
    if gain.subjects < FEWEST:
        side = "ahead of" if gain.mean > 0 else "not ahead of"
        said = f"On {gain.subjects} subject{'s' * (gain.subjects != 1)} the network is {side} the intensity map"
    elif gain.low > 0:
        said = "The network beats the intensity map"
    elif gain.high < 0:
        said = "The intensity map beats the network"
    else:
        said = "No difference shown between the network and the intensity map"
    lost = [arrow(*pair) for pair, values in pairs.items() if values["network"] <= values["map"]]
    ahead = f"{len(pairs) - len(lost)} of {len(pairs)} pairs" + f", not for {', '.join(lost)}" * (0 < len(lost) <= 4)
    return (
        f"<strong>{said}</strong>: {mean['network']:.2f} against {mean['map']:.2f} dB, by subject "
        f"{str(gain).replace('-', '−')}. The network is ahead for {ahead}."
    )


def _headline(tables: Sequence[ScoreTable], means: Means) -> str:
    scores = tables[0]
    info, count = scores.info, len(scores.subjects)
    plain, others = _pairs(means), {pair: values for pair, values in means.items() if pair[0] == "others"}
    disturbance = info.get("disturbance", "none")
    facts = [
        f"Convention {scores.convention}, PSNR {scores.region}",
        f"{count} subject{'s' * (count != 1)}",
        f"mean over the {len(shared(plain))} pairs of sequences that every method scored",
        f"truth: {TRUTHS.get(info.get('truth'), info.get('truth', 'not stated'))}",
        "inputs as they are" if disturbance == "none" else f"inputs with {disturbance}, level {info.get('level')}",
    ]
    if info.get("lpips", "missing") == "missing":
        facts.append("LPIPS is missing, its weights were not given")
    if len(tables) > 1:
        facts.append(f"also scored under {', '.join(table.convention for table in tables[1:])}")
    cards = "".join(f"<div><dt>{method}</dt><dd>{value:.2f} dB</dd></div>" for method, value in averages(plain).items())
    return (
        f'<p class="warning">Not for clinical use.</p><p>{verdict(scores, plain)}</p><dl class="cards">{cards}</dl>'
        f'<p class="note">{escape("; ".join(facts))}.</p>'
        + "".join(f"<p>{escape(line)}</p>" for line in scores.unseen_verdicts())
        + (f"<p>From all the other sequences together: {verdict(scores, others)}</p>" if others else "")
    )


def _number(value: float, signed: bool = False) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}".replace("-", "−") if signed else f"{value:.2f}"


def _failures(scores: ScoreTable, kept: Sequence[str]) -> str:
    """The worst rows and the worst subjects; what the viewer can show is a link to it."""

    def link(row: Case) -> str:
        name = arrow(row.source, row.target)
        if row.subject not in kept or not is_sequence(row.source):
            return name
        query = urlencode({"subject": row.subject, "source": row.source, "target": row.target})
        return f'<a href="#{escape(query)}">{name}</a>'

    rows = cases(scores)
    behind = sum(row.gain < 0 for row in rows)
    header = ["subject", "source → target", "vs map", *ORDER]
    cells = [
        [escape(r.subject), link(r), _number(r.gain, signed=True), *(_number(getattr(r, m)) for m in ORDER)]
        for r in rows[:SHOWN]
    ]
    subjects = []
    for name, own in list(by_subject(rows).items())[:SHOWN]:
        psnr = [_number(statistics.fmean(getattr(r, m) for r in own)) for m in ORDER]
        subjects.append([escape(name), *psnr, f"{sum(r.gain < 0 for r in own)} of {len(own)}", link(own[0])])
    return (
        f"<p>In {behind} of {len(rows)} rows, a subject and a pair each, the network is behind the intensity map."
        f"{' These come closest.' * (not behind)} PSNR in dB, convention {escape(scores.convention)}; a link opens the "
        "images.</p>"
        f'<div class="failures">{table(header, cells)}</div><h3>The worst subjects</h3>'
        + table(["subject", *ORDER, "behind the map", "worst pair"], subjects)
    )


def _selectable(name: str, figure: dict[str, Any]) -> str:
    """Selects, and an empty box as high as the figure, which the script draws it in."""
    selects = "".join(
        f'<label>{label} <select data-choice="{label.lower()}"></select></label>' for label in ("Convention", "Metric")
    )
    height = figure["layout"]["height"]
    return f'<div class="controls">{selects}</div><div data-chart="{name}" style="height:{height}px"></div>'


def _figures(scores: ScoreTable) -> dict[str, dict[str, Any]]:
    """By metric its label and charts, as JSON."""
    result = {}
    for name, means in pair_means(scores).items():
        metric = shown_as(name, scores.region)
        matrix = matrix_figure(means, metric, scores.marked)
        figures = {"matrix": matrix, "subjects": subjects_figure(scores, name, means, metric)}
        result[name] = {"label": metric.label} | {
            kind: json.loads(go.Figure(figure).update_layout(template=TEMPLATE).to_json())
            for kind, figure in figures.items()
        }
    return result


def _chosen(scores: ScoreTable) -> str:
    """The pairs that the run was asked to list by themselves."""
    note = f"PSNR in dB / SSIM, mean ± standard deviation over subjects, convention {escape(scores.convention)}."
    rows = [[escape(cell) for cell in row] for row in scores.chosen()]
    return f'<p class="note">{note}</p>' + table(["source", "target", *METHODS], rows) if rows else ""


def _parameter_map(folder: Path) -> str:
    """The map that `run grid_error` left in the folder; nothing if there is none."""
    file = folder / "grid.png"
    if not file.exists():
        return ""
    image = base64.b64encode(file.read_bytes()).decode()
    note = "Simulated: against the phantom's exact signal, in the brain, mean over subjects. All values: grid.csv."
    return (
        f'<p class="note">{note}</p><img src="data:image/png;base64,{image}" style="max-width: 100%" '
        'alt="Relative error over TR, TE and TI">'
    )


def _viewer(subjects: Sequence[Any]) -> str:
    if subjects:
        return _asset("viewer.html")
    return "<p>No volumes were kept. <code>run evaluating --keep 2</code> keeps those of the two worst subjects.</p>"


def _subjects(folder: Path, scores: ScoreTable, groups: dict[str, list[Case]]) -> list[dict[str, Any]]:
    """The viewer's subjects, worst first, each with its scores in words and the pair to `start` with."""
    kept = sorted(path.stem for path in (folder / "volumes").glob("[!.]*.npz"))
    kept.sort(key=lambda name: list(groups).index(name) if name in groups else len(groups))
    result = []
    for name in kept:
        drawn = draw_subject(folder / "volumes" / f"{name}.npz")
        names = drawn["sequences"]
        worst = [(r.source, r.target) for r in groups.get(name, []) if {r.source, r.target} <= {*names}]
        result.append(drawn | {"start": [*worst, (names[0], names[-1])][0], "scores": _in_words(scores, name)})
    return result


def _in_words(scores: ScoreTable, subject: str) -> dict[str, dict[str, str]]:
    """A subject's PSNR by source and target, with the rivals'."""
    psnr: dict[str, dict[str, dict[str, float]]] = {}
    for row in scores.rows:
        if row["subject"] == subject:
            psnr.setdefault(row["source"], {}).setdefault(row["target"], {})[row["method"]] = row.get("psnr", math.nan)

    def words(values: dict[str, float]) -> str:
        return f"PSNR in dB, convention {scores.convention}: " + ", ".join(
            f"{method} {_number(value)}" for method, value in values.items()
        )

    return {source: {t: words(values) for t, values in targets.items()} for source, targets in psnr.items()}


def _contribution(scores: ScoreTable) -> str:
    try:
        ranking = rank_contributions(scores)
    except ValueError as error:
        return f'<p class="note">Not ranked. {escape(str(error))}</p>'
    rows = [[escape(name), f"{t:.3f}", str(t_rank), f"{d:.3f}", str(d_rank)] for name, t, t_rank, d, d_rank in ranking]
    note = (
        "Totipotency C<sub>t</sub>: how well a sequence makes the others. Imaging differentiation C<sub>d</sub>: how "
        f"badly the others make it (Seq2Seq, Eq. 4, with z-scores of {escape(formula(scores))}, convention "
        f"{escape(scores.convention)})."
    )
    return (
        f'<p class="note">{note}</p>'
        + table(["sequence", "C<sub>t</sub>", "rank", "C<sub>d</sub>", "rank"], rows)
        + chart(contribution_figure(ranking))
    )


def _further(scores: ScoreTable) -> str:
    """Averages beside what rivals make that not every pair has; nothing where none was scored."""
    if not scores.further:
        return ""
    methods, rows = ["network", *METHODS[1:], *scores.further], []
    for what, pairs in scores.groups().items():
        found, count = scores.compared(pairs)
        if count:
            rows.append([escape(what), str(count), *(_number(found.get(name, math.nan)) for name in methods)])
    note = "; ".join(f"<em>{name}</em>: {FURTHER[name]}" for name in scores.further)
    return f'<p class="note">PSNR in dB. {note}.</p>' + table(["mean over", "of them", *methods], rows)


def _regions(scores: ScoreTable, means: dict[str, Means]) -> str:
    """PSNR of every region of the scores; nothing if there is no region."""
    names = [name for name in means if name.startswith("psnr_") and not name.startswith(("psnr_volume", "psnr_frame_"))]
    rows = []
    for name in ["psnr", *names] if names else []:
        if mean := averages(_pairs(means[name])):
            count = len({r["subject"] for r in scores.rows if math.isfinite(r.get(name, math.nan))})
            gain = _number(mean["network"] - mean["map"], signed=True)
            rows.append([escape(place(name, scores.region)), *(_number(mean[m]) for m in ORDER), gain, str(count)])
    note = (
        f'<p class="note">Mean PSNR in dB, convention {escape(scores.convention)}, over the pairs that every method '
        "scored; the charts above have each pair.</p>"
    )
    return note + table(["measured", *ORDER, "vs map", "subjects"], rows) if rows else ""


def _facts(info: dict[str, Any]) -> str:
    """The JSON beside the scores without the scores: configuration and provenance."""
    facts = {name: value for name, value in info.items() if name not in ("summary", "configuration")}
    facts |= info.get("configuration", {})
    if info.get("lpips") == "missing":
        facts["lpips"] = "missing: pass --lpips_weights FILE, or download"
    rows = [[escape(name.replace("_", " ")), escape(_words(value))] for name, value in facts.items()]
    return f'<div class="facts">{table(["", ""], rows)}</div>'


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_words, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _embedded(content: Any) -> str:
    """JSON inside a page: as an element that no browser runs, and that nothing in it can close."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="report-data">{text}</script>'


def read_scores(folder: Path) -> list[ScoreTable]:
    """The scores of a run under each of its conventions, `declared` first.

    Raises:
        FileNotFoundError: there are none.
    """
    names = [path.stem.removeprefix("scores_") for path in folder.glob("scores_*.json")] or ["declared"]
    return [ScoreTable.read(folder, name) for name in sorted(names, key=lambda name: (name != "declared", name))]


def _sections(tables: Sequence[ScoreTable], subjects: Sequence[dict[str, Any]], folder: Path) -> list[tuple[str, str]]:
    """Headings and HTML, all but the charts and the viewer's images."""
    scores = tables[0]
    means = pair_means(scores)
    charts = {t.convention: figures for t in tables if (figures := _figures(t))}
    data = {"charts": charts, "subjects": subjects, "colours": COLOURS, "errorShare": ERROR_SHARE, **CURVES}
    psnr = charts[scores.convention]["psnr"]
    sections = [
        ("", f"<style>{_asset('report.css')}</style>" + _headline(tables, means["psnr"])),
        ("Where it fails", _failures(scores, [s["subject"] for s in subjects])),
        ("Every source to every target", MATRIX_NOTE + _selectable("matrix", psnr["matrix"])),
        ("Chosen translations", "".join(map(_chosen, tables))),
        ("Rivals of series" if scores.further == [CURVE] else "Rivals from physics", _further(scores)),
        ("Error over TR, TE and TI", _parameter_map(folder)),
        ("Every subject", SUBJECTS_NOTE + _selectable("subjects", psnr["subjects"])),
        ("Images", _viewer(subjects)),
        ("What each sequence contributes", _contribution(scores)),
        ("Regions", _regions(scores, means)),
        ("Configuration and provenance", _facts(scores.info) + _embedded(data)),
    ]
    return [(heading, html) for heading, html in sections if html]


def report(results_dir: str, output_file: str = "") -> None:
    """Writes one HTML file about an evaluated run, to be opened from disk: failures first, scores, images, provenance.

    Args:
        results_dir: the output folder of `run evaluating`; with its `--keep 2` the report shows images.
        output_file: to write, by default report.html in that folder.

    Raises:
        FileNotFoundError: the folder has no scores.
        ValueError: the network has no finite PSNR.
    """
    folder = Path(str(results_dir))
    tables = read_scores(folder)
    if "psnr" not in pair_means(tables[0]):
        raise ValueError(f"The network has no finite PSNR in {folder}: there is nothing to report.")
    subjects = _subjects(folder, tables[0], by_subject(cases(tables[0])))
    info = tables[0].info
    title = f"{info.get('bundle', 'A run')} {info.get('bundle_version', '')}".strip() + ", evaluated"
    path = Path(str(output_file)) if output_file else folder / "report.html"
    write_text(path, page(title, _sections(tables, subjects, folder), script=_asset("report.js")))
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB. Open it in a browser.")
