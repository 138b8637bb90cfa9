"""Series in subject lists, as `list` finds them."""

import json

import nibabel as nib
import numpy as np
import pytest

from common.data.layouts import make_list
from common.data.names import bids, from_pattern
from common.data.series import frames_of, step_of
from common.data.subjects import read_subjects, subject_items, write_subjects
from common.inference.nifti import image_like

from .conftest import TIMES, save


def the_entry(folder):
    (entry,) = json.loads((folder / "subjects.json").read_text())["test"]
    return entry


def listed(folder, **options):
    make_list(folder, validation=0, test=1, **options)
    return the_entry(folder)


def test_names():
    assert bids("sub-1/dwi/sub-1_dwi.nii.gz").name == "DWI" and bids("sub-1/perf/sub-1_asl.nii").name == "ASL"
    found = bids("sub-1/ses-2/anat/sub-1_ses-2_acq-dce_run-03_T1w.nii.gz")
    assert (found.subject, found.name, found.frame) == ("sub-1_ses-2", "DCE", 3)
    assert bids("sub-1/anat/sub-1_run-03_T1w.nii.gz").frame is None
    assert bids("sub-1/anat/sub-1_dwi.nii.gz") is None and bids("sub-1/dwi/sub-1_T1w.nii.gz") is None
    found = from_pattern("{subject}/{sequence}_{frame}.nii.gz")("A/dce_0010.nii.gz")
    assert (found.subject, found.name, found.frame) == ("A", "DCE", 10)
    found = from_pattern("{subject}/{subject}_{frame}.nii.gz", {"": "DCE"})("D_1/D_1_0002.nii.gz")
    assert (found.subject, found.name, found.frame) == ("D_1", "DCE", 2)
    found = from_pattern("{subject}/*_{frame}.nii.gz", {"": "DCE"})("DUKE_001/duke_001_0002.nii.gz")
    assert (found.subject, found.name, found.frame) == ("DUKE_001", "DCE", 2)
    with pytest.raises(ValueError, match=r"lacks \{sequence\}"):
        from_pattern("{subject}_{frame}.nii.gz")


def test_bids_series(tmp_path, capsys):
    root = tmp_path / "sub-1"
    save(root / "anat/sub-1_T1w.nii.gz")
    save(root / "dwi/sub-1_dwi.nii.gz", 4, bval="0 150 800 1500\n")
    save(root / "perf/sub-1_dce.nii.gz", 3, sidecar=TIMES)
    save(root / "perf/sub-1_asl.nii.gz", 2)
    entry = listed(tmp_path)
    assert entry["images"] == {
        "T1": "sub-1/anat/sub-1_T1w.nii.gz",
        "DCE": "sub-1/perf/sub-1_dce.nii.gz",
        "DWI": "sub-1/dwi/sub-1_dwi.nii.gz",
        "ASL": "sub-1/perf/sub-1_asl.nii.gz",
    }
    assert entry["frames"] == {
        "DCE": {"times": [0, 60, 120]},
        "DWI": {"b_values": [0, 150, 800, 1500]},
        "ASL": {"count": 2},
    }
    told = (
        "T1 1, DCE 1 of 3 frames (times), DWI 1 of 4 frames (b_values), ASL 1 of 2 frames (neither times nor b values"
    )
    assert told in capsys.readouterr().out
    (item,) = subject_items(tmp_path, "test", ["DWI", "T1", "DCE", "ASL"])
    assert item["frames"]["DWI"] == {"b_values": [0, 150, 800, 1500]} and list(item["images"]) == [
        "DWI",
        "T1",
        "DCE",
        "ASL",
    ]


@pytest.mark.parametrize(
    ("unit", "spacing", "step"), [("sec", 4.1, 4.1), ("msec", 4100, 4.1), ("sec", 0, None), ("hz", 3, None)]
)
def test_a_header_s_fourth_spacing_is_kept_but_tells_no_times(tmp_path, unit: str, spacing: float, step: float | None):
    kept = {"step": step} if step else {}
    for name, bval, told in (("asl", "", {"count": 3}), ("dwi", "0\n150\n800\n", {"b_values": [0, 150, 800]})):
        image = nib.Nifti1Image(np.ones((4, 4, 4, 3), np.float32), np.eye(4))
        image.header.set_zooms((1, 1, 1, spacing))
        image.header.set_xyzt_units("mm", unit)
        nib.save(image, tmp_path / f"{name}.nii.gz")
        if bval:
            (tmp_path / f"{name}.bval").write_text(bval)
        frames = frames_of(str(tmp_path / f"{name}.nii.gz"))
        assert frames == told | kept and step_of(frames) == (step or 0)
        made = image_like(np.ones((4, 4, 4, 3)), tmp_path / "asl.nii.gz", tmp_path / "x", step_of(frames), "sec")
        assert made.header.get_zooms()[3] == pytest.approx(step or 1)
        assert made.header.get_xyzt_units() == ("mm", "sec" if step else "unknown")


