"""The report holds the run's numbers and images, failures first, and nothing that leads out of the file."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from common.evaluation.charts import pair_means
from common.evaluation.report import by_subject, cases, report, verdict
from common.evaluation.scores import ScoreTable
from common.evaluation.sprites import draw_subject, sheet
from common.inference.pictures import ERROR_SHARE, PLANES

NAMES = ["T1", "T2", "FL"]
NASTY = "<script>alert(1)&quot;"
INFO = {
    "bundle": "mri_seq2seq",
    "truth": "reference",
    "lpips": "missing",
    "configuration": {"grid": "T1"},
}


def psnr(subject: int, method: str, i: int, j: int) -> float:
    """Every number differs; the network is behind the map from T1 to T2, and further in subject 1."""
    base = {"network": 25, "map": 22, "copy": 15}[method] + i + j / 7 - subject / 3
    return base - (method == "network" and (i, j) == (0, 1)) * (5 + subject)


def write_scores(
    folder: Path, convention: str = "declared", subjects: Sequence[str] = ("s0", "s1"), names: Sequence[str] = NAMES
) -> ScoreTable:
    table = ScoreTable(convention, "in the brain")
    for k, subject in enumerate(subjects):
        for i, source in enumerate(names):
            for j, target in enumerate(names):
                for method in ("network", "copy", "map") if i != j else ("network",):
                    value = psnr(k, method, i, j)
                    numbers = {"psnr": value, "ssim": value / 50, "nmse": 1 / value, "psnr_lesion": value - 2}
                    table.add(subject, method, source, target, numbers)
    table.write(folder, INFO | {"sequences": list(names)})
    return table


def volumes() -> dict[str, Any]:
    """A grey box for a brain, at voxels 4 to 15, 3 to 18 and 5 to 10, of thick slices; FL is missing."""
    brain = np.zeros((24, 28, 16), dtype=bool)
    brain[4:16, 3:19, 5:11] = True
    label = np.stack([0.5 * brain, 0.5 * brain, 0 * brain]).astype(np.float16)
    pred = np.zeros((3, 3, *brain.shape), dtype=np.float16)
    pred[0, 1], pred[1, 1] = 0.4 * brain, label[1]
    return {
        "sequences": np.array(NAMES),
        "available": np.array([True, True, False]),
        "spacing": np.array([1.0, 1.0, 3.0]),
        "source": 0.5 * label,
        "label": label,
        "pred": pred,
        "brain": brain,
    }


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    (tmp_path / "volumes").mkdir()
    np.savez_compressed(tmp_path / "volumes" / "s1.npz", **volumes())
    return tmp_path / "volumes" / "s1.npz"


def made(folder: Path) -> tuple[str, dict[str, Any]]:
    """The page, and the JSON in it."""
    report(str(folder))
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, json.loads(
        re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.S)[1]
    )


def own(text: str) -> str:
    """The page without plotly.js."""
    return re.sub(r"<script>.{1000000,}?</script>", "", text, flags=re.S)


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Two subjects' scores and volumes under two conventions: the page without plotly.js, and its JSON."""
    folder = tmp_path_factory.mktemp("results")
    (folder / "volumes").mkdir()
    for name in ("s0", "s1"):
        np.savez_compressed(folder / "volumes" / f"{name}.npz", **volumes())
    for convention in ("crl", "declared"):
        write_scores(folder, convention)
    text, data = made(folder)
    assert len(text) < 8e6
    return own(text), data


def tiles(plane: dict[str, Any], picture: str) -> np.ndarray:
    """A sheet as [slices, rows, columns], cut as the viewer does it."""
    grey = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert("L")).astype(float)
    width, height = plane["size"]
    places = [divmod(k, plane["columns"]) for k in range(len(plane["voxels"]))]
    return np.stack([grey[r * height : (r + 1) * height, c * width : (c + 1) * width] for r, c in places])


def test_the_page_is_one_file_that_fetches_nothing(made_once: tuple[str, dict]):
    text, _ = made_once
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:|//|file:)""", text)
    assert not re.search(r"@import|url\(|<link|<img|fetch\(|XMLHttpRequest", text)


