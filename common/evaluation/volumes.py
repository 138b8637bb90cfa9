"""The volumes of the subjects that scored worst, or of those that were named, for the report to show."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from ..files import replacing
from ..options import words


class KeptVolumes:
    """Keeps `<folder>/<subject>.npz` of the subjects with the lowest scores, or of some by name, in training units.

    Each file: "sequences" [S], "available" [C], "spacing" [3] in mm; float16 "source" and "label" [C, X, Y, Z],
    what the network was given and what it is scored against, and "pred" [S, C, X, Y, Z], whose rows are sources; bool
    "brain" [X, Y, Z], and "masks" [R, X, Y, Z] of the "regions" [R]. A series has a channel for each of its frames,
    which "frames" tells of, in JSON; else C is S.

    Args:
        folder: emptied first, since its volumes belong to the scores beside it.
        sequences: S names.
        keep: how many subjects, 0 for none, or their names.
        frames: of the sequences that are series, see `common.data.preparation.Subjects`.
    """

    def __init__(
        self,
        folder: Path,
        sequences: Sequence[str],
        keep: int | str | Sequence[str],
        frames: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.folder, self.sequences, self.frames = folder, list(sequences), frames or {}
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
        regions: Mapping[str, Tensor] | None = None,
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
        shape, masks = (len(self.sequences), len(label)), [mask.cpu().numpy() for mask in (regions or {}).values()]
        with replacing(self._path(subject)) as partial:
            np.savez_compressed(
                partial,
                sequences=np.array(self.sequences),
                available=np.array(available),
                spacing=nib.affines.voxel_sizes(np.asarray(label.affine)),
                source=source.half().cpu().numpy(),
                label=label.half().cpu().numpy(),
                pred=pred[: math.prod(shape)].unflatten(0, shape).half().cpu().numpy(),
                brain=torch.stack([torch.as_tensor(b) for b in brains]).any(0).cpu().numpy(),
                frames=np.array(json.dumps(self.frames)),
                regions=np.array([*(regions or {})], dtype=str),
                masks=np.array(masks, dtype=bool).reshape(-1, *label.shape[1:]),
            )

    def _path(self, subject: str) -> Path:
        return self.folder / f"{subject}.npz"
