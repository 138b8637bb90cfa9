"""The picture is written, has a sensible size and shows the right slice the right way up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from common.evaluation.pictures import _fullest, completion_picture, upright


@pytest.fixture
def volume() -> np.ndarray:
    volume = np.zeros((40, 48, 20), dtype=np.float32)
    volume[8:32, 6:42, 4:16] = np.random.default_rng(0).random((24, 36, 12))
    return volume


def size(path: Path) -> tuple[int, int]:
    return imread(path).shape[:2]


def test_rows_and_columns_set_the_size(tmp_path: Path, volume: np.ndarray):
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    completion_picture(one, sources={"T1": volume}, synthesised={"T2": volume})
    completion_picture(
        two,
        sources={"T1": volume, "T2": volume},
        synthesised={"FLAIR": volume, "PD": 0.9 * volume},
        truth={"FLAIR": volume},
        title="A subject",
    )
    assert size(one)[0] > 300 and size(one)[1] > 600
    assert size(two)[0] > 1.8 * size(one)[0] and size(two)[1] > 2 * size(one)[1]
    assert imread(two)[0, 0, :3].max() < 0.1  # dark background
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_spacing_sets_the_aspect(tmp_path: Path, volume: np.ndarray):
    for name, thick in (("thin.png", 1), ("thick.png", 4)):
        images = {"sources": {"T1": volume}, "synthesised": {"T2": volume}}
        completion_picture(tmp_path / name, **images, axis=1, spacing=(1, 1, thick))
    assert size(tmp_path / "thick.png")[0] > 2 * size(tmp_path / "thin.png")[0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_work_like_volumes(tmp_path: Path, volume: np.ndarray, axis: int):
    plane = volume.take(volume.shape[axis] // 2, axis)
    completion_picture(tmp_path / "a.png", sources={"T1": plane}, synthesised={"T2": plane}, axis=axis)
    volumes = {"sources": {"T1": volume}, "synthesised": {"T2": volume}}
    completion_picture(tmp_path / "b.png", **volumes, axis=axis, index=volume.shape[axis] // 2)
    np.testing.assert_array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))


def test_right_is_left_and_front_is_up():
    ras = np.zeros((4, 6, 3), dtype=np.float32)
    ras[3, 5, 2] = 1  # right, anterior, superior
    for axis in range(3):
        shown = upright(ras, axis, ras.shape[axis] - 1)
        assert shown[0, 0] == 1
    assert upright(ras, 2, 2).shape == (6, 4)


def test_the_fullest_slice_is_shown():
    volume = np.zeros((6, 6, 9), dtype=np.float32)
    volume[1:3, 1:3, 1], volume[:, :, 6] = 1, 1
    assert _fullest([volume], 2) == 6
    assert _fullest([np.ones((6, 6, 9))], 2) == 4


def test_empty_images_are_no_obstacle(tmp_path: Path):
    empty = np.zeros((16, 16, 4), dtype=np.float32)
    completion_picture(tmp_path / "a.png", sources={}, synthesised={"T2": empty}, truth={"T2": empty})
    assert (tmp_path / "a.png").exists()


def test_wrong_input_raises(tmp_path: Path, volume: np.ndarray):
    with pytest.raises(ValueError, match=r"\(40, 48, 20\), \(39, 48, 20\)"):
        completion_picture(tmp_path / "a.png", sources={"T1": volume}, synthesised={"T2": volume[1:]})
    with pytest.raises(ValueError, match="no synthesised"):
        completion_picture(tmp_path / "a.png", sources={"T1": volume}, synthesised={})
