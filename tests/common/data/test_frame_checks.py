"""What `check` says of series, frame by frame."""

import json

import nibabel as nib
import numpy as np
import pytest

from common.data.check import check_subjects
from common.data.loading import LoadSubject
from common.data.subjects import subject_items

from .conftest import FRAMES, VOXELS, save


def codes(folder):
    return [(finding.code, finding.severity, finding.file) for finding in check_subjects(folder)]


def test_good_series_give_no_finding(dce):
    save(dce / "DCE.nii.gz", 3)
    assert check_subjects(dce) == []


@pytest.mark.parametrize(
    ("voxels", "found", "reason"),
    [
        (FRAMES[..., :2], ("FRAME_COUNT", "error"), "has 2 frames, but 3 times are told"),
        (FRAMES[..., 0], ("FRAME_COUNT", "error"), "has 1 frames, but 3 times are told"),
        (FRAMES * [1, 0, 1], ("CONSTANT", "error"), "frame 2 of 3: every voxel is 0; drop it"),
        (FRAMES * [1, 0, 0], ("CONSTANT", "error"), "frame 2 and 1 more of 3: every voxel is 0"),
        (FRAMES * [1, np.nan, 1], ("NOT_FINITE", "error"), "frame 2 of 3: 336 voxels are NaN"),
        (FRAMES - [0, 0, 150], ("BELOW_ZERO", "error"), "frame 3 of 3"),
        (np.pad(FRAMES, ((0, 1), (0, 0), (0, 0), (0, 0))), ("SHAPE_DIFFERS", "error"), "(7, 7, 8) against (6, 7, 8)"),
    ],
)
def test_every_frame_is_checked(dce, voxels, found, reason):
    save(dce / "DCE.nii.gz", voxels=voxels.astype(np.float32))
    findings = check_subjects(dce)
    assert (*found, "DCE.nii.gz") in [(each.code, each.severity, each.file) for each in findings]
    assert any(reason in each.reason for each in findings)


def blob(shift=(0, 0, 0), brightness=(1, 2)):
    """A ball in a larger one, in voxels of 2 mm."""
    points = np.stack(np.meshgrid(*[np.arange(n) for n in (24, 26, 20)], indexing="ij"), -1)
    distance = np.linalg.norm(points - np.array([12, 13, 10]) - np.array(shift), axis=-1)
    smooth = [1 / (1 + np.exp(2 * (distance - radius))) for radius in (4, 8)]
    return (brightness[0] * smooth[0] + brightness[1] * smooth[1]).astype(np.float32)


@pytest.mark.parametrize("shift", [(0.25, 0, 0), (0, 0, 1.5), (2, -1, 2)])
def test_motion_between_frames(dce, shift):
    save(dce / "T1.nii.gz", voxels=blob())
    save(dce / "DCE.nii.gz", voxels=np.stack([blob(), blob(brightness=(3, 1)), blob(shift, (2, 2))], -1))
    findings = check_subjects(dce)
    size = 2 * np.linalg.norm(shift)
    if size < 1:
        assert findings == []
        return
    (finding,) = findings
    assert (finding.code, finding.severity) == ("FRAME_MOTION", "warning")
    found = float(finding.reason.split("by up to ")[1].split(" mm")[0])
    assert "1 of 3 frames" in finding.reason and abs(found - size) < 0.5  # a quarter of a voxel


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ({"times": [0, 60, 60]}, [("FRAME_ORDER", "error", "DCE.nii.gz")]),
        ({"b_values": [0, 800, 150]}, [("FRAME_ORDER", "warning", "DCE.nii.gz")]),
        ({"b_values": [0, 800, 800]}, []),
        ({"count": 3}, [("FRAMES_UNKNOWN", "warning", "DCE.nii.gz")]),
        ({"times": [0, 60000, 120000]}, [("FRAME_TIMES", "warning", "DCE.nii.gz")]),
        ({"count": 4}, [("FRAME_COUNT", "error", "DCE.nii.gz"), ("FRAMES_UNKNOWN", "warning", "DCE.nii.gz")]),
    ],
)
def test_what_is_told_is_checked(dce, frames, found):
    save(dce / "DCE.nii.gz", 3)
    content = json.loads((dce / "subjects.json").read_text())
    content["training"][0]["frames"] = {"DCE": frames}  # goes before what the list says of all
    (dce / "subjects.json").write_text(json.dumps(content))
    assert codes(dce) == found


def test_the_frame_that_is_out_of_order_is_named(dce):
    save(dce / "DCE.nii.gz", 3)
    content = json.loads((dce / "subjects.json").read_text())
    for frames, reason in (
        ({"times": [0, 60, 59.5]}, "times do not ascend: 59.5 in frame 3 after 60; put the frames in order"),
        ({"b_values": [100, 0, 0]}, "b values do not ascend: 0 in frame 2 after 100"),
    ):
        content["frames"] = {"DCE": frames}
        (dce / "subjects.json").write_text(json.dumps(content))
        assert [finding.reason for finding in check_subjects(dce)] == [reason]


def test_a_series_is_refused_where_nothing_says_that_it_is_one(dce):
    save(dce / "DCE.nii.gz", 3)
    content = json.loads((dce / "subjects.json").read_text())
    del content["frames"]
    (dce / "subjects.json").write_text(json.dumps(content))
    assert codes(dce) == [("NOT_3D", "error", "DCE.nii.gz")]


def test_files_of_one_frame_each_are_checked(dce):
    content = json.loads((dce / "subjects.json").read_text())
    content["training"][0]["images"]["DCE"] = ["d0.nii.gz", None, "d2.nii.gz"]
    (dce / "subjects.json").write_text(json.dumps(content))
    save(dce / "d0.nii.gz")
    assert codes(dce) == [("FILE_MISSING", "error", "d2.nii.gz"), ("FRAME_MISSING", "warning", "d0.nii.gz")]
    save(dce / "d2.nii.gz", voxels=VOXELS[:5])
    assert set(codes(dce)) == {("FRAME_MISSING", "warning", "d0.nii.gz"), ("SHAPE_DIFFERS", "error", "d2.nii.gz")}
    save(dce / "d2.nii.gz", voxels=nib.load(dce / "d0.nii.gz").get_fdata(dtype=np.float32))
    assert ("SAME_IMAGE", "error", "d2.nii.gz") in codes(dce)
    (item,) = subject_items(dce, "training", ["T1", "DCE"])
    with pytest.raises(ValueError, match="DCE has 3 frames, and 1 are taken"):
        LoadSubject(["T1", "DCE"])(item)
    assert LoadSubject(["T1"])(item)["image"].shape == (1, 6, 7, 8)
