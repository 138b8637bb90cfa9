import gzip
import json
import os
import re
import shutil
import struct
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.__main__ import main
from common.data.acquisition import image_parameters
from common.data.check import check_subjects
from common.data.grids import GRID_TOLERANCE_MM, same_grid
from common.data.layouts import make_list
from common.data.loading import LoadSubject
from common.data.preparation import Subjects
from common.data.subjects import read_subjects, subject_items, write_subjects

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(1, 100, (4, 5, 6)).astype(np.float32)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def save(path, voxels=None, affine=AFFINE, sform=1, qform=1, qform_affine=None):
    """Each name has voxels of its own, where none are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = VOXELS * np.float32(1 + sum(path.name.encode()) % 97 / 97) if voxels is None else voxels
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, sform)
    image.set_qform(affine if qform_affine is None else qform_affine, qform)
    nib.save(image, path)


def write_list(folder, training, test=()):
    """Writes a list of {subject: {"images": {...}, ...}} without the validation that the check has to do."""
    splits = {
        split: [{"subject": name, **fields} for name, fields in entries]
        for split, entries in (("training", training), ("test", test))
    }
    (folder / "subjects.json").write_text(json.dumps({"sequences": ["T1", "T2"], **splits}))


@pytest.fixture
def pair(tmp_path):
    """A folder with a good T1, and a list of it and the T2 that the test writes."""
    save(tmp_path / "T1.nii.gz")
    write_list(tmp_path, [("A", {"images": {"T1": "T1.nii.gz", "T2": "T2.nii.gz"}})])
    return tmp_path


def codes(findings):
    return [(finding.code, finding.severity, finding.file) for finding in findings]


def turned(degrees):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE


def test_good_files_give_no_finding(pair, capsys):
    save(pair / "T2.nii.gz", VOXELS[..., None] * 2)  # one volume, however it is stored
    assert check_subjects(pair) == []
    assert capsys.readouterr().out == "0 errors, 0 warnings in 1 subjects\n"


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ({"voxels": VOXELS[..., None].repeat(2, -1)}, "NOT_3D", "shape (4, 5, 6, 2)"),
        ({"voxels": np.where(VOXELS < 50, np.nan, VOXELS)}, "NOT_FINITE", f"{np.sum(VOXELS < 50)} voxels are NaN"),
        ({"voxels": np.where(VOXELS > 90, np.inf, VOXELS)}, "NOT_FINITE", "voxels are NaN or infinite"),
        ({"voxels": np.full_like(VOXELS, 7)}, "CONSTANT", "every voxel is 7"),
        ({"voxels": VOXELS + 1j}, "FILE_UNREADABLE", "voxels are complex"),
        ({"voxels": VOXELS[:3]}, "SHAPE_DIFFERS", "not on the grid of T1: shape (3, 5, 6) against (4, 5, 6)"),
        ({"affine": np.diag([1, 1, 2.5, 1])}, "SPACING_DIFFERS", "spacing (1, 1, 2.5) against (1, 1, 2) mm"),
        ({"affine": turned(5)}, "AXES_DIFFER", "register first (`mri-contrast prepare`), or resample with --grid T1"),
        ({"affine": np.diag([-1.0, 1, 2, 1])}, "AXES_DIFFER", "axes LAS from (0, 0, 0) against RAS from (0, 0, 0) mm"),
        ({"sform": 0, "qform": 0}, "NO_AFFINE", "neither sform nor qform is set"),
        ({"qform_affine": turned(90)}, "SFORM_QFORM_DISAGREE", "sform (code 1) and qform (code 1) are up to"),
    ],
)
def test_errors(pair, options, code, reason):
    save(pair / "T2.nii.gz", **options)
    findings = check_subjects(pair)
    assert codes(findings) == [(code, "error", "T2.nii.gz")]
    assert findings[0].subject == "A" and reason in findings[0].reason


def test_an_affine_that_maps_all_slices_to_one_place(pair):
    save(pair / "T2.nii.gz")
    content = bytearray(gzip.decompress((pair / "T2.nii.gz").read_bytes()))
    content[312:328] = bytes(16)  # srow_z of the NIfTI header
    (pair / "T2.nii.gz").write_bytes(gzip.compress(content))
    (finding,) = check_subjects(pair)
    assert finding.code == "NO_AFFINE" and "cannot be inverted" in finding.reason


def test_a_template_sform_beside_a_scanner_qform_is_a_warning(pair):
    save(pair / "T2.nii.gz", sform=4, qform=1, qform_affine=turned(90))
    assert codes(check_subjects(pair)) == [("SFORM_QFORM_DISAGREE", "warning", "T2.nii.gz")]


def test_negative_voxels_are_a_warning(pair):
    save(pair / "T2.nii.gz", VOXELS - 1.5)
    (finding,) = check_subjects(pair)
    assert codes([finding]) == [("NEGATIVE", "warning", "T2.nii.gz")]
    found = f"{np.sum(VOXELS < 1.5)} voxels below 0, from -0.5 up to {VOXELS.max() - 1.5:.4g}"
    assert finding.reason == f"{found}; taken as air, or as dark tissue where tissue encloses them"


@pytest.mark.parametrize(
    ("voxels", "code", "reason"),
    [
        (np.pad(VOXELS + 3, 2, constant_values=10), "BACKGROUND", "the background is 10, not 0"),
        (np.pad(VOXELS / 50 - 1, 2, constant_values=-1), "BACKGROUND", "the background is -1, not 0"),
        (np.pad(VOXELS - VOXELS.mean(), 2), "BELOW_ZERO", "of what is not 0 lies below: z-scored, or signed"),
    ],
    ids=["constant", "scaled to -1", "z-scored"],
)
def test_zero_must_mean_air(pair, voxels, code, reason):
    save(pair / "T1.nii.gz", np.pad(VOXELS, 2))
    save(pair / "T2.nii.gz", voxels)
    (finding,) = check_subjects(pair)
    assert codes([finding]) == [(code, "error", "T2.nii.gz")] and reason in finding.reason
    with pytest.raises(ValueError, match=f"A: .*T2.nii.gz: .*{reason}"):
        LoadSubject(["T1", "T2"])({"subject": "A", "images": {n: str(pair / f"{n}.nii.gz") for n in ("T1", "T2")}})


def test_a_slab_beside_a_whole_image(pair, caplog):
    whole, slab = np.pad(VOXELS, 2), np.pad(VOXELS * 2, 2)
    slab[..., 4:] = 0
    save(pair / "T1.nii.gz", whole)
    save(pair / "T2.nii.gz", slab)
    (finding,) = check_subjects(pair)
    share = np.mean(slab[whole > 0.05 * np.percentile(VOXELS, 99)] == 0)
    assert codes([finding]) == [("PARTIAL_COVERAGE", "warning", "T2.nii.gz")]
    assert f"T2 has no data in {share:.0%} of the tissue" in finding.reason
    LoadSubject(["T1", "T2"])({"subject": "A", "images": {n: str(pair / f"{n}.nii.gz") for n in ("T1", "T2")}})
    assert f"A: {finding.reason}" in caplog.text


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"sform": 0, "qform": 0}, "NO_AFFINE"),
        ({"qform_affine": turned(90)}, "SFORM_QFORM_DISAGREE"),
    ],
    ids=["no codes", "two places"],
)
def test_what_check_calls_an_error_loading_refuses_unless_the_headers_are_trusted(tmp_path, header, code):
    save(tmp_path / "A" / "T1.nii.gz", **header)
    write_list(tmp_path, [("A", {"images": {"T1": "A/T1.nii.gz"}})])
    assert (code, "error") in {(finding.code, finding.severity) for finding in check_subjects(tmp_path)}
    with pytest.raises(ValueError, match=rf"A: .*T1.nii.gz: .*list --trust_headers.*\({code}\)"):
        LoadSubject(["T1"])(*subject_items(tmp_path, "all", ["T1"]))
    make_list(tmp_path, pattern="{subject}/{sequence}.nii.gz", overwrite=True, trust_headers=True)
    assert {finding.severity for finding in check_subjects(tmp_path)} <= {"warning"}
    (item,) = subject_items(tmp_path, "all", ["T1"])
    np.testing.assert_array_equal(LoadSubject(["T1"])(item)["image"].affine, nib.load(item["images"]["T1"]).affine)
    make_list(tmp_path, pattern="{subject}/{sequence}.nii.gz", extend=True)
    assert read_subjects(tmp_path)["trust_headers"], "a list keeps what it was told"


def test_a_list_has_a_name_that_it_keeps_or_is_called_as_its_folder(tmp_path):
    for person in "AB":
        (tmp_path / person).mkdir()
        save(tmp_path / person / "T1.nii.gz")
    write_list(tmp_path, [("A", {"images": {"T1": "A/T1.nii.gz"}})])
    called = Subjects(["T1"], dataset_dir=tmp_path).called
    assert called() == f"{tmp_path.name}, 1 subject"
    write_subjects(tmp_path / "subjects.json", {**read_subjects(tmp_path), "name": "ours"})
    make_list(tmp_path, pattern="{subject}/{sequence}.nii.gz", extend=True, validation=0, test=0)
    assert called() == "ours, 2 subjects"


def test_an_affine_without_inverse_is_never_trusted(tmp_path):
    save(tmp_path / "T1.nii.gz")
    flat = nib.load(tmp_path / "T1.nii.gz")
    flat.header["srow_z"] = 0
    nib.save(nib.Nifti1Image(VOXELS, None, flat.header), tmp_path / "T1.nii.gz")
    item = {"subject": "A", "images": {"T1": str(tmp_path / "T1.nii.gz")}, "trust_headers": True}
    with pytest.raises(ValueError, match="NO_AFFINE"):
        LoadSubject(["T1"])(item)


def test_missing_and_truncated_files(pair):
    assert codes(check_subjects(pair)) == [("FILE_MISSING", "error", "T2.nii.gz")]
    save(pair / "T2.nii.gz", RNG.random((30, 30, 30)))
    whole = (pair / "T2.nii.gz").read_bytes()
    (pair / "T2.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert codes(check_subjects(pair)) == [("FILE_UNREADABLE", "error", "T2.nii.gz")]
    (pair / "T2.nii.gz").write_bytes(gzip.compress(gzip.decompress(whole)[:-5]))
    assert codes(check_subjects(pair)) == [("FILE_UNREADABLE", "error", "T2.nii.gz")]
    (pair / "T2.nii.gz").write_bytes(b"<html>not found</html>")
    assert codes(check_subjects(pair)) == [("FILE_UNREADABLE", "error", "T2.nii.gz")]


def test_a_truncated_uncompressed_file(tmp_path):
    save(tmp_path / "T1.nii")
    (tmp_path / "T1.nii").write_bytes((tmp_path / "T1.nii").read_bytes()[:-8])
    write_list(tmp_path, [], [("A", {"images": {"T1": "T1.nii"}})])
    assert codes(check_subjects(tmp_path)) == [("FILE_UNREADABLE", "error", "T1.nii")]


def test_with_grid_differences_are_one_warning_per_file(pair):
    save(pair / "T2.nii.gz", VOXELS[:3], np.diag([2.0, 1, 1, 1]))
    assert {code for code, *_ in codes(check_subjects(pair))} == {"SHAPE_DIFFERS", "SPACING_DIFFERS"}
    (finding,) = check_subjects(pair, grid="T1")
    assert (finding.code, finding.severity, finding.file) == ("HEADER_ALIGNED_ONLY", "warning", "T2.nii.gz")
    assert "shape (3, 5, 6) against (4, 5, 6); spacing (2, 1, 1) against (1, 1, 2) mm" in finding.reason
    assert "no registration is done here" in finding.reason
    (finding,) = check_subjects(pair, grid="T2")
    assert finding.file == "T1.nii.gz"
    with pytest.raises(ValueError, match="No sequence 'PD' to resample to"):
        check_subjects(pair, grid="PD")


def test_with_grid_a_subject_without_that_sequence_must_share_a_grid(tmp_path):
    save(tmp_path / "T2.nii.gz")
    save(tmp_path / "mask.nii.gz", np.zeros((4, 5, 7), np.uint8))
    write_list(tmp_path, [], [("A", {"images": {"T2": "T2.nii.gz"}, "masks": {"lesion": "mask.nii.gz"}})])
    (finding,) = check_subjects(tmp_path, grid="T1")
    assert (finding.code, finding.severity) == ("SHAPE_DIFFERS", "error")
    assert "there is no readable T1 to resample to" in finding.reason


def test_masks_may_be_empty_and_all_file_fields_are_read(tmp_path):
    save(tmp_path / "T1.nii.gz")
    save(tmp_path / "mask.nii.gz", np.zeros(VOXELS.shape, np.uint8))
    fields = {
        "images": {"T1": "T1.nii.gz"},
        "masks": {"lesion": "mask.nii.gz"},
        "reference": {"T1": "clean.nii.gz"},
        "withheld": {"T2": "T2.nii.gz"},
    }
    write_list(tmp_path, [], [("A", fields)])
    assert [finding.file for finding in check_subjects(tmp_path)] == ["clean.nii.gz", "T2.nii.gz"]


def test_a_single_sequence_is_a_warning_in_training_only(tmp_path):
    save(tmp_path / "A.nii.gz")
    save(tmp_path / "B.nii.gz")
    write_list(tmp_path, [("A", {"images": {"T1": "A.nii.gz"}})], [("B", {"images": {"T1": "B.nii.gz"}})])
    assert codes(check_subjects(tmp_path)) == [("ONE_SEQUENCE_ONLY", "warning", "")]


def test_leaks_between_splits(tmp_path):
    for name in ("T1", "T2"):
        save(tmp_path / f"{name}.nii.gz")
    both = {"images": {"T1": "T1.nii.gz", "T2": "T2.nii.gz"}}
    write_list(tmp_path, [("A", both)], [("A", both)])
    (finding,) = check_subjects(tmp_path)
    assert (finding.code, finding.severity, finding.subject) == ("SUBJECT_IN_TWO_SPLITS", "error", "A")
    assert "in training and in test" in finding.reason
    write_list(tmp_path, [("A", both)], [("B", {"images": {"T1": "T1.nii.gz"}})])
    (finding,) = check_subjects(tmp_path)
    assert (finding.code, finding.subject, finding.file) == ("SUBJECT_IN_TWO_SPLITS", "B", "T1.nii.gz")
    assert "listed for 'A' in training" in finding.reason


def test_same_grid_tolerates_rounding_and_names_both_sides():
    shape = (240, 240, 155)
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3], far[0, 3] = 0.9 * GRID_TOLERANCE_MM, 1.1 * GRID_TOLERANCE_MM
    assert same_grid(shape, AFFINE, list(shape), near) == ""
    assert "up to 0.11 mm apart" in same_grid(shape, AFFINE, shape, far)
    assert same_grid(shape, AFFINE, (256, 256, 68), AFFINE) == "shape (240, 240, 155) against (256, 256, 68)"
    # A rotation this small only shows far from the origin: at 340 mm it is 0.12 mm.
    assert same_grid((9, 9, 9), AFFINE, (9, 9, 9), turned(0.02)) == ""
    assert "mm apart" in same_grid(shape, AFFINE, shape, turned(0.02))


def test_command_line_table_output_and_exit_status(pair, monkeypatch, capsys):
    save(pair / "T2.nii.gz", VOXELS[:3] - 1.5)
    monkeypatch.setattr(sys, "argv", ["data", "check", str(pair), "--output_file", str(pair / "out" / "findings.json")])
    with pytest.raises(SystemExit) as exit_:
        main()
    lines = capsys.readouterr().out.splitlines()
    assert exit_.value.code == 1
    assert lines[0].split() == ["subject", "severity", "code", "file", "reason"]
    assert lines[1].split()[:4] == ["A", "warning", "NEGATIVE", "T2.nii.gz"]
    assert lines[-1] == "1 errors, 1 warnings in 1 subjects"
    report = json.loads((pair / "out" / "findings.json").read_text())
    assert (report["errors"], report["warnings"], report["subjects"]) == (1, 1, 1)
    assert [finding["code"] for finding in report["findings"]] == ["NEGATIVE", "SHAPE_DIFFERS"]
    monkeypatch.setattr(sys, "argv", ["data", "check", str(pair), "--grid", "T1"])
    main()
    monkeypatch.setattr(sys, "argv", ["data", "check", str(pair / "nowhere")])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2 and capsys.readouterr().err.startswith("error: No subject list")


@pytest.mark.skipif(not os.environ.get("MRI_DATA"), reason="set MRI_DATA to the folder with real MRI")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_data(tmp_path):
    path = make_list(
        Path(os.environ["MRI_DATA"]), pattern="{subject}/{sequence}.nii.gz", subject_list=tmp_path / "list.json"
    )
    findings, with_grid = check_subjects(path), check_subjects(path, grid="T1")

    def of(found, subject, severity):
        return {finding.code for finding in found if finding.subject == subject and finding.severity == severity}

    assert of(findings, "ms_oms-cs-p07", "error") == set()
    assert of(findings, "ms_tcga-du-7294-native-bet", "error") == {"SHAPE_DIFFERS", "SPACING_DIFFERS", "AXES_DIFFER"}
    assert of(with_grid, "ms_tcga-du-7294-native-bet", "error") == set()
    assert of(with_grid, "ms_tcga-du-7294-native-bet", "warning") == {"HEADER_ALIGNED_ONLY"}


def test_the_same_image_twice(tmp_path: Path):
    """A sequence that is a copy of another one, and a person who is linked into the test."""
    for name, seed in (("P0/T1", 0), ("P0/T2", 1), ("P1/T2", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        voxels = np.random.default_rng(seed).uniform(1, 9, (6, 6, 6)).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1])), tmp_path / f"{name}.nii.gz")
    shutil.copyfile(tmp_path / "P0/T1.nii.gz", tmp_path / "P0/T1Gd.nii.gz")
    (tmp_path / "P1/T1.nii.gz").symlink_to("../P0/T1.nii.gz")
    files = {"P0": ("T1", "T1Gd", "T2"), "P1": ("T1", "T2")}
    entries = {
        subject: {"subject": subject, "images": {name: f"{subject}/{name}.nii.gz" for name in names}}
        for subject, names in files.items()
    }
    content = {"sequences": ["T1", "T1Gd", "T2"], "training": [entries["P0"]], "test": [entries["P1"]]}
    (tmp_path / "subjects.json").write_text(json.dumps(content))
    found = [finding for finding in check_subjects(tmp_path) if finding.code == "SAME_IMAGE"]
    assert [(each.file, each.severity) for each in found] == [("P0/T1Gd.nii.gz", "error"), ("P1/T1.nii.gz", "error")]
    assert "the very voxels of T1; copy" in found[0].reason and "of T1 of 'P0' in training" in found[1].reason


def claim(path, header_field, value):
    raw = bytearray(gzip.decompress(path.read_bytes()))
    offset, kind = {"dim": (42, "<3h"), "vox_offset": (108, "<f")}[header_field]
    struct.pack_into(kind, raw, offset, *value)
    path.write_bytes(gzip.compress(bytes(raw)))


@pytest.mark.parametrize(("field", "value"), [("dim", (30000, 30000, 30000)), ("vox_offset", (float("inf"),))])
def test_a_header_that_claims_too_much_is_a_finding(pair, field, value):
    save(pair / "T2.nii.gz")
    claim(pair / "T2.nii.gz", field, value)
    assert codes(check_subjects(pair)) == [("FILE_UNREADABLE", "error", "T2.nii.gz")]
    with pytest.raises(ValueError, match=r"Subject A: \S*T2.nii.gz cannot be read"):
        LoadSubject(["T1", "T2"])({"subject": "A", "images": {n: str(pair / f"{n}.nii.gz") for n in ("T1", "T2")}})


def test_a_gzip_file_with_a_wrong_checksum_is_never_loaded(pair):
    save(pair / "T2.nii.gz", RNG.uniform(1, 9, (40, 40, 40)).astype(np.float32))
    damaged = bytearray((pair / "T2.nii.gz").read_bytes())
    damaged[-8] ^= 255
    (pair / "T2.nii.gz").write_bytes(damaged)
    finding = check_subjects(pair)[0]
    assert finding.code == "FILE_UNREADABLE" and "CRC" in finding.reason
    with pytest.raises(ValueError, match="CRC"):
        LoadSubject(["T2"])({"subject": "A", "images": {"T2": str(pair / "T2.nii.gz")}})


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [
        ('{"RepetitionTime": 4000, "EchoTime": 100}', "RepetitionTime is 4000 s.*it looks like milliseconds taken"),
        ('{"RepetitionTime": 4}', "give both, or neither"),
        ("{", "not a readable JSON file"),
    ],
)
def test_times_are_checked_as_inference_does(pair, sidecar, reason):
    """A warning: only what needs them refuses them."""
    save(pair / "T2.nii.gz", VOXELS * 2)
    file = pair / "T2.json"
    file.write_text(sidecar)
    [finding] = check_subjects(pair)
    assert (finding.code, finding.severity, finding.file) == ("PARAMETERS", "warning", "T2.nii.gz")
    assert re.match(f"T2.json: .*{reason}.* \\(mri_crl\\) refuses it$", finding.reason)
    with pytest.raises(ValueError, match=reason):
        image_parameters(pair / "T2.nii.gz", None, (500, 10, 0), "T2")
    file.write_text('{"RepetitionTime": 4, "EchoTime": 0.1}')
    assert check_subjects(pair) == []
