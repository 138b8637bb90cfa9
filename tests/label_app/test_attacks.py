"""The label server under requests that nobody should send, over HTTP: each is answered, and nothing comes to harm."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import nibabel as nib
import numpy as np
import pytest
import torch

from .serving import NAMES, ROOT, Server

MODEL = NAMES[0]
INFER = f"/infer/{MODEL}"
SCAN = f"{INFER}?image=phantom_003_T1"
JSON = {"Content-Type": "application/json"}
ELSEWHERE = ("..", "%2e%2e", "../x", "..%2Fx", "/etc/hostname", "%2Fetc%2Fhostname", "a\\b", "%00", "a%0Ab", "a" * 300)


def form(**fields: str) -> tuple[bytes, dict[str, str]]:
    parts = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()]
    return ("".join(parts) + "--x--\r\n").encode(), {"Content-Type": "multipart/form-data; boundary=x"}


def refusal(server: Server, method: str, path: str, data: bytes | None = None, headers: Any = JSON) -> tuple[int, str]:
    status, content = server.raw(method, path.replace("\\", "%5C").replace(" ", "%20"), data, dict(headers))
    assert 400 <= status < 500, (method, path, status, content)
    return status, json.loads(content)["detail"]


@pytest.fixture(autouse=True)
def scans_stay(server: Server):
    """No request changes a scan, or starts a training."""
    before = {path: path.read_bytes() for path in server.studies.rglob("*.nii.gz") if server.work not in path.parents}
    trained = server.ask("GET", "/train/?all=true")
    yield
    assert all(path.read_bytes() == content for path, content in before.items())
    assert server.ask("GET", "/train/?all=true") == trained


@pytest.mark.parametrize("name", ELSEWHERE)
def test_no_name_leads_elsewhere(server: Server, name: str):
    for key in ("image", "session_id"):
        assert refusal(server, "POST", f"{INFER}?{key}={name}", *form(params="{}"))[0] in (400, 404)
    for method, path in (
        ("GET", f"/datastore/image?image={name}"),
        ("GET", f"/datastore/label?label={name}&tag=final"),
        ("GET", f"/datastore/label?label=phantom_003_T1&tag={name}"),
        ("DELETE", f"/datastore/image?id={name}"),
        ("DELETE", f"/datastore/label?id=phantom_003_T1&tag={name}"),
        ("GET", f"/datastore/image/info?image={name}"),
        ("GET", f"/session/{name}"),
        ("DELETE", f"/session/{name}"),
        ("GET", f"/model/{name}"),
        ("DELETE", f"/model/{name}"),
        ("POST", f"/train/{name}"),
        ("POST", f"/activelearning/{name}"),
        ("GET", f"/static/{name}"),
    ):
        status, content = server.raw(method, path.replace("\\", "%5C"), b"{}" if method == "POST" else None, JSON)
        assert 400 <= status < 500, (method, path, status, content)


def test_only_the_studies_and_the_request_s_own_upload_are_read(server: Server, tmp_path: Path):
    """Neither the address nor the options name a file, nor a task's options a folder with code."""
    scan = Path(server.entry("phantom_000")["images"]["T1"])
    assert refusal(server, "POST", f"{INFER}?image=README.md", *form(params="{}"))[0] == 404
    params = {"target": "T2", "image": str(scan), "session": {"image": str(scan)}, "model": NAMES[1]}
    made = server.json("POST", f"{SCAN}&output=json", **params)
    assert made["subject"] == "phantom_003" and made["bundle"] == MODEL
    (tmp_path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    task = server.json("POST", f"/batch/infer/{NAMES[1]}", {"target": "T2", "bundle_path": str(tmp_path), "gpus": "0"})
    assert task["request"] == {"model": NAMES[1], "images": "all", "target": "T2", "gpus": "all"}
    assert server.wait("/batch/infer")["status"] == "DONE" and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("params", ["{bad", "[1]", "3", '{"a": 1e400}', '{"a": NaN}', "[" * 3000])
def test_forms_hold_json_objects(server: Server, params: str, tmp_path: Path):
    other = tmp_path / "x.nii.gz"
    other.write_bytes(b"other")
    said = refusal(server, "POST", SCAN, *form(params=params))
    assert said[0] == 400 and ("JSON" in said[1] or "not finite" in said[1])
    assert refusal(server, "PUT", "/datastore/image/info?image=phantom_003_T1", *form(info=params))[0] == 400
    data, headers = form(params=params)
    file = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="x.nii.gz"\r\n\r\nother\r\n'
    for path, field in (("/datastore/image?image=new", b"file"), ("/datastore/label?image=phantom_003_T1", b"label")):
        assert refusal(server, "PUT", path, file % field + data, headers)[0] == 400
    assert "new" not in server.json("GET", "/datastore/?output=all")["objects"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epochs": float("inf")}, "must all be numbers"),
        ({"epochs": -1}, "epochs must be above 0"),
        ({"batch_size": 0.5}, "whole numbers"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"epoch": 1}, "did you mean 'epochs'?"),
        ({"device": "$x"}, "it must be cpu"),
        ({"model": "none"}, "this server has mri_seq2seq"),
        ({"model": [1]}, "this server has mri_seq2seq"),
    ],
)
def test_no_training_starts_with_such_options(server: Server, options: dict[str, Any], text: str):
    data = json.dumps(options).replace("Infinity", "1e400").encode()
    status, said = refusal(server, "POST", f"/train/{MODEL}", data)
    assert status == 400 and text in said


