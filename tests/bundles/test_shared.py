"""What is written may be shared: it says nothing of the disk that it was made on, and is read again elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.data.subjects import read_subjects, write_subjects
from common.evaluation.compare import compare
from common.evaluation.completed import draw_completed
from common.evaluation.report import report

REPOSITORY = Path(__file__).parents[2]
TEXTS = (".json", ".csv", ".html", ".md", ".txt", ".log")


RIVALS = ("mri_resvit", "mri_wavelet_flow", "mri_mmgan")  # of two sequences none can be withheld and scored
RIVALS = [pytest.param(name, marks=pytest.mark.full) for name in RIVALS]


@pytest.fixture(params=["mri_seq2seq", "mri_vq_seq2seq", "mri_aldm", "mri_crl", *RIVALS])
def bundle(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(bundle: str, workflow, crl) -> Callable[..., Any]:
    """`run("train.json", **overrides)`, of the bundle."""
    return lambda *files, **options: (crl if bundle == "mri_crl" else lambda *a, **b: workflow(bundle, *a, **b))(
        *files, **options
    ).run()


@pytest.fixture
def data(bundle: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A phantom of its own, whose test subject has had one sequence withheld."""
    folder = tmp_path / "data"
    shutil.copytree(request.getfixturevalue("fse_dir" if bundle == "mri_crl" else "phantom_dir"), folder)
    subjects = read_subjects(folder)
    [entry] = subjects["test"]
    name = subjects["sequences"][-1]
    entry["withheld"] = {name: entry["images"].pop(name)}
    write_subjects(folder / "subjects.json", subjects)
    return folder


def test_no_file_tells_of_the_disk(bundle: str, run, data: Path, tmp_path: Path, tmp_path_factory):
    folders = {"dataset_dir": data, "ckpt_dir": tmp_path / "models"}
    run("train.json", output_dir=tmp_path / "training", **folders)
    weights = tmp_path / "models" / "model.pt"
    completed = {"dataset_dir": data, "weights": weights, "output_dir": tmp_path / "completed", "split": "test"}
    run("inference.json", **completed)
    if bundle == "mri_vq_seq2seq":
        run("inference.json", "encode.json", **completed)
    for name in ("scores", "again"):
        run("train.json", "evaluate.json", output_dir=tmp_path / name, keep=1, **folders)
    report(str(tmp_path / "scores"))
    compare(str(tmp_path / "scores"), str(tmp_path / "again"), output_dir=str(tmp_path / "compared"))
    texts = [path for path in tmp_path.rglob("*") if path.suffix in TEXTS]
    wanted = {"model.json", "scores_declared.json", "scores_declared.csv", "report.html", "leaderboard.html"}
    assert wanted <= {path.name for path in texts}
    for place in (tmp_path_factory.getbasetemp(), REPOSITORY, Path.home()):
        assert [path for path in texts if str(place) in path.read_text(encoding="utf-8")] == []

    [sidecar] = (path for path in (tmp_path / "completed").glob("*/*.json") if not path.stem.endswith("latent"))
    said = json.loads(sidecar.read_text())
    assert all((data / file).is_file() for file in (said["grid"], *said["sources"].values()))
    described = json.loads((tmp_path / "models" / "model.json").read_text())
    assert described["trained_on"] == said["trained_on"] == "phantom (simulated), 2 subjects"
    assert (sidecar.parent / f"{said['subject']}.png").is_file(), "drawn by the inference"
    elsewhere = tmp_path / "moved"
    elsewhere.mkdir()
    for folder in ("data", "completed"):
        shutil.move(tmp_path / folder, elsewhere / folder)
    assert [path.name for path in draw_completed(str(elsewhere / "completed"), str(elsewhere / "data"))] == [
        f"{said['subject']}.png"
    ]
