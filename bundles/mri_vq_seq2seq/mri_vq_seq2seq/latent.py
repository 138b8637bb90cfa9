"""`run encode`: a subject's common latent and its codes as NIfTI, for segmentation and other work downstream."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import generate_spatial_bounding_box
from torch import Tensor

from .common.data.finding import SYNTHESISED
from .common.data.grids import coarser_affine
from .common.distributed import unwrapped
from .common.files import replacing
from .common.inference.inferers import SubjectInferer, available_sequences, plain
from .common.inference.saving import SaveVolumes, located
from .network import VQSeq2Seq

logger = logging.getLogger(__name__)


class LatentInferer(SubjectInferer):
    """The mean latent (Eq. 4) of all that one subject has: image [1, S, X, Y, Z] to [1, D, x, y, z].

    Where windows overlap, theirs are averaged.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        network = unwrapped(network)
        encode = functools.partial(network.encode_subject, sources=available_sequences(inputs))
        return self.windows(network)(plain(inputs), encode)


class SaveLatent(SaveVolumes):
    """Writes `<output_dir>/<subject>/<subject>_latent.nii.gz`, `_codes.nii.gz`, `_latent.json` and a picture of them.

    The latent is float32 [x, y, z, D] on a grid of its own: that of the preprocessed image (RAS, cropped to the
    foreground, padded), coarser by the network's downsampling and with the same corners, so that it lies on the image
    in world coordinates. The codes [x, y, z] are the nearest ones of the codebook.

    Args:
        network: whose quantiser gives the codes; without one none are written.
        others: see `SaveVolumes`.
    """

    def __init__(self, *, network: VQSeq2Seq, **others: Any) -> None:
        super().__init__(**others)
        self.quantiser = network.quantiser

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        latent, image = torch.as_tensor(data["pred"]), data["image"]
        coarser = [a // b for a, b in zip(image.shape[1:], latent.shape[1:], strict=True)]
        affine = coarser_affine(image.affine.numpy(), coarser)
        stem = self.output_dir / data["subject"] / f"{data['subject']}_"
        images = {"latent": nib.Nifti1Image(latent.movedim(0, -1).numpy(), affine)}
        content = {
            "subject": data["subject"],
            "sources": {name: located(data, data["images"][name]) for name in self.sequences if name in data["images"]},
            "grid": located(data, data["grid_file"]),
            **self._origin,
            "coarser": coarser,
            **self._sizes(image[data["available"]], coarser, len(latent)),
            "note": "A network's representation of the sources, not an image. Not for clinical use.",
        }
        if self.quantiser is not None:
            images["codes"] = nib.Nifti1Image(self._codes(latent), affine)
        with contextlib.ExitStack() as together:
            for name, made in images.items():
                made.header.set_xyzt_units("mm")
                made.header["descrip"] = SYNTHESISED
                nib.save(made, together.enter_context(replacing(f"{stem}{name}.nii.gz")))
            text = together.enter_context(replacing(f"{stem}latent.json"))
            text.write_text(json.dumps(content, indent=1), encoding="utf-8")
        shares = {name.split("_")[0]: f"{content[name]:.2%}" for name in content if name.endswith("share")}
        logger.info(f"{data['subject']}: of the images' size " + ", ".join(" ".join(each) for each in shares.items()))
        self._draw(data, "latent", codes=0 if self.quantiser is None else len(self.quantiser.codebook))
        return data

    @torch.no_grad()
    def _codes(self, latent: Tensor) -> np.ndarray:
        device = self.quantiser.codebook.device
        return self.quantiser(latent[None].to(device)).indices[0].cpu().numpy().astype(np.int32)

    def _sizes(self, images: Tensor, coarser: Sequence[int], dimensions: int) -> dict[str, Any]:
        """Bytes uncompressed of the images' foreground box, not of what it was padded to: the voxels of all sources and
        the latent as float32, the codes packed.
        """
        first, last = generate_spatial_bounding_box(images)
        positions = math.prod(-(-b // size) - a // size for a, b, size in zip(first, last, coarser, strict=True))
        whole = 4 * len(images) * math.prod(b - a for a, b in zip(first, last, strict=True))
        sizes = {"latent": 4 * dimensions * positions}
        if self.quantiser is not None:
            sizes["codes"] = math.ceil(positions * math.ceil(math.log2(len(self.quantiser.codebook))) / 8)
        numbers = {f"{name}_bytes": size for name, size in sizes.items()}
        return {"images_bytes": whole, **numbers, **{f"{name}_share": size / whole for name, size in sizes.items()}}
