"""Imaging-differentiation maps: what of a sequence cannot be deduced from the subject's others (Seq2Seq, Eq. 5)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from ..data.series import consecutive
from ..distributed import unwrapped
from ..options import switch
from .inferers import MatrixInferer, available_sequences, plain, resolve_targets, with_meta
from .saving import SaveVolumes


def differentiation_maps(
    pairs: Tensor, image: Tensor, available: Sequence[int], frames: Sequence[int] | None = None
) -> Tensor:
    """How far each available sequence is from what the others make of it, on average, 0 where it is air.

    Eq. 5's sum without the target itself, which the authors' script counts among the sources: how well a sequence is
    made from itself says nothing of the others.

    Args:
        pairs: every source to every target [S, C, X, Y, Z], rows being sources, in [0, 1].
        image: the sequences themselves [C, X, Y, Z], in [0, 1]; a series has a channel for each of its frames.
        available: indices of the S' sequences that the subject has.
        frames: how many each of the S has; None is one of each.

    Returns:
        M_d(X_t) = 1 / (S' - 1) sum over i != t of |X'_(i->t) - X_t|, [C, X, Y, Z] in [0, 1]; 0 for a missing sequence,
        or frame.

    Raises:
        ValueError: there is one sequence only, and nothing to make it from.
    """
    if len(available) < 2:
        raise ValueError("The subject has one sequence only, and no other to make it from: it has no differentiation.")
    maps, rows = torch.zeros_like(image), consecutive(frames or [1] * len(image))
    for t in available:
        true = image[rows[t]]
        differences = sum((pairs[i][rows[t]] - true).abs() for i in available if i != t)
        maps[rows[t]] = torch.where(true > 0, differences / (len(available) - 1), 0)
    return maps


class DifferentiationInferer(Inferer):
    """One subject [1, C, X, Y, Z] to its `differentiation_maps` [1, C, X, Y, Z]. Each sequence is encoded once.

    Args:
        sequences: S names, in the network's order.
        windows: see `common.inference.inferers.SubjectInferer`.
    """

    def __init__(self, sequences: Sequence[str], **windows: Any) -> None:
        self.pairs = MatrixInferer(sequences, **windows)

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        network = unwrapped(network)
        pairs = plain(self.pairs(inputs, network))[0].unflatten(0, (-1, inputs.shape[1]))
        available = available_sequences(inputs, network)
        maps = differentiation_maps(pairs, plain(inputs)[0].to(pairs), available, network.frames or None)
        return with_meta(maps[None], inputs)


class SaveDifferentiation(SaveVolumes):
    """Writes `<subject>_<target>_differentiation.nii.gz` for each wanted target that the subject has.

    The map is in its target's own units, by the scale that brought the target to [0, 1]: it can stand beside the
    acquired image as a further channel. Above the scale's upper end the target is clipped, and so is the map's view.
    That of a series is the mean over the frames that the subject has.

    Args:
        per_frame: the maps of all frames of a series instead, as one 4D image; 0 where a frame is missing.
        others: see `SaveVolumes`.

    Raises:
        ValueError: the subject has none of the wanted targets.
    """

    def __init__(self, *others: Any, per_frame: bool | str = False, **named: Any) -> None:
        super().__init__(*others, **named)
        self.per_frame = switch(per_frame, "per_frame")

    def count(self, available: Sequence[int]) -> int:
        """See `SaveVolumes`."""
        return len(set(self._wanted(available)) & set(available))

    def _wanted(self, available: Sequence[int]) -> list[int]:
        return resolve_targets("all" if self.targets is None else self.targets, self.sequences, available)

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        available = self._available(data)
        wanted = self._wanted(available)
        targets = [t for t in wanted if t in available]
        if not targets:
            names = ", ".join(self.sequences[t] for t in wanted)
            raise ValueError(f"The subject has no {names}: a map is made of an acquired sequence.")
        maps = torch.as_tensor(data["pred"])
        for t in targets:
            rows, name = self.rows[t], self.sequences[t]
            found, scale, frames = maps[rows], data["scale"][rows.start].item(), self.frames.get(name)
            if frames and not self.per_frame:
                found, frames = found[data["available"][rows]].mean(0, keepdim=True), None
            more = {
                "quantity": "imaging-differentiation map: mean over the sources of |image made from it - target|, "
                "the target itself not being a source (Seq2Seq, Eq. 5)"
                + (", mean over the frames" if name in self.frames and not frames else ""),
                "units": "the target's own: normalised * scale",
                "scale": scale,
            }
            sources = [i for i in available if i != t]
            self._save(found * scale, data, t, sources, "_differentiation", frames, **more)
        self._draw(data, "differentiation", targets=[self.sequences[t] for t in targets])
        return data
