"""Series in subject lists: found by `list`, looked at by `check`."""

import json
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.check import check_subjects
from common.data.layouts import make_list
from common.data.loading import LoadSubject, MarkMissingd
from common.data.names import bids, from_pattern
from common.data.normalisation import ScaleSequencesd
from common.data.preparation import Subjects
from common.data.series import frame_values, frames_of, step_of
from common.data.subjects import read_subjects, subject_items, write_subjects
from common.inference.nifti import image_like

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(1, 100, (6, 7, 8)).astype(np.float32)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
TIMES = {"VolumeTiming": [0, 60, 120]}


def save(path, frames=0, voxels=None, sidecar=None, bval=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if voxels is None:
        scale = 1 + sum(str(path).encode()) % 97 / 97
        voxels = VOXELS * np.float32(scale)
        voxels = np.stack([voxels * (k + 1) for k in range(frames)], -1) if frames else voxels
    image = nib.Nifti1Image(voxels, AFFINE)
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 1)
    nib.save(image, path)
    if sidecar:
        path.with_name(path.name.split(".nii")[0] + ".json").write_text(json.dumps(sidecar))
    if bval:
        path.with_name(path.name.split(".nii")[0] + ".bval").write_text(bval)


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


@pytest.fixture
def dce(tmp_path):
    """A T1, and a list in which there is a DCE of three frames that the test writes."""
    save(tmp_path / "T1.nii.gz")
    times = {"frames": {"DCE": {"times": [0, 60, 120]}}}
    entry = {"subject": "A", "images": {"T1": "T1.nii.gz", "DCE": "DCE.nii.gz"}}
    (tmp_path / "subjects.json").write_text(json.dumps({"sequences": ["T1", "DCE"], "training": [entry], **times}))
    return tmp_path


def codes(folder):
    return [(finding.code, finding.severity, finding.file) for finding in check_subjects(folder)]


def test_good_series_give_no_finding(dce):
    save(dce / "DCE.nii.gz", 3)
    assert check_subjects(dce) == []


FRAMES = np.stack([VOXELS, VOXELS * 2, VOXELS * 3], -1)


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


def loaded(folder, sequences, frames, **options):
    (item,) = subject_items(folder, "training", sequences)
    return LoadSubject(sequences, frames=frames, **options)(item)


def test_frames_are_channels_in_order(dce):
    save(dce / "DCE.nii.gz", voxels=FRAMES)
    t1 = nib.load(dce / "T1.nii.gz").get_fdata(dtype=np.float32)
    d = loaded(dce, ["DCE", "T2", "T1"], {"DCE": 4, "T2": 2})
    assert LoadSubject(["DCE", "T1"], frames={"DCE": 2}).channels == ["DCE 1", "DCE 2", "T1"]
    assert d["available"].tolist() == [True, True, True, False, False, False, True]
    np.testing.assert_array_equal(d["image"][:3], np.moveaxis(FRAMES, -1, 0))
    assert not d["image"][3:6].any() and d["grid_file"] == str(dce / "DCE.nii.gz")
    np.testing.assert_array_equal(d["image"][6], t1)
    marked = MarkMissingd("image")(d)["image"]
    assert (marked[3:6] == -1).all() and (marked[:3] == d["image"][:3]).all()
    with pytest.raises(ValueError, match="DCE has 3 frames, and 2 are taken"):
        loaded(dce, ["DCE", "T1"], {"DCE": 2})
    with pytest.raises(ValueError, match=r"a series, shape \(6, 7, 8, 3\)"):
        loaded(dce, ["DCE", "T1"], {})


def test_a_missing_frame_is_a_missing_channel(dce):
    content = json.loads((dce / "subjects.json").read_text())
    content["training"][0]["images"]["DCE"] = [None, "d1.nii.gz", None, "d3.nii.gz"]
    (dce / "subjects.json").write_text(json.dumps(content))
    save(dce / "d1.nii.gz")
    save(dce / "d3.nii.gz")
    d = loaded(dce, ["T1", "DCE"], {"DCE": 4}, label="images")
    assert d["available"].tolist() == [True, False, True, False, True]
    np.testing.assert_array_equal(d["image"][4], nib.load(dce / "d3.nii.gz").get_fdata(dtype=np.float32))
    assert not d["image"][[1, 3]].any() and d["label"].shape == d["image"].shape
    save(dce / "d3.nii.gz", voxels=VOXELS[1:])
    with pytest.raises(ValueError, match=r"DCE has frames on different grids, .*d3.nii.gz: shape \(5, 7, 8\)"):
        loaded(dce, ["T1", "DCE"], {"DCE": 4})


