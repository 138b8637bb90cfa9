"""How volumes, their sequences and their frames lie in what a network takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

MISSING = -1.0  # the value of every voxel of a sequence that a subject does not have


def is_available(image: Tensor, missing: float = MISSING) -> Tensor:
    """Which sequences each subject has: image [B, S, *spatial] to bool [B, S]."""
    return image.flatten(2).amin(-1) > missing / 2


class Layout(nn.Module):
    """Volumes [B, C, X, Y, Z] as slices, stacks of slices or volumes of one sequence, and back.

    Args:
        sequences, spatial_dims, slices, slice_axis, downsampling, frames: see `common.translation.TranslationNetwork`.

    Raises:
        ValueError: one of them is none that there is.
    """

    def __init__(
        self,
        sequences: int,
        spatial_dims: int,
        slices: int,
        slice_axis: int,
        downsampling: int,
        frames: Sequence[int],
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims is {spatial_dims}; it must be 2 (2D and 2.5D) or 3.")
        if slices % 2 == 0:
            raise ValueError(f"slices is {slices}; an odd number is needed, so that one slice is the middle one.")
        if slice_axis not in (-1, -2, -3):
            raise ValueError(f"slice_axis is {slice_axis}; count the spatial axes from the end: -1, -2 or -3.")
        if frames and (len(frames) != sequences or min(frames) < 1):
            raise ValueError(
                f"frames is {list(frames)}; it must be a number above 0 for each of {sequences} sequences."
            )
        self.sequences = sequences
        self.has_series = max(frames, default=1) > 1
        self.frames = [int(count) for count in frames] if self.has_series else []
        self.ends = list(accumulate(self.frames))  # of each sequence's channels
        self.spatial_dims = spatial_dims
        self.slices = slices if spatial_dims == 2 else 1
        self.slice_axis = slice_axis
        self.downsampling = downsampling

    def count(self, sequence: int) -> int:
        """How many frames a sequence has."""
        return self.frames[sequence] if self.has_series else 1

    def channels(self, image: Tensor, sequence: int) -> Tensor:
        """Of an image [B, C, ...] a sequence's frames [B, T, ...]."""
        if not self.has_series:
            return image[:, sequence : sequence + 1]
        return image[:, self.ends[sequence] - self.frames[sequence] : self.ends[sequence]]

    def available(self, image: Tensor) -> Tensor:
        """Which sequences each subject has, of a series any frame: image [B, C, X, Y, Z] to bool [B, S]."""
        there = is_available(image)
        if not self.has_series:
            return there
        return torch.stack([self.channels(there, j).any(1) for j in range(self.sequences)], 1)

    def tissue(self, image: Tensor, sequence: int) -> Tensor:
        """Where a sequence, of a series any frame, is not air: image [B, C, X, Y, Z] to 0 or 1 in [B, X, Y, Z]."""
        return (self.channels(image, sequence) > 0).any(1).to(image.dtype)

    def _present(self, image: Tensor, available: Tensor) -> Tensor:
        """What is missing is 0; where there are series it stays -1, by which missing frames are known."""
        return image if self.has_series else image * available[:, :, None, None, None]

    def sequence_input(self, image: Tensor, sequence: int) -> Tensor:
        """What `encode` takes of an image [B, C, X, Y, Z]: `to_input` of a sequence, of all frames where there are
        series: [B * Z, T, slices, X, Y], or [B, T, 1, X, Y, Z].
        """
        if not self.has_series:
            return self.to_input(image[:, sequence])
        frames = self.channels(image, sequence)
        stacks = self.to_input(frames.flatten(0, 1)).unflatten(0, (frames.shape[0], frames.shape[1], -1))
        return stacks.transpose(1, 2).flatten(0, 1)

    def volumes(self, output: Tensor, batch: int) -> Tensor:
        """What `decode` gives, with frames where there are series, back to volumes [B, T, X, Y, Z]; else T is 1."""
        if not self.has_series:
            return self.from_output(output, batch)[:, None]
        frames = output.unflatten(0, (batch, -1)).transpose(1, 2)  # (B, T, Z, ...)
        made = self.from_output(frames.flatten(0, 2), batch * frames.shape[1])
        return made.unflatten(0, (batch, frames.shape[1]))

    def to_input(self, volume: Tensor) -> Tensor:
        """Volume [B, X, Y, Z] to what `encode` takes: stacks of slices [B * Z, slices, X, Y], or [B, 1, X, Y, Z].

        At the ends of the volume the last slice stands in for the neighbour it lacks.
        """
        if self.spatial_dims == 3:
            return volume[:, None]
        planes = volume.movedim(self.slice_axis % 4, 1)  # (B, Z, X, Y)
        margin, depth = self.slices // 2, planes.shape[1]
        padded = torch.cat([planes[:, :1]] * margin + [planes] + [planes[:, -1:]] * margin, 1)
        return torch.stack([padded[:, k : k + depth] for k in range(self.slices)], 2).flatten(0, 1)

    def from_output(self, output: Tensor, batch: int) -> Tensor:
        """What `decode` gives back to volumes [B, X, Y, Z]: of a stack, the middle slice."""
        if self.spatial_dims == 3:
            return output[:, 0]
        return output[:, self.slices // 2].unflatten(0, (batch, -1)).movedim(1, self.slice_axis % 4)

    def check_size(self, image: Tensor) -> None:
        """Raises a ValueError if an image [..., X, Y, Z] has a size by which the network cannot be run."""
        in_plane = list(image.shape[2:])
        if self.spatial_dims == 2:
            in_plane.pop(self.slice_axis)
        if max([size % self.downsampling for size in in_plane]) > 0:
            shown = ", ".join([str(int(size)) for size in in_plane])
            raise ValueError(
                f"Image size ({shown}) is not a multiple of {self.downsampling}, by which this network "
                "downsamples; pad it first (DivisiblePadd), as the bundle's preprocessing does."
            )