def test_files_of_one_frame_each(tmp_path):
    for subject, frames in (("A", (0, 1, 3)), ("B", (1, 2, 10))):
        for frame in frames:
            clock = {"AcquisitionTime": f"11:{58 + frame:02}:30.5"} if subject == "A" else {}
            save(tmp_path / f"{subject}/dce_{frame:04}.nii.gz", sidecar=clock)
    make_list(tmp_path, pattern="{subject}/{sequence}_{frame}.nii.gz", validation=0, test=1)
    a, b = json.loads((tmp_path / "subjects.json").read_text())["test"]
    assert a["images"]["DCE"] == ["A/dce_0000.nii.gz", "A/dce_0001.nii.gz", None, "A/dce_0003.nii.gz"]
    assert b["images"]["DCE"] == [None, "B/dce_0001.nii.gz", "B/dce_0002.nii.gz", *[None] * 7, "B/dce_0010.nii.gz"]
    assert a["frames"]["DCE"] == {"count": 4} and b["frames"]["DCE"] == {"count": 11}
    read = read_subjects(tmp_path)
    assert read["test"][0]["images"]["DCE"][1:3] == [str(tmp_path / "A/dce_0001.nii.gz"), None]
    before = (tmp_path / "subjects.json").read_text()
    write_subjects(tmp_path / "subjects.json", read)
    assert (tmp_path / "subjects.json").read_text() == before


def test_clock_and_b_of_each_file(tmp_path):
    for frame in range(3):
        save(tmp_path / f"A/dce_{frame}.nii.gz", sidecar={"AcquisitionTime": f"9:0{frame}:{10 * frame + 0.5}"})
        save(tmp_path / f"A/dwi_{frame}.nii.gz", bval=f"{500 * frame}")
    entry = listed(tmp_path, pattern="{subject}/{sequence}_{frame}.nii.gz")
    assert entry["frames"] == {"DCE": {"times": [0, 70, 140]}, "DWI": {"b_values": [0, 500, 1000]}}


def test_the_user_tells_the_frames(tmp_path):
    save(tmp_path / "A/dce.nii.gz", 3)
    save(tmp_path / "A/dwi.nii.gz", 2, bval="0 800")
    frames = {"DCE": {"times": [0, 30, 90]}, "DWI": {"b_values": [0, 1000]}}
    entry = listed(tmp_path, frames=frames)
    assert entry["frames"] == {"DWI": {"b_values": [0, 800]}}  # what a file says goes before what is said of all
    (item,) = subject_items(tmp_path, "test", ["DCE", "DWI"])
    assert item["frames"] == {"DCE": {"times": [0, 30, 90]}, "DWI": {"b_values": [0, 800]}}
    with pytest.raises(ValueError, match=r"'frames' of 'DCE' must be .*\"times\".*not \{'seconds'"):
        make_list(tmp_path, frames={"DCE": {"seconds": [1]}}, overwrite=True)
    with pytest.raises(ValueError, match="'frames' must map names of 'sequences'"):
        make_list(tmp_path, frames={"T9": {"count": 3}}, overwrite=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"images": {"DCE": []}}, "one per frame and null"),
        ({"images": {"DCE": [None]}}, "one per frame and null"),
        ({"images": {"DCE": ["a", 3]}}, "one per frame and null"),
        ({"images": {"DCE": "a"}, "masks": {"brain": ["a"]}}, "'masks' of 'brain' must be a file path"),
        ({"images": {"DCE": "a"}, "frames": {"DCE": {"times": []}}}, "'frames' of 'DCE' must be"),
        ({"images": {"DCE": "a"}, "frames": {"DCE": {"times": [0, "1"]}}}, "'frames' of 'DCE' must be"),
        ({"images": {"DCE": "a"}, "frames": {"DCE": {"count": 1.5}}}, "whole number"),
        ({"images": {"DCE": "a"}, "frames": {"T1": {"count": 2}}}, "'frames' must map"),
        ({"images": {"DCE": "a"}, "frames": {"DCE": {"count": 2, "step": 0}}}, "step must be a number above 0"),
        ({"images": {"DCE": "a"}, "frames": {"DCE": {"step": 2}}}, "'frames' of 'DCE' must be"),
        ({"images": {"DCE": "a"}, "frames": {"DCE": {"count": 2, "times": [0, 1]}}}, "'frames' of 'DCE' must be"),
    ],
)
def test_bad_lists(tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        write_subjects(tmp_path / "x.json", {"sequences": ["DCE"], "test": [{"subject": "A", **fields}]})
