"""Files of series, and a list that has one."""

import json

import nibabel as nib
import numpy as np
import pytest

RNG = np.random.default_rng(0)
VOXELS = RNG.integers(1, 100, (6, 7, 8)).astype(np.float32)
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
TIMES = {"VolumeTiming": [0, 60, 120]}
FRAMES = np.stack([VOXELS, VOXELS * 2, VOXELS * 3], -1)


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


@pytest.fixture
def dce(tmp_path):
    """A T1, and a list in which there is a DCE of three frames that the test writes."""
    save(tmp_path / "T1.nii.gz")
    times = {"frames": {"DCE": {"times": [0, 60, 120]}}}
    entry = {"subject": "A", "images": {"T1": "T1.nii.gz", "DCE": "DCE.nii.gz"}}
    (tmp_path / "subjects.json").write_text(json.dumps({"sequences": ["T1", "DCE"], "training": [entry], **times}))
    return tmp_path
