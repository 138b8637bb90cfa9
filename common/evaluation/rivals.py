"""The trivial rivals that a synthesis network has to beat: the source itself, a learned intensity map, and of a series
its first frame by that map with what usually happens after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def copy_source(source_image: Tensor, i: int, j: int) -> Tensor:
    """Predicts sequence j to be the image of sequence i; the arguments are those of `IntensityMap.predict`."""
    return source_image


class IntensityMap:
    """Predicts the mean target intensity of each source intensity, per ordered pair, with no shape imposed.

    Args:
        sequences: the sequences' names, in the images' channel order.
        bins: source intensities told apart in [0, 1].

    Example:
        >>> rival = IntensityMap(["T1", "T2"])
        >>> for image, available in training_subjects:
        ...     rival.fit(image, available)
        >>> rival.predict(test_image[0], 0, 1)  # T2 from T1
    """

    def __init__(self, sequences: Sequence[str], bins: int = 256) -> None:
        self.sequences, self.bins = list(sequences), bins
        size = len(self.sequences)
        self._count = np.zeros((size, size, bins))  # voxels seen, [source, target, source intensity]
        self._total = np.zeros((size, size, bins))  # their target intensities, summed

    def fit(self, image: Tensor, available: Sequence[bool]) -> None:
        """Adds one training subject; background (source == 0) teaches nothing, `predict` leaves it 0.

        Args:
            image: [S, X, Y, Z] in training units, [0, 1]; what a missing sequence holds is never read.
            available: which of the S sequences the subject has.

        Raises:
            ValueError: the image, the flags and the sequences' names differ in number.
        """
        if not len(image) == len(available) == len(self.sequences):
            raise ValueError(f"{len(image)} images and {len(available)} flags for the sequences {self.sequences}")
        channels = np.asarray(torch.as_tensor(image).cpu(), dtype=np.float32).reshape(len(image), -1)
        seen = np.flatnonzero(np.asarray(available))
        for i in seen:
            foreground = channels[i] > 0
            bin_of = (channels[i, foreground] * self.bins).astype(np.int64).clip(0, self.bins - 1)
            count = np.bincount(bin_of, minlength=self.bins)
            for j in seen:
                self._count[i, j] += count
                self._total[i, j] += np.bincount(bin_of, channels[j, foreground], self.bins)

    def predict(self, source_image: Tensor, i: int, j: int) -> Tensor:
        """Maps an image of sequence i to sequence j, linearly between the centres of the bins that had data.

        Args:
            source_image: [X, Y, Z] in training units, [0, 1].
            i: the source sequence's channel.
            j: the target sequence's channel.

        Returns:
            The prediction, [X, Y, Z], float32, on the source's device; 0 where the source is 0.

        Raises:
            ValueError: no training subject had both sequences.
        """
        known = self._count[i, j] > 0
        if not known.any():
            raise ValueError(f"No training subject had both {self.sequences[i]} and {self.sequences[j]}")
        centres = (np.flatnonzero(known) + 0.5) / self.bins
        source = torch.as_tensor(source_image)
        mapped = np.interp(np.asarray(source.cpu()), centres, self._total[i, j, known] / self._count[i, j, known])
        return torch.as_tensor(mapped, dtype=torch.float32, device=source.device) * (source > 0)


class MeanCurve:
    """Predicts the frames of a series: its first frame as the intensity map makes it, times the mean relative curve.

    That curve is the mean over the training subjects of S(t) / S(first), S being the mean over the head: every voxel
    enhances, or decays, as heads did on average.

    Args:
        map: of the same images, fitted.
        series: the channels of each series.
    """

    def __init__(self, map: IntensityMap, series: Iterable[range]) -> None:
        self.map = map
        self.first = {c: channels.start for channels in series for c in channels}
        self._total, self._count = np.zeros(len(map.sequences)), np.zeros(len(map.sequences))

    def fit(self, image: Tensor, available: Sequence[bool]) -> None:
        """Adds one training subject, see `IntensityMap.fit`; without a series' first frame it tells nothing of it."""
        for c, first in self.first.items():
            if available[c] and available[first]:
                head = image[first] > 0
                self._total[c] += float(image[c][head].double().mean() / image[first][head].double().mean())
                self._count[c] += 1

    def predict(self, source_image: Tensor, i: int, j: int) -> Tensor:
        """The frame of channel j from an image of channel i, as `IntensityMap.predict`.

        Raises:
            ValueError: no training subject had that frame and the first one; and what `IntensityMap.predict` raises.
        """
        if not self._count[j]:
            raise ValueError(
                f"No training subject had both {self.map.sequences[self.first[j]]} and {self.map.sequences[j]}"
            )
        return self.map.predict(source_image, i, self.first[j]) * (self._total[j] / self._count[j])
