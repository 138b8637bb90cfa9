"""The table of docs/bad_inputs.md is what is answered. To write it anew:

PYTHONPATH=. python tests/common/data/test_bad_inputs.py
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from common.data.check import check_subjects
from common.data.loading import LoadSubject
from common.data.subjects import subject_items, write_subjects

TABLE = Path(__file__).parents[3] / "docs" / "bad_inputs.md"
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
HEAD = """# What bad input is answered with

`check` finds these before a training; training, inference and evaluation refuse what it calls an error of a file or its
grid, so that nothing is made from it. Inference goes on with the other subjects and ends with status 1. Subject P0 has
a good T1; its T2 is bad in one way each.

With a network's weights (`check --weights FILE`) two more warnings are possible. WRONG_NAME: by other names the images
predict each other better. OTHER_PERSON: an image agrees with none of two or more others. Five real scans of four people
under all wrong names: 110 of 115 namings were found by the weights that come with mri_seq2seq, and T1 was not told from
T1Gd in the other five. Of 16 images of another person 15 were found. No right name or person was doubted. The weights
have seen these people, and the limits were chosen on them, so others may do worse; `.venv/bin/python -m
ci.measure_agreement LIST WEIGHTS` measures it on yours. A subject with an error is not compared.

| the T2 | `check` | loading |
|---|---|---|
"""


def good() -> np.ndarray:
    """A head of 16 x 18 x 14 voxels, float32."""
    voxels = np.zeros((16, 18, 14), np.float32)
    voxels[3:-3, 3:-3, 2:-2] = np.random.default_rng(1).uniform(100, 1000, (10, 12, 10))
    return voxels


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE, sform: int = 1, qform: int = 0) -> None:
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    nib.save(image, path)


def header(path: Path, place: int, kind: str, *values: float) -> None:
    """Writes a header's bytes of the file anew."""
    save(path, good())
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(kind, content, place, *values)
    path.write_bytes(gzip.compress(bytes(content)))


def turned(path: Path) -> None:
    image = nib.Nifti1Image(good(), AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(np.diag([-1.0, -1.0, 2.0, 1.0]), 1)
    nib.save(image, path)


def cut(path: Path, length: int) -> None:
    save(path, good())
    path.write_bytes(path.read_bytes()[:length])


def checksum(path: Path) -> None:
    save(path, good())
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(bytes(content))


def misnamed(path: Path) -> None:
    save(path.with_name("T2.nii"), good())
    path.with_name("T2.nii").rename(path)


def half(path: Path) -> None:
    voxels = good()
    voxels[..., :7] = 0
    save(path, voxels)


def z_scored() -> np.ndarray:
    voxels = good()
    inside = voxels > 0
    voxels[inside] = (voxels[inside] - voxels[inside].mean()) / voxels[inside].std()
    return voxels


def with_skull(path: Path) -> None:
    """Both images of a whole head, 4 mm: scalp, bone and brain in ellipsoids."""
    axes = np.meshgrid(*(4.0 * (np.arange(size) - size / 2) for size in (46, 54, 46)), indexing="ij")
    inside = np.sqrt(sum((axis / radius) ** 2 for axis, radius in zip(axes, (82, 98, 82), strict=True)))
    head = np.select([inside < 0.82, inside < 0.93, inside < 1], [600, 10, 900], 0).astype(np.float32)
    noise = np.random.default_rng(2).uniform(0.8, 1.2, (2, *head.shape)).astype(np.float32)
    for name, each in zip(("T1.nii.gz", path.name), noise, strict=True):
        save(path.with_name(name), head * each, np.diag([4.0, 4.0, 4.0, 1.0]))


CASES: dict[str, Callable[[Path], None]] = {
    "is not there": lambda path: None,
    "is empty": lambda path: path.write_bytes(b""),
    "is a web page": lambda path: path.write_text("<html>Please log in</html>" * 20),
    "is a pointer of git-lfs": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    ),
    "is cut off": lambda path: cut(path, 3000),
    "has a wrong checksum": checksum,
    "is `.nii`, called `.nii.gz`": misnamed,
    "claims 30000 x 30000 x 30000 voxels": lambda path: header(path, 42, "<3h", 30000, 30000, 30000),
    "is one slice": lambda path: save(path, good()[..., 7]),
    "is a series": lambda path: save(path, good()[..., None].repeat(3, -1)),
    "is complex": lambda path: save(path, good().astype(np.complex64)),
    "has NaN": lambda path: save(path, np.where(good() > 900, np.nan, good())),
    "is one value": lambda path: save(path, np.full_like(good(), 7)),
    "has a background of 10": lambda path: save(path, good() + 10),
    "is z-scored": lambda path: save(path, z_scored()),
    "covers half": half,
    "has a voxel of 1e6": lambda path: save(path, np.where(np.arange(4032).reshape(16, 18, 14) == 2142, 1e6, good())),
    "has its skull, as the T1 has": with_skull,
    "has a sidecar with ms in place of s": lambda path: (
        save(path, good()),
        path.with_name("T2.json").write_text('{"RepetitionTime": 4000, "EchoTime": 100}'),
    ),
    "is shifted": lambda path: save(path, np.roll(good(), 2, 1)),
    "has neither sform nor qform": lambda path: save(path, good(), sform=0),
    "has sform and qform in two places": turned,
    "has an affine of zeros": lambda path: header(path, 280, "<12f", *[0.0] * 12),
    "has NaN in its affine": lambda path: header(path, 280, "<f", np.nan),
    "has other voxels": lambda path: save(path, good()[::2], AFFINE @ np.diag([2.0, 1, 1, 1])),
    "lies 1 m away": lambda path: save(path, good(), AFFINE + np.eye(4, k=3) * 1000),
    "is the T1 again": lambda path: path.write_bytes(path.with_name("T1.nii.gz").read_bytes()),
}


def answers(folder: Path, spoil: Callable[[Path], None]) -> tuple[str, str]:
    """What `check` and loading say, without the folder."""
    (folder / "P0").mkdir()
    save(folder / "P0" / "T1.nii.gz", good() * np.float32(1.5) + np.float32(50) * (good() > 0))
    spoil(folder / "P0" / "T2.nii.gz")
    images = {name: f"P0/{name}.nii.gz" for name in ("T1", "T2")}
    write_subjects(folder / "subjects.json", {"sequences": ["T1", "T2"], "test": [{"subject": "P0", "images": images}]})
    with contextlib.redirect_stdout(io.StringIO()):
        findings = check_subjects(folder)
    heard, stream = logging.getLogger("common.data.loading"), io.StringIO()
    heard.addHandler(handler := logging.StreamHandler(stream))
    try:
        LoadSubject(["T1", "T2"])(*subject_items(folder, "test", ["T1", "T2"]))
        said = f"warns: {' '.join(stream.getvalue().split())}" if stream.getvalue() else "loads"
    except ValueError as error:
        said = f"refuses: {error}"
    finally:
        heard.removeHandler(handler)
    found = "; ".join(f"{each.severity} {each.code}" for each in findings)
    return found, said.replace(f"{folder}/", "").replace("|", "\\|")


def table() -> str:
    rows = []
    for name, spoil in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append("| " + " | ".join((name, *answers(Path(folder).resolve(), spoil))) + " |\n")
    return HEAD + "".join(rows)


def test_the_table_is_what_is_answered():
    assert TABLE.read_text(encoding="utf-8") == table()


if __name__ == "__main__":
    sys.exit(TABLE.write_text(table(), encoding="utf-8") and None)
