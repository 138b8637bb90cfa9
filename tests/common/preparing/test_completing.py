"""Raw scans in, and what a network made of them out: on a scanner's grid, as DICOM, as BIDS."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.finding import is_synthesised
from common.preparing import completing
from common.preparing.bids import bids_path, write_bids
from common.preparing.native import Made, on_grid
from common.preparing.sources import find_sessions
from common.workflows import complete_folder

WEIGHTS = Path(__file__).parents[3] / "bundles" / "mri_seq2seq" / "models" / "model.pt"
MASKS = "{sequence}_mask.nii.gz"
SEQUENCES = ("T1", "FLAIR")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the module's one session, which its first test fills."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def session(made: Path, head: Callable, write_series: Callable) -> Path:
    """DICOM of two sequences on two grids, `dicom`, their masks, and what `complete` made of them in `out`."""
    pytest.importorskip("dcm2niix", reason="requirements-prepare.txt is not installed")
    if (made / "out").exists():
        return made
    for number, (name, spacing) in enumerate((("T1", (3, 3, 4)), ("FLAIR", (4, 4, 5))), 1):
        image, brain = head(name, spacing, turn=5.0 * number)
        write_series(made / "dicom" / name, image, number, name)
        rows_up = np.array([[0, 1], [1, -1], [2, 1]])  # as dcm2niix has them
        mask = nib.Nifti1Image(brain.astype(np.uint8), image.affine).as_reoriented(rows_up)
        nib.save(mask, made / f"{name}_mask.nii.gz")
    options = {"masks": str(made / MASKS), "register": False, "spacing": 4}
    out = {"on_grid": "FLAIR", "dicom": "marked", "targets": "T2", "weights": str(WEIGHTS)}
    complete_folder(str(made / "dicom"), str(made / "out"), prepare=True, device="cpu", **options, **out)
    return made


def canonical(file: Path) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.load(file))


def test_back_on_a_scanner_s_grid(session: Path):
    out = session / "out" / "dicom"
    made, back = nib.load(out / "dicom_T2.nii.gz"), nib.load(out / "dicom_T2_on_FLAIR.nii.gz")
    record = json.loads((session / "out" / "prepared" / "dicom" / "preparation.json").read_text())
    assert np.allclose(nib.affines.voxel_sizes(made.affine), 4)
    assert list(back.shape) == record["images"]["FLAIR"]["shape"] and np.allclose(
        back.affine, record["images"]["FLAIR"]["affine"], atol=1e-4
    )
    middles = [
        nib.affines.apply_affine(each.affine, np.argwhere(each.get_fdata() > 0)).mean(0) for each in (made, back)
    ]
    assert np.linalg.norm(middles[0] - middles[1]) < 1  # mm
    assert is_synthesised(out / "dicom_T2_on_FLAIR.nii.gz")
    assert "FLAIR" in json.loads((out / "dicom_T2_on_FLAIR.json").read_text())["grid"]


def test_dicom_that_joins_the_study(session: Path, tmp_path: Path):
    pydicom = pytest.importorskip("pydicom", reason="requirements-prepare.txt is not installed")
    import dcm2niix

    folder = session / "out" / "dicom" / "dicom_T2_dicom"
    headers = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    source = pydicom.dcmread(next((session / "dicom" / "FLAIR").iterdir()))
    for name in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "FrameOfReferenceUID"):
        assert {each[name].value for each in headers} == {source[name].value}
    assert len({each.SOPInstanceUID for each in headers}) == len(headers)
    assert {each.SeriesInstanceUID for each in headers} != {source.SeriesInstanceUID}
    assert list(headers[0].ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert headers[0].SeriesDescription == "T2 synthesised from T1, FLAIR"
    assert "mri_seq2seq" in headers[0].DerivationDescription and "sha256" in headers[0].DerivationDescription
    assert {each.ReferencedSOPInstanceUID[:28] for each in headers[0].SourceImageSequence} == {
        source.SOPInstanceUID[:28]
    }
    done = subprocess.run([dcm2niix.bin, "-z", "n", "-f", "back", "-o", str(tmp_path), str(folder)], check=False)
    read, wanted = canonical(tmp_path / "back.nii"), canonical(session / "out" / "dicom" / "dicom_T2_on_FLAIR.nii.gz")
    assert done.returncode == 0 and read.shape == wanted.shape
    assert np.allclose(read.affine, wanted.affine, atol=1e-3)
    unmarked = np.isclose(read.get_fdata(), read.get_fdata().max())  # the word
    factor = float(headers[0].DerivationDescription.rsplit("times ", 1)[1].rstrip("."))
    assert np.allclose(read.get_fdata()[~unmarked], factor * wanted.get_fdata()[~unmarked], atol=0.51)
    assert unmarked.sum() > 10 * len(headers)


def test_dicom_is_valid(session: Path):
    """By dicom3tools' validator, where it is installed."""
    if not (validator := shutil.which("dciodvfy")):
        pytest.skip("dciodvfy (Debian's dicom3tools) is not installed")
    file = next((session / "out" / "dicom" / "dicom_T2_dicom").iterdir())
    done = subprocess.run([validator, str(file)], capture_output=True, text=True, check=False)
    assert "Error" not in done.stdout + done.stderr


