"""Damaged headers and files: each is answered soon, in little memory, by a finding or an error that names the file."""

from __future__ import annotations

import gzip
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.check import check_subjects
from common.data.images import ERROR
from common.data.loading import LoadSubject
from common.data.subjects import write_subjects

COUNT, SECONDS, BYTES = 300, 10, 2**30
HEADER = 352


def damaged(seed: int, whole: bytes) -> bytes:
    """A NIfTI file, gzipped or not, with a few bytes or fields of it changed."""
    rng = np.random.default_rng(seed)
    content = bytearray(whole)
    how = seed % 4
    if how == 0:  # any bytes of the header
        for place in rng.integers(0, HEADER, rng.integers(1, 6)):
            content[place] = rng.integers(256)
    elif how == 1:  # the fields that say how large it is, how it is stored and where it lies
        fields = [(40, 2, 8), (56, 4, 3), (70, 2, 2), (76, 4, 8), (108, 4, 3), (252, 2, 2), (256, 4, 6), (280, 4, 12)]
        for _ in range(rng.integers(1, 4)):
            start, width, count = fields[rng.integers(len(fields))]
            place = start + width * int(rng.integers(count))
            extremes = [b"\xff\x7f\xff\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\xff" * 4, b"\x00" * 4]
            content[place : place + width] = extremes[rng.integers(len(extremes))][-width:]
    elif how == 2:  # an end that is missing
        del content[rng.integers(1, len(content)) :]
    packed = bytearray(gzip.compress(bytes(content), mtime=0))
    if how == 3:  # the archive itself
        for place in rng.integers(0, len(packed), rng.integers(1, 4)):
            packed[place] ^= 1 << int(rng.integers(8))
    return bytes(packed)


def answer(folder: Path) -> None:
    """In a process of its own, by which memory can be measured: all files checked and loaded."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = []
    for file in sorted(folder.glob("*/T1.nii.gz")):
        start, name = time.monotonic(), file.parent.name
        write_subjects(folder / "subjects.json", {"sequences": ["T1"], "test": [entry(name)]})
        found = check_subjects(folder)
        assert all(finding.subject == name and finding.file == f"{name}/T1.nii.gz" for finding in found)
        refused = {finding.code for finding in found if finding.severity == ERROR}
        try:
            image = LoadSubject(["T1"])({"subject": name, "images": {"T1": str(file)}})["image"]
            assert not refused, f"{file} was loaded, although check found {refused}"
            assert np.isfinite(image.numpy()).all() and np.abs(np.linalg.det(image.affine.numpy())) > 0
        except ValueError as error:
            assert str(file) in str(error) and name in str(error)
            assert refused, f"check found nothing in {file}: {error}"
        took = time.monotonic() - start
        assert took < SECONDS, f"{file} took {took:.1f} s"
        said.append(bool(refused))
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < BYTES, f"{grown / 2**20:.0f} MiB"
    assert 0.3 < np.mean(said) < 1, "some of the damage does no harm"


def entry(name: str) -> dict:
    return {"subject": name, "images": {"T1": f"{name}/T1.nii.gz"}}


@pytest.mark.full
def test_damaged_files_are_answered(tmp_path: Path, pytestconfig: pytest.Config):
    voxels = np.zeros((24, 20, 16), np.float32)
    voxels[4:-4, 4:-4, 3:-3] = np.random.default_rng(0).uniform(1, 100, (16, 12, 10))
    image = nib.Nifti1Image(voxels, np.diag([1.0, 1, 2, 1]))
    image.set_qform(image.affine, 1)
    whole = image.to_bytes()
    for seed in range(COUNT):
        (tmp_path / f"s{seed:03d}").mkdir()
        (tmp_path / f"s{seed:03d}" / "T1.nii.gz").write_bytes(damaged(seed, whole))
    environment = {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)}
    done = subprocess.run([sys.executable, __file__, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == "__main__":
    answer(Path(sys.argv[1]))
