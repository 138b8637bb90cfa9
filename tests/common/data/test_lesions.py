"""Masks of lesions go with the images through all that moves them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.transforms import RandFlipd

from common.data.preparation import Subjects

SEQUENCES = ["T1", "T1Gd", "T2", "FLAIR"]


@pytest.fixture
def subjects(phantom_dir: Path) -> Subjects:
    return Subjects(SEQUENCES, dataset_dir=phantom_dir, roi_size=(16, 16, 3), divisible=(2, 2, 1))


def item(subjects: Subjects, *random, crops: int | None, lesions=("lesion",)):
    transform = subjects.training(random, crops, lesions).set_random_state(seed=1)
    made = [transform(each) for each in subjects.items("training")]
    return [each for one in made for each in (one if isinstance(one, list) else [one])]


def test_they_lie_where_the_image_shows_them_and_images_stay_as_they_were(subjects: Subjects):
    plain = item(subjects, crops=None, lesions=())
    for with_mask, without in zip(item(subjects, crops=None), plain, strict=True):
        assert torch.equal(with_mask["image"], without["image"]) and with_mask["lesion"].shape == (1, 16, 16, 3)
    whole = Subjects(SEQUENCES, dataset_dir=subjects.dataset_dir, roi_size=(64, 64, 64))
    for each in item(whole, crops=None):
        t2, lesion = each["image"][2], each["lesion"][0] > 0
        assert lesion.any() and t2[lesion].mean() > 1.2 * t2[(t2 > 0) & ~lesion].median()


def test_flips_and_crops_take_them_along(subjects: Subjects):
    flip = RandFlipd("image", prob=1.0, spatial_axis=0)
    for flipped, plain in zip(item(subjects, flip, crops=2), item(subjects, crops=2), strict=True):
        assert torch.equal(flipped["lesion"], plain["lesion"].flip(1))
        assert torch.equal(flipped["image"], plain["image"].flip(1))


def test_a_subject_without_masks_has_none(subjects: Subjects):
    assert not any(each["lesion"].any() for each in item(subjects, crops=1, lesions=("infarct",)))
