"""Real subjects among simulated ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data.utils import list_data_collate

from common.data.loaders import SeededItems
from common.data.mixture import SimulatedAndReal
from common.data.preparation import Subjects

NAMES = ["T1", "T1Gd", "T2", "FLAIR"]
SIZE = {"roi_size": (24, 24, 3), "divisible": (4, 4, 1)}


def mixture(phantom_dir: Path | str, **options) -> SimulatedAndReal:
    subjects = Subjects(NAMES, dataset_dir=phantom_dir, **SIZE)
    options = {"length": 8, "num_workers": 0, **options}
    return SimulatedAndReal(subjects, subjects.training((), 1, ["lesion"]), **options)


def test_both_kinds_in_one_batch_and_each_epoch_by_its_seed(phantom_dir: Path):
    items = SeededItems(mixture(phantom_dir))
    items.set_random_state(3)
    first = [items[k] for k in range(8)]
    real = [not item["subject"].startswith("simulated") for item in first]
    assert 0 < sum(real) < 8
    assert all(torch.equal(item["image"], item["reference"]) for item, own in zip(first, real, strict=True) if own)
    assert [bool(item["scale"].isfinite().all()) for item in first] == real, "made up gains say nothing"
    assert list_data_collate(first)["image"].shape == (8, 4, 24, 24, 3)
    again = items[5]
    assert torch.equal(first[5]["image"], again["image"]) and torch.equal(first[5]["lesion"], again["lesion"])
    items.set_random_state(4)
    assert not torch.equal(items[5]["image"], again["image"])


def test_without_a_folder_all_are_simulated():
    alone = mixture("")
    assert alone.trained_on == "simulated subjects of 1 anatomy" and len(alone) == 8
    item = SeededItems(alone)[0]
    assert item["subject"] == "simulated_0" and item["scale"].isfinite().all()


def test_what_was_trained_on_names_both(phantom_dir: Path):
    assert mixture(phantom_dir).trained_on == "simulated subjects of 1 anatomy, and phantom (simulated), 2 subjects"
    items = SeededItems(mixture(phantom_dir, real_share=1.0))
    assert all(torch.equal(item["image"], item["reference"]) for item in (items[k] for k in range(4)))
    with pytest.raises(ValueError, match=r"real_share is 1.5; it must be in \[0, 1\]"):
        mixture(phantom_dir, real_share=1.5)
