"""Files become one image on one grid, or an error that names subject and file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.loading import LoadSubject, MarkMissingd

SHAPE = (8, 9, 7)
GRID = np.array([[2.0, 0, 0, -8], [0, 2, 0, -9], [0, 0, 2, -7], [0, 0, 0, 1]])
# A finer grid of other axes, slightly oblique, which covers GRID.
OTHER_SHAPE = (20, 22, 24)
OTHER = np.array([[0.03, -1.5, 0, 15], [-1.5, -0.03, 0, 16], [0, 0, 1.5, -15], [0, 0, 0, 1]])


def save(path: Path, array: np.ndarray, affine: np.ndarray = GRID) -> str:
    nib.save(nib.Nifti1Image(array.astype(np.float32), affine), path)
    return str(path)


def positions(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Where in the world each voxel is, [X, Y, Z, 3] in mm."""
    return nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def ramp(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    return positions(shape, affine) @ [2.0, 3.0, -1.0] + 100


@pytest.fixture
def subject(tmp_path: Path) -> dict[str, Any]:
    """T1 and FLAIR on one grid, whose voxels are 1 and 2 more than their index."""
    index = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    images = {name: save(tmp_path / f"{name}.nii.gz", index + k) for k, name in ((1, "T1"), (2, "FLAIR"))}
    masks = {"brain": save(tmp_path / "brain.nii.gz", index % 2)}
    return {"subject": "sub-7", "images": images, "masks": masks, "reference": {}}


def test_sequences_stand_in_the_named_order_whatever_the_list_has(subject: dict[str, Any]):
    index = torch.arange(np.prod(SHAPE)).view(SHAPE)
    found = LoadSubject(["FLAIR", "T2", "T1"])(subject)
    assert found["image"].shape == (3, *SHAPE) and found["image"].dtype == torch.float32
    assert torch.equal(found["image"].as_tensor(), torch.stack([index + 2, 0 * index, index + 1]).float())
    assert found["available"].tolist() == [True, False, True]
    assert list(found["images"]) == ["FLAIR", "T1"] and found["grid_file"] == subject["images"]["FLAIR"]
    np.testing.assert_array_equal(found["image"].affine, GRID)
    assert "label" not in found and "brain" not in found


def test_a_missing_sequence_is_marked_and_air_is_not(subject: dict[str, Any]):
    found = LoadSubject(["T1", "T2", "FLAIR"])(subject)
    found["image"][0] = 0
    marked = MarkMissingd("image")(found)["image"]
    assert (marked[1] == -1).all() and (marked[0] == 0).all() and torch.equal(marked[2], found["image"][2])
    np.testing.assert_array_equal(marked.affine, GRID)


def test_masks_are_loaded_where_there_are_some(subject: dict[str, Any]):
    found = LoadSubject(["T1"], masks=["brain", "lesion"])(subject)
    assert found["brain"].shape == (1, *SHAPE) and set(np.unique(found["brain"])) == {0, 1} and "lesion" not in found
    del subject["masks"]
    assert "brain" not in LoadSubject(["T1"], masks=["brain"])(subject)


def test_labels(subject: dict[str, Any], tmp_path: Path):
    subject["reference"] = {"FLAIR": save(tmp_path / "clean.nii.gz", 5 + np.arange(np.prod(SHAPE)).reshape(SHAPE))}
    del subject["images"]["T1"]
    found = LoadSubject(["T1", "FLAIR"], label="reference")(subject)
    assert (found["label"][0] == 0).all() and torch.equal(found["label"][1], found["image"][1] + 3)
    found = LoadSubject(["T1", "FLAIR"], label="images")(subject)
    assert torch.equal(found["label"], found["image"])
    found["label"][:] = -7
    assert found["image"].min() == 0, "the label is a copy"


def test_a_label_that_the_subject_lacks_is_named(subject: dict[str, Any]):
    with pytest.raises(ValueError, match=r"sub-7.*reference.*T1"):
        LoadSubject(["T1"], label="reference")(subject)


def test_grids_that_differ_are_refused_with_both_sides(subject: dict[str, Any], tmp_path: Path):
    subject["images"]["T2"] = save(tmp_path / "T2.nii.gz", ramp(OTHER_SHAPE, OTHER), OTHER)
    message = r"sub-7: T2 and T1 lie on different grids: shape \(20, 22, 24\) against \(8, 9, 7\).*spacing.*--grid T1"
    with pytest.raises(ValueError, match=message):
        LoadSubject(["T1", "T2", "FLAIR"])(subject)
    shifted = GRID.copy()
    shifted[0, 3] += 0.5
    subject["images"]["T2"] = save(tmp_path / "T2.nii.gz", ramp(SHAPE, GRID), shifted)
    with pytest.raises(ValueError, match=r"up to 0.5 mm apart"):
        LoadSubject(["T1", "T2"])(subject)


def test_rounding_of_a_header_is_no_other_grid(subject: dict[str, Any], tmp_path: Path):
    subject["images"]["T2"] = save(tmp_path / "T2.nii.gz", ramp(SHAPE, GRID), GRID + 1e-4)
    found = LoadSubject(["T1", "T2"])(subject)["image"][1]
    assert torch.equal(found.as_tensor(), torch.as_tensor(ramp(SHAPE, GRID)).float()), "not interpolated"


def test_resampling_keeps_places(subject: dict[str, Any], tmp_path: Path):
    """A ramp over the world and a half space, seen from two grids, agree: linear interpolation is exact on a ramp."""
    half = positions(OTHER_SHAPE, OTHER)[..., 0] > 0
    subject["images"]["T2"] = save(tmp_path / "T2.nii.gz", ramp(OTHER_SHAPE, OTHER), OTHER)
    subject["masks"] = {"brain": save(tmp_path / "brain.nii.gz", half, OTHER)}
    found = LoadSubject(["T2", "T1"], grid="T1", masks=["brain"])(subject)
    assert found["grid_file"] == subject["images"]["T1"]
    np.testing.assert_array_equal(found["image"].affine, GRID)
    np.testing.assert_allclose(found["image"][0], ramp(SHAPE, GRID), atol=1e-2)
    assert torch.equal(found["image"][1], LoadSubject(["T1"])(subject)["image"][0]), (
        "the grid's own image is not touched"
    )
    x = positions(SHAPE, GRID)[..., 0]
    clear = abs(x) > 1.5  # a voxel of the other grid away from the border
    assert np.array_equal(np.asarray(found["brain"][0])[clear], (x > 0)[clear])
    assert set(np.unique(found["brain"])) == {0, 1}


def test_references_lie_on_the_image_s_grid(subject: dict[str, Any], tmp_path: Path):
    subject["images"]["T2"] = save(tmp_path / "T2.nii.gz", ramp(OTHER_SHAPE, OTHER) + 1, OTHER)
    clean = save(tmp_path / "clean.nii.gz", ramp(OTHER_SHAPE, OTHER), OTHER)
    subject["reference"] = {"T2": clean, "T1": subject["images"]["T1"]}
    found = LoadSubject(["T2", "T1"], grid="T1", label="reference")(subject)
    np.testing.assert_allclose(found["label"][0], ramp(SHAPE, GRID), atol=1e-2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequences": ["T1"], "grid": "T2"}, "'T2'.*none of the sequences T1"),
        ({"sequences": ["T1"], "label": "truth"}, "'truth'.*'images', 'reference'"),
        ({"sequences": ["T1", "T2"], "grid": "T2"}, "sub-7 has no T2.*--grid"),
        ({"sequences": ["T2", "PD"]}, "sub-7 has none of the sequences T2, PD"),
    ],
)
def test_bad_settings(subject: dict[str, Any], settings: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        LoadSubject(**settings)(subject)


def _spoil(array: np.ndarray, value: float) -> np.ndarray:
    array[3, 4, 5] = value
    return array


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (_spoil(np.ones(SHAPE), np.nan), "NaN or infinite"),
        (_spoil(np.ones(SHAPE), -np.inf), "NaN or infinite"),
        (np.ones((*SHAPE, 2)), r"not 3D.*\(8, 9, 7, 2\)"),
        (np.ones(SHAPE[:2]), "not 3D"),
    ],
    ids=["nan", "inf", "4D", "2D"],
)
@pytest.mark.parametrize("name", ["T1", "T2"])
def test_bad_voxels_name_subject_and_file(
    subject: dict[str, Any], tmp_path: Path, name: str, voxels: np.ndarray, reason: str
):
    subject["images"][name] = save(tmp_path / "bad.nii.gz", voxels)
    with pytest.raises(ValueError, match=rf"sub-7: \S*bad.nii.gz.*{reason}"):
        LoadSubject(["T1", "T2"])(subject)


