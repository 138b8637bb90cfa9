"""Frames as channels, and what a network is told of them."""

import json
import warnings

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.loading import LoadSubject, MarkMissingd
from common.data.normalisation import ScaleSequencesd
from common.data.preparation import Subjects
from common.data.series import frame_values
from common.data.subjects import subject_items

from .conftest import FRAMES, VOXELS, save


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
