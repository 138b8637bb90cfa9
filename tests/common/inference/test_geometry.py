"""Through the bundle's own transforms and back: every voxel returns to its place, whatever the scan's axes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from common.data.normalisation import tissue

AXES = [
    "".join(letters[sign] for letters, sign in zip(axes, signs, strict=True))
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for signs in itertools.product((0, 1), repeat=3)
]
CODES = [(1, 1), (2, 0), (0, 1), (4, 2)]  # of sform and qform
TYPES = [np.float32, np.int16, np.uint16]
SHAPE, SPACING = (9, 11, 7), (0.9, 1.1, 3.0)
SCALE = {"T1": (100.0, 0.0), "T1Gd": (200.0, 0.0), "T2": (300.0, 10.0), "FLAIR": (400.0, 20.0)}  # of `tiny_weights`


def affine_of(axes: str) -> NDArray:
    """Oblique by up to 17 degrees, with an origin of its own."""
    tilt = Rotation.from_euler("xyz", (9, -6, 13), degrees=True).as_matrix()
    directions = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(axes), (1, 1, 1))[:3, :3].T
    affine = np.eye(4)
    affine[:3, :3] = tilt @ directions @ np.diag(SPACING)
    affine[:3, 3] = (-40.3, 55.7, -12.1)
    return affine


def write(path: Path, voxels: NDArray, affine: NDArray, codes: tuple[int, int], dtype: type) -> str:
    image = nib.Nifti1Image(voxels.astype(dtype), affine)
    image.set_qform(affine, code=codes[1])
    image.set_sform(affine, code=codes[0])
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return str(path)


def voxels_of(seed: int) -> NDArray:
    """Every voxel differs from its neighbours; unequal margins of air, so that cropping has something to undo."""
    voxels = np.random.default_rng(seed).integers(1, 1000, SHAPE)
    voxels[:2] = voxels[:, -1] = 0
    voxels[5:7, 3:5, seed % 5] = 0
    return voxels


def normalised(voxels: NDArray) -> NDArray:
    scaled = np.clip(voxels / (1.5 * np.percentile(voxels[voxels > 0], 99)), 1e-3, 1)
    return np.where(tissue(voxels), scaled, 0)


def average(image: torch.Tensor, sources: list[int], targets: list[int]) -> torch.Tensor:
    """In place of the network's `complete`: the mean of the sources, voxel by voxel."""
    mean = image[:, sources].mean(1, keepdim=True)
    return torch.cat([mean if j in targets else 0 * mean for j in range(image.shape[1])], 1)


@pytest.fixture(scope="module")
def completed(tmp_path_factory, workflow, tiny_weights: Path) -> Path:
    """A subject per orientation with T1 and T2, completed by the mean of both."""
    folder = tmp_path_factory.mktemp("orientations")
    entries = []
    for k, axes in enumerate(AXES):
        files = {
            name: write(folder / axes / f"{name}.nii.gz", voxels_of(2 * k + i), affine_of(axes), CODES[k % 4], dtype)
            for i, (name, dtype) in enumerate((("T1", TYPES[k % 3]), ("T2", np.float32)))
        }
        entries.append({"subject": axes, "images": files})
    (folder / "subjects.json").write_text(json.dumps({"sequences": list(SCALE), "test": entries}))
    run(workflow, folder, folder / "out", weights=tiny_weights)
    return folder


def run(workflow, dataset_dir: Path, output_dir: Path, **overrides: Any) -> None:
    options = {"dataset_dir": dataset_dir, "output_dir": output_dir, "saver#pictures": False, **overrides}
    options |= {"normalisation": "p99_foreground"}  # which is reckoned here by hand
    inference = workflow("mri_seq2seq", "inference.json", **options)
    inference.network_def.complete = average  # instantiated once: it is the evaluator's network too
    inference.run()


def test_there_are_48_orientations():
    assert len({nib.aff2axcodes(affine_of(axes)) for axes in AXES}) == 48
    assert all("".join(nib.aff2axcodes(affine_of(axes))) == axes for axes in AXES)


def test_one_image_and_sidecar_per_subject_and_target(completed: Path):
    written = {path.relative_to(completed / "out").as_posix() for path in (completed / "out").rglob("*.*")}
    ends = (".nii.gz", ".json")
    assert written == {f"{axes}/{axes}_{name}{end}" for axes in AXES for name in ("T1Gd", "FLAIR") for end in ends}


