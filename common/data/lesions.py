"""Masks of lesions beside the images that are trained on: a channel more, so that what moves these moves them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform


class LesionChanneld(MapTransform):
    """Appends the union of a subject's masks [1, X, Y, Z] to its image [S, X, Y, Z], as channel S.

    Args:
        keys: of the image.
        masks: names, of masks with the axes of the image; those that the subject lacks are nowhere.
    """

    def __init__(self, keys: KeysCollection, masks: Sequence[str]) -> None:
        super().__init__(keys)
        self.masks = list(masks)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[key]
            union = torch.zeros_like(image[:1])
            for name in (name for name in self.masks if name in d):
                union = torch.maximum(union, (d[name] > 0).to(image.dtype))
            d[key] = torch.cat([image, union])
        return d


class PartLesiond(MapTransform):
    """The image without its last channel, and that as "lesion" [1, X, Y, Z] of 0 and 1: undoes `LesionChanneld`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d["lesion"] = (d[key][-1:] > 0.5).to(d[key].dtype)
            d[key] = d[key][:-1]
        return d
