"""Batches of a data set; of several processes that train together, each gets its share."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import DataLoader, Dataset, DistributedSampler

from ..distributed import is_distributed


def training_loader(dataset: Dataset, **options: Any) -> DataLoader:
    """Batches in an order that is drawn anew for every epoch; all processes get equally many.

    Args:
        options: as for `monai.data.DataLoader`: batch_size, num_workers ...
    """
    sampler = DistributedSampler(dataset, even_divisible=True, shuffle=True) if is_distributed() else None
    return DataLoader(dataset, shuffle=sampler is None, sampler=sampler, **options)


def subject_loader(dataset: Dataset, num_workers: int = 0) -> DataLoader:
    """One subject at a time, in order, for validation and use; none is seen twice, if there is one for each process."""
    sampler = None
    if is_distributed():
        too_few = len(dataset) < torch.distributed.get_world_size()
        sampler = DistributedSampler(dataset, even_divisible=too_few, shuffle=False)
    return DataLoader(dataset, batch_size=1, sampler=sampler, num_workers=num_workers)
