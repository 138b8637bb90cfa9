"""Real 4D images, where MRI_DATA says: split into frames, listed, checked, trained on briefly, made and written."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.check import check_subjects
from common.data.layouts import make_list
from common.data.series import beside
from common.data.subjects import read_subjects, write_subjects

REAL = {"ASL": "4d_niivue-mpld-asl/asl4d.nii.gz", "DWI": "4d_sct-dmri-spine/dmri.nii.gz"}


def lay_out(file: Path, name: str, folder: Path) -> list[float]:
    """Below `split` a file per frame, below `whole` one of all, each beside the mean as T1; returns the b values."""
    image, table = nib.load(file), file.with_name("bvals.txt")
    b_values = [float(each) for each in table.read_text().split()] if table.is_file() else []
    for kind in ("split", "whole"):
        (folder / kind / "A").mkdir(parents=True)
        mean = image.get_fdata(dtype=np.float32).mean(3)
        header = image.header.copy()
        header.set_data_dtype(np.float32)
        nib.save(nib.Nifti1Image(mean, image.affine, header), folder / kind / "A" / "T1.nii.gz")
    whole = folder / "whole" / "A" / f"{name}.nii.gz"
    whole.write_bytes(file.read_bytes())
    if b_values:
        beside(whole, ".bval").write_text("\n".join(f"{b:g}" for b in b_values))  # in lines, as some write it
    for k, frame in enumerate(nib.four_to_three(image)):
        path = folder / "split" / "A" / f"{name}_{k:02}.nii.gz"
        nib.save(frame, path)
        if b_values:
            beside(path, ".bval").write_text(f"{b_values[k]:g}\n")
    return b_values


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REAL)
def test_real_series_there_and_back(mri_data: Path, workflow, tmp_path: Path, name: str):
    original = nib.load(mri_data / REAL[name])
    b_values = lay_out(mri_data / REAL[name], name, tmp_path)
    patterns = {"split": "{subject}/{sequence}_{frame}.nii.gz", "whole": "{subject}/{sequence}.nii.gz"}
    for kind, pattern in patterns.items():
        make_list(tmp_path / kind, layout="pattern", pattern=pattern, test=1, validation=0)
        assert not [each for each in check_subjects(tmp_path / kind) if each.severity == "error"]
    [split], [whole] = (read_subjects(tmp_path / kind)["test"] for kind in patterns)
    count = original.shape[3]
    step = pytest.approx(float(original.header.get_zooms()[3]), abs=1e-5)
    told = {"b_values": b_values} if b_values else {"count": count}
    assert split["frames"][name] == told and len(split["images"][name]) == count
    assert whole["frames"][name] == {**told, "step": step}

    split["images"]["T1"] = whole["images"]["T1"]
    missing = {"subject": "C", "images": {"T1": whole["images"]["T1"]}}
    entries = {
        "training": [{**whole, "subject": "A"}, {**split, "subject": "B"}],
        "validation": [{**whole, "subject": "V"}],
    }
    write_subjects(tmp_path / "subjects.json", {"sequences": ["T1", name], **entries, "test": [missing]})
    small = {"network_def#lstm_layers": 1, "sequences": ["T1", name], "dataset_dir": tmp_path}
    workflow("mri_seq2seq", "train.json", ckpt_dir=tmp_path / "w", output_dir=tmp_path / "e", **small).run()
    output = {"weights": tmp_path / "w" / "model.pt", "output_dir": tmp_path / "out", "split": "test"}
    workflow("mri_seq2seq", "inference.json", **small, **output).run()

    made = nib.load(tmp_path / "out" / "C" / f"C_{name}.nii.gz")
    assert made.shape == original.shape and np.array_equal(made.affine, original.affine)
    assert made.header.get_zooms() == pytest.approx(original.header.get_zooms())
    assert made.header.get_xyzt_units() == original.header.get_xyzt_units()
    assert np.ptp(made.get_fdata(), axis=3).max() > 0, "frames differ"
    table = beside(tmp_path / "out" / "C" / f"C_{name}.nii.gz", ".bval")
    assert [float(each) for each in table.read_text().split()] == b_values if b_values else not table.exists()
