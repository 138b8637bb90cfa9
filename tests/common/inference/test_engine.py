"""One bad subject never stops the others, and the exit says which it was and why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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
    inference = workflow("mri_seq2seq", "inference.json", dataset_dir=folder, output_dir=out, ckpt_path=tiny_weights)
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
    settings = {"dataset_dir": folder, "output_dir": folder / "out", "ckpt_path": tiny_weights, "slab": 100}
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
    assert written == {f"{subject}_FLAIR{end}" for subject in good for end in (".nii.gz", ".json")}


def test_good_subjects_end_without_an_exit(workflow, tiny_weights: Path, folder: Path):
    for _ in range(2):  # and what was written may be written again
        workflow(
            "mri_seq2seq", "inference.json", dataset_dir=folder, output_dir=folder / "out", ckpt_path=tiny_weights
        ).run()
    assert len(list((folder / "out").rglob("*.nii.gz"))) == 4