@pytest.mark.parametrize("target", ["T1Gd", "FLAIR"])
@pytest.mark.parametrize("axes", AXES)
def test_every_voxel_is_back_in_its_place(completed: Path, axes: str, target: str):
    acquired = nib.load(completed / axes / "T1.nii.gz")
    made = nib.load(completed / "out" / axes / f"{axes}_{target}.nii.gz")
    assert np.array_equal(made.affine, acquired.affine) and made.shape == acquired.shape
    assert made.get_data_dtype() == np.float32
    assert made.header.get_xyzt_units() == acquired.header.get_xyzt_units() == ("mm", "sec")
    for form in ("sform", "qform"):
        assert made.header[f"{form}_code"] == acquired.header[f"{form}_code"]
    np.testing.assert_array_equal(made.header.get_qform(), acquired.header.get_qform())
    k = AXES.index(axes)
    t1, t2 = normalised(voxels_of(2 * k)), normalised(voxels_of(2 * k + 1))
    scale, offset = SCALE[target]
    wanted = (t1 + t2) / 2
    wanted = np.where(wanted > 0, wanted * scale + offset, 0)
    found = made.get_fdata()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert (found[(t1 == 0) & (t2 == 0)] == 0).all() and (t1 == 0).any()


def test_a_source_on_another_grid_lands_in_its_place(workflow, tiny_weights: Path, tmp_path: Path):
    """T2, the same anatomy stored along other axes, is resampled onto T1's grid, where the result lies."""
    voxels = voxels_of(0)
    files = {"T1": write(tmp_path / "T1.nii.gz", voxels, affine_of("RAS"), (1, 1), np.float32)}
    image = nib.load(files["T1"]).as_reoriented(nib.orientations.axcodes2ornt("ASL"))  # codes for "which goes where"
    nib.save(image, tmp_path / "T2.nii.gz")
    assert image.shape != SHAPE
    files["T2"] = str(tmp_path / "T2.nii.gz")
    subjects = {"sequences": ["T1", "T2"], "test": [{"subject": "sub-7", "images": files}]}
    (tmp_path / "subjects.json").write_text(json.dumps(subjects))
    with pytest.raises(SystemExit, match=r"sub-7: .*T2 and T1 lie on different grids.*--grid"):
        run(workflow, tmp_path, tmp_path / "out", weights=tiny_weights, targets="T1Gd")
    run(workflow, tmp_path, tmp_path / "out", weights=tiny_weights, targets="T1Gd", grid="T1")
    made = nib.load(tmp_path / "out/sub-7/sub-7_T1Gd.nii.gz")
    assert np.array_equal(made.affine, nib.load(files["T1"]).affine)
    np.testing.assert_allclose(made.get_fdata() / 200, normalised(voxels), atol=1e-3)


@pytest.mark.parametrize("name", ["ms_oms-cs-p07", "ms_tcga-du-7294-atlas", "ms_tcga-du-7294-native-bet"])
def test_real_images_come_back_on_their_grid(workflow, tiny_weights: Path, tmp_path: Path, mri_data: Path, name: str):
    files = {sequence: str(mri_data / name / f"{sequence}.nii.gz") for sequence in ("T1", "T1Gd", "T2")}
    subjects = {"sequences": list(files), "test": [{"subject": name, "images": files}]}
    (tmp_path / "subjects.json").write_text(json.dumps(subjects))
    grid = "T1Gd" if "native" in name else ""
    run(workflow, tmp_path, tmp_path / "out", weights=tiny_weights, targets="FLAIR", grid=grid)
    acquired, made = nib.load(files[grid or "T1"]), nib.load(tmp_path / "out" / name / f"{name}_FLAIR.nii.gz")
    assert np.array_equal(made.affine, acquired.affine) and made.shape == acquired.shape
    for form in ("sform", "qform"):
        assert made.header[f"{form}_code"] == acquired.header[f"{form}_code"]
    images = [nib.load(file) for file in files.values()]
    if not grid:
        wanted = np.mean([normalised(image.get_fdata()) for image in images], axis=0)
        np.testing.assert_allclose(made.get_fdata(), np.where(wanted > 0, 400 * wanted + 20, 0), rtol=1e-4)
