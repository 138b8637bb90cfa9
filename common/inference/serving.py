"""An exported network in a program of one's own: arrays in, arrays out, by the code of `run inference`.

    images = {"T1": t1, "T2": t2}                                          # [X, Y, Z] each, any scale, on one grid
    made = complete_arrays(images, "models/model.ts.json", run, affine)    # {"FLAIR": [X, Y, Z], ...}

`run` hands one array [1, C, x, y, z] to whatever serves the file, such as Triton with the `config.pbtxt` beside it, and
returns the answer. Where one is served in another way, `Served` has the two halves apart.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from ..data.acquisition import four
from ..data.grids import is_invertible
from ..data.images import ERROR, image_problems
from ..data.normalisation import unscale
from ..data.preparation import Subjects
from ..data.series import consecutive
from ..scales import Scales
from ..translation import TranslationNetwork
from .inferers import CompletionInferer, SubjectInferer, plain, resolve_targets, sources_of, with_meta

CONFIG = """# {bundle} {version} in a model repository of Triton: {bundle}/config.pbtxt and {bundle}/1/{file}
name: "{bundle}"
backend: "{backend}"
default_model_filename: "{file}"
max_batch_size: 0
input [ {{ name: "{input}", data_type: TYPE_FP32, dims: [ -1, {count}, -1, -1, -1 ] }} ]
output [ {{ name: "{output}", data_type: TYPE_FP32, dims: [ -1, {count}, -1, -1, -1 ] }} ]
"""
SHAPE = ("spatial_dims", "slices", "slice_axis", "downsampling")  # of a network
BACKENDS = {".ts": ("pytorch", "INPUT__0", "OUTPUT__0"), ".onnx": ("onnxruntime", "image", "pred")}


def preparation(subjects: Subjects, inferer: SubjectInferer, network: TranslationNetwork) -> dict[str, Any]:
    """What an export's record says about how arrays become its input and its output arrays."""
    scale, spread = network.scales()
    known = scale.isfinite().all(1).tolist()
    return {
        "normalisation": subjects.scaling["rule"],
        "scale_per": subjects.scaling["per"],
        "roi_size": subjects.roi_size,
        "divisible": subjects.divisible,
        "settings": [list(each) for each in subjects.settings],
        "frames": subjects.frames,
        "axes": subjects.axes,
        "crop": subjects.crop,
        "reference_scale": [row if there else None for row, there in zip(scale.tolist(), known, strict=True)],
        "reference_spread": spread.tolist(),
        "windows": {"roi_size": inferer.roi_size, "slab": inferer.slab},
        "network": {name: getattr(network, name) for name in SHAPE},
    }


def triton_config(file: Path, record: Mapping[str, Any]) -> str:
    """A `config.pbtxt` of Triton Inference Server for an exported file."""
    backend, given, made = BACKENDS[file.suffix]
    names = {"bundle": record["bundle"], "version": record["bundle_version"], "count": len(record["channels"])}
    return CONFIG.format(file=file.name, backend=backend, input=given, output=made, **names)


