"""The volumes of the subjects that scored worst, or of those that were named, for the report to show."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from ..files import replacing
from ..options import words


class KeptVolumes:
    """Keeps `<folder>/<subject>.npz` of the subjects with the lowest scores, or of some by name, in training units.

    Each file: "sequences" [S], "available" [S], "spacing" [3] in mm; float16 "source" and "label" [S, X, Y, Z],
    what the network was given and what it is scored against, and "pred" [S, S, X, Y, Z], whose rows are sources; and
    "brain" bool [X, Y, Z].

    Args:
        folder: emptied first, since its volumes belong to the scores beside it.
        sequences: S names.
        keep: how many subjects, 0 for none, or their names.
    """

    def __init__(self, folder: Path, sequences: Sequence[str], keep: int | str | Sequence[str]) -> None:
        self.folder, self.sequences = folder, list(sequences)
        self.named = None if isinstance(keep, int) else words(keep)
        self.keep = keep if isinstance(keep, int) else len(self.named)
        self.kept: list[tuple[float, str]] = []
        shutil.rmtree(folder, ignore_errors=True)

    def offer(
        self,
        subject: str,
        score: float,
        pred: Tensor,
        source: Tensor,
        label: Tensor,
        available: list[bool],
        brains: Sequence[Tensor],
    ) -> None:
        """Keeps a named subject, or one that fewer than `keep` were worse than; drops the one that it displaces."""
        if self.named is not None and subject not in self.named:
            return
        self.kept = sorted([*self.kept, (score, subject)])
        dropped = {name for _, name in self.kept[self.keep :]}
        self.kept = self.kept[: self.keep]
        for name in dropped - {subject}:
            self._path(name).unlink()
        if subject in dropped:
            return
        count = len(self.sequences)
        with replacing(self._path(subject)) as partial:
            np.savez_compressed(
                partial,
                sequences=np.array(self.sequences),
                available=np.array(available),
                spacing=nib.affines.voxel_sizes(np.asarray(label.affine)),
                source=source.half().cpu().numpy(),
                label=label.half().cpu().numpy(),
                pred=pred[: count**2].unflatten(0, (count, count)).half().cpu().numpy(),
                brain=torch.stack([torch.as_tensor(b) for b in brains]).any(0).cpu().numpy(),
            )

    def _path(self, subject: str) -> Path:
        return self.folder / f"{subject}.npz"
