import json

import nibabel as nib
import numpy as np
import pytest

from common.data.series import beside, read_frames, save_series

AFFINE = np.array([[0, -2.0, 0, 5], [3.0, 0, 0, -7], [0, 0, 4.0, 1], [0, 0, 0, 1]])


def test_times_come_back(tmp_path):
    data = np.arange(2 * 3 * 4 * 3, dtype=np.float32).reshape(2, 3, 4, 3)
    save_series(data, AFFINE, tmp_path / "a/DCE.nii.gz", {"times": [0, 60.5, 200]}, {"EchoTime": 0.002})
    image = nib.load(tmp_path / "a/DCE.nii.gz")
    np.testing.assert_array_equal(image.get_fdata(), data)
    np.testing.assert_array_equal(image.affine, AFFINE)
    # (60.5 + 139.5) / 2 = 100 s
    assert image.header.get_zooms() == (3, 2, 4, 100) and image.header.get_xyzt_units() == ("mm", "sec")
    assert json.loads((tmp_path / "a/DCE.json").read_text()) == {"EchoTime": 0.002, "VolumeTiming": [0, 60.5, 200]}
    assert read_frames(tmp_path / "a/DCE.nii.gz") == {"times": [0, 60.5, 200]}
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_b_values_come_back_and_3d_has_no_frames(tmp_path):
    save_series(np.ones((2, 2, 2, 2), np.int16), AFFINE, tmp_path / "DWI.nii", {"b_values": [0, 1500]})
    assert (tmp_path / "DWI.bval").read_text() == "0 1500\n"
    assert read_frames(tmp_path / "DWI.nii") == {"b_values": [0, 1500]}
    save_series(np.ones((2, 2, 2), np.int16), AFFINE, tmp_path / "T1.nii")
    assert read_frames(tmp_path / "T1.nii") == {} and not beside(tmp_path / "T1.nii", ".json").exists()


def test_what_others_write(tmp_path):
    (tmp_path / "pet.json").write_text('{"FrameTimesStart": [0, 10]}')
    assert read_frames(tmp_path / "pet.nii.gz") == {"times": [0, 10]}
    (tmp_path / "pet.bval").write_text("0\t 1000  \n")  # fsl pads with blanks
    assert read_frames(tmp_path / "pet.nii.gz") == {"b_values": [0, 1000]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.bval", "0 1e3 b"),
        ("x.bval", ""),
        ("x.json", '{"VolumeTiming": 3}'),
        ("x.json", '{"VolumeTiming": [1, null]}'),
        ("x.json", '{"VolumeTiming": [1, NaN]}'),
    ],
)
def test_no_numbers(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name}: must hold one number per frame"):
        read_frames(tmp_path / "x.nii.gz")
