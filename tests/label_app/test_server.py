"""A real MONAI Label server with two packaged bundles, asked over HTTP. Needs .venv-label: `./ci/label --install`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from .serving import NAMES, ROOT, Server


def test_what_it_has(server: Server):
    info = server.json("GET", "/info/")
    assert list(info["models"]) == list(info["trainers"]) == NAMES and list(info["scoring"]) == ["declared"]
    assert all(model["type"] == "others" and model["labels"] == [] for model in info["models"].values())
    assert info["models"]["mri_seq2seq"]["config"]["target"] == ["missing", "T1", "T1Gd", "T2", "FLAIR"]
    assert info["datastore"]["total"] == 15
    status, content = server.ask("GET", "/datastore/image?image=phantom_003_T2")
    assert status == 200 and content == Path(server.entry("phantom_003")["images"]["T2"]).read_bytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("image", "target"), [("phantom_002_T1", "FLAIR"), ("phantom_003_T2", "T1")])
def test_an_image_on_a_rotated_and_a_sheared_grid(
    server: Server, workflow: Callable, weights_of: Callable, tmp_path: Path, name: str, image: str, target: str
):
    """From all that the subject has, and the same as by `run inference` without a server."""
    made = server.infer(name, image, tmp_path, target=target)
    subject, sequence = image.rsplit("_", 1)
    images = server.entry(subject)["images"]
    like = nib.load(images[sequence])
    assert made.shape == like.shape and np.array_equal(made.affine, like.affine) and made.get_data_dtype() == np.float32
    listed = {"dataset_dir": server.studies, "split": "all", "targets": [target], "output_dir": tmp_path}
    workflow(name, "inference.json", weights=weights_of(name), device="cpu", **listed).run()
    alone = nib.load(tmp_path / subject / f"{subject}_{target}.nii.gz").get_fdata()
    np.testing.assert_allclose(made.get_fdata(), alone, rtol=1e-5, atol=1e-5 * alone.max())
    assert alone.std() > 0
    sidecar = server.json("POST", f"/infer/{name}?image={image}&output=json", target=target)
    assert (sidecar["bundle"], sidecar["target"], sidecar["grid"]) == (
        name,
        target,
        os.path.relpath(images[sequence], server.studies),
    )
    assert list(sidecar["sources"]) == [each for each in images if each != target]


def test_the_missing_one_from_one_source(server: Server, tmp_path: Path):
    few = server.infer("mri_seq2seq", "phantom_002_T1", tmp_path, source="T1").get_fdata()
    sidecar = server.json("POST", "/infer/mri_seq2seq?image=phantom_002_T1&output=json", source="T1")
    assert list(sidecar["sources"]) == ["T1"] and sidecar["target"] == "FLAIR"
    assert not np.array_equal(
        few, server.infer("mri_seq2seq", "phantom_002_T1", tmp_path, target="missing").get_fdata()
    )


def test_errors_say_what_to_do(server: Server, tmp_path: Path):
    infer = "/infer/mri_seq2seq?image=phantom_003_T1&output=image"
    assert 'lacks nothing: say which image is wanted with "target"' in server.refused(infer)
    assert "makes T1, T1Gd, T2, FLAIR" in server.refused(infer, target="PD")
    assert "makes T1, T1Gd, T2, FLAIR" in server.refused(infer, target="$open('x', 'w')")
    assert "knows T1, T1Gd, T2, FLAIR" in server.refused(infer, target="T2", source="PD")
    assert "There is no image 'nobody_T1' in the studies" in server.refused("/infer/mri_seq2seq?image=nobody_T1")
    assert "this server has mri_seq2seq, mri_vq_seq2seq" in server.refused("/infer/mri_none?image=phantom_003_T1")
    assert "this server has" in server.refused("/scoring/declared?run_sync=true")
    assert "must all be numbers" in server.refused("/train/mri_seq2seq?run_sync=true", {"epochs": "$1"})
    assert "must be one of training" in server.refused(
        "/scoring/declared?run_sync=true", {"model": NAMES[0], "split": "$1"}
    )
    scan = Path(server.entry("phantom_000")["images"]["T1"])
    before = scan.read_bytes()
    assert 'pass "source"' in server.refused("/infer/mri_seq2seq", file=scan, target="T2")
    other = tmp_path / "x.nii.gz"
    other.write_bytes(b"other")
    assert "only read" in server.refused("/datastore/image?image=phantom_000_T1", method="PUT", file=other)
    assert "leave out the slashes" in server.refused("/datastore/image?image=../../x", method="PUT", file=other)
    assert "only read" in server.refused("/datastore/image?id=phantom_000_T1", method="DELETE")
    for tag in ("../images", "/tmp", ".."):
        label = f"/datastore/label?image=phantom_000_T1&tag={tag}"
        assert "no name of a tag" in server.refused(label, method="PUT", file=other)
    assert scan.read_bytes() == before
    assert "NOT Found" in server.refused(f"/model/{NAMES[0]}", method="DELETE"), "the bundle's own weights stay"


def test_no_upload_and_no_removal_reaches_a_scan(server: Server, tmp_path: Path):
    """By whatever name the link to it is meant: with its ending in the name, in the file's, or in capitals."""
    scan = Path(server.entry("phantom_000")["images"]["T1"])
    before = scan.read_bytes()
    other = tmp_path / "x.gz"
    other.write_bytes(b"other")
    for name in ("phantom_000_T1.nii", "phantom_000_T1.nii.gz", "phantom_000_T1.NII"):
        assert "only read" in server.refused(f"/datastore/image?image={name}", method="PUT", file=other)
        assert "only read" in server.refused(f"/datastore/image?id={name}", method="DELETE")
    for name in ("%00", "a%00b", "a" * 300):
        assert "no name of an image" in server.refused(f"/datastore/image?image={name}", method="PUT", file=other)
    assert scan.read_bytes() == before and scan.is_file()


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [("Origin", "http://other.example", 403), ("Origin", "null", 403), ("Host", "other.example:8000", 400)],
)
def test_other_sites_pages_and_other_names_are_refused(server: Server, header: str, value: str, status: int):
    """Nor may a page start a training by an empty POST."""
    for method, path in (("GET", "/info/"), ("POST", f"/train/{NAMES[0]}")):
        address = f"http://127.0.0.1:{server.port}{path}"
        request = urllib.request.Request(address, headers={header: value}, method=method)
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(request, timeout=60)
        assert error.value.code == status
        assert not any(name.lower().startswith("access-control") for name in error.value.headers)


