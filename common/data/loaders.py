"""Batches of a data set; of several processes that train together, each gets its share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, Dataset, DistributedSampler
from monai.transforms import Compose, RandSpatialCropd, RandSpatialCropSamplesd, Transform
from monai.transforms.traits import RandomizableTrait

from ..distributed import is_distributed
from ..progress import bar

CROPS = (RandSpatialCropd, RandSpatialCropSamplesd)  # which write to nothing


class CopyTensors(Transform, RandomizableTrait):
    """A dict with tensors of its own; no part of what is cached, although nothing is drawn."""

    def __call__(self, data: Any) -> Any:
        # Not deepcopy, which of a box would copy all that it was cropped from.
        return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in data.items()}


class CachedSubjects(CacheDataset):
    """A `CacheDataset` that copies, of a subject that it keeps, the box that is cropped first, not the whole.

    What follows may write to an item. Its bar says what it waits for, and is lines in a log.

    Args:
        data, transform, options: as for `CacheDataset`.
    """

    def __init__(self, data: Sequence, transform: Compose, **options: Any) -> None:
        steps = list(transform.transforms)
        anew = [
            k for k, each in enumerate(steps) if isinstance(each, RandomizableTrait) or not isinstance(each, Transform)
        ]
        if anew:
            steps.insert(anew[0] + isinstance(steps[anew[0]], CROPS), CopyTensors())
            transform = Compose(steps)
        super().__init__(data, transform, copy_cache=False, **options)

    def _fill_cache(self, indices: Sequence[int] | None = None) -> list:
        indices = range(self.cache_num) if indices is None else indices
        if not len(indices):
            return []
        with ThreadPool(self.num_workers) as pool:
            prepared = pool.imap(self._load_cache_item, indices)
            return list(bar(prepared, total=len(indices), desc="preparing subjects", unit="subjects"))


class SeededItems(torch.utils.data.Dataset):
    """Another data set, the randomness of each of whose items is a function of the epoch's seed and its index.

    So the processes that load do not matter, neither how many there are nor which of them has an item.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.seed = torch.zeros((), dtype=torch.int64).share_memory_()  # processes may outlive an epoch

    def set_random_state(self, seed: int | None = None, state: Any = None) -> SeededItems:
        """As for MONAI's transforms."""
        self.seed.fill_(seed or 0)
        return self

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        seed = np.random.SeedSequence([int(self.seed), index]).generate_state(1)[0]
        self.dataset.transform.set_random_state(seed=int(seed))
        return self.dataset[index]


class EpochLoader(DataLoader):
    """Whose processes may outlive an epoch, and draw as those that begin with it."""

    def __iter__(self) -> Iterator[Any]:
        if self._iterator is not None:
            torch.empty((), dtype=torch.int64).random_()  # the seed of processes, which torch draws for new ones
        return super().__iter__()


def training_loader(dataset: Dataset, *, num_workers: int = 0, **options: Any) -> DataLoader:
    """Batches in an order that is drawn anew for every epoch; all processes that train get equally many.

    Args:
        dataset: with a `transform` whose `set_random_state` seeds all of it, see `SeededItems`.
        num_workers: processes that load, until the training ends.
        options: as for `monai.data.DataLoader`: batch_size, pin_memory (by default where there is CUDA) ...
    """
    sampler = DistributedSampler(dataset, even_divisible=True, shuffle=True) if is_distributed() else None
    usual = {"persistent_workers": num_workers > 0, "pin_memory": torch.cuda.is_available()}
    options = {"worker_init_fn": None, **usual, **options}  # MONAI's seeds by process
    shuffled = {"shuffle": sampler is None, "sampler": sampler}
    return EpochLoader(SeededItems(dataset), num_workers=num_workers, **shuffled, **options)


def subject_loader(dataset: Dataset, num_workers: int = 0) -> DataLoader:
    """One subject at a time, in order, for validation and use; none is seen twice, if there is one for each process."""
    sampler = None
    if is_distributed():
        too_few = len(dataset) < torch.distributed.get_world_size()
        sampler = DistributedSampler(dataset, even_divisible=too_few, shuffle=False)
    return DataLoader(dataset, batch_size=1, sampler=sampler, num_workers=num_workers)
