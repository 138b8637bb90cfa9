"""What of a sequence the others cannot make: by hand, through slabs, and through the bundle's own run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.transform import Rotation

from common.data.normalisation import tissue
from common.inference.differentiation import DifferentiationInferer, SaveDifferentiation, differentiation_maps
from common.inference.weights import sha256
from mri_seq2seq.network import Seq2Seq

NAMES = ["T1", "T1Gd", "T2", "FLAIR"]
SHAPE = (9, 11, 7)
AFFINE = np.eye(4)  # LPS, oblique, with an origin of its own
AFFINE[:3, :3] = Rotation.from_euler("xyz", (9, -6, 13), degrees=True).as_matrix() @ np.diag([-0.9, -1.1, 3.0])
AFFINE[:3, 3] = (-40.3, 55.7, -12.1)


def pairs_of(*rows: list[float]) -> torch.Tensor:
    """[S, S, 1, 1, 2] with one value per pair."""
    return torch.tensor(rows)[..., None, None, None].repeat(1, 1, 1, 1, 2)


def test_by_hand():
    image = torch.tensor([0.4, 0.6, 0.8]).view(3, 1, 1, 1).repeat(1, 1, 1, 2)
    image[1, ..., 1] = 0  # air
    pairs = pairs_of([0.9, 0.5, 0.1], [0.3, 0.9, 0.9], [0.6, 0.9, 0.9])
    maps = differentiation_maps(pairs, image, [0, 1, 2])
    # T1 is made 0.3 and 0.6, T1Gd 0.5 and 0.9, T2 0.1 and 0.9; what each makes of itself does not count.
    torch.testing.assert_close(maps[..., 0].flatten(), torch.tensor([0.15, 0.2, 0.4]))
    torch.testing.assert_close(maps[..., 1].flatten(), torch.tensor([0.15, 0.0, 0.4]))


def test_missing_sequences_neither_count_nor_have_a_map():
    image = torch.tensor([0.4, -1.0, 0.8]).view(3, 1, 1, 1).repeat(1, 1, 1, 2)
    pairs = pairs_of([0.9, 0.5, 0.1], [torch.nan] * 3, [0.6, 0.9, 0.9])
    maps = differentiation_maps(pairs, image, [0, 2])[..., 0].flatten()
    torch.testing.assert_close(maps, torch.tensor([0.2, 0.0, 0.7]))


def test_one_sequence_has_none():
    with pytest.raises(ValueError, match="one sequence only"):
        differentiation_maps(torch.zeros(3, 3, 2, 2, 2), torch.zeros(3, 2, 2, 2), [1])


@torch.no_grad()
@pytest.mark.parametrize("slab", [1, 3, 100])
def test_the_inferer_does_not_depend_on_its_slabs(slab: int, monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    sizes = {"channels": [4, 8], "res_blocks": 1, "lstm_layers": 0, "code_channels": 4, "bank_channels": 2}
    network = Seq2Seq(4, **sizes).eval()
    image = MetaTensor(torch.rand(1, 4, 8, 12, 7), affine=AFFINE)
    image[:, :, :3, :3] = 0
    image[:, 1] = -1
    x, pairs = image[0].as_tensor(), network.translate(image.as_tensor(), range(4), range(4)).view(4, 4, 8, 12, 7)
    encoded: list[int] = []
    encode = Seq2Seq.encode
    monkeypatch.setattr(Seq2Seq, "encode", lambda *a: encoded.append(a[2].argmax().item()) or encode(*a))
    maps = DifferentiationInferer(NAMES, roi_size=(), slab=slab)(image, network)
    assert sorted(encoded) == sorted([0, 2, 3] * -(-7 // slab)), "once per source and slab"
    expected = ((pairs[0, 3] - x[3]).abs() + (pairs[2, 3] - x[3]).abs()) / 2 * (x[3] > 0)
    torch.testing.assert_close(maps[0, 3].as_tensor(), expected, rtol=0, atol=1e-5)
    assert maps.shape == image.shape and torch.equal(maps.affine, image.affine) and (maps[0, 1] == 0).all()


def write(path: Path, seed: int) -> str:
    """Every voxel differs; unequal margins of air, so that cropping has something to undo."""
    voxels = np.random.default_rng(seed).integers(1, 1000, SHAPE).astype(np.int16)
    voxels[:2] = voxels[:, -1] = 0
    voxels[5:7, 3:5, seed % 5] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three subjects: with three sequences, with one, with two."""
    entries = []
    for k, names in enumerate((["T1", "T2", "FLAIR"], ["T2"], ["T1Gd", "T2"])):
        subject = f"sub-{k}"
        files = {name: write(tmp_path / subject / f"{name}.nii.gz", 10 * k + NAMES.index(name)) for name in names}
        entries.append({"subject": subject, "images": files})
    (tmp_path / "subjects.json").write_text(json.dumps({"sequences": NAMES, "test": entries}))
    return tmp_path