def test_its_own_pages_are_answered(server: Server):
    origin = {"Origin": f"http://127.0.0.1:{server.port}"}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/info/", headers=origin)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200


def test_without_weights(server: Server, bundles_dir: Path):
    weights = bundles_dir / "mri_vq_seq2seq" / "models" / "model.pt"
    weights.rename(weights.with_name("away.pt"))
    try:
        detail = server.refused("/infer/mri_vq_seq2seq?image=phantom_003_T1", target="T2")
        assert f"{weights.relative_to(bundles_dir)} is not there" in detail and "POST /train/mri_vq_seq2seq" in detail
    finally:
        weights.with_name("away.pt").rename(weights)


def test_the_page_as_it_is_written(server: Server, tmp_path: Path):
    """docs/label.md's curl lines: infer, upload, batch, train and score; what they leave behind."""
    page = (ROOT / "docs" / "label.md").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    commands = re.findall(r"^    (curl (?:.*\\\n)*.*)$", page, re.M)
    assert len(commands) == 9

    def run(command: str) -> str:
        result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, (command, result)
        return result.stdout

    before = server.json("POST", "/infer/mri_seq2seq?image=phantom_001_T1&output=json", target="T2")["weights_sha256"]
    for command in commands:
        said = run(command)
        if "/scoring/" in command:
            scores = json.loads(said)["scores"]
            assert len(scores) == 40 and all(np.isfinite(row["psnr"]["mean"]) for row in scores[:4])
    like = nib.load(server.entry("phantom_003")["images"]["T1"])
    for name in ("FLAIR", "T2"):
        assert np.array_equal(nib.load(tmp_path / f"{name}.nii.gz").affine, like.affine)
    completed = server.work / "completed" / "mri_vq_seq2seq"
    assert {path.name for path in completed.iterdir()} == {f"phantom_00{k}" for k in range(4)}
    one = completed / "phantom_001" / "phantom_001_FLAIR.nii.gz"
    assert one.read_bytes() == (tmp_path / "completed.nii.gz").read_bytes()
    assert one.with_name("phantom_001_FLAIR.json").exists()
    task = server.wait("/train/")
    assert task["status"] == "DONE", task
    after = server.json("POST", "/infer/mri_seq2seq?image=phantom_001_T1&output=json", target="T2")["weights_sha256"]
    assert after != before and (server.work / "weights" / "mri_seq2seq" / "model.pt").exists()


def test_new_scans_after_a_reload(server: Server, tmp_path: Path):
    folder = server.studies
    listed = (folder / "subjects.json").read_text()
    subjects = json.loads(listed)
    subjects["test"].append({"subject": "new", "images": {"T2": subjects["test"][0]["images"]["T2"]}})
    (folder / "subjects.json").write_text(json.dumps(subjects))
    server.json("POST", "/reload")
    assert server.infer("mri_seq2seq", "new_T2", tmp_path, target="T1").get_fdata().std() > 0
    (folder / "subjects.json").write_text("{")
    server.json("POST", "/reload")
    assert "subjects.json" in server.refused("/info/", method="GET")
    (folder / "subjects.json").write_text(listed)
    server.json("POST", "/reload")
    assert "no image 'new_T2'" in server.refused("/infer/mri_seq2seq?image=new_T2")