def test_a_series_is_resampled_whole(dce):
    save(dce / "DCE.nii.gz", voxels=np.repeat(FRAMES, 2, axis=2))  # the same voxel size: T1 covers the lower half
    d = loaded(dce, ["T1", "DCE"], {"DCE": 3}, grid="T1")
    np.testing.assert_allclose(d["image"][1:], np.moveaxis(np.repeat(FRAMES, 2, axis=2)[:, :, :8], -1, 0), rtol=1e-5)


def test_a_series_has_one_scale(dce):
    save(dce / "DCE.nii.gz", voxels=FRAMES)
    frames = {"DCE": 4}
    d = loaded(dce, ["T1", "DCE"], frames)
    d = ScaleSequencesd("image", rule="percentile", sequences=["T1", "DCE"], frames=frames)(d)
    low, high = np.percentile(FRAMES, (0.5, 99.5))
    np.testing.assert_allclose(d["scale"][1:], high - low, rtol=1e-6)
    np.testing.assert_allclose(d["offset"][1:], low, rtol=1e-6)
    assert d["scale"][0] != d["scale"][1]
    # A voxel doubles and trebles between frames; it still does so after scaling.
    voxel = tuple(np.argwhere((VOXELS > 20) & (VOXELS < 30))[0])
    np.testing.assert_allclose(d["image"][1:4][(slice(None), *voxel)] * (high - low) + low, FRAMES[voxel], rtol=1e-4)


def test_subjects_have_the_frames_of_their_list(dce):
    save(dce / "DCE.nii.gz", 3)
    subjects = Subjects(["T1", "DCE"], dataset_dir=dce, frames=None)
    assert subjects.frames == {"DCE": {"times": [0, 60, 120]}} and subjects.counts == [1, 3]
    assert subjects.channels == ["T1", "DCE 1", "DCE 2", "DCE 3"]
    assert subjects.trained_alike["frames"] == subjects.frames
    (item,) = subjects.items("training")
    prepared = subjects.validation()(item)
    assert prepared["image"].shape[0] == 4 and prepared["available"].tolist() == [True] * 4
    alone = Subjects(["T1"], dataset_dir=dce, frames=None)
    assert alone.counts == [] and "frames" not in alone.trained_alike
    assert Subjects(["T1"], dataset_dir=dce / "nowhere", frames=None).counts == []
    with pytest.raises(ValueError, match="frames has DWI, none of the sequences T1"):
        Subjects(["T1"], frames={"DWI": {"count": 2}})
    with pytest.raises(ValueError, match=r"frames of 'T1' must be"):
        Subjects(["T1"], frames={"T1": 2})


@pytest.mark.parametrize(("times", "warns"), [([0, 62, 125], False), ([0, 60], False), ([0, 60, 240], True)])
def test_other_times_than_the_network_s_are_told(dce, times, warns):
    save(dce / "DCE.nii.gz", 3)
    subjects = Subjects(["T1", "DCE"], dataset_dir=dce, frames={"DCE": {"times": times}})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        subjects.items("training")
    assert any("A: times or b values are not" in str(each.message) for each in found) == warns


def test_what_a_network_is_told_of_frames(dce):
    save(dce / "DCE.nii.gz", 3)
    network = {"DCE": {"times": [0, 90, 180, 300]}, "DWI": {"b_values": [0, 1000]}}
    names = ["T1", "DCE", "DWI"]
    assert frame_values(names, network) == [[0], [0, 0.15, 0.3, 0.5], [0, 1]]
    assert frame_values(["DCE"], {"DCE": {"count": 4}}) == [[]]
    subjects = Subjects(names, dataset_dir=dce, frames=network, told=True)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        (item,) = subjects.items("training")
    assert not any("times or b values are not" in str(each.message) for each in found)
    # The subject's own times, the network's where it has no such frame, and for what it lacks.
    told = subjects.validation()(item)["frame_values"]
    torch.testing.assert_close(told, torch.tensor([[0, 0, 0, 0], [0, 0.1, 0.2, 0.5], [0, 1, 0, 0]]))
    assert "frames" not in subjects.trained_alike and subjects.described["frames"] == network
    content = json.loads((dce / "subjects.json").read_text())
    content["frames"] = {"DCE": {"count": 3}}
    (dce / "subjects.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="A: {'DCE': {'times': .* is taken for what is not known; tell them with"):
        subjects.items("training")
    del item["images"]["DCE"]
    assert subjects.validation()(item)["frame_values"][1].tolist() == pytest.approx([0, 0.15, 0.3, 0.5])
