"""What a training sees is a matter of its seed alone, not of who loads it."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.data import CacheDataset, list_data_collate
from monai.transforms import Compose, Lambda, Lambdad, RandFlipd, RandGaussianNoised, RandSpatialCropSamplesd

from common.data import loaders
from common.data.loaders import CachedSubjects, SeededItems, training_loader
from common.training.handlers import Reseed

DATA = [{"image": torch.full((1, 6, 6, 1), float(k))} for k in range(5)]


def seen(num_workers: int, epochs: tuple[int, ...] = (1, 2), **options: object) -> list[torch.Tensor]:
    """The batches of some epochs, with noise and crops, drawn as a training does."""
    noise, scale = RandGaussianNoised("image", prob=0.7), Lambdad("image", lambda image: image * 10)
    transform = Compose([scale, RandSpatialCropSamplesd("image", roi_size=(2, 2, 1), num_samples=2), noise])
    dataset = CacheDataset(DATA, transform, progress=False)
    loader = training_loader(dataset, batch_size=2, num_workers=num_workers, **options)
    reseed, found, engine = Reseed(3, loader.dataset), [], Engine(lambda engine, batch: None)
    for engine.state.epoch in epochs:
        reseed(engine)
        found += [batch["image"].as_tensor() for batch in loader]
    return found


def test_none_one_and_two_processes_load_the_same():
    alone = seen(0)
    assert len(alone) == 6 and alone[0].shape == (4, 1, 2, 2, 1)
    for others in (seen(1), seen(2), seen(2, persistent_workers=False)):
        assert all(torch.equal(a, b) for a, b in zip(alone, others, strict=True))


def test_epochs_and_items_differ_and_an_epoch_begun_again_does_not():
    alone, later = seen(0), seen(0, epochs=(2,))
    assert all(torch.equal(a, b) for a, b in zip(alone[3:], later, strict=True))
    assert not torch.equal(torch.cat(alone[:3]), torch.cat(alone[3:]))
    same = CacheDataset(DATA[:1] * 2, Compose([RandGaussianNoised("image", prob=1)]), progress=False, hash_as_key=True)
    items = SeededItems(same)
    assert len(items) == 2 and not torch.equal(items[0]["image"], items[1]["image"])
    assert torch.equal(items[0]["image"], items[0]["image"])


def test_what_an_epoch_leaves_to_draw_does_not_depend_on_processes_that_outlive_it():
    left = []
    for options in ({"num_workers": 0}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": False}):
        loader = training_loader(CacheDataset(DATA, Compose([]), progress=False), **options)
        torch.manual_seed(0)
        left.append([(len(list(loader)), torch.rand(()).item()) for _ in range(3)])
    assert left[0] == left[1] == left[2]


def darken(data: dict) -> dict:
    data["image"].mul_(0.5)
    return data


@pytest.mark.parametrize("crops", [[], [RandSpatialCropSamplesd("image", roi_size=(2, 2, 1), num_samples=1)]])
def test_what_is_kept_stays_whatever_is_done_to_a_box_of_it(crops: list):
    """Items are those of a subject that is copied whole, and one that writes in place changes its own alone."""
    transform = Compose([*crops, darken, RandFlipd("image", prob=0.5, spatial_axis=0)])
    data = [{"image": torch.rand(1, 6, 6, 1), "subject": str(k)} for k in range(3)]
    before = [item["image"].clone() for item in data]
    usual, ours = CacheDataset(data, transform, progress=False), CachedSubjects(data, transform)
    for seed in range(20):
        drawn = []
        for dataset in (usual, ours):
            dataset.transform.set_random_state(seed)
            drawn.append(list_data_collate([dataset[k] for k in range(3)])["image"])
        assert torch.equal(*drawn)
    assert all(torch.equal(kept["image"], image) for kept, image in zip(ours._cache, before, strict=True))


@pytest.mark.parametrize(("rate", "shown"), [(1.0, [4]), (0.5, [2]), (0.0, [])])
def test_what_is_kept_is_counted_while_it_is_prepared(rate: float, shown: list[int], monkeypatch: pytest.MonkeyPatch):
    totals = []
    monkeypatch.setattr(loaders, "bar", lambda items, total, **_: totals.append(total) or items)
    prepared = CachedSubjects(list(range(4)), Compose([Lambda(lambda k: 10 * k)]), cache_rate=rate, num_workers=2)
    assert totals == shown and list(prepared) == [0, 10, 20, 30]