@pytest.mark.parametrize("damage", ["truncated", "text", "absent"])
def test_unreadable_files_are_named_with_the_subject(subject: dict[str, Any], damage: str):
    path = Path(subject["images"]["FLAIR"])
    content = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"not an image" * 50)
    with pytest.raises(ValueError, match=r"sub-7: \S*FLAIR.nii.gz"):
        LoadSubject(["T1", "FLAIR"])(subject)


def test_parameters_of_each_image(subject: dict[str, Any], tmp_path: Path):
    settings = [[500, 10, 0], [4000, 100, 0], [9000, 120, 2500]]
    (tmp_path / "FLAIR.json").write_text('{"RepetitionTime": 8, "EchoTime": 0.1, "InversionTime": 2.2}')
    listed = {**subject, "parameters": {"T1": {"TR": 600, "TE": 12}}}
    found = LoadSubject(["T1", "T2", "FLAIR"], settings=settings)(listed)["parameters"]
    assert found.tolist() == [[600, 12, 0, 0], [4000, 100, 0, 0], [8000, 100, 2200, 0]]
    assert "parameters" not in LoadSubject(["T1", "FLAIR"])(listed)
    listed["parameters"]["T1"]["TR"] = 0.6
    with pytest.raises(ValueError, match=r"sequence T1: TR is 0.6 ms.*looks like seconds"):
        LoadSubject(["T1", "T2", "FLAIR"], settings=settings)(listed)


def test_the_affine_is_nibabel_s_whatever_the_spacings_say(tmp_path: Path):
    """A qform that is not set, beside an sform whose spacings differ from the header's by a rounding."""
    affine = nib.orientations.inv_ornt_aff([[1, -1], [2, -1], [0, 1]], (6, 7, 8)) @ np.diag([8, 8, 8, 1.0])
    image = nib.Nifti1Image(np.arange(6 * 7 * 8, dtype=np.float32).reshape(6, 7, 8), affine)
    image.set_sform(affine, 1)
    image.header["qform_code"] = 0
    image.header["pixdim"][1:4] = [8.001, 8, 8]
    nib.save(image, tmp_path / "T1.nii.gz")
    loaded = LoadSubject(["T1"])({"subject": "A", "images": {"T1": str(tmp_path / "T1.nii.gz")}})["image"]
    np.testing.assert_array_equal(loaded.affine.numpy(), nib.load(tmp_path / "T1.nii.gz").affine)
    np.testing.assert_array_equal(loaded[0].numpy(), image.get_fdata())
