"""Sessions become registered images without skull, and what was decided stands beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from scipy.ndimage import binary_erosion
from scipy.spatial.transform import Rotation

from common.data.check import check_subjects
from common.data.subjects import read_subjects
from common.preparing.grids import read_itk, regridded
from common.preparing.prepare import prepare

MASKS = "{sequence}_mask.nii.gz"
Head = Callable[..., tuple[nib.Nifti1Image, np.ndarray]]


def save(folder: Path, name: str, image: nib.Nifti1Image, brain: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(image, folder / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(brain.astype(np.uint8), image.affine), folder / f"{name}_mask.nii.gz")


@pytest.fixture
def raw(head: Head, tmp_path: Path) -> Path:
    """A session of two sequences that lie right by their headers, on two grids."""
    save(tmp_path / "raw", "T1", *head("T1", (2, 2, 4)))
    save(tmp_path / "raw", "FLAIR", *head("FLAIR", (3, 3, 5), turn=-6))
    return tmp_path / "raw"


def record(out: Path, subject: str = "raw") -> dict:
    return json.loads((out / subject / "preparation.json").read_text())


def test_a_session_that_lies_right(raw: Path, anatomy: Callable, tmp_path: Path, capsys: pytest.CaptureFixture):
    listed = prepare(raw, tmp_path / "out", masks=MASKS)
    told = record(tmp_path / "out")
    assert told["reference"] == "T1" and told["warnings"] == []
    assert told["images"]["FLAIR"]["registration"]["kept"] == "headers" and told["lowest_dice"] > 0.95
    assert told["images"]["T1"]["brain_ml"] == pytest.approx(1296, rel=0.02)
    t1, flair, brain = (nib.load(tmp_path / "out" / "raw" / f"{name}.nii.gz") for name in ("T1", "FLAIR", "brain_mask"))
    original = nib.load(raw / "T1.nii.gz")
    inside = np.asarray(brain.dataobj) > 0
    assert np.allclose(t1.affine, original.affine) and not t1.get_fdata()[~inside].any()
    assert np.array_equal(t1.get_fdata()[inside], original.get_fdata()[inside])  # the reference is not resampled
    deep = binary_erosion(inside, iterations=3)  # not beside air
    at = apply_affine(brain.affine, np.argwhere(deep))
    assert np.corrcoef(flair.get_fdata()[deep], anatomy(at))[0, 1] > 0.9
    assert [each.severity for each in check_subjects(listed)] == []
    page = (tmp_path / "out" / "index.html").read_text()
    assert "FLAIR" in page and "data:image/jpeg" in page and "1 subjects" in capsys.readouterr().out
    assert (tmp_path / "out" / "raw" / "preparation.png").stat().st_size > 10_000


def test_a_patient_who_moved(raw: Path, head: Head, tmp_path: Path):
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("xyz", [4, -3, 5], degrees=True).as_matrix()
    move[:3, 3] = [5, -7, 4]
    save(raw, "FLAIR", *head("FLAIR", (3, 3, 5), turn=-6, move=move))
    prepare(raw, tmp_path / "out", masks=MASKS, spacing=3)
    told = record(tmp_path / "out")["images"]["FLAIR"]
    found = read_itk(tmp_path / "out" / "raw" / "transforms" / "FLAIR_to_T1.txt")
    brain = nib.load(tmp_path / "out" / "raw" / "brain_mask.nii.gz")
    places = apply_affine(brain.affine, np.argwhere(brain.get_fdata()))
    error = np.linalg.norm(apply_affine(found, places) - apply_affine(move, places), axis=1).mean()
    moved = np.linalg.norm(apply_affine(move, places) - places, axis=1).mean()
    assert moved > 8 and error < 0.5
    assert told["registration"]["kept"] == "registered" and told["registration"]["moved_mm"] == pytest.approx(
        moved, abs=1
    )
    assert told["registration"]["dice_headers"] < 0.93 < told["registration"]["dice_registered"]
    assert np.allclose(voxel_sizes(brain.affine), 3)
    prepare(raw, tmp_path / "headers", masks=MASKS, register=False)
    assert "overlaps with that of T1" in record(tmp_path / "headers")["warnings"][0]


def test_again(raw: Path, tmp_path: Path):
    out = tmp_path / "out"
    options = {"masks": MASKS, "register": False}
    prepare(raw, out, **options)
    before = (out / "raw" / "T1.nii.gz").stat().st_mtime_ns
    prepare(raw, out, **options)
    assert (out / "raw" / "T1.nii.gz").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="with other options or from another session: pass --overwrite"):
        prepare(raw, out, **options, reference="FLAIR")
    prepare(raw, out, **options, reference="FLAIR", overwrite=True)
    assert record(out)["reference"] == "FLAIR" and not list(out.glob(".*"))


def test_several_subjects_one_of_which_fails(raw: Path, tmp_path: Path):
    save(tmp_path / "all" / "b", "T1", nib.load(raw / "T1.nii.gz"), nib.load(raw / "T1_mask.nii.gz").get_fdata())
    (tmp_path / "all" / "a").mkdir()
    (tmp_path / "all" / "a" / "T1.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="1 subjects are left out: a: "):
        prepare(tmp_path / "all", tmp_path / "out", masks="{subject}/{sequence}_mask.nii.gz")
    assert [entry["subject"] for entry in read_subjects(tmp_path / "out")["test"]] == ["b"]
    assert "Left out" in (tmp_path / "out" / "index.html").read_text()


def test_names_that_tell_nothing(raw: Path, tmp_path: Path):
    """Sidecars do; what they do not tell, the user does."""
    for name, new, times in (("T1", "a1", (0.5, 0.01)), ("FLAIR", "b2", (9, 0.05))):
        for path in raw.glob(f"{name}*.nii.gz"):
            path.rename(path.with_name(path.name.replace(name, new)))
        said = {"RepetitionTime": times[0], "EchoTime": times[1], "ScanningSequence": "IR"}
        (raw / f"{new}.json").write_text(json.dumps(said))
    for path in raw.glob("*_mask.nii.gz"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        path.rename(tmp_path / "masks" / {"a1": "T1", "b2": "FLAIR"}[path.name[:2]])
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_suffix(".nii.gz"))
    masks = f"{tmp_path}/masks/{{sequence}}.nii.gz"
    prepare(raw, tmp_path / "out", masks=masks, register=False)
    told = record(tmp_path / "out")
    assert list(told["images"]) == ["T1"] and told["images"]["T1"]["taken_because"] == "its times"
    assert told["series"][2][-2:] == ["left out", "neither description nor times say what it is"]
    prepare(raw, tmp_path / "mapped", masks=masks, register=False, map="FLAIR=b2")
    assert list(record(tmp_path / "mapped")["images"]) == ["T1", "FLAIR"]
    assert read_subjects(tmp_path / "out")["test"][0]["parameters"] == {"T1": {"TR": 500, "TE": 10, "TI": 0}}


def test_without_skull_already(raw: Path, tmp_path: Path):
    for name in ("T1", "FLAIR"):
        image, brain = (nib.load(raw / f"{name}{end}.nii.gz") for end in ("", "_mask"))
        nib.save(nib.Nifti1Image(image.get_fdata() * brain.get_fdata(), image.affine), raw / f"{name}.nii.gz")
    prepare(raw, tmp_path / "out", register=False)
    assert all("skull was removed before" in each["brain_mask"] for each in record(tmp_path / "out")["images"].values())


def test_what_is_refused(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for said, options in {
        "there is no PD for --reference": {"reference": "PD"},
        "must be numbers in mm": {"spacing": "fine"},
        "one or three numbers": {"spacing": [1, 2]},
        "is no SEQUENCE=SERIES": {"map": "series3"},
        "there is no such series; there are: T1, FLAIR": {"map": "T1=series3"},
        "no series is T2": {"sequences": "T1,T2"},
        "--brain is bet": {"brain": "bet"},
        "which --masks names": {"masks": "{sequence}_other.nii.gz"},
        r"lacks \{sequence\}": {"masks": "mask.nii.gz"},
    }.items():
        with pytest.raises(ValueError, match=said):
            prepare(raw, tmp_path / "out", **{"masks": MASKS, "register": False, **options})
        assert not list((tmp_path / "out").glob("*"))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="needs the command hd-bet"):
        prepare(raw, tmp_path / "out", brain="hd-bet")


def test_n4_takes_a_bias_field_out(raw: Path, tmp_path: Path):
    pytest.importorskip("SimpleITK", reason="requirements-prepare.txt is not installed")
    image = nib.load(raw / "T1.nii.gz")
    field = np.exp(np.linspace(-0.4, 0.4, image.shape[1]))[:, None]
    nib.save(nib.Nifti1Image((image.get_fdata() * field).astype(np.float32), image.affine), raw / "T1.nii.gz")
    prepare(raw, tmp_path / "out", masks=MASKS, sequences="T1", n4=True)
    found = nib.load(tmp_path / "out" / "raw" / "T1.nii.gz").get_fdata()
    inside = binary_erosion(found > 0, iterations=2)
    left = np.log(found[inside] / image.get_fdata()[inside].clip(1))
    assert left.std() < 0.5 * np.log(np.broadcast_to(field, image.shape)[inside]).std()


def test_hd_bet_is_called_as_it_wants(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    command = tmp_path / "bin" / "hd-bet"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncp {raw}/T1_mask.nii.gz "$(dirname $4)/brain_bet.nii.gz"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    prepare(raw, tmp_path / "out", brain="hd-bet", sequences="T1")
    asked = (tmp_path / "asked").read_text().split()
    assert asked[0] == "-i" and asked[2] == "-o" and "--save_bet_mask" in asked
    assert record(tmp_path / "out")["images"]["T1"]["brain_ml"] == pytest.approx(1296, rel=0.02)


def test_dicom_gives_what_nifti_gives(raw: Path, write_series: Callable, tmp_path: Path):
    pytest.importorskip("dcm2niix", reason="requirements-prepare.txt is not installed")
    for number, name in enumerate(("T1", "FLAIR"), 1):
        write_series(tmp_path / "dicom", nib.load(raw / f"{name}.nii.gz"), number, name)
        for path in (tmp_path / "dicom").glob("IM*"):
            path.rename(path.with_name(f"{number}-{path.name}"))
        rows_up = np.array([[0, 1], [1, -1], [2, 1]])  # as dcm2niix has them
        turned = nib.load(raw / f"{name}_mask.nii.gz").as_reoriented(rows_up)
        nib.save(turned, tmp_path / f"{name}_mask.nii.gz")
    prepare(raw, tmp_path / "a", masks=MASKS, register=False)
    prepare(tmp_path / "dicom", tmp_path / "b", masks=str(tmp_path / MASKS), register=False)
    for name in ("T1", "FLAIR", "brain_mask"):
        files = (tmp_path / "a" / "raw" / f"{name}.nii.gz", tmp_path / "b" / "dicom" / f"{name}.nii.gz")
        one, other = (nib.as_closest_canonical(nib.load(file)) for file in files)
        assert np.allclose(one.affine, other.affine, atol=1e-3)
        assert np.allclose(one.get_fdata(), other.get_fdata(), atol=1.5)
    parameters = read_subjects(tmp_path / "b")["test"][0]["parameters"]
    assert parameters["FLAIR"] == {"TR": 9000, "TE": 100, "TI": 2500}


def test_a_grid_of_another_spacing_covers_the_same_box():
    affine = np.diag([-2.0, 3.0, 4.0, 1.0])
    grid = nib.Nifti1Image(np.zeros((10, 20, 5), np.uint8), affine)
    found = regridded(grid, (1, 1, 1))
    assert found.shape == (20, 60, 20) and np.allclose(voxel_sizes(found.affine), 1)
    for each in (grid, found):
        assert np.allclose(apply_affine(each.affine, [-0.5] * 3), [1, -1.5, -2])
        assert np.allclose(apply_affine(each.affine, np.array(each.shape) - 0.5), [-19, 58.5, 18])


@pytest.mark.full
def test_real_heads_end_to_end(mri_data: Path, tmp_path: Path):
    """deepbet's masks of one brain on three grids agree, and it is found where the source's transform has it."""
    pytest.importorskip("deepbet", reason="requirements-prepare.txt is not installed")
    prepare(mri_data / "ms_oms-long-p01-s1", tmp_path / "out")
    told = record(tmp_path / "out", "ms_oms-long-p01-s1")
    assert told["warnings"] == [] and told["lowest_dice"] > 0.96
    assert all(1300 < each["brain_ml"] < 1450 for each in told["images"].values())
