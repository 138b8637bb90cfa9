"""Pictures show the right slices the right way up, in right proportion, and cut no text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from common.inference.pictures import (
    ERROR_SHARE,
    Column,
    compose,
    draw,
    error_column,
    fullest,
    highest,
    rows_of,
    upright,
)

BOX = (slice(8, 32), slice(6, 42), slice(4, 16))


@pytest.fixture
def volume() -> np.ndarray:
    volume = np.zeros((40, 48, 20), dtype=np.float32)
    volume[BOX] = np.random.default_rng(0).uniform(0.1, 1, (24, 36, 12))
    return volume


def columns(volume: np.ndarray) -> list[Column]:
    made = Column("FLAIR", "synthesised", volume, 1.0, made=True)
    return [Column("T1", "acquired", volume, 1.0), made, error_column("FLAIR", "|error|", volume / 10, 1.0)]


def shown(figure) -> list:
    """The axes with slices, in the order of columns, then rows."""
    return [ax for ax in figure.axes if ax.images]


def texts(figure) -> list:
    return [*figure.texts, *(text for ax in figure.axes for text in ax.texts)]


def test_three_planes_and_the_slice_of_most_disagreement(volume: np.ndarray):
    spread = np.zeros_like(volume)
    spread[20, 20, 12] = 1
    spread[8:32, 6:42, 15] = 0.001
    rows = rows_of([volume], spread=spread, said="most disagreement")
    assert [row.plane.name for row in rows] == ["axial", "coronal", "sagittal", "axial"]
    assert rows[-1].index == 12 and rows[-1].label == "axial 12, most disagreement"
    assert len(rows_of([volume])) == 3


def test_disagreement_is_looked_for_where_there_is_much_to_see(volume: np.ndarray):
    volume[10:12, 10:12, 18] = 1
    spread = np.zeros_like(volume)
    spread[:, :, 18], spread[:, :, 7], spread[0, 0, 9] = 1, 0.1, 100
    assert highest(spread, 2, [volume]) == 7, "neither an edge of four voxels nor what lies in air"
    spread[8, 6:42, 9] = spread[:, 41, 9] = 10
    assert highest(spread, 2, [volume]) == 7, "nor the rim"
    spread[15:17, 20:22, 10] = 2
    assert highest(spread, 2, [volume]) == 10, "but a lesion, though the mean of slice 7 is higher"


def test_a_chosen_slice_alone(volume: np.ndarray):
    assert [(row.plane.name, row.index) for row in rows_of([volume], index=3)] == [("axial", 3)]
    assert [(row.plane.name, row.index) for row in rows_of([volume], plane="coronal", index=47)] == [("coronal", 47)]
    (row,) = rows_of([volume], plane="sagittal")
    assert 8 <= row.index < 32
    with pytest.raises(ValueError, match="no axial slice 20; they are 0 to 19"):
        rows_of([volume], index=20)
    with pytest.raises(ValueError, match="plane is 'oblique'; it must be one of axial, coronal, sagittal"):
        rows_of([volume], plane="oblique")


def test_a_plane_of_one_slice_gets_no_row():
    flat = np.ones((20, 30, 1))
    assert [row.plane.name for row in rows_of([flat])] == ["axial"]


def test_the_pixels_are_the_chosen_slice_cut_to_the_foreground(volume: np.ndarray):
    figure = compose(columns(volume), rows_of([volume], index=9), spacing=(1, 1, 1), title="A")
    given, made, error = (ax.images[0] for ax in shown(figure)[:3])
    cut = volume[5:35, 3:45]
    np.testing.assert_array_equal(given.get_array(), upright(cut, 2, 9))
    np.testing.assert_allclose(error.get_array(), upright(cut, 2, 9) / 10)
    assert made.get_clim() == (0, 1) and error.get_clim() == (0, ERROR_SHARE)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.5, 0.5, 5), (2, 1, 1)])
def test_proportions_are_those_of_the_body(volume: np.ndarray, spacing: tuple[float, ...]):
    rows = rows_of([volume])
    figure = compose(columns(volume)[:1], rows, spacing=spacing, title="A")
    mm = np.array([30, 42, 18]) * spacing
    sizes = [ax.get_position().size * figure.get_size_inches() for ax in shown(figure)]
    wanted = [mm[[k for k in range(3) if k != row.plane.axis]] for row in rows]
    scales = np.array(sizes) / np.array(wanted)
    np.testing.assert_allclose(scales, scales[0, 0], rtol=1e-6)


def test_no_text_is_cut_and_none_is_drawn_over_another(volume: np.ndarray):
    long = "TR8000_TE100_TI2000_of_a_very_long_name_indeed"
    made = [Column(long, "synthesised", volume, 1.0, made=True), error_column("$x$_{", "|error|", volume, 1.0)]
    for picture in (made[:1], made, [*made * 4]):
        notes = ["Made by mri_seq2seq 0.1.0 on something that takes a long sentence to tell. " * 3]
        figure = compose(picture, rows_of([volume]), spacing=(1, 1, 4), title="sub-1_ses-2_" * 12, notes=notes)
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [text.get_window_extent(renderer) for text in texts(figure)]
        for box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        said = [text.get_window_extent(renderer) for text in figure.texts]
        assert not any(a.overlaps(b) for k, a in enumerate(said) for b in said[:k])


def test_sides_are_named_and_what_was_made_is_stamped(volume: np.ndarray):
    figure = compose(columns(volume), rows_of([volume]), spacing=(1, 1, 1), title="A", notes=["Trained on: a phantom."])
    first, *others = (["".join(text.get_text() for text in ax.texts)] for ax in shown(figure)[:9:3])
    assert first == ["RLAP"] and others == [["synthesised"], [""]]
    assert [text.get_text() for text in texts(figure)].count("synthesised") == 1 + 3
    assert "Trained on: a phantom." in [text.get_text() for text in figure.texts]


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
    assert fullest([volume], 2) == 6
    assert fullest([np.ones((6, 6, 9))], 2) == 4


def test_empty_images_are_no_obstacle(tmp_path: Path):
    empty = np.zeros((16, 16, 4), dtype=np.float32)
    draw(tmp_path / "a.png", columns(empty), rows_of([empty], spread=empty), spacing=(1, 1, 1), title="")
    assert imread(tmp_path / "a.png").shape[0] > 100
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_images_of_other_shapes_are_refused(volume: np.ndarray):
    two = [columns(volume)[0], columns(volume[1:])[1]]
    with pytest.raises(ValueError, match=r"\(40, 48, 20\), \(39, 48, 20\)"):
        compose(two, rows_of([volume]), spacing=(1, 1, 1), title="A")
