"""The pictures beside a subject's images: what stands in which column, and alike for every storage order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from common.inference import products
from common.inference.products import Reader, draw_completed, draw_differentiation, draw_latent

ORIGIN = {
    "bundle": "mri_any",
    "bundle_version": "1.0",
    "weights_sha256": "ab" * 32,
    "trained_on": "phantom, 3 subjects",
}
AFFINE = np.array([[1.0, 0.1, 0, -20], [-0.1, 1, 0, -25], [0, 0, 3, -12], [0, 0, 0, 1]])  # RAS, a little oblique
SHAPE = (20, 26, 9)


def write(path: Path, voxels: np.ndarray, codes: str = "RAS") -> Path:
    """The same image in another storage order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored, affine = apply_orientation(voxels, change), AFFINE @ inv_ornt_aff(change, voxels.shape[:3])
    assert nib.aff2axcodes(affine) == tuple(codes)
    nib.save(nib.Nifti1Image(stored.astype(np.float32), affine), path)
    return path


def volume(seed: int) -> np.ndarray:
    made = np.zeros(SHAPE)
    made[2:18, 3:23, 1:8] = np.random.default_rng(seed).uniform(50, 100, (16, 20, 7))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """T1 and T2 were acquired, FLAIR was made from them, and its true image withheld."""
    for seed, name in enumerate(("T1", "T2", "truth")):
        write(tmp_path / f"{name}.nii.gz", volume(seed))
    write(tmp_path / "A_FLAIR.nii.gz", volume(2) / 4)
    spread = np.zeros(SHAPE)
    spread[:, :, 5] = 1
    write(tmp_path / "A_FLAIR_uncertainty.nii.gz", spread)
    return tmp_path


