"""Subjects as a network's encoder sees them: what a segmentation from few subjects may start from, beside the images.

A space makes "image" [C, x, y, z] and "label" [R, x, y, z] of a subject on a grid of its own, coarser than the images'
by the network's downsampling, and both with their place in the world.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Compose, DivisiblePadd, ResampleToMatch, SpatialCropd
from torch import Tensor

from ..blocks.vq import nearest_codes
from ..data.grids import coarser_affine
from ..inference.inferers import SlabInferer, available_sequences, plain
from ..inference.weights import sha256
from ..translation import TranslationNetwork
from ..workflows import bundle_folder, network_of
from .cases import Cases, Items
from .masks import slices_of, true_regions
from .segmenter import preparation

DIMENSIONS = 3  # of Seq2Seq's features that are kept, as many as the common latent of VQ-Seq2Seq has
KEPT = 64  # subjects whose encodings stay in memory


class Encoding(NamedTuple):
    """`values` [C, x, y, z], of many channels in half precision, and where there is tissue, `inside` [x, y, z]."""

    values: MetaTensor
    inside: Tensor


class Encoder:
    """A bundle's network, with its own preparation, as an encoder of subjects.

    Args:
        bundle, weights, device: see `common.workflows.network_of`.
        cases: the subjects; the sequences that both know are encoded.

    Attributes:
        codebook: [K, D] of a network with a vector-quantised latent, else None.

    Raises:
        ValueError: the network takes series.
    """

    def __init__(self, bundle: str, weights: str, cases: Cases, device: str) -> None:
        options = {**cases.where, "grid": cases.grid, "device": device}
        self.network, self.subjects = network_of(bundle, weights, **options)
        if self.network.has_series:
            raise ValueError(f"{weights or bundle} is a network for series, whose features are no single image.")
        self.device, own = device, bundle_folder(bundle) / "models" / "model.pt"
        self.weights_sha256 = sha256(weights or own)
        quantiser = getattr(self.network, "quantiser", None)
        self.codebook = None if quantiser is None else quantiser.codebook.detach()
        self.encode = functools.lru_cache(maxsize=KEPT)(self._encode)
        self._slabs = SlabInferer(margin=self.network.slices // 2, slice_axis=self.network.slice_axis)
        self._items = {item["subject"]: item for items in cases.items.values() for item in items}

    @torch.no_grad()
    def _encode(self, subject: str) -> Encoding:
        item = self._items[subject]
        images = {name: item["images"][name] for name in self.subjects.sequences if name in item["images"]}
        data = self.subjects.use()({**item, "images": images})
        image = plain(data["image"])[None]
        sources = available_sequences(image)
        represent = functools.partial(represented, self.network, sources)
        if self.network.spatial_dims == 2:
            represent = functools.partial(self._slabs, network=represent)
        made = represent(image.to(self.device))[0].cpu()
        factors = [a // b for a, b in zip(image.shape[2:], made.shape[1:], strict=True)]
        inside = F.max_pool3d((image > 0).any(1, keepdim=True).float(), factors)[0, 0].cpu() > 0
        made = made.half() if self.codebook is None else made  # nearly equal codes are told apart
        return Encoding(MetaTensor(made, coarser_affine(data["image"].affine.numpy(), factors)), inside)


def represented(network: TranslationNetwork, sources: Sequence[int], image: Tensor) -> Tensor:
    """What a network has of the sources together: [B, S, X, Y, Z] to [B, C, x, y, z].

    That is its common latent where it has one (Eq. 4's mean of VQ-Seq2Seq), else the mean of the sources' features.
    """
    network.check_size(image)
    encoded = [network.encode(network.sequence_input(image, i), network.codes[i : i + 1]) for i in sources]
    fused = network.fuse(encoded, torch.stack([network.tissue(image, i) for i in sources], 1))
    field = next((name for name in ("latent", "features") if hasattr(encoded[0], name)), "")
    if not field:
        raise ValueError(f"{type(network).__name__} has neither a common latent nor features of an image.")
    each = [getattr(part, field) for part, _ in fused]
    mean = sum(each) / len(each)
    if network.spatial_dims == 3:
        return mean
    return mean.unflatten(0, (image.shape[0], -1)).movedim(1, network.slice_axis)


class Space:
    """The images themselves, and base of the others.

    Attributes:
        codes: how many, where the "image" is the number of a code at each place; else 0.
        origin: sha256 of the weights that make it.
    """

    codes = 0
    origin: Mapping[str, str] = MappingProxyType({})

    def __init__(self, cases: Cases, multiple: int) -> None:
        self.cases = cases
        self.prepare = preparation(cases.sequences, cases.mask, cases.regions, multiple, cases.grid)

    def fit(self, items: Items) -> None:
        """To the training subjects, and to no other."""

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return _part(self.prepare(item), item.get("part"))


class LatentSpace(Space):
    """What an encoder makes of the images: `kind` is "mean" or "codes" of a common latent, or "features".

    Of features the first principal components are taken, of variance 1 over the tissue of the training subjects.
    """

    def __init__(self, cases: Cases, multiple: int, encoder: Encoder, kind: str) -> None:
        self.cases, self.encoder, self.kind = cases, encoder, kind
        if kind != "features" and encoder.codebook is None:
            raise ValueError("--vq_weights are those of a network without a codebook; name a vector-quantised one's.")
        self.codes = len(encoder.codebook) if kind == "codes" else 0
        self.origin = {f"{kind}_weights_sha256": encoder.weights_sha256}
        sizes = (multiple, multiple, 1)
        self.pad = Compose([DivisiblePadd("image", sizes, mode="edge"), DivisiblePadd("label", sizes)])
        self.mean, self.axes = torch.zeros(1), torch.eye(1)

    def fit(self, items: Items) -> None:
        if self.kind == "features":
            rows = torch.cat([self._tissue(item) for item in items])
            self.mean, self.axes = principal_axes(rows, DIMENSIONS)

    def _tissue(self, item: Mapping[str, Any]) -> Tensor:
        values, inside = self.encoder.encode(item["subject"])
        there = slices_of(values, item.get("part"))
        return plain(values)[..., there][:, inside[..., there]].T.float()

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        values, _ = self.encoder.encode(item["subject"])
        flat = plain(values).float().flatten(1).T  # (N, C)
        if self.kind == "features":
            flat = (flat - self.mean) @ self.axes
        elif self.kind == "codes":
            flat = nearest_codes(flat, self.encoder.codebook.cpu())[:, None].float()
        image = MetaTensor(flat.T.unflatten(1, values.shape[1:])).copy_meta_from(values)
        label = ResampleToMatch(mode="nearest", padding_mode="zeros")(true_regions(item, self.cases), img_dst=image)
        return self.pad(_part({"subject": item["subject"], "image": image, "label": label}, item.get("part")))


def _part(data: dict[str, Any], part: tuple[float, float] | None) -> dict[str, Any]:
    """The slices of image and label that lie in a part of the body, see `slices_of`."""
    if part is None:
        return data
    crop = SpatialCropd(["image", "label"], roi_slices=[slice(None), slice(None), slices_of(data["image"], part)])
    return crop(data)


def principal_axes(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean [C] of rows [N, C], and the axes [C, count] on which they vary most, each scaled to a variance of 1."""
    mean = rows.mean(0)
    variances, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    chosen = slice(-count, None)
    return mean, (axes[:, chosen] / variances[chosen].clamp(min=1e-12).sqrt()).flip(1)