def test_a_synthesised_series_is_no_source(session: Path, tmp_path: Path):
    shutil.copytree(session / "dicom", tmp_path / "study")
    shutil.copytree(session / "out" / "dicom" / "dicom_T2_dicom", tmp_path / "study" / "T2")
    from common.preparing.series import choose

    [found] = find_sessions(tmp_path / "study", tmp_path)
    series = found.series(tmp_path / "room")
    assert choose(series).keys() == set(SEQUENCES) and series[-1].reason == "made by a network"


def test_bids(session: Path, tmp_path: Path):
    prepared = session / "out" / "prepared"
    complete_folder(
        str(prepared), str(tmp_path / "b"), layout="bids", targets="T1Gd", weights=str(WEIGHTS), device="cpu"
    )
    image = tmp_path / "b" / "sub-dicom" / "anat" / "sub-dicom_ce-gadolinium_desc-synth_T1w.nii.gz"
    said = json.loads(image.with_name(image.name.replace(".nii.gz", ".json")).read_text())
    assert is_synthesised(image) and said["SynthesizedFrom"] == list(SEQUENCES) and said["SkullStripped"] is True
    assert said["Sources"] == ["bids:raw:dicom/T1.nii.gz", "bids:raw:dicom/FLAIR.nii.gz"]
    described = json.loads((tmp_path / "b" / "dataset_description.json").read_text())
    assert described["DatasetType"] == "derivative" and described["GeneratedBy"][0]["Name"] == "mri_seq2seq"
    assert described["DatasetLinks"]["raw"].endswith("/prepared") and not (tmp_path / "b" / "dicom").exists()
    if validator := shutil.which("bids-validator-deno") or shutil.which("bids-validator"):
        done = subprocess.run([validator, str(tmp_path / "b")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_bids_names():
    assert str(bids_path("sub-01_ses-02", "FLAIR")) == "sub-01/ses-02/anat/sub-01_ses-02_desc-synth_FLAIR.nii.gz"
    assert str(bids_path("BraTS-GLI_1", "T2")) == "sub-BraTSGLI1/anat/sub-BraTSGLI1_desc-synth_T2w.nii.gz"


def test_bids_of_subjects_that_become_one(tmp_path: Path):
    for subject in ("a-1", "a1"):
        (tmp_path / "in" / subject).mkdir(parents=True)
        (tmp_path / "in" / subject / f"{subject}_T2.nii.gz").write_bytes(b"x")
        said = {"subject": subject, "target": "T2", "sources": {"T1": "T1.nii.gz"}}
        (tmp_path / "in" / subject / f"{subject}_T2.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=r"would both be .*sub-a1_desc-synth_T2w"):
        write_bids(tmp_path / "in", tmp_path / "out", tmp_path)
    with pytest.raises(ValueError, match="holds no image that `complete` made"):
        write_bids(tmp_path / "out" / "none", tmp_path / "out", tmp_path)


def test_what_is_refused_before_anything_is_made(phantom_dir: Path, tmp_path: Path):
    out = str(tmp_path / "out")
    for said, options in {
        "was not made by `mri-contrast prepare`": {"on_grid": "native"},
        "must be bids": {"layout": "brats"},
        "must be true, false or marked": {"dicom": "yes"},
        "goes without --on_grid and --dicom": {"layout": "bids", "dicom": True},
    }.items():
        with pytest.raises(ValueError, match=said):
            complete_folder(str(phantom_dir), out, weights=str(WEIGHTS), **options)
    assert not (tmp_path / "out").exists()


def test_unknown_grid_and_no_dicom(tmp_path: Path):
    record = {"subject": "a", "reference": "T1", "images": {"T1": {"source": {"file": "T1.nii.gz"}}}}
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "preparation.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="a has no PD for --on_grid; there are: native, T1"):
        complete_folder(str(tmp_path / "in"), str(tmp_path / "out"), on_grid="PD")
    with pytest.raises(ValueError, match=r"a was prepared from T1\.nii\.gz, no DICOM: leave out --dicom"):
        complete_folder(str(tmp_path / "in"), str(tmp_path / "out"), dicom=True)


def test_a_subject_that_fails_keeps_nothing_from_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Neither in the preparation nor in the inference; all failures are told at the end."""

    def failing(error: BaseException) -> Callable:
        def call(*_: object, **__: object) -> None:
            raise error

        return call

    written = []
    monkeypatch.setattr(completing, "prepare_sessions", failing(completing.LeftOut("a is left out")))
    monkeypatch.setattr(completing, "complete_folder", failing(SystemExit("b failed")))
    monkeypatch.setattr(completing, "_known_before", lambda *_: None)
    monkeypatch.setattr(completing, "made_images", lambda *_: ["c"])
    monkeypatch.setattr(completing, "write_on_grid", lambda made, wanted: written.append((made, wanted)))
    with pytest.raises(SystemExit, match="a is left out\nb failed"):
        complete_folder(str(tmp_path), str(tmp_path / "out"), prepare=True, on_grid="T1")
    assert written == [("c", "T1")]


def test_a_series_is_not_laid_on_another_grid(tmp_path: Path):
    nib.save(nib.Nifti1Image(np.ones((3, 4, 5, 2), np.float32), np.eye(4)), tmp_path / "a_DCE.nii.gz")
    made, grid = Made(tmp_path / "a_DCE.nii.gz", {}, {}), nib.Nifti1Image(np.zeros((3, 4, 5)), np.eye(4))
    with pytest.raises(ValueError, match=r"a_DCE\.nii\.gz is a series, which no other grid"):
        on_grid(made, grid, np.eye(4))
