"""`run inference` and `run encode` on a folder without a subject list."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import pytest

from common.data.subjects import read_subjects

NAMES = ("T1", "T2")


def message(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error)


@pytest.fixture
def scans(phantom_dir: Path, tmp_path: Path) -> Path:
    """Two subjects with T1 and T2 each, and no list."""
    subjects = read_subjects(phantom_dir)
    for entry in subjects["training"][:2]:
        folder = tmp_path / "scans" / entry["subject"]
        folder.mkdir(parents=True)
        for name in NAMES:
            shutil.copyfile(entry["images"][name], folder / f"{name}.nii.gz")
    return tmp_path / "scans"


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("bundle", ["mri_seq2seq", "mri_vq_seq2seq"])
def test_a_folder_is_completed_without_a_list(workflow, weights_of, scans: Path, tmp_path: Path, bundle: str, caplog):
    before = everything(scans)
    options = {"dataset_dir": scans, "weights": weights_of(bundle), "output_dir": tmp_path / "out"}
    with caplog.at_level("INFO"):
        workflow(bundle, "inference.json", **options).run()
    [said] = [line for line in caplog.messages if "Without a list" in line]
    assert "2 subjects" in said and "T1 from phantom_000/T1.nii.gz, T2 from phantom_000/T2.nii.gz" in said
    assert everything(scans) == before, "nothing is written into it"
    made = {path.name for path in (tmp_path / "out").rglob("*.nii.gz")}
    assert made == {f"phantom_00{k}_{name}.nii.gz" for k in (0, 1) for name in ("T1Gd", "FLAIR")}
    if bundle == "mri_vq_seq2seq":
        workflow(bundle, "inference.json", "encode.json", **{**options, "output_dir": tmp_path / "latents"}).run()
        assert len(list((tmp_path / "latents").rglob("*_latent.nii.gz"))) == 2


def test_made_images_are_never_taken_for_acquired_ones(workflow, tiny_weights: Path, scans: Path, tmp_path: Path):
    """Completed into the very folder, and once more."""
    options = {"dataset_dir": scans, "weights": tiny_weights, "pattern": "{subject}/*{sequence}.nii.gz"}
    workflow("mri_seq2seq", "inference.json", output_dir=scans, **options).run()
    first = {path: path.read_bytes() for path in scans.rglob("*FLAIR.nii.gz")}
    assert len(first) == 2 and all(nib.load(path).header["descrip"].item() == b"synthesised" for path in first)
    with pytest.warns(UserWarning, match="4 files were made by a network and are left out"):
        workflow("mri_seq2seq", "inference.json", output_dir=tmp_path / "again", **options).run()
    (scans / "derivatives").mkdir()
    shutil.copyfile(next(iter(first)), scans / "derivatives" / "BraTS2021_00001_flair.nii.gz")
    shutil.copyfile(scans / "phantom_000" / "T1.nii.gz", scans / "phantom_000" / "mask.nii.gz")
    options.pop("pattern")
    workflow("mri_seq2seq", "inference.json", output_dir=tmp_path / "third", **options).run()
    again = {path.name for path in (tmp_path / "again").rglob("*.nii.gz")}
    assert again == {path.name for path in scans.rglob("phantom*.nii.gz")}


@pytest.mark.parametrize(
    ("more", "options", "text"),
    [
        (["sub-1/anat/sub-1_T1w.nii.gz"], {}, "fit several layouts: bids (sub-1/anat/sub-1_T1w.nii.gz); the pattern"),
        (["phantom_000/t1w.nii.gz"], {}, "1 files are a sequence that their subject already has"),
        ([], {"pattern": "{subject}_{sequence}.nii"}, "Nothing in"),
        ([], {"split": "test"}, "are in no split 'test'"),
    ],
    ids=["several layouts", "twice", "nothing fits", "split"],
)
def test_what_is_not_clear_is_asked(
    workflow, tiny_weights: Path, scans: Path, tmp_path: Path, more: list[str], options: dict, text: str
):
    for name in more:
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(scans / "phantom_000" / "T1.nii.gz", scans / name)
    settings = {"dataset_dir": scans, "weights": tiny_weights, "output_dir": tmp_path / "out", **options}
    with pytest.raises(RuntimeError) as error:
        workflow("mri_seq2seq", "inference.json", **settings).run()
    said = message(error.value)
    assert text in said and ("--pattern" in said or "--split" in said) and not (tmp_path / "out").exists()


def test_a_training_still_needs_a_list(workflow, scans: Path, tmp_path: Path):
    with pytest.raises(RuntimeError) as error:
        workflow("mri_seq2seq", "train.json", dataset_dir=scans, ckpt_dir=tmp_path, output_dir=tmp_path).run()
    assert "No subject list" in message(error.value)


def test_pattern_and_list_are_not_given_together(workflow, tiny_weights: Path, scans: Path, tmp_path: Path):
    settings = {"dataset_dir": scans, "weights": tiny_weights, "output_dir": tmp_path / "out"}
    both = {"pattern": "{subject}/{sequence}.nii.gz", "subject_list": tmp_path / "mine.json"}
    with pytest.raises(RuntimeError) as error:
        workflow("mri_seq2seq", "inference.json", **settings, **both).run()
    assert "give one of them" in message(error.value)


def test_a_folder_of_dicom_is_told_to_be_converted(workflow, tiny_weights: Path, tmp_path: Path):
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "IM0001").write_bytes(bytes(200))
    with pytest.raises(RuntimeError) as error:
        workflow("mri_seq2seq", "inference.json", dataset_dir=tmp_path / "dicom", weights=tiny_weights).run()
    assert "dcm2niix" in message(error.value)


def test_settings_are_found_by_their_names(crl, crl_weights: Path, fse_dir: Path, tmp_path: Path):
    """A network of other sequences knows their names."""
    for name in ("FSE1", "FSE9"):
        (tmp_path / "scans" / "A").mkdir(parents=True, exist_ok=True)
        source = fse_dir / "phantom_003" / f"phantom_003_{name}.nii.gz"
        shutil.copyfile(source, tmp_path / "scans" / "A" / f"{name}.nii.gz")
    options = {"dataset_dir": tmp_path / "scans", "weights": crl_weights, "output_dir": tmp_path / "out", "steps": 2}
    crl("inference.json", "sweep.json", **options).run()
    assert (tmp_path / "out" / "A" / "A_sweep_TI.nii.gz").exists()
