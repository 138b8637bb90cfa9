"""Packed bundles: what is in them, that they run anywhere, and that two versions live in one process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch

from ci import package as module
from ci.package import agree, package
from common.description import write
from common.inference.weights import sha256
from common.options import run_command

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAMES = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/metadata.json"))
RIVALS = ("mri_resvit", "mri_wavelet_flow", "mri_mmgan", "mri_pgan", "mri_cyclegan")
EACH = [pytest.param(name, marks=pytest.mark.full) if name in RIVALS else name for name in NAMES]


@pytest.fixture(autouse=True)
def own_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIST", tmp_path / "models" / "model_info.json")


def run(folder: Path, code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize("name", EACH)
def test_a_package_is_one_folder_and_the_same_to_the_byte(name: str, tmp_path: Path):
    first, second = (Path(package(name, output_dir=str(tmp_path / k))[0]) for k in "ab")
    assert first.read_bytes() == second.read_bytes()
    version = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())["version"]
    assert first.name == f"{name}_v{version}.zip"
    assert first.with_suffix(".zip.sha256").read_text() == f"{sha256(first)}  {first.name}\n"
    files = ZipFile(first).namelist()
    assert {file.split("/")[0] for file in files} == {name}
    inside = [f"{name}/{end}" for end in ("LICENSE", "configs/metadata.json", f"{name}/common/evaluation/viewer.html")]
    assert set(inside) <= set(files)
    assert not any("__pycache__" in file for file in files)
    listed = json.loads(first.with_name("model_info.json").read_text())[f"{name}_v{version}"]
    assert len(listed["checksum"]) == 40 and listed["source"] == first.name


def test_what_it_says_and_where_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tiny_network: Callable[..., Any]
):
    """No weights are said; with --output_dir all is in there; what is wrong is one line."""
    package("mri_vq_seq2seq", output_dir=str(tmp_path / "out"))
    assert "mri_vq_seq2seq_v0.1.0 holds no weights" in (said := capsys.readouterr().err)
    assert "--weights FILE" in said and "./ci/weights mri_vq_seq2seq" in said and said.count("\n") == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("mri_vq_seq2seq_v0.1.0.zip", "mri_vq_seq2seq_v0.1.0.zip.sha256", "model_info.json"),
    }
    assert not module.LIST.exists()
    settings = {"sequences": ["T1", "T1Gd", "T2", "FLAIR"], "normalisation": "p99", "roi_size": [32, 32, 3]}
    torch.save(tiny_network("mri_seq2seq").state_dict(), tmp_path / "model.pt")
    write(tmp_path / "model.pt", tiny_network("mri_seq2seq"), **settings, divisible=[2, 2, 1])
    package("mri_seq2seq", weights=str(tmp_path / "model.pt"), output_dir=str(tmp_path / "out"))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "argv", ["package", "mri_none"])
    with pytest.raises(SystemExit):
        run_command(package)
    assert capsys.readouterr().err.startswith("error: There is no bundle mri_none; there are: mri_aldm")


def test_two_versions_in_one_process(tmp_path: Path):
    """Each with its own copy of the shared code, and the repository's nowhere."""
    first, second = NAMES[0], NAMES[1]
    for archive in package(first, second, output_dir=str(tmp_path)):
        ZipFile(archive).extractall(tmp_path)
    later = tmp_path / second / second / "common" / "layout.py"
    later.write_text(later.read_text().replace("MISSING = -1.0", "MISSING = -2.0"))
    code = f"""
import sys
sys.path[:0] = [{str(tmp_path / first)!r}, {str(tmp_path / second)!r}]
import {first}.network, {second}.network
print({first}.common.layout.MISSING, {second}.common.layout.MISSING, {first}.common.__path__)
"""
    result = run(tmp_path, code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("-1.0 -2.0") and str(tmp_path / first) in result.stdout


def test_a_folder_copied_unpacked_says_what_to_do(tmp_path: Path):
    shutil.copytree(BUNDLES / "mri_seq2seq", tmp_path / "elsewhere" / "bundles" / "mri_seq2seq")
    result = run(tmp_path / "elsewhere" / "bundles" / "mri_seq2seq", "import mri_seq2seq.network")
    assert result.returncode and "Run ./ci/package NAME there" in result.stderr


def test_weights_are_packed_with_what_they_are_for(tmp_path: Path, tiny_network: Callable[..., Any]):
    overlay = tmp_path / "tiny.json"
    options = {"channels": [4, 8], "res_blocks": 1, "code_channels": 4, "bank_channels": 2, "lstm_layers": 0}
    overlay.write_text(json.dumps({f"network_def::{key}": value for key, value in options.items()}))
    weights = tmp_path / "weights.pt"
    torch.save({**tiny_network("mri_seq2seq").state_dict(), "reference_scale": torch.full((4, 2), 7.0)}, weights)
    with pytest.raises(ValueError, match=r"does not fit the network .* in the file, .* in the network"):
        package("mri_seq2seq", weights=str(weights), output_dir=str(tmp_path))
    [archive] = package("mri_seq2seq", weights=str(weights), overlay=str(overlay), output_dir=str(tmp_path))
    ZipFile(archive).extractall(tmp_path)
    models = tmp_path / "mri_seq2seq" / "models"
    described = json.loads((models / "model.json").read_text())
    assert described["sha256"] == sha256(weights) == sha256(models / "model.pt")
    assert described["network"]["channels"] == [4, 8] and described["sequences"] == ["T1", "T1Gd", "T2", "FLAIR"]
    assert described["reference_scale"] == [[7.0, 7.0]] * 4
    code = """
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config("configs/inference.json")
parser["device"] = "cpu"
print(parser.get_parsed_content("network").reference_scale[0, 0].item())
"""
    assert run(tmp_path / "mri_seq2seq", code).stdout == "7.0\n"
    (models / "model.pt").write_bytes((models / "model.pt").read_bytes() + b"x")
    assert "Download it again" in run(tmp_path / "mri_seq2seq", code).stderr


def test_bad_requests():
    with pytest.raises(ValueError, match="There is no bundle mri_none; there are: mri_aldm, mri_crl"):
        package("mri_none")
    with pytest.raises(ValueError, match="belong to one bundle, but 0 are named"):
        package(weights="model.pt")


def test_described_weights_need_no_overlay(tmp_path: Path, tiny_network: Callable[..., Any]):
    """Their package's metadata say their sequences, and its own inference makes their network."""
    network = tiny_network("mri_seq2seq", sequences=2, lstm_layers=0)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    settings = {"sequences": ["PD", "T2"], "normalisation": "p99", "roi_size": [32, 32, 3], "divisible": [2, 2, 1]}
    write(tmp_path / "model.pt", network, **settings)
    [archive] = package("mri_seq2seq", weights=str(tmp_path / "model.pt"), output_dir=str(tmp_path))
    ZipFile(archive).extractall(tmp_path)
    folder = tmp_path / "mri_seq2seq"
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["inputs"]["image"]["channel_def"] == {"0": "PD", "1": "T2"}
    code = """
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config("configs/inference.json")
print(parser.get_parsed_content("normalisation"), parser.get_parsed_content("network").options["channels"])
"""
    assert run(folder, code).stdout == "p99 [4, 8]\n"
    original = (BUNDLES / "mri_seq2seq" / "configs" / "inference.json").read_text()
    assert (folder / "configs" / "inference.json").read_text() == original


def test_metadata_follow_the_weights(tmp_path: Path):
    """Sequences and sizes; a smaller divisor than metadata's leaves it as it is."""
    shutil.copytree(BUNDLES / "mri_seq2seq" / "configs", tmp_path / "configs")
    before = json.loads((tmp_path / "configs" / "metadata.json").read_text())
    agree(tmp_path / "configs", ["T1", "T1Gd", "T2", "FLAIR"], [2, 2, 1])
    assert json.loads((tmp_path / "configs" / "metadata.json").read_text()) == before
    agree(tmp_path / "configs", ["PD", "T2"], [32, 24, 1])
    metadata, tensorrt = (
        json.loads((tmp_path / "configs" / f"{n}.json").read_text()) for n in ("metadata", "tensorrt")
    )
    for image in (metadata["network_data_format"][way][key] for way, key in (("inputs", "image"), ("outputs", "pred"))):
        assert image["spatial_shape"] == ["32*n", "48*n", "n"] and image["num_channels"] == 2
        assert image["channel_def"] == {"0": "PD", "1": "T2"}
    assert tensorrt["input_shape"][:2] == [1, 2]
