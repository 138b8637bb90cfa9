"""Synthesised images back on the subject's own grid, each with a sidecar that says what it is."""

from __future__ import annotations

import datetime
import functools
import json
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Transform

from ..data.normalisation import unscale
from .inferers import resolve_targets
from .weights import sha256

logger = logging.getLogger(__name__)
SYNTHESISED = b"synthesised"  # in the header of what is written here, the only files that it replaces


def save_like(array: np.ndarray, like: str | Path, path: str | Path) -> None:
    """Writes float32 [X, Y, Z] as NIfTI on the grid of the file `like`: its affine, codes and units, to the bit.

    Raises:
        ValueError: the array's shape is not the grid's, a voxel is NaN or infinite, or `path` is the file `like`.
    """
    original = nib.load(like)
    if array.shape != original.shape[:3]:
        raise ValueError(f"An image of shape {array.shape} cannot lie on the grid of {like}, {original.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"The image for {path} has NaN or infinite voxels and is not written.")
    header = original.header if isinstance(original, nib.Nifti1Pair) else None
    nifti = nib.Nifti2Image if isinstance(original, nib.Nifti2Image) else nib.Nifti1Image
    image = nifti(array.astype(np.float32), original.affine, header)
    image.set_data_dtype(np.float32)  # the header is a copy, and may have been one of integers
    image.header["cal_min"] = image.header["cal_max"] = 0
    image.header["descrip"] = SYNTHESISED
    if header is None:
        image.header.set_xyzt_units("mm")
    path = Path(path)
    if path.exists() and path.samefile(like):
        raise ValueError(f"{path} is an acquired image and is not overwritten; pass another --output_dir.")
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, temporary)
    os.replace(temporary, path)


class SaveCompleted(Transform):
    """Writes `<output_dir>/<subject>/<subject>_<target>.nii.gz` and a JSON sidecar for each wanted target.

    A missing target has no scale of its own to go back to: it is written in normalised units times the scale that
    the training subjects had, which lies in the weights.

    Args:
        output_dir: made if need be.
        sequences: S names, in the network's order.
        targets: see `common.inference.inferers.resolve_targets`.
        reference_scale: scale and offset [S, 2] of the training subjects, `network.reference_scale`.
        weights: file whose sha256 the sidecar names.
        metadata_file: the bundle's metadata.json, for its name and version.
    """

    def __init__(
        self,
        output_dir: str,
        sequences: Sequence[str],
        targets: str | Sequence[str] | None,
        reference_scale: torch.Tensor,
        weights: str,
        metadata_file: str,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.sequences = sequences
        self.targets = targets
        self.reference_scale = reference_scale.cpu()
        self.weights = weights
        self.metadata_file = metadata_file

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        available = data["available"].nonzero()[:, 0].tolist()
        scale, offset = self.reference_scale.unbind(1)
        known = torch.isfinite(scale)
        images = unscale(torch.as_tensor(data["pred"]), torch.where(known, scale, 1), torch.where(known, offset, 0))
        targets = resolve_targets(self.targets, self.sequences, available)
        if not targets:
            logger.warning(f"{data['subject']} lacks nothing, so nothing is made; name what you want with --targets.")
        for j in targets:
            name = self.sequences[j]
            path = self.output_dir / data["subject"] / f"{data['subject']}_{name}.nii.gz"
            ours = path.exists() and nib.load(path).header["descrip"].item() == SYNTHESISED
            if path.exists() and (not ours or any(path.samefile(file) for file in data["images"].values())):
                raise ValueError(f"{path} is an acquired image and is not overwritten; pass another --output_dir.")
            save_like(images[j].numpy(), data["grid_file"], path)
            sources = [self.sequences[i] for i in available if i != j or len(available) == 1]
            self._save_sidecar(path, data, name, sources, self.reference_scale[j].tolist() if known[j] else None)
        return data

    @functools.cached_property
    def _origin(self) -> dict[str, Any]:
        metadata = json.loads(Path(self.metadata_file).read_text())
        return {
            "bundle": metadata["name"],
            "bundle_version": metadata["version"],
            "weights": Path(self.weights).name,
            "weights_sha256": sha256(self.weights),
        }

    def _save_sidecar(
        self, path: Path, data: Mapping[Hashable, Any], target: str, sources: list[str], scale: list[float] | None
    ) -> None:
        content = {
            "subject": data["subject"],
            "target": target,
            "sources": {name: data["images"][name] for name in sources},
            "grid": data["grid_file"],
            **self._origin,
            "units": "normalised * scale + offset of the training subjects" if scale else "normalised, 0 to 1",
            "scale": scale[0] if scale else None,
            "offset": scale[1] if scale else None,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "note": "Synthesised by a network, not acquired. Not for clinical use.",
        }
        sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
        temporary = sidecar.with_name(f".{os.getpid()}.{sidecar.name}")
        temporary.write_text(json.dumps(content, indent=1))
        os.replace(temporary, sidecar)