def test_nothing_starts_by_an_empty_request(server: Server):
    """As a page can send one without asking, see CORS; nor by a form, by half of JSON, or for what there is not."""
    for path in (f"/train/{MODEL}", "/train/", f"/batch/infer/{MODEL}", "/scoring/declared"):
        for data, headers in ((None, {}), (b"", JSON), (b"a=b", {}), (b"{}", {"Content-Type": "text/plain"})):
            status, said = refusal(server, "POST", path, data, headers)
            assert status == 400 and "send a JSON object" in said
        assert refusal(server, "POST", path, b"{bad")[0] == 400
        assert refusal(server, "POST", path, b"[1]")[0] == 400
    assert "this server has" in refusal(server, "POST", "/train/none", b"{}")[1]
    assert "makes T1" in refusal(server, "POST", f"/batch/infer/{MODEL}", b'{"target": "PD"}')[1]
    scoring = json.dumps({"model": MODEL}).encode()
    assert "no scoring but declared" in refusal(server, "POST", "/scoring/dice", scoring)[1]


def test_what_there_is_not(server: Server, tmp_path: Path):
    other = tmp_path / "x.nii.gz"
    other.write_bytes(b"other")
    status, content = server.ask("PUT", "/datastore/label?image=nobody_T1&tag=final", file=other)
    assert (status, json.loads(content)["detail"]) == (404, "Image nobody_T1 not found")
    assert refusal(server, "POST", "/activelearning/best", b"{}") == (
        400,
        "There is no strategy 'best'; this server has random.",
    )
    assert server.json("POST", "/activelearning/random", {})["id"].startswith("phantom_")
    for method, path in (
        ("DELETE", "/datastore/image?id=nobody"),
        ("DELETE", "/datastore/label?id=phantom_003_T1&tag=none"),
        ("PUT", "/datastore/image/info?image=nobody"),
        ("GET", "/datastore/dataset"),
        ("POST", f"{INFER}?session_id=nobody"),
        ("POST", "/infer/wsi/x"),
        ("GET", "/proxy/dicom/x"),
    ):
        assert refusal(server, method, path, *form(params="{}", info="{}"))[0] == 404
    assert refusal(server, "POST", INFER, *form(params="{}"))[0] == 400
    assert (
        "DICOM is neither read nor written" in refusal(server, "POST", f"{SCAN}&output=dicom_seg", *form(params=""))[1]
    )


def test_dicom_is_told_how_to_convert_it(server: Server, tmp_path: Path):
    dicom, archive = tmp_path / "a.dcm", tmp_path / "a.zip"
    dicom.write_bytes(bytes(128) + b"DICM" + bytes(20))
    with ZipFile(archive, "w") as packed:
        packed.write(dicom, "a.dcm")
    for called in ("a.dcm", "IM0001", "a.nii.gz"):
        assert "dcm2niix" in server.refused(INFER, file=dicom, called=called, source="T1", target="T2")
        assert "dcm2niix" in server.refused("/session/", method="PUT", file=dicom, called=called)
        assert "dcm2niix" in server.refused("/datastore/image?image=d", method="PUT", file=dicom, called=called)
    for called in ("a.zip", "a.nii"):
        assert "nothing is unpacked" in server.refused(INFER, file=archive, called=called, source="T1")
    assert "send one NIfTI file" in server.refused(INFER, file=Path(__file__), source="T1")
    fake = tmp_path / "fake.nii"
    fake.write_bytes(bytes(400))
    assert "Cannot work out file type" in server.refused(INFER, file=fake, source="T1", target="T2")


