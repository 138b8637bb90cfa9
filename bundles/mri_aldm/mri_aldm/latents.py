"""Latents and target-like latents, computed once for a network's frozen parts and kept on disk."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import zipfile
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import PersistentDataset
from monai.data.utils import pickle_hashing
from monai.transforms import Compose, EnsureTyped, Randomizable, RandSpatialCropd, Transform
from monai.utils import convert_to_tensor

from .common.data.preparation import Subjects
from .common.distributed import is_distributed, unwrapped
from .common.files import replacing
from .common.memory import advising
from .common.options import switch
from .common.progress import bar
from .network import ALDM

logger = logging.getLogger(__name__)


class EncodeLatents(Transform):
    """A subject's "image" [S, X, Y, Z] to "latent" [S, C, *s] and, for diffusion, "like" [S, S, C, *s], rows sources.

    Each available sequence is encoded once. What is missing, and what would be translated to itself, is 0. The image
    is not kept.
    """

    def __init__(self, network: ALDM, device: torch.device) -> None:
        self.network = network
        self.device = device

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        with advising(["a smaller --roi_size"]):
            return self._encode(data)

    @torch.no_grad()
    def _encode(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image, available = d.pop("image"), d["available"].nonzero()[:, 0].tolist()
        network = self.network.to(self.device)
        codes = network.codes
        encoded = {i: network.encode(image[i][None, None].to(self.device), codes[i : i + 1]).latent for i in available}
        latent = torch.zeros(len(image), *encoded[available[0]].shape[1:])
        like = torch.zeros(len(image), *latent.shape)
        for i, z in encoded.items():
            latent[i] = z[0].cpu()
            if network.denoiser is not None:
                for j in available:
                    if j != i:
                        like[i, j] = network.target_like(z, codes[j : j + 1], codes[i : i + 1])[0].cpu()
        return {**d, "latent": latent} if network.denoiser is None else {**d, "latent": latent, "like": like}


class LatentDataset(PersistentDataset):
    """Subjects with two sequences or more, as latents from a folder of the cache that belongs to this very network.

    Args:
        data: items of `subjects`; those with one sequence have no pair and are left out.
        transform: up to the image that is encoded, without anything random.
        subjects: whose preparation decides on the folder, too.
        network: with the weights of the trainings before this one.
        cache_dir: where the latents are kept; its folders may be removed at any time between trainings.
        device: where they are computed.
        images: hand on the images in place of latents and keep nothing, for a training that changes the encoder.
        crop_size: of a random box of the latents, in voxels of the image; None takes all.

    Raises:
        ValueError: no subject has two sequences.
    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Compose,
        network: ALDM,
        cache_dir: str,
        device: torch.device,
        subjects: Subjects,
        images: bool | str = False,
        crop_size: Sequence[int] | None = None,
    ) -> None:
        paired = [item for item in data if len(item["images"]) > 1]
        if not paired:
            raise ValueError(f"None of {len(data)} training subjects has two sequences: there is nothing to translate.")
        self.settings = {name: value for name, value in subjects.described.items() if name != "dataset_dir"}
        if switch(images, "joint"):
            after = [RandSpatialCropd("image", crop_size, random_size=False)] if crop_size is not None else []
            plain = EnsureTyped("image", track_meta=False)
            super().__init__(paired, Compose([*transform.transforms, *after, plain]), None)
        else:
            encode = EncodeLatents(network, device)
            folder = Path(cache_dir) / self.digest(network)
            after = [] if crop_size is None else [CropLatents(crop_size, network.autoencoder.downsampling)]
            super().__init__(paired, Compose([*transform.transforms, encode, *after]), folder, hash_func=_hash_item)

    def _cachecheck(self, item: dict[str, Any]) -> dict[str, Any]:
        """An item from the cache, or into it: MONAI's, but that half a file is no item, and a full disk is named."""
        if self.cache_dir is None:
            return super()._cachecheck(item)
        file = self.cache_dir / f"{_hash_item(item).decode()}{self.transform_hash}.pt"
        if zipfile.is_zipfile(file):  # which ends in its table of contents
            return torch.load(file, weights_only=True)
        made = convert_to_tensor(self._pre_transform(copy.deepcopy(item)), convert_numeric=False, track_meta=False)
        with replacing(file) as partial:
            torch.save(made, partial)
        return made

    def digest(self, network: ALDM) -> str:
        """Of all that a subject's latents depend on but its files: the network's frozen parts and the settings."""
        named = ("norm", "usual", "spade", "source")
        alike = {name: value for name, value in network.options.items() if name.startswith(named)}
        alike |= {"like": network.denoiser is not None}  # which stage 2's do not have
        digest = hashlib.sha256(json.dumps({**self.settings, **alike}, sort_keys=True, default=str).encode())
        parts = [network.autoencoder] if network.denoiser is None else [network.autoencoder, network.translator]
        for part in parts:
            for name, value in part.state_dict().items() if part is not None else ():
                digest.update(name.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def _hash_item(item: dict[str, Any]) -> bytes:
    """Of a subject's entry and of its files' sizes and times: a file that was replaced is encoded anew."""
    files = [Path(file).stat() for file in item["images"].values()]
    return pickle_hashing({**item, "files": [(file.st_size, file.st_mtime_ns) for file in files]})


class CropLatents(Randomizable, Transform):
    """The same random box of a subject's "latent" and "like".

    Args:
        size: of the box in voxels of the image, a multiple of `factor`; whole where the image is smaller.
        factor: how many voxels a latent's position is wide.
    """

    def __init__(self, size: Sequence[int], factor: int) -> None:
        self.size = [n // factor for n in size]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        room = [max(n - size, 0) for n, size in zip(d["latent"].shape[2:], self.size, strict=True)]
        first = [self.R.randint(n + 1) for n in room]
        box = (..., *(slice(k, k + size) for k, size in zip(first, self.size, strict=True)))
        return d | {name: d[name][box] for name in ("latent", "like") if name in d}


class MeasureLatents:
    """At a training's start, fills the cache, and stores mean and deviation of the latents in a buffer [2, C].

    A training that goes on has them in its checkpoint.

    Args:
        dataset: see `LatentDataset`.
        buffer: its name.

    Raises:
        ValueError: a training that goes on was begun with other weights of an earlier stage than those named now.
    """

    def __init__(self, dataset: LatentDataset, buffer: str = "latent_scale") -> None:
        self.dataset = dataset
        self.buffer = buffer
        self.begun = False

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)  # after what goes on has been loaded

    def __call__(self, engine: Engine) -> None:
        if self.begun:
            return
        self.begun, goes_on = True, engine.state.epoch > 1
        network = unwrapped(engine.network)
        if goes_on and self.dataset.cache_dir.name != self.dataset.digest(network):
            raise ValueError(
                "The training that goes on here was begun with other weights of an earlier stage. Name those "
                "(--autoencoder_weights, --translation_weights), or begin anew in another --ckpt_dir."
            )
        rank, world = 0, 1
        if distributed := is_distributed():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        scale = network.get_buffer(self.buffer)  # an average of the weights takes it over after the next step
        total = torch.zeros(3, scale.shape[1], dtype=torch.float64)
        for k in bar(range(rank, len(self.dataset), world), desc="encoding latents", unit="subjects"):
            item = self.dataset[k]
            z = item["latent"][item["available"]].movedim(1, 0).flatten(1).double()
            total += torch.stack([z.sum(1), z.square().sum(1), torch.full((len(z),), z.shape[1])])
        if goes_on:
            return
        total = total.to(scale.device)
        if distributed:
            torch.distributed.all_reduce(total)
        mean = total[0] / total[2]
        deviation = (total[1] / total[2] - mean.square()).clamp(min=1e-12).sqrt()
        scale.copy_(torch.stack([mean, deviation]))
        logger.info(f"Latents: mean {mean.tolist()}, standard deviation {deviation.tolist()}.")
