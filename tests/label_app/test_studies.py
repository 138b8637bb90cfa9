"""Whose scans are in a folder."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.subjects import SPLITS, read_subjects
from common.preparing.native import record_of
from label_app.bundles import ServedBundle
from label_app.results import Format
from label_app.studies import Studies, unknown_image


def test_its_own_list(studies_dir: Path, tmp_path: Path):
    studies = Studies(studies_dir, tmp_path / "work")
    assert list(studies.entries) == [f"phantom_00{k}" for k in range(4)]
    assert len(studies.scans) == 15 and "phantom_002_FLAIR" not in studies.scans
    scan = studies.scans["phantom_003_T2"]
    assert scan[:2] == ("phantom_003", "T2") and studies.find(scan.file) == scan
    assert studies.find(str(studies_dir / "subjects.json")) is None
    assert not (tmp_path / "work").exists()


def test_a_folder_without_a_list(tmp_path: Path):
    """A known layout is found; the list goes to the work folder, and what lies there is no scan."""
    folder, work = tmp_path / "studies", tmp_path / "studies" / ".monailabel"
    for path in (folder / "BraTS2021_1" / "BraTS2021_1_t1.nii.gz", work / "labels" / "BraTS2021_1_flair.nii.gz"):
        path.parent.mkdir(parents=True)
        path.touch()
    studies = Studies(folder, work)
    assert list(studies.scans) == ["BraTS2021_1_T1"] and studies.list == work / "subjects.json"
    assert not (folder / "subjects.json").exists()
    (folder / "BraTS2021_1" / "BraTS2021_1_t2.nii.gz").touch()
    assert list(Studies(folder, work).scans) == ["BraTS2021_1_T1", "BraTS2021_1_T2"]
    for patient in range(2, 12):
        before = {split: {entry["subject"] for entry in studies.subjects[split]} for split in SPLITS}
        (folder / f"BraTS2021_{patient}").mkdir()
        (folder / f"BraTS2021_{patient}" / f"BraTS2021_{patient}_t1.nii.gz").touch()
        studies = Studies(folder, work)
        now = {split: {entry["subject"] for entry in studies.subjects[split]} for split in SPLITS}
        assert all(before[split] <= now[split] for split in SPLITS), "no one changes sides"
    assert [len(now[split]) for split in SPLITS] == [9, 1, 1]


def test_a_folder_without_scans(tmp_path: Path):
    with pytest.raises(ValueError, match=r"Nothing in .* fits .*pass --pattern"):
        Studies(tmp_path, tmp_path / "work")


def test_a_folder_of_dicom(tmp_path: Path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "IM0001").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ValueError, match=r"holds DICOM, such as series/IM0001\. (Convert .*dcm2niix|.*none is an MR)"):
        Studies(tmp_path, tmp_path / "work")


def test_a_list_of_one(studies_dir: Path, tmp_path: Path):
    studies = Studies(studies_dir, tmp_path / "work")
    path = studies.write_one({"subject": "upload", "images": {"PD": str(tmp_path / "x.nii")}}, tmp_path / "one.json")
    listed = read_subjects(path)
    assert [len(listed[split]) for split in ("training", "validation", "test")] == [0, 0, 1]
    assert listed["sequences"] == ["T1", "T1Gd", "T2", "FLAIR", "PD"]
    assert listed["test"][0]["images"] == {"PD": str(tmp_path / "x.nii")}


def test_an_unknown_image_says_which_there_are():
    assert "'x' in the studies. They have a, b;" in str(unknown_image("x", {"a": 1, "b": 2}))


def test_dicom_is_prepared_once(tmp_path: Path):
    pytest.importorskip("dcm2niix", reason="requirements-prepare.txt is not installed")
    pytest.importorskip("pydicom")
    _write_t1(tmp_path / "patient")
    studies = Studies(tmp_path, tmp_path / ".monailabel")
    assert studies.scans.keys() == {f"{tmp_path.name}_T1"}
    before = Path(studies.scans[f"{tmp_path.name}_T1"].file).stat().st_mtime_ns
    studies = Studies(tmp_path, tmp_path / ".monailabel")
    assert Path(studies.scans[f"{tmp_path.name}_T1"].file).stat().st_mtime_ns == before


def test_dicom_in_and_out(served: ServedBundle, tmp_path: Path):
    """An image that is asked for as DICOM is a series of the same study, where the source's slices are."""
    pytest.importorskip("dcm2niix", reason="requirements-prepare.txt is not installed")
    pydicom = pytest.importorskip("pydicom")
    [*sources] = map(pydicom.dcmread, _write_t1(tmp_path / "studies" / "patient"))
    studies = Studies(tmp_path / "studies", tmp_path / "work")
    [(subject, entry)] = studies.entries.items()
    form = Format.of({"result_extension": ".dcm.zip"})
    record = record_of(Path(entry["images"]["T1"]))
    archive = form.write_dicom(*served.synthesise(studies, entry, "T1", "T2"), record, "T1")
    assert archive.name.startswith(f"{subject}_T2_") and archive.name.endswith(".dcm.zip")
    assert list(archive.parent.glob(f"{subject}_T2_*")) == [archive], "nothing else is left"
    with zipfile.ZipFile(archive) as series:
        series.extractall(tmp_path / "made")
    archive.unlink()
    made = [pydicom.dcmread(path) for path in (tmp_path / "made").iterdir()]
    assert {each.StudyInstanceUID for each in made} == {each.StudyInstanceUID for each in sources}
    places = [sorted(tuple(each.ImagePositionPatient) for each in series) for series in (made, sources)]
    np.testing.assert_allclose(*places, atol=1e-4)
    assert {each.SeriesDescription for each in made} == {"T2 synthesised from T1"}
    assert max(each.pixel_array.max() for each in made) > 0


def _write_t1(folder: Path) -> list[Path]:
    from tests.common.preparing.conftest import _write_series

    places = np.stack(np.meshgrid(*(np.linspace(-1.3, 1.3, n) for n in (60, 70, 40)), indexing="ij"), -1)
    brain = (places**2).sum(-1) < 1
    image = nib.Nifti1Image((brain * 500).astype(np.int16), np.diag([-3.2, -3.2, 4.4, 1]))
    return _write_series(folder, image, 1, "T1")
