"""What a network sees of an image by other axes and another crop than ours, and where what it makes of it lies."""

import logging

import pytest
import torch
from monai.data import MetaTensor

from common.data.preparation import Subjects

LPS = torch.tensor([[-2.0, 0, 0, 7], [0, -2, 0, 9], [0, 0, 3, -4], [0, 0, 0, 1]], dtype=torch.float64)


def subject(image: torch.Tensor) -> dict:
    return {"subject": "P1", "available": torch.tensor([True]), "image": MetaTensor(image, LPS)}


def test_axes_and_crop_are_the_networks_and_the_grid_is_the_images(caplog: pytest.LogCaptureFixture):
    image = torch.rand(1, 11, 13, 5) + 0.1
    subjects = Subjects(["T1"], normalisation="p99", axes="PLS", crop=(8, 6, -1), divisible=(4, 4, 1))
    preparation = subjects.loaded()
    with caplog.at_level(logging.WARNING):
        seen = preparation(subject(image))
    scaled = (image / seen["scale"]).clamp(0, 1)
    middle = torch.nn.functional.pad(scaled[0, 2:8, 2:10].movedim(0, 1), (0, 0, 1, 1))[None]  # 8 x 6 to 8 x 8
    torch.testing.assert_close(seen["image"].as_tensor(), middle)
    assert "66.4% of what is not air lies outside the middle [8, 6, -1] voxels (PLS)" in caplog.text
    restored = subjects.restored(preparation)({**seen, "pred": seen["image"].clone()})["pred"]
    wanted = torch.zeros_like(image)
    wanted[:, 2:8, 2:10] = scaled[:, 2:8, 2:10]
    torch.testing.assert_close(restored.as_tensor(), wanted)
    torch.testing.assert_close(restored.affine, LPS)


def test_an_image_within_the_crop_is_not_warned_of(caplog: pytest.LogCaptureFixture):
    image = torch.zeros(1, 11, 13, 5)
    image[:, 3:8, 3:9] = torch.rand(1, 5, 6, 5) + 0.1
    Subjects(["T1"], axes="PLS", crop=(8, 6, -1)).loaded()(subject(image))
    assert not caplog.records


@pytest.mark.parametrize(("axes", "axis"), [("RAS", 0), ("PLS", 1), ("SAL", 2)])
def test_where_left_and_right_are(axes: str, axis: int):
    assert Subjects(["T1"], axes=axes).left_right == axis