@pytest.fixture
def drawn(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """`drawn(**arguments)`: the columns by name and role, the rows, and what else `draw` gets of FLAIR's picture."""

    def call(**arguments: Any) -> tuple[dict, list, dict]:
        found: dict[str, Any] = {}
        monkeypatch.setattr(products, "draw", lambda path, *them, **others: found.update(them=them, others=others))
        images = {name: folder / f"{name}.nii.gz" for name in ("T1", "T2")}
        given = {"grid_file": images["T1"], "images": images, "made": {"FLAIR": ["T1", "T2"]}, "origin": ORIGIN}
        draw_completed(folder, "A", **{**given, **arguments})
        return {(c.name, c.role): c for c in found["them"][0]}, found["them"][1], found["others"]

    return call


def test_sources_and_results_stand_side_by_side(drawn):
    columns, rows, others = drawn(uncertain=["FLAIR"])
    spread = ("FLAIR", "uncertainty, 0 to 30% of white")
    assert list(columns) == [("T1", "acquired"), ("T2", "acquired"), ("FLAIR", "synthesised"), spread]
    assert [name for name, column in columns.items() if column.made] == [("FLAIR", "synthesised")]
    np.testing.assert_allclose(columns["FLAIR", "synthesised"].volume, volume(2) / 4, rtol=1e-6)
    assert [row.label for row in rows if row.said] == ["axial 5, most disagreement"] and len(rows) == 4
    np.testing.assert_allclose(others["spacing"], [np.hypot(1, 0.1), np.hypot(1, 0.1), 3])
    assert others["title"] == "A"
    (stamp,) = others["notes"]
    for word in ("mri_any 1.0", "abababababab", "trained on: phantom, 3 subjects", "Not for clinical use"):
        assert word in stamp


def test_a_withheld_truth_has_a_column_and_is_no_source(drawn, folder: Path):
    columns, _, others = drawn(withheld={"FLAIR": folder / "truth.nii.gz"}, index=3)
    assert [name for name in columns if name[1] == "acquired"] == [("T1", "acquired"), ("T2", "acquired")]
    made, truth = columns["FLAIR", "synthesised"], columns["FLAIR", "true, withheld"]
    np.testing.assert_allclose(made.volume, truth.volume, rtol=1e-5)
    assert made.white == truth.white
    np.testing.assert_allclose(columns["FLAIR", "|error|, 0 to 30% of white"].volume, 0, atol=1e-4)
    assert "truth's scale" in others["notes"][0]


def test_an_acquired_target_is_its_own_truth(drawn, folder: Path):
    write(folder / "A_T1.nii.gz", volume(0))
    columns, _, _ = drawn(made={"T1": ["T2"], "FLAIR": ["T1", "T2"]})
    assert list(columns)[:3] == [("T2", "acquired"), ("T1", "synthesised"), ("T1", "true, not its source")]
    columns, _, _ = drawn(made={"T1": ["T1"]})
    assert list(columns)[:2] == [("T1", "synthesised"), ("T1", "its own source")]


@pytest.mark.parametrize("codes", ["LAS", "LPS", "PIR", "ASL"])
def test_every_storage_order_gives_the_same_picture(folder: Path, codes: str):
    given = {"made": {"FLAIR": ["T1", "T2"]}, "uncertain": ["FLAIR"], "origin": ORIGIN}
    pictures = []
    for place in (folder, folder / codes):
        if place != folder:
            for file in folder.glob("*.nii.gz"):
                write(place / file.name, nib.load(file).get_fdata(), codes)
        images = {name: place / f"{name}.nii.gz" for name in ("T1", "T2")}
        path = draw_completed(
            place, "A", grid_file=images["T1"], images=images, withheld={"FLAIR": place / "truth.nii.gz"}, **given
        )
        pictures.append(imread(path))
    np.testing.assert_array_equal(*pictures)


def test_the_patients_right_is_left_whatever_the_storage_order(tmp_path: Path):
    marked = volume(0)
    marked[15:18, :, :] = 1000  # in RAS, the last voxels of the first axis are the patient's right
    for codes in ("RAS", "LPS"):
        assert Reader(write(tmp_path / f"{codes}.nii.gz", marked, codes)).grid[0, 16, 10, 4] == 1000


def test_another_grid_is_brought_to_the_first(tmp_path: Path):
    read = Reader(write(tmp_path / "a.nii.gz", volume(0)))
    coarse = nib.Nifti1Image(volume(0)[::2, ::2, ::2].astype(np.float32), AFFINE @ np.diag([2, 2, 2, 1]))
    nib.save(coarse, tmp_path / "b.nii.gz")
    assert read(tmp_path / "b.nii.gz").shape == SHAPE
    np.testing.assert_allclose(read(tmp_path / "b.nii.gz")[4:16:2, 4:20:2, 2:8:2], volume(0)[4:16:2, 4:20:2, 2:8:2])


def test_differentiation_and_latents_are_drawn(folder: Path):
    images = {name: folder / f"{name}.nii.gz" for name in ("T1", "T2")}
    given = {"grid_file": images["T1"], "images": images, "origin": ORIGIN}
    for name in images:
        write(folder / f"A_{name}_differentiation.nii.gz", volume(5) / 10)
    path = draw_differentiation(folder, "A", targets=["T1", "T2"], **given)
    assert path.name == "A_differentiation.png" and imread(path).std() > 0.01
    latent = np.random.default_rng(1).normal(size=(10, 13, 9, 6)).astype(np.float32)
    coarse = AFFINE @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(latent, coarse), folder / "A_latent.nii.gz")
    nib.save(nib.Nifti1Image((latent[..., 0] > 0).astype(np.int32), coarse), folder / "A_codes.nii.gz")
    path = draw_latent(folder, "A", codes=16, **given)
    assert path.name == "A_latent.png" and imread(path).std() > 0.01


def test_a_latent_is_shown_where_it_lies(folder: Path, monkeypatch: pytest.MonkeyPatch):
    found: dict[str, Any] = {}
    monkeypatch.setattr(products, "draw", lambda path, columns, rows, **_: found.update(columns=columns))
    latent = np.zeros((10, 13, 9, 300), dtype=np.float32)
    latent[3, 4, 5] = -2
    coarse = AFFINE @ np.array([[2, 0, 0, 0.5], [0, 2, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(latent, coarse), folder / "A_latent.nii.gz")
    draw_latent(folder, "A", grid_file=folder / "T1.nii.gz", images={"T1": folder / "T1.nii.gz"}, origin=ORIGIN)
    given, *channels = found["columns"]
    assert [column.name for column in channels] == [f"latent {k}" for k in range(1, 5)]
    assert channels[0].role == "of 300, -2 to 0"
    assert np.argwhere(channels[0].volume == -2).tolist() == [[x, y, 5] for x in (6, 7) for y in (8, 9)]
    assert np.isnan(channels[0].volume[given.volume == 0]).all()
