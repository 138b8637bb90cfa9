"""What the public zoo demands of every bundle, and that each check sees what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from ci import verify as module
from ci.verify import CHECKS, Bundle, bundles, main, selected, touched, verify

NAMES = sorted(bundles())
RIVALS = ("mri_resvit", "mri_wavelet_flow", "mri_mmgan", "mri_pgan", "mri_cyclegan")
EACH = [pytest.param(name, marks=pytest.mark.full) if name in RIVALS else name for name in NAMES]


@pytest.mark.parametrize("name", EACH)
def test_every_bundle_passes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert verify(Bundle(bundles()[name], tmp_path)) == []
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split()[:3] for line in lines if line.startswith(("ok", "FAIL"))]
    assert shown == [["ok", name, check] for check in CHECKS]


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(sys, "path", [str(bundles()["mri_seq2seq"]), *sys.path])  # other tests import the original
    shutil.copytree(
        bundles()["mri_seq2seq"], tmp_path / "mri_seq2seq", ignore=shutil.ignore_patterns("__pycache__", "models")
    )
    (tmp_path / "scratch").mkdir()
    return Bundle(tmp_path / "mri_seq2seq", tmp_path / "scratch")


def change(bundle: Bundle, name: str, /, **values: Any) -> None:
    bundle.file(name).write_text(json.dumps({**bundle.config(name), **values}))


def test_what_is_wrong_is_said(copied: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    simple = ("files", "licence", "metadata", "version")
    monkeypatch.setattr(module, "CHECKS", {name: CHECKS[name] for name in simple})
    assert verify(copied) == []
    (copied.folder / "LICENSE").write_text("Mine.")
    (copied.folder / "docs" / "scan.nii").write_bytes(bytes(26 * 2**20))
    change(copied, "metadata", version="0.2.0", task=7)
    failed = dict(line.split(": ", 1) for line in verify(copied))
    assert list(failed) == list(simple)
    assert "docs/scan.nii (26 MiB): larger than 25 MiB" in failed["files"]
    assert "copy that" in failed["licence"]
    assert "task: 7 is not of type 'string'" in failed["metadata"]
    assert "version is 0.2.0, the changelog's newest 0.1.0" in failed["version"]
    assert capsys.readouterr().out.count("FAIL") == 4


def test_other_faults(copied: Bundle):
    copied.file("small").unlink()
    with pytest.raises(ValueError, match=r"configs/small.json: no such file"):
        CHECKS["files"](copied)
    change(copied, "metadata", changelog={"0.9.0": "", "0.10.0": ""}, version="0.10.0", monai_version="1.5.0")
    with pytest.raises(ValueError, match=r"monai 1.5.0: not the version in ci/constraints.txt"):
        CHECKS["version"](copied)
    (copied.folder / "models").mkdir()
    (copied.folder / "models" / "model.pt").touch()
    assert CHECKS["weights"](copied).startswith("your own")
    (copied.folder / "models" / "model.json").write_text(json.dumps({"sha256": "0"}))
    with pytest.raises(ValueError, match=r"has the sha256 .* but .* says 0"):
        CHECKS["weights"](copied)


def test_a_network_that_gives_what_metadata_does_not_say(copied: Bundle):
    metadata = copied.config("metadata")
    metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 3
    change(copied, "metadata", **metadata)
    with pytest.raises(ValueError, match=r"output channel number `4` doesn't match: `3`"):
        CHECKS["network"](copied)


def test_what_has_changed_selects():
    assert selected(["bundles/mri_crl/configs/train.json", "README.md"], NAMES) == ["mri_crl"]
    assert selected(["README.md", "tests/common/test_options.py", "label_app/main.py"], NAMES) == []
    assert selected(["common/data/check.py"], NAMES) == NAMES == selected(["requirements.txt"], NAMES)


def test_bad_requests(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="There is no bundle mri_none; there are: mri_aldm, mri_crl"):
        main("mri_none")
    with pytest.raises(ValueError, match=r"--changed no-such-revision: .* Name a commit, a branch or a tag"):
        touched("no-such-revision", NAMES)


def test_a_failure_is_the_exit_status(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "verify", lambda bundle: ["files: none"])
    with pytest.raises(SystemExit, match=r"2 checks failed, of mri_aldm, mri_crl"):
        main("mri_crl", "mri_aldm")
