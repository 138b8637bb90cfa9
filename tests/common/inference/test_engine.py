"""One bad subject never stops the others, and the exit says which it was and why."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from mri_seq2seq.common.files import DiskFull, NotWritten

from common import files
from common.data.subjects import read_subjects


@pytest.fixture
def folder(phantom_dir: Path, tmp_path: Path) -> Path:
    """The phantom's subjects without FLAIR: the first and the last are good."""
    subjects = read_subjects(phantom_dir)
    entries = [entry for split in ("training", "validation", "test") for entry in subjects[split]]
    for entry in entries:
        del entry["images"]["FLAIR"]
        for name, file in entry["images"].items():
            entry["images"][name] = str(shutil.copy(file, tmp_path / f"{entry['subject']}_{name}.nii.gz"))
    (tmp_path / "subjects.json").write_text(json.dumps({"sequences": subjects["sequences"], "test": entries}))
    return tmp_path


def spoil(file: Path, how: str) -> None:
    image = nib.load(file)
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:2000])
    elif how == "nan":
        nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), file)
    elif how == "grid":
        nib.save(nib.Nifti1Image(image.get_fdata()[1:], image.affine), file)
    elif how == "empty":
        nib.save(nib.Nifti1Image(np.zeros(image.shape), image.affine), file)
    else:
        file.unlink()


@pytest.mark.parametrize(
    "damage",
    [
        {"phantom_001": ("truncated", ""), "phantom_002": ("nan", "phantom_002_T2.nii.gz: 18000 voxels are NaN")},
        {"phantom_001": ("grid", "T2 and T1 lie on different grids"), "phantom_002": ("absent", "phantom_002_T2")},
        {"phantom_000": ("empty", "phantom_000_T2.nii.gz: every voxel is 0")},
    ],
    ids=["truncated and nan", "grid and absent", "empty"],
)
def test_bad_subjects_are_named_and_good_ones_written(workflow, tiny_weights: Path, folder: Path, damage: dict):
    for subject, (how, _) in damage.items():
        spoil(folder / f"{subject}_T2.nii.gz", how)
    out = folder / "out"
    inference = workflow("mri_seq2seq", "inference.json", dataset_dir=folder, output_dir=out, weights=tiny_weights)
    with pytest.raises(SystemExit, match=f"^{len(damage)} of 4 subjects failed:") as error:
        inference.run()
    lines = str(error.value).splitlines()
    for subject, (_, reason) in damage.items():
        assert any(line.startswith(f"  {subject}: ") and reason in line for line in lines), lines
    good = {f"phantom_{k:03d}" for k in range(4)} - damage.keys()
    assert {path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz")} == {
        f"{subject}/{subject}_FLAIR.nii.gz" for subject in good
    }
    assert not any(subject in str(error.value) for subject in good)


def test_a_network_that_fails_is_reported_too(workflow, tiny_weights: Path, folder: Path):
    settings = {"dataset_dir": folder, "output_dir": folder / "out", "weights": tiny_weights, "slab": 100}
    inference = workflow("mri_seq2seq", "inference.json", **settings)
    complete = inference.network_def.complete
    calls = []

    def failing(image, **options):
        calls.append(image)
        made = complete(image, **options)
        return made * np.nan if len(calls) == 2 else made

    inference.network_def.complete = failing
    with pytest.raises(SystemExit, match=r"^1 of 4 subjects failed:\n  phantom_001: .*FLAIR.nii.gz has NaN"):
        inference.run()
    written = {path.name for path in (folder / "out").rglob("*.*")}
    good = ("phantom_000", "phantom_002", "phantom_003")
    assert written == {f"{subject}{end}" for subject in good for end in ("_FLAIR.nii.gz", "_FLAIR.json", ".png")}


def test_good_subjects_end_without_an_exit(workflow, tiny_weights: Path, folder: Path):
    for _ in range(2):  # and what was written may be written again
        workflow(
            "mri_seq2seq", "inference.json", dataset_dir=folder, output_dir=folder / "out", weights=tiny_weights
        ).run()
    assert len(list((folder / "out").rglob("*.nii.gz"))) == 4


def inference(workflow, weights: Path, folder: Path, **options: Any) -> Any:
    settings = {"dataset_dir": folder, "output_dir": folder / "out", "weights": weights, **options}
    return workflow("mri_seq2seq", "inference.json", **settings).parser.get_parsed_content("evaluator")


def test_a_full_disk_ends_the_run_and_leaves_whole_pairs(workflow, tiny_weights: Path, folder: Path, monkeypatch):
    calls, save = [], nib.save

    def second_is_too_much(image: nib.Nifti1Image, path: Path) -> None:
        calls.append(path)
        save(image, path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nib, "save", second_is_too_much)
    with pytest.raises(SystemExit) as error:
        inference(workflow, tiny_weights, folder).run()
    path = folder / "out" / "phantom_001" / "phantom_001_FLAIR.nii.gz"
    first, second, last = str(error.value).splitlines()
    assert (first, last) == ("1 of 4 subjects failed:", "  2 more were not begun.") and len(calls) == 2
    assert second.startswith(f"  phantom_001: {path} is not written: No space left on device. Make room")
    assert sorted(path.name for path in (folder / "out").rglob("*.*")) == [
        f"phantom_000{end}" for end in (".png", "_FLAIR.json", "_FLAIR.nii.gz")
    ]


def test_too_little_room_is_known_before_the_first_subject(workflow, tiny_weights: Path, folder: Path, monkeypatch):
    """Four subjects of 25 x 30 x 24 voxels lack a sequence each."""
    needed, free = 4 * 25 * 30 * 24 * 4, [0]
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: files.shutil._ntuple_diskusage(1e9, 0, free[0]))
    free[0] = needed - 1
    with pytest.raises(DiskFull, match=r"output_dir .*/out has 0.29 MB free, but the images.*--output_dir"):
        inference(workflow, tiny_weights, folder).run()
    assert list((folder / "out").iterdir()) == []
    free[0] = needed
    inference(workflow, tiny_weights, folder).run()
    assert len(list((folder / "out").rglob("*.nii.gz"))) == 4


def test_an_output_dir_that_is_a_file(workflow, tiny_weights: Path, folder: Path):
    (folder / "out").touch()
    with pytest.raises(NotWritten, match=r"output_dir .*/out cannot be written to: it.* is a file. Pass another"):
        inference(workflow, tiny_weights, folder).run()


def test_out_of_memory_names_the_option_and_the_next_subject_is_tried(workflow, tiny_weights: Path, folder: Path):
    run = inference(workflow, tiny_weights, folder, slab=8)
    complete, calls = run.network.complete, []

    def first_is_too_much(image, **options):
        calls.append(image)
        return complete(image, **options) if len(calls) > 1 else torch.empty(2**60, dtype=torch.uint8)

    run.network.complete = first_is_too_much
    with pytest.raises(SystemExit, match=r"^1 of 4 .*\n  phantom_000: Out of memory \(.*: a smaller --slab than 8.$"):
        run.run()
    assert len(list((folder / "out").rglob("*.nii.gz"))) == 3