def complete_arrays(
    images: Mapping[str, np.ndarray],
    record: str | Path,
    run: Callable[[np.ndarray], np.ndarray],
    affine: np.ndarray | None = None,
    targets: str | Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """A subject's missing images, or the wanted ones, as `run inference` writes them.

    Args:
        images: by sequence [X, Y, Z], co-registered, in the scanner's units; a sequence that is missing is left out. A
            series is [X, Y, Z, T], of no more frames than the record's "frames" say; the last ones may lack.
        record: what the export wrote beside its file, such as model.ts.json.
        run: the served network: float32 [1, C, x, y, z] to the same shape.
        affine: [4, 4], voxels to RAS in mm, as NIfTI has it; None says that the axes lead to the right, to the front
            and up.
        targets: see `resolve_targets`; those that the exported file makes. None: what is missing.

    Returns:
        By target, float32 [X, Y, Z], of a series [X, Y, Z, T], on the images' grid, in the units that "scale" and
        "offset" of inference's sidecars lead to; where training had no such image, 0 to 1.

    Raises:
        ValueError: an unknown sequence or target, arrays that are no volumes of one grid, or what
            `common.data.check` calls an error; and what `ScaleSequencesd` raises.
    """
    served = Served(record)
    data = served.to_input(images, affine)
    image = plain(data["image"])[None]
    windows = CompletionInferer(served.sequences, **served.record["windows"]).windows(served.network)
    made = windows(image, lambda window: torch.as_tensor(np.array(run(window.contiguous().numpy()))))
    return served.to_arrays(made.numpy(), data, targets)


class Served:
    """The two halves of `complete_arrays`, for a program that calls its server in its own way.

    Args:
        record: see `complete_arrays`.
    """

    def __init__(self, record: str | Path) -> None:
        said = json.loads(Path(record).read_text())
        if "preparation" not in said:
            raise ValueError(f"{record} does not say how images are prepared. Export again with configs/export.json.")
        self.sequences, self.made = said["sequences"], said["targets"]
        self.record = said["preparation"]
        self.network: Any = SimpleNamespace(**self.record["network"], repeated=lambda: None)
        mean = torch.tensor([row or (torch.nan, torch.nan) for row in self.record["reference_scale"]]).view(-1, 2)
        spread = self.record.get("reference_spread", torch.zeros(len(mean), len(mean)))  # older exports have none
        self.scales = Scales(mean, torch.as_tensor(spread))
        options = {
            name: self.record[name] for name in ("normalisation", "scale_per", "roi_size", "divisible", "settings")
        }
        newer = {name: self.record[name] for name in ("axes", "crop", "frames") if name in self.record}
        self.subjects = Subjects(self.sequences, **options, **newer)
        self.rows = consecutive(self.subjects.counts or [1] * len(self.sequences))
        self.transform = self.subjects.loaded()

    def to_input(self, images: Mapping[str, np.ndarray], affine: np.ndarray | None = None) -> dict[str, Any]:
        """What the network gets, "image" [C, x, y, z]: in RAS, scaled, cropped to its foreground, padded to sizes that
        it takes, a missing sequence -1. The rest is for `to_arrays`.
        """
        if unknown := [name for name in images if name not in self.sequences]:
            raise ValueError(f"images has {', '.join(unknown)}; this network knows {', '.join(self.sequences)}.")
        if not images:
            raise ValueError(f"images is empty; this network starts from one or more of {', '.join(self.sequences)}.")
        grid = self._grid({name: np.shape(array) for name, array in images.items()})
        affine = np.eye(4) if affine is None else np.asarray(affine, float)
        if affine.shape != (4, 4) or not is_invertible(affine):
            raise ValueError(f"affine is {affine.tolist()}; it must be an invertible 4 x 4 matrix, as a file's.")
        for name, array in images.items():  # what loading refuses in a file
            empty, series = nib.Nifti1Image(np.zeros(grid, np.float32), affine), name in self.subjects.frames
            for _, severity, reason in image_problems(empty, np.asarray(array), is_series=series):
                if severity == ERROR:
                    raise ValueError(f"{name}: {reason}.")
        stacked = np.zeros((self.rows[-1].stop, *grid), np.float32)
        available = torch.zeros(len(stacked), dtype=torch.bool)
        for name, array in images.items():
            frames = np.moveaxis(np.reshape(array, (*grid, -1)), -1, 0)
            there = self.rows[self.sequences.index(name)][: len(frames)]
            stacked[there], available[there] = frames, True
        data = {"subject": "given as arrays", "available": available}
        data["image"] = MetaTensor(torch.as_tensor(stacked), torch.as_tensor(affine))
        if self.record["settings"]:
            data["parameters"] = torch.tensor(four(self.record["settings"]))
        prepared = self.transform(data)
        TranslationNetwork.check_size(self.network, prepared["image"][None])  # by which it was exported to pad
        return prepared

    def _grid(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The one [X, Y, Z] of all.

        Raises:
            ValueError: they differ, one is no volume, or has more frames than the network takes.
        """
        most = {name: len(rows) for name, rows in zip(self.sequences, self.rows, strict=True)}
        fits = [len(shape) == 3 or (len(shape) == 4 and 0 < shape[3] <= most[name]) for name, shape in shapes.items()]
        if len({shape[:3] for shape in shapes.values()}) > 1 or not all(fits):
            shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            series = ", ".join(f"{name} of up to {count} frames" for name, count in most.items() if count > 1)
            kinds = f"volumes [X, Y, Z] or series [X, Y, Z, T] ({series})" if series else "volumes [X, Y, Z]"
            raise ValueError(f"Images are {kinds} of one grid, but these have the shapes {shown}.")
        return next(iter(shapes.values()))[:3]

    def to_arrays(
        self, pred: np.ndarray, data: Mapping[str, Any], targets: str | Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """What the network gave back, [1, C, x, y, z], to arrays on the grid and in the units of those given."""
        expected = (1, *data["image"].shape)
        if np.shape(pred) != expected:
            raise ValueError(
                f"The network's output has the shape {np.shape(pred)}, its input {expected}. They are equal where all "
                "of the input was sent and all of the output came back."
            )
        available = self._available(data)
        wanted = resolve_targets(targets, self.sequences, available)
        if targets is not None and (
            lacking := [self.sequences[j] for j in wanted if self.sequences[j] not in self.made]
        ):
            raise ValueError(f"targets has {', '.join(lacking)}; the file was exported for {', '.join(self.made)}.")
        made = with_meta(torch.as_tensor(np.array(pred, np.float32))[0], data["image"])
        restored = self.subjects.restored(self.transform)({**data, "pred": made})["pred"]
        volumes = plain(torch.as_tensor(restored))
        names = {j: self.sequences[j] for j in wanted if self.sequences[j] in self.made}
        frames = {name: self._rescaled(volumes[self.rows[j]], j, data).movedim(0, -1) for j, name in names.items()}
        return {name: (each if name in self.subjects.frames else each[..., 0]).numpy() for name, each in frames.items()}

    def _available(self, data: Mapping[str, Any]) -> list[int]:
        return [j for j, rows in enumerate(self.rows) if data["available"][rows].any()]

    def _rescaled(self, volume: Tensor, j: int, data: Mapping[str, Any]) -> Tensor:
        if self.record["scale_per"] == "subject":
            scale, offset = float(data["scale"][0]), 0.0
        else:
            first = torch.stack([data["scale"][rows.start] for rows in self.rows])
            scale, offset = self.scales.given(first, sources_of(j, self._available(data)))[j].tolist()
            scale, offset = (scale, offset) if math.isfinite(scale) else (1.0, 0.0)
        return unscale(volume, *torch.tensor([scale, offset])[:, None].expand(-1, len(volume)))