def test_the_headline_says_what_the_numbers_are(made_once: tuple[str, dict]):
    head = made_once[0].partition("Where it fails")[0]
    for words in (
        "mri_seq2seq",
        "Not for clinical use",
        "On 2 subjects the network is ahead of the intensity map",
        "2 subjects, too few for an interval",
        "not for T1 → T2",
        "Convention declared, PSNR in the brain",
        "2 subjects",
        "truth: simulated",
        "LPIPS is missing",
        "also scored under crl",
    ):
        assert words in head


class Written(NamedTuple):
    """A run's CSV, and one metric's charts in the page."""

    rows: list[dict[str, str]]
    metric: str
    charts: dict[str, Any]

    def values(self, method: str, pair: str) -> list[float]:
        """Of a pair such as "T1 → T2", by subject."""
        chosen = [r for r in self.rows if (r["method"], f"{r['source']} → {r['target']}") == (method, pair)]
        return [float(row[self.metric]) for row in chosen]


@pytest.fixture(params=["psnr", "ssim", "nmse", "psnr_lesion"])
def written(request: pytest.FixtureRequest, made_once: tuple[str, dict], tmp_path: Path) -> Written:
    write_scores(tmp_path)
    with (tmp_path / "scores_declared.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    conventions = made_once[1]["charts"]
    assert list(conventions) == ["declared", "crl"] and conventions["declared"] == conventions["crl"]
    return Written(rows, request.param, conventions["declared"][request.param])


def test_the_chart_of_subjects_holds_the_csv(written: Written):
    network, *rivals = written.charts["subjects"]["data"]
    pairs = dict.fromkeys(network["y"])
    assert len(pairs) == 6
    for pair in pairs:
        drawn = {s: x for s, y, x in zip(network["hovertext"], network["y"], network["x"], strict=True) if y == pair}
        assert list(drawn) == ["s0", "s1"] and list(drawn.values()) == written.values("network", pair)
    for method, line in zip(("map", "copy"), rivals, strict=True):
        assert line["x"] == pytest.approx([np.mean(written.values(method, pair)) for pair in line["y"]])
        assert sorted(line["y"]) == sorted(pairs)


def test_the_matrix_holds_the_means_and_its_diagonal_apart(written: Written):
    pairs, reconstructions = written.charts["matrix"]["data"]
    assert pairs["x"] == pairs["y"] == NAMES
    for i, source in enumerate(NAMES):
        for j, target in enumerate(NAMES):
            found = pairs["z"][i][j], reconstructions["z"][i][j]
            mean = pytest.approx(np.mean(written.values("network", f"{source} → {target}")))
            assert found == ((None, mean) if i == j else (mean, None))


def test_cells_compare_the_network_with_the_map(made_once: tuple[str, dict]):
    psnr_, nmse = (made_once[1]["charts"]["declared"][m]["matrix"]["data"] for m in ("psnr", "nmse"))
    assert psnr_[0]["text"][0][1] == "19.48<br>−2.50 <b>▼</b>" and psnr_[0]["text"][0][2] == "25.12<br>+3.00"
    assert psnr_[1]["text"][0][0] == "24.83<br><i>itself</i>" and psnr_[0]["text"][0][0] == ""
    assert "map 21.98 (network −2.50)" in psnr_[0]["hovertext"][0][1]
    assert "▼" in nmse[0]["text"][0][1] and nmse[0]["text"][0][1].split("<br>")[1].startswith("+"), "less is better"


def test_failures_come_first_and_in_order(tmp_path: Path, made_once: tuple[str, dict]):
    rows = cases(write_scores(tmp_path))
    assert [(r.subject, r.source, r.target) for r in rows[:2]] == [("s1", "T1", "T2"), ("s0", "T1", "T2")]
    assert rows[0].gain == pytest.approx(-3) and len(rows) == 12
    assert [r.gain for r in rows] == sorted(r.gain for r in rows)
    assert list(by_subject(rows)) == ["s1", "s0"]
    text, _ = made_once
    assert text.index("Where it fails") < text.index("Every source to every target") < text.index("Configuration")
    assert text.index("−3.00") < text.index("−2.00"), "the worst row first"
    assert "In 2 of 12 rows" in text


def test_rows_without_a_map_come_last():
    table = ScoreTable()
    for source, value in (("T1", 20.0), ("T2", 10.0)):
        table.add("a", "network", source, "FL", {"psnr": value})
    table.add("a", "map", "T1", "FL", {"psnr": 19.0})
    assert [row.source for row in cases(table)] == ["T1", "T2"]
    assert verdict(table, {}).startswith("No pair")


@pytest.mark.parametrize(
    ("gains", "says"),
    [
        # Mean 1, standard deviation 1: 4.303 / sqrt(3) = 2.484 to either side.
        ([0, 1, 2], "No difference shown between the network and the intensity map</strong>: 21.00 against 20.00 dB, "
         "by subject +1.00 dB (95 % interval −1.48 to +3.48, 3 subjects)"),
        ([3, 4, 5], "The network beats the intensity map</strong>"),
        ([-3, -4, -5], "The intensity map beats the network</strong>"),
        ([0, 0, 0], "No difference shown"),
        ([5, 5], "On 2 subjects the network is ahead of the intensity map</strong>: 25.00 against 20.00 dB, by subject "
         "+5.00 dB (2 subjects, too few for an interval)"),
        ([-5], "On 1 subject the network is not ahead of the intensity map</strong>"),
    ],
)  # fmt: skip
def test_the_verdict_is_what_the_interval_shows(gains: list[float], says: str):
    table = ScoreTable()
    for k, gain in enumerate(gains):
        for method, value in {"network": 20 + gain, "map": 20, "copy": 30}.items():
            table.add(f"s{k}", method, "T1", "T2", {"psnr": value})
    text = verdict(table, pair_means(table)["psnr"])
    assert text.startswith(f"<strong>{says}") and ("not for T1 → T2" in text) == (sum(gains) <= 0)


def test_names_cannot_become_markup(tmp_path: Path, kept: Path):
    write_scores(tmp_path, subjects=("s0", NASTY), names=["T1", "</script x", "FL"])
    kept.rename(kept.with_name(f"{NASTY}.npz"))
    text, data = made(tmp_path)
    assert "<script>alert" not in text and "</script x" not in text
    assert text.count("<script") == text.count("</script>") == own(text).count("<script") + 1
    assert data["subjects"][0]["subject"] == NASTY, "the script sets it as text"
    box = data["charts"]["declared"]["psnr"]["subjects"]["data"][0]
    assert not any("<" in name for name in box["hovertext"] + box["y"]), "plotly reads tags"


def test_without_volumes_it_says_how_to_keep_them(tmp_path: Path):
    write_scores(tmp_path)
    text, data = made(tmp_path)
    assert "--keep 2" in text and data["subjects"] == [] and 'id="viewer"' not in text


def test_the_viewer_opens_at_the_worst_subject_and_its_worst_pair(made_once: tuple[str, dict]):
    text, data = made_once
    assert [s["subject"] for s in data["subjects"]] == ["s1", "s0"]
    first = data["subjects"][0]
    assert first["sequences"] == ["T1", "T2"] and first["start"] == ["T1", "T2"]
    assert first["scores"]["T1"]["T2"].endswith("network 18.81, copy 14.81, map 21.81")
    assert 'href="#subject=s1&amp;source=T1&amp;target=T2"' in text


@pytest.mark.parametrize("marker", [(15, 18, 10), (4, 3, 5), (15, 3, 10), (4, 18, 7)])
def test_slices_stand_upright_where_they_belong(kept: Path, marker: tuple[int, ...]):
    """Right (or front) on the left, front (or top) up: a spot at the right, anterior, superior corner is top left."""
    arrays, last = volumes(), (15, 18, 10)
    arrays["label"][1] = 0
    arrays["label"][1][marker] = 1
    np.savez_compressed(kept, **arrays)
    for plane, drawn in zip(PLANES, draw_subject(kept)["planes"], strict=True):
        image = tiles(drawn, drawn["sheets"]["true"][1])
        place, row, column = np.unravel_index(image.argmax(), image.shape)
        assert drawn["voxels"][place] == marker[plane.axis]
        across, up = (axis for axis in range(3) if axis != plane.axis)
        assert column == last[across] - marker[across] + 4, plane.name  # 4 voxels of margin
        assert row == last[up] - marker[up] + 4, plane.name
        sides = {0: "RL", 1: "AP", 2: "SI"}
        assert drawn["letters"] == sides[across] + sides[up]


def test_thick_slices_keep_their_shape(kept: Path):
    axial, coronal, sagittal = draw_subject(kept)["planes"]
    assert axial["size"] == [20, 23] and axial["mm"] == [20, 23]
    assert coronal["size"] == [20, 14] and coronal["mm"] == [20, 42] and sagittal["mm"] == [23, 42]
    assert len(axial["voxels"]) == 6 and axial["voxels"][axial["fullest"]] in range(5, 11)


def test_errors_have_one_scale(kept: Path):
    """|0.4 - 0.5| of the white level 0.5, drawn on a scale that ends at 0.3 of it; no sheet of a missing sequence."""
    drawn = draw_subject(kept)["planes"][0]
    sheets = drawn["sheets"]
    inside = (slice(None), slice(8, 16), slice(8, 14))
    expected = 255 * 0.1 / (ERROR_SHARE * 0.5)
    assert tiles(drawn, sheets["error"][0][1])[inside] == pytest.approx(expected, abs=3)
    assert tiles(drawn, sheets["synthesised"][0][1])[inside] == pytest.approx(255 * 0.8, abs=3)
    assert tiles(drawn, sheets["differentiation"][1])[inside] == pytest.approx(expected, abs=3), "without T2 itself"
    assert tiles(drawn, sheets["source"][0])[inside] == pytest.approx(255 * 0.5, abs=3), "half the truth"
    assert [len(sheets[kind]) for kind in ("source", "true", "error", "differentiation")] == [2, 2, 2, 2]


def test_a_lone_sequence_has_no_differentiation(kept: Path):
    np.savez_compressed(kept, **volumes() | {"available": np.array([True, False, False])})
    assert draw_subject(kept)["planes"][0]["sheets"]["differentiation"] == [None]


def test_a_brain_of_many_slices_is_thinned_out(kept: Path):
    arrays = volumes()
    long = {name: np.repeat(arrays[name], 10, axis=-1) for name in ("source", "label", "pred", "brain")}
    np.savez_compressed(kept, **arrays | long)
    voxels = draw_subject(kept)["planes"][0]["voxels"]
    assert len(voxels) == 30 and voxels[0] == 50 and voxels[-1] == 109 and max(np.diff(voxels)) <= 3


def test_a_sheet_is_filled_row_by_row():
    grey = np.linspace(0.1, 0.9, 5)[:, None, None] * np.ones((5, 16, 16))
    plane = {"size": [16, 16], "columns": 2, "voxels": range(5)}
    np.testing.assert_allclose(tiles(plane, sheet(grey)).mean((1, 2)), 255 * np.linspace(0.1, 0.9, 5), atol=3)


def test_sections_that_need_more_scores_step_back(tmp_path: Path):
    table = ScoreTable()
    table.add("a", "network", "T1", "T2", {"psnr": 20.0})
    table.write(tmp_path, INFO)
    text = own(made(tmp_path)[0])
    assert "Not ranked." in text and "Regions" not in text


def test_regions_and_configuration_are_there(made_once: tuple[str, dict]):
    text, _ = made_once
    assert "in the lesion" in text and "<td>grid</td><td>T1</td>" in text and "missing: pass --lpips_weights" in text


def test_no_scores_are_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no scores"):
        report(str(tmp_path))


def test_a_network_that_made_nothing_finite_is_an_error(tmp_path: Path):
    table = ScoreTable()
    table.add("a", "network", "T1", "T2", {"psnr": float("nan")})
    table.write(tmp_path)
    with pytest.raises(ValueError, match="no finite PSNR"):
        report(str(tmp_path))


def test_unseen_sequences_chosen_translations_and_the_map_over_parameters(tmp_path: Path):
    table = write_scores(tmp_path)
    table.write(tmp_path, table.info | {"held_out": ["T2"], "translations": [["T1", "FL"]]})
    text, data = made(tmp_path)
    assert data["charts"]["declared"]["psnr"]["matrix"]["data"][0]["x"] == ["T1", "T2*", "FL"]
    assert "to one never seen in training (*)" in text and "<td>T1</td><td>FL</td>" in text
    assert "Error over TR, TE and TI" not in text
    Image.new("L", (2, 2)).save(tmp_path / "grid.png")
    assert '<img src="data:image/png;base64,' in made(tmp_path)[0]


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_damaged_volumes_are_named(kept: Path, tmp_path: Path, keep: float):
    write_scores(tmp_path)
    content = kept.read_bytes()
    kept.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=rf"{kept} is damaged \(.*Evaluate again"):
        report(str(tmp_path))
