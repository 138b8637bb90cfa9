"""Real subjects among simulated ones: few patients show what simulation lacks, and it shows what few patients lack."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Randomizable, Transform

from .loaders import CachedSubjects
from .preparation import Subjects
from .simulation import SimulatedSubjects


class SimulatedAndReal(Randomizable, torch.utils.data.Dataset):
    """Crops of simulated subjects and, where `subjects` names any, at random of real ones for training.

    A real subject's "reference" is its image. What an item is, is a function of the random state alone.

    Args:
        subjects: the real ones; their sequences, `roi_size` and scaling are the simulated ones', too.
        preprocessing: of a real subject, see `Subjects.training`, with lesions.
        anatomies: see `SimulatedSubjects`.
        length: items of an epoch.
        real_share: of the items that is real, in [0, 1].
        cached: options of `CachedSubjects` for the real ones.

    Attributes:
        trained_on: what these images are, in words, for the description of weights.

    Raises:
        ValueError: `real_share` is no share, the network is shown other axes than RAS, or what `SimulatedSubjects`
            refuses.
    """

    def __init__(
        self,
        subjects: Subjects,
        preprocessing: Transform,
        *,
        anatomies: str = "",
        length: int = 1000,
        real_share: float = 0.5,
        **cached: Any,
    ) -> None:
        if not 0 <= real_share <= 1:
            raise ValueError(f"real_share is {real_share}; it must be in [0, 1].")
        if subjects.axes != "RAS":
            raise ValueError(f"Simulated subjects lie in RAS, but the network is shown {subjects.axes}.")
        self.simulated = SimulatedSubjects(
            subjects.sequences,
            anatomies=anatomies,
            length=length,
            roi_size=subjects.roi_size,
            normalisation=subjects.scaling["rule"],
        )
        self.trained_on = self.simulated.trained_on
        self.real, self.real_share = None, real_share
        if real_share and (subjects.dataset_dir or subjects.subject_list):
            self.real = CachedSubjects(subjects.items("training"), preprocessing, **cached)
            self.trained_on += f", and {subjects.called()}"

    @property
    def transform(self) -> SimulatedAndReal:
        """What is random of all of it."""
        return self

    def set_random_state(self, seed: int | None = None, state: Any = None) -> SimulatedAndReal:
        """Seeds the choice and what either makes of it."""
        super().set_random_state(seed, state)
        for part in (self.simulated, self.real):
            if part is not None:
                part.transform.set_random_state(seed=int(self.R.randint(2**31)))
        return self

    def __len__(self) -> int:
        return len(self.simulated)

    def __getitem__(self, index: int) -> Mapping[Hashable, Any]:
        if self.real is None:
            return self.simulated[index]
        if self.R.uniform() >= self.real_share:  # whose gains are made up, and say nothing where real ones are at hand
            item = self.simulated[index]
            return {**item, "scale": torch.full_like(item["scale"], torch.nan)}
        item = self.real[int(self.R.randint(len(self.real)))]
        item = item[0] if isinstance(item, list) else item  # crops of one subject
        return {**item, "reference": item["image"]}