def run(workflow, folder: Path, weights: Path, **overrides: Any) -> None:
    settings = {"dataset_dir": folder, "output_dir": folder / "out", "weights": weights}
    settings |= {"normalisation": "p99_foreground", **overrides}  # as `scaled` has it
    differentiation = workflow("mri_seq2seq", "inference.json", "differentiation.json", **settings)
    # In the network's place: every sequence is taken for every other as it is.
    differentiation.network_def.translate = lambda image, sources, targets: torch.stack(
        [image[:, i] for i in sources for _ in targets], 1
    )
    differentiation.run()


def scaled(folder: Path, subject: str, name: str) -> tuple[np.ndarray, float]:
    voxels = nib.load(folder / subject / f"{name}.nii.gz").get_fdata()
    scale = 1.5 * np.percentile(voxels[voxels > 0], 99)
    return np.where(tissue(voxels), np.clip(voxels / scale, 1e-3, 1), 0), scale


def test_maps_lie_on_the_subject_s_grid_in_the_target_s_units(workflow, tiny_weights: Path, folder: Path, caplog):
    with pytest.raises(SystemExit, match=r"^1 of 3 subjects failed:\n  sub-1: The subject has one sequence only"):
        run(workflow, folder, tiny_weights)
    names = {"sub-0": ["T1", "T2", "FLAIR"], "sub-2": ["T1Gd", "T2"]}
    written = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*.*")}
    ends = (".nii.gz", ".json")
    assert written == {f"{s}/{s}_{t}_differentiation{end}" for s, ts in names.items() for t in ts for end in ends}
    for subject, targets in names.items():
        images = {name: scaled(folder, subject, name) for name in targets}
        for target in targets:
            made = nib.load(folder / "out" / subject / f"{subject}_{target}_differentiation.nii.gz")
            assert np.array_equal(made.affine, nib.load(folder / subject / f"{target}.nii.gz").affine)
            assert made.shape == SHAPE and made.get_data_dtype() == np.float32
            x, scale = images[target]
            others = [image for name, (image, _) in images.items() if name != target]
            expected = np.mean([np.abs(other - x) for other in others], axis=0) * scale * (x > 0)
            np.testing.assert_allclose(made.get_fdata(), expected, rtol=1e-4, atol=1e-3)
            sidecar = json.loads((folder / "out" / subject / f"{subject}_{target}_differentiation.json").read_text())
            assert sidecar["subject"] == subject and sidecar["target"] == target
            assert list(sidecar["sources"]) == [name for name in targets if name != target]
            assert sidecar["weights_sha256"] == sha256(tiny_weights) and sidecar["bundle"] == "mri_seq2seq"
            assert sidecar["scale"] == pytest.approx(scale) and "target's own" in sidecar["units"]
            assert "Eq. 5" in sidecar["quantity"] and "not being a source" in sidecar["quantity"]


def test_targets_limit_what_is_written(workflow, tiny_weights: Path, folder: Path):
    with pytest.raises(SystemExit, match=r"^2 of 3.*\n  sub-1: .*\n  sub-2: The subject has no FLAIR, T1:") as error:
        run(workflow, folder, tiny_weights, targets=["FLAIR", "T1"])
    assert "sub-0" not in str(error.value)
    written = {path.name for path in (folder / "out").rglob("*.nii.gz")}
    assert written == {"sub-0_FLAIR_differentiation.nii.gz", "sub-0_T1_differentiation.nii.gz"}


def test_an_acquired_image_of_that_name_is_not_overwritten(folder: Path, tiny_weights: Path):
    own = write(folder / "sub-0" / "sub-0_T1_differentiation.nii.gz", 3)
    before = Path(own).read_bytes()
    metadata = Path(__file__).parents[3] / "bundles/mri_seq2seq/configs/metadata.json"
    save = SaveDifferentiation(str(folder), NAMES, None, str(tiny_weights), str(metadata))
    data = {
        "subject": "sub-0",
        "images": {"T1": str(folder / "sub-0/T1.nii.gz"), "T2": str(folder / "sub-0/T2.nii.gz")},
        "grid_file": str(folder / "sub-0/T1.nii.gz"),
        "available": torch.tensor([True, False, True, False]),
        "scale": torch.ones(4),
        "pred": torch.rand(4, *SHAPE),
    }
    with pytest.raises(ValueError, match=r"sub-0_T1_differentiation.nii.gz is an acquired image.*--output_dir"):
        save(data)
    assert Path(own).read_bytes() == before