def test_a_session_is_one_image_in_the_work_folder(server: Server, tmp_path: Path):
    """Nothing of it is in the home, nothing is unpacked, and it goes when it is removed."""
    scan = Path(server.entry("phantom_003")["images"]["T1"])
    session = server.ask("PUT", "/session/", file=scan)
    assert session[0] == 200, session
    name = json.loads(session[1])["session_id"]
    kept = server.work / "sessions" / name / scan.name
    assert kept.read_bytes() == scan.read_bytes() and kept.parents[1].stat().st_mode & 0o077 == 0
    made = server.json("POST", f"{INFER}?session_id={name}&output=json", source="T1", target="T2")
    assert (made["subject"], made["target"]) == ("upload", "T2")
    assert refusal(server, "GET", f"/session/{name}%2F..")[0] in (400, 404)
    server.json("DELETE", f"/session/{name}")
    assert not kept.exists() and refusal(server, "GET", f"/session/{name}")[0] == 404
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../../../evil.nii"), io.BytesIO())
    detail = server.refused("/session/?uncompress=true", method="PUT", file=tmp_path / "evil.tar")
    assert "nothing is unpacked" in detail and not list(server.work.rglob("evil*"))
    for called in ("..", "meta.info", "a.gz"):
        server.refused("/session/", method="PUT", file=scan, called=called)
    assert not list((server.work / "uploads").iterdir()), "nothing stays of what was uploaded"


def test_weights_are_checked_before_they_count(server: Server, bundles_dir: Path, tmp_path: Path):
    """Of another bundle, of no bundle, damaged, or not as they are described: those in use stay."""
    own, other = (bundles_dir / name / "models" / "model.pt" for name in NAMES)
    used = server.json("POST", f"{SCAN}&output=json", target="T2")["weights_sha256"]
    bad = {"noise.pt": b"noise", "half.pt": own.read_bytes()[:2000], "other.pt": other.read_bytes(), "x.zip": b"PK"}
    torch.save({"a": 1, "b": [object]}, tmp_path / "objects.pt")
    for called, content in {**bad, "objects.pt": (tmp_path / "objects.pt").read_bytes()}.items():
        (tmp_path / called).write_bytes(content)
        said = server.refused(f"/model/{MODEL}", method="PUT", file=tmp_path / called)
        assert "keeps those it has" in said and "weights_only" not in said, said
    state = torch.load(own, weights_only=True)
    torch.save({name: value + 1e-3 for name, value in state.items()}, tmp_path / "model.pt")
    description = json.loads(own.with_suffix(".json").read_text())
    for change, text in (({}, "has the sha256"), ({"sha256": "", "normalisation": "zscore"}, "")):
        with ZipFile(tmp_path / "model.zip", "w") as packed:
            packed.write(tmp_path / "model.pt", "model.pt")
            packed.writestr("model.json", json.dumps({**description, **change, "network": {"channels": [3]}}))
        assert text in server.refused(f"/model/{MODEL}", method="PUT", file=tmp_path / "model.zip")
    assert server.json("POST", f"{SCAN}&output=json", target="T2")["weights_sha256"] == used
    assert "this server has" in server.refused("/model/none", method="PUT", file=own)
    with ZipFile(tmp_path / "model.zip", "w") as packed:
        packed.write(tmp_path / "model.pt", "model/model.pt")
        packed.writestr("model/model.json", json.dumps({**description, "sha256": ""}))
    assert server.ask("PUT", f"/model/{MODEL}", file=tmp_path / "model.zip")[0] == 200
    assert server.json("POST", f"{SCAN}&output=json", target="T2")["weights_sha256"] != used
    status, content = server.ask("PUT", f"/model/{MODEL}", file=own)
    assert status == 200 and json.loads(content)["described"], "the bundle's own, by their sha256"
    assert sorted(path.name for path in (server.work / "weights" / MODEL).iterdir()) == ["model.json", "model.pt"]
    server.json("DELETE", f"/model/{MODEL}")
    assert server.json("POST", f"{SCAN}&output=json", target="T2")["weights_sha256"] == used


