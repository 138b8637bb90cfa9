"""Masks of lesions beside the images that are trained on: a channel more, so that what moves these moves them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientation


class LesionChanneld(MapTransform):
    """Appends the union of a subject's masks [1, X, Y, Z] to its image [S, X, Y, Z], as channel S.

    Args:
        keys: of the image.
        masks: names; those that the subject lacks are nowhere.
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
                union = torch.maximum(union, _turned(d[name], image))
            d[key] = torch.cat([image, union.to(image.dtype)])
        return d


def _turned(mask: MetaTensor, like: MetaTensor) -> MetaTensor:
    """The mask, which lies on the files' grid, with the axes of an image that was turned to RAS."""
    return (Orientation(axcodes="RAS", labels=None)(mask) > 0).to(like.dtype)


class PartLesiond(MapTransform):
    """The image without its last channel, and that as "lesion" [1, X, Y, Z] of 0 and 1: undoes `LesionChanneld`."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d["lesion"] = (d[key][-1:] > 0.5).to(d[key].dtype)
            d[key] = d[key][:-1]
        return d
