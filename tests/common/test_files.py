"""Files are whole or not there, whatever the disk does; folders are looked at before there is anything to lose."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import files
from common.files import HOST, DiskFull, NotWritten, prepare_folder, replacing, write_text

FINISHED = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
DEAD = int(FINISHED.stdout)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_old_file_or_the_new_one(tmp_path: Path):
    path = tmp_path / "a" / "b.json"
    write_text(path, "one\r\n")
    with replacing(path) as partial:
        assert partial.parent == path.parent and partial.suffix == ".json"
        partial.write_text("two")
        assert path.read_bytes() == b"one\r\n"
    assert path.read_text() == "two" and names(path.parent) == ["b.json"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_nothing_stays_of_what_failed(tmp_path: Path, error: BaseException):
    write_text(tmp_path / "a.json", "old")

    def write() -> None:
        with replacing(tmp_path / "a.json") as partial:
            partial.write_text("ne")
            raise error

    with pytest.raises(DiskFull if isinstance(error, OSError) else type(error)) as caught:
        write()
    assert names(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_text() == "old"
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f"{tmp_path / 'a.json'} is not written: No space left on device. Make room")


def test_of_two_files_that_belong_together_neither_is_replaced_alone(tmp_path: Path):
    def write() -> None:
        with replacing(tmp_path / "model.pt") as weights:
            weights.write_text("weights")
            with replacing(tmp_path / "model.json") as description:
                description.write_text("{")
                raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with pytest.raises(DiskFull, match=r"model.json is not written: Disk quota exceeded"):
        write()
    assert names(tmp_path) == []


LIMITED = """
import resource, signal, sys
from pathlib import Path
import nibabel as nib, numpy as np, torch
from common.files import DiskFull, replacing
from common.training.checkpoints import save_atomically
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
folder = Path(sys.argv[1])
noise = np.random.default_rng(0).random((60, 60, 60), dtype=np.float32)
def image():
    with replacing(folder / "image.nii.gz") as partial:
        nib.save(nib.Nifti1Image(noise, np.eye(4)), partial)
def volumes():
    with replacing(folder / "volumes.npz") as partial:
        np.savez_compressed(partial, noise=noise)
for write in (lambda: save_atomically({"a": torch.zeros(100_000)}, folder / "last.pt"), image, volumes):
    try:
        write()
    except DiskFull as error:
        print(error)
"""


def test_a_disk_that_is_full_in_the_middle(tmp_path: Path):
    """Of weights, images and volumes, as each library meets it; here by a limit of the system's on a file's size."""
    pytest.importorskip("resource")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert [line.split(" is not written")[0] for line in done.stdout.splitlines()] == [
        str(tmp_path / name) for name in ("last.pt", "image.nii.gz", "volumes.npz")
    ], done.stderr
    assert "weights_only" not in done.stdout and names(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="there a process cannot be asked whether it runs")
def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_stay(tmp_path: Path):
    dead = [f".{DEAD}@{HOST}.model.pt", f".{DEAD}.sub-1_T1.nii.gz", f".{DEAD}@elsewhere.old.json"]
    alive = [f".{os.getpid()}@{HOST}.other.pt", f".{os.getppid()}.b.json", f".{DEAD}@elsewhere.new.json"]
    others = [f".{DEAD}", ".2021.notes", f".{DEAD}.folder.json", "model.pt", ".hidden.json"]
    for name in (*dead, *alive, *others):
        (tmp_path / name).mkdir() if name.endswith("folder.json") else (tmp_path / name).touch()
    os.utime(tmp_path / dead[2], (time.time() - 2 * files.DAY,) * 2)
    write_text(tmp_path / "scores.json", "{}")
    assert names(tmp_path) == sorted([*alive, *others, "scores.json"])


def test_a_folder_is_made_and_cleared_with_those_in_it(tmp_path: Path):
    subject = tmp_path / "out" / "sub-1"
    subject.mkdir(parents=True)
    (subject / f".{DEAD}.sub-1_T1.nii.gz").touch()
    prepare_folder(tmp_path / "out", "output_dir")
    assert names(tmp_path / "out") == ["sub-1"] and names(subject) == []
    prepare_folder(tmp_path / "a" / "b", "output_dir")
    assert names(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("below", ["", "/models"])
def test_a_file_in_place_of_a_folder(tmp_path: Path, below: str):
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match=rf"ckpt_dir .*/file{below} cannot be .* is a file.*another --ckpt_dir"):
        prepare_folder(f"{tmp_path}/file{below}", "ckpt_dir")


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(**_: object) -> None:  # permissions do not hold root back
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(NotWritten, match=r"output_dir .*: Read-only file system. Pass another --output_dir"):
        prepare_folder(tmp_path, "output_dir")


def test_too_little_room_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: files.shutil._ntuple_diskusage(9e9, 8e9, 1e9))
    prepare_folder(tmp_path, "ckpt_dir", 0.99e9, "model.pt and last.pt")
    with pytest.raises(DiskFull, match=r"ckpt_dir .* has 1.00 GB free, but model.pt and last.pt may need 1.86 GB"):
        prepare_folder(tmp_path, "ckpt_dir", 1.86e9, "model.pt and last.pt")


DAMAGED = {
    "empty": b"",
    "git lfs pull": b"version https://git-lfs.github.com/spec/v1",
    "web page": b"\n<!DOCTYPE html>",
    "": b"PK\x03\x04",
}


@pytest.mark.parametrize(("said", "content"), DAMAGED.items())
def test_what_a_damaged_file_is(tmp_path: Path, said: str, content: bytes):
    (tmp_path / "file").write_bytes(content)
    found = files.what_it_is(tmp_path / "file")
    assert said in found and bool(found) == bool(said)
