"""The table's means, files and text."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from common.evaluation.scores import ScoreTable


@pytest.fixture
def table() -> ScoreTable:
    table = ScoreTable("declared")
    psnrs = {
        "network": {("T1", "T2"): (24.0, 26.0), ("T2", "T1"): (20.0, 22.0), ("T1", "T1"): (math.inf, 40.0)},
        "copy": {("T1", "T2"): (14.0, 16.0), ("T2", "T1"): (13.0, 15.0)},
        "map": {("T1", "T2"): (23.0, 23.0), ("T2", "T1"): (22.0, 24.0)},
    }
    for method, pairs in psnrs.items():
        for (source, target), values in pairs.items():
            for subject, value in zip(("sub-1", "sub-2"), values, strict=True):
                table.add(subject, method, source, target, {"psnr": value, "ssim": 0.9, "lpips": math.nan})
    return table


def test_summary(table: ScoreTable):
    entries = {(e["method"], e["source"], e["target"]): e for e in table.summary()}
    assert len(entries) == 7
    assert entries["network", "T1", "T2"]["psnr"] == pytest.approx({"mean": 25, "std": 2**0.5, "n": 2, "left_out": 0})
    same = entries["network", "T1", "T1"]["psnr"]
    assert same["mean"] == 40 and math.isnan(same["std"]) and same["n"] == same["left_out"] == 1
    assert math.isnan(entries["map", "T1", "T2"]["lpips"]["mean"])


def test_files_round_trip(table: ScoreTable, tmp_path: Path):
    table.write(tmp_path / "new", {"seed": 7, "weights_sha256": "ab", "versions": {"torch": "2"}})
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["scores_declared.csv", "scores_declared.json"]
    with open(tmp_path / "new" / "scores_declared.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["subject", "method", "source", "target", "psnr", "ssim", "lpips"]
    assert len(rows) == len(table.rows) == 14
    for read, row in zip(rows, table.rows, strict=True):
        assert all(read[key] == row[key] for key in ("subject", "method", "source", "target"))
        assert float(read["psnr"]) == row["psnr"] and math.isnan(float(read["lpips"]))

    content = json.loads((tmp_path / "new" / "scores_declared.json").read_text(), parse_constant=pytest.fail)
    assert content["convention"] == "declared" and content["seed"] == 7 and content["subjects"] == ["sub-1", "sub-2"]
    assert content["summary"][0]["psnr"]["mean"] == 25
    assert content["summary"][0]["lpips"] == {"mean": None, "std": None, "n": 0, "left_out": 2}


def test_what_was_written_can_be_read(table: ScoreTable, tmp_path: Path):
    table.write(tmp_path, {"seed": 7})
    read = ScoreTable.read(tmp_path, "declared")
    assert read.info["seed"] == 7 and read.subjects == ["sub-1", "sub-2"] and read.metrics == table.metrics
    for row, twin in zip(read.rows, table.rows, strict=True):
        assert row == pytest.approx(twin, nan_ok=True)


def test_unreadable_results(table: ScoreTable, tmp_path: Path):
    table.write(tmp_path, {})
    with pytest.raises(FileNotFoundError, match=r"convention 'aldm', only declared"):
        ScoreTable.read(tmp_path, "aldm")
    lines = (tmp_path / "scores_declared.csv").read_text().splitlines(keepends=True)
    (tmp_path / "scores_declared.csv").write_text("".join(line for line in lines if not line.startswith("sub-2")))
    with pytest.raises(ValueError, match="different subjects"):
        ScoreTable.read(tmp_path, "declared")


@pytest.mark.parametrize(("name", "content", "said"), [
    ("scores_declared.json", b"", "it is empty"),
    ("scores_declared.json", b'{"subjects": [', "JSONDecodeError"),
    ("scores_declared.json", b"[1]", "TypeError"),
    ("scores_declared.json", b"{}", "KeyError: 'subjects'"),
    ("scores_declared.json", b"\xff\xfe", "UnicodeDecodeError"),
    ("scores_declared.csv", b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ("scores_declared.csv", b"subject,method,source,target,psnr\na,network,T1,T2,much\n", "could not convert"),
    ("scores_declared.csv", b"subject,method\na,network\n", "no column source, target"),
    ("scores_declared.csv", b"subject,method,source,target,psnr\na,network,T1,T2,1,2\n", "TypeError"),
])  # fmt: skip
def test_a_damaged_file_is_named(table: ScoreTable, tmp_path: Path, name: str, content: bytes, said: str):
    table.write(tmp_path, {})
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{tmp_path / name} is damaged \(.*Evaluate again.*, or copy") as caught:
        ScoreTable.read(tmp_path, "declared")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_half_is_named(table: ScoreTable, tmp_path: Path):
    table.write(tmp_path, {})
    (tmp_path / "scores_declared.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"scores_declared.csv is missing beside its like. Evaluate again"):
        ScoreTable.read(tmp_path, "declared")


def test_printed_table(table: ScoreTable, capsys: pytest.CaptureFixture[str]):
    table.print_table()
    text = capsys.readouterr().out
    assert "Convention declared" in text and "2 subjects" in text
    assert "25.00 / 0.900" in text and "15.00 | 23.00" in text
    assert "Reconstruction (source = target): T1 40.00 / 0.900" in text
    verdict, *others = text[text.index("Mean over") :].strip().splitlines()
    assert "2 of 2 pairs" in verdict and "network 23.00, copy 14.50, map 23.00 dB" in verdict
    assert verdict.endswith("; network ahead of the map for 1.")
    assert others.pop(0).strip().startswith("network - map by subject: ")
    assert [line.split()[0] for line in others] == [name.upper() for name in table.metrics if name != "psnr"]
    assert max(map(len, text.splitlines())) <= 120


def test_a_pair_without_map_is_left_out_of_the_averages(table: ScoreTable):
    table.add("sub-1", "network", "T1", "FLAIR", {"psnr": 99.0})
    table.add("sub-1", "copy", "T1", "FLAIR", {"psnr": 10.0})
    text = table.table()
    assert "99.00 / -" in text and "10.00 | -" in text
    assert "2 of 3 pairs" in text and "network 23.00," in text


def test_fused_sources_and_paths_stand_apart(table: ScoreTable):
    for method, value in {"network": 30.0, "copy": 10.0, "map": 20.0}.items():
        table.add("sub-1", method, "others", "T1", {"psnr": value})
        table.add("sub-1", method, "T1>T1Gd", "T2", {"psnr": value})
    lines = table.table().splitlines()
    assert any(line.startswith("others") and "30.00 / -" in line for line in lines)
    assert any(line.startswith("T1>T1Gd") for line in lines)
    pairs, fused = (line for line in lines if line.startswith("Mean over"))
    assert "2 of 2 pairs" in pairs and "network 23.00" in pairs
    assert fused.startswith("Mean over 1 of 1 sequences, each from all the others: network 30.00, copy 10.00")


def test_a_table_without_rivals_or_rows():
    table = ScoreTable()
    assert "None of the pairs" in table.table()
    table.add("sub-1", "network", "T1", "T2", {"psnr": 20.0})
    assert "network 20.00 dB." in table.table()


def test_wrong_rows_raise(table: ScoreTable):
    with pytest.raises(ValueError, match=r"'sub-1'.*'T2'"):
        table.add("sub-1", "copy", "T1", "T2", {"psnr": 1.0})
    with pytest.raises(ValueError, match=r"'oracle'.*network, copy, map"):
        table.add("sub-1", "oracle", "T1", "T2", {"psnr": 1.0})


def test_the_ceiling_stands_beside_the_score():
    table = ScoreTable("declared")
    table.add("sub-1", "network", "T1", "T2", {"psnr": 24.0, "ssim": 0.9, "ceiling_psnr": 31.5})
    table.add("sub-1", "copy", "T1", "T2", {"psnr": 14.0, "ssim": 0.5})
    text = table.table()
    assert "copy | map | reconstruction of the target" in text and "14.00 | - | 31.50" in text


def test_what_training_never_saw_is_marked_and_counted_apart(table: ScoreTable, tmp_path: Path):
    for method, value in {"network": 30.0, "copy": 10.0}.items():
        table.add("sub-1", method, "T1", "PD", {"psnr": value, "ssim": 0.5})
        table.add("sub-1", method, "PD", "T2", {"psnr": value - 2, "ssim": 0.5})
    table.write(tmp_path, {"held_out": ["PD"], "translations": [["T1", "T2"], ["T1", "PD"], ["T1", "FLAIR"]]})
    for read in (table, ScoreTable.read(tmp_path)):
        text = read.table()
        assert "PD*" in text and "T1*" not in text
        assert "Mean over 2 of 2 pairs, source != target: network 23.00" in text
        assert "Mean over 1 of 1 pairs to one never seen in training (*): network 30.00, copy 10.00 dB." in text
        assert "Mean over 1 of 1 pairs from one never seen (*) to a seen one: network 28.00, copy 8.00 dB." in text
        rows = [["T1", "T2", "25.00 ± 1.41 / 0.900 ± 0.000", "15.00 ± 1.41 / 0.900 ± 0.000"], ["T1", "PD*"]]
        assert [row[: len(start)] for row, start in zip(read.chosen(), rows, strict=True)] == rows
        assert read.chosen()[1][2:] == ["30.00 ± - / 0.500 ± -", "10.00 ± - / 0.500 ± -", ""]