@pytest.mark.parametrize(
    ("ending", "dtype"), [(".nii", "float64"), (".nii.gz", "uint16"), (".nrrd", "float32"), ("nrrd", "int16")]
)
def test_the_client_s_format_and_type(server: Server, tmp_path: Path, ending: str, dtype: str):
    """The same voxels, but for rounding, on the same sheared grid."""
    plain = server.infer(MODEL, "phantom_003_T1", tmp_path, target="T2")
    wanted = {"result_extension": ending, "result_dtype": dtype}
    status, content = server.ask("POST", f"{SCAN}&output=image", target="T2", **wanted)
    ending = f".{ending.lstrip('.')}"
    assert status == 200 and f'{ending}"' in server.headers["content-disposition"]
    (tmp_path / f"made{ending}").write_bytes(content)
    if ending == ".nrrd":
        voxels, affine = read_nrrd(content)
    else:
        image = nib.load(tmp_path / f"made{ending}")
        voxels, affine = np.asanyarray(image.dataobj), image.affine[:3]
        assert image.header["scl_slope"] in (1, None) or np.isnan(image.header["scl_slope"])
    assert voxels.dtype == dtype and np.allclose(affine, plain.affine[:3], atol=1e-6)
    assert np.abs(voxels - plain.get_fdata()).max() <= (0.5 if voxels.dtype.kind in "iu" else 0)


def test_dicom_out_needs_dicom_in(server: Server):
    said = server.refused(SCAN, target="T2", result_extension=".dcm.zip")
    assert "was not made by `mri-contrast prepare`" in said


def read_nrrd(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Voxels, and their affine without its last row."""
    head, _, data = content.partition(b"\n\n")
    fields = dict(re.findall(r"^([\w ]+): (.*)$", head.decode(), re.M))
    assert (fields["space"], fields["endian"]) == ("right-anterior-superior", "little")
    vectors = re.findall(r"\(([^)]*)\)", fields["space directions"] + fields["space origin"])
    affine = np.array([[float(number) for number in vector.split(",")] for vector in vectors]).T
    kind = {"float": "<f4", "int16": "<i2", "short": "<i2"}[fields["type"]]
    return np.frombuffer(gzip.decompress(data), kind).reshape(
        [int(n) for n in fields["sizes"].split()], order="F"
    ), affine


def test_no_format_is_guessed(server: Server):
    for option, value in (("result_extension", ".png"), ("result_extension", [1]), ("result_dtype", "object")):
        assert option in server.refused(f"{SCAN}&output=image", target="T2", **{option: value})


def test_a_type_without_room_is_refused(tmp_path: Path):
    results = pytest.importorskip("label_app.results")
    for high, dtype in ((300, "uint8"), (40000, "int16"), (1.0, "uint16")):
        image = np.linspace(0, high, 64, dtype=np.float32).reshape(4, 4, 4)
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "a.nii.gz")
        with pytest.raises(ValueError, match=f"is {dtype}, from .* the image goes from 0 to {high:g}: ask for float32"):
            results.Format.of({"result_dtype": dtype}).write(tmp_path / "a.nii.gz")
        assert not list(tmp_path.iterdir())


def test_no_answer_tells_where_files_lie(server: Server):
    """Headers, sidecars, tasks with their log, the log itself and the data store's list."""
    server.json("POST", f"/batch/infer/{MODEL}", {"target": "T2"})
    server.wait("/batch/infer")
    roots = [str(folder).encode() for folder in (server.studies, server.work, ROOT, Path.home(), server.studies.parent)]
    asked = [("GET", path) for path in ("/info/", "/datastore/?output=all", "/datastore/?output=train", "/batch/infer")]
    asked += [("GET", "/datastore/image/info?image=phantom_003_T1"), ("GET", "/logs/?html=false&lines=5000")]
    asked += [("GET", "/datastore/image?image=phantom_003_T1"), ("POST", "/activelearning/random")]
    for method, path in asked:
        status, content = server.ask(method, path)
        assert status == 200 and content
        said = content + str(server.headers).encode()
        assert not [root for root in roots if root in said], (path, said[:2000])
    for output in ("json", "all", "image"):
        status, content = server.ask("POST", f"{SCAN}&output={output}", target="T2")
        assert status == 200 and not [root for root in roots if root in content + str(server.headers).encode()]


def test_a_path_is_shown_below_its_folder():
    told = pytest.importorskip("label_app.told")
    text = 'No /data/studies/s/a.nii in "/data/studies"; see /usr/x/y.py, GET /datastore/?x and http://usr/usr/a/b.'
    shown = told.without_paths(text, ["/data/studies", "/data/studies/", "/"])
    assert shown == 'No s/a.nii in ""; see y.py, GET /datastore/?x and http://usr/usr/a/b.'


def test_a_port_in_use_is_told_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = ["bash", str(ROOT / "ci" / "label"), str(ROOT), "--port", str(port)]
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, env={**os.environ, "PATH": "/bin"})
    assert said.returncode == 1 and said.stdout == ""
    assert said.stderr.startswith(f"Port {port} of 127.0.0.1 is in use") and said.stderr.count("\n") == 1
