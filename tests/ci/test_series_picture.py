from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from ci.series_picture import enhancement, series_picture
from common.data.phantom import make_phantom


def test_enhancement_is_that_of_the_mean():
    series = np.array([[[[2.0, 3.0]], [[4.0, 9.0]], [[0.0, 7.0]]]])
    np.testing.assert_allclose(enhancement(series, np.array([[[True], [True], [False]]])), [0, 1])


def test_a_subject_with_a_tumour_is_drawn(tmp_path: Path):
    make_phantom(tmp_path, 2, sequences=["DCE", "DWI"], spacing=10, seed=2, validation=0, test=0)
    series_picture(tmp_path, tmp_path, "phantom_000", tmp_path / "picture.png")  # what was acquired, beside its truth
    assert imread(tmp_path / "picture.png").shape[:2] == (368, 880)
    with pytest.raises(ValueError, match="No lesion of phantom_001 enhances"):
        series_picture(tmp_path, tmp_path, "phantom_001", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
