"""A small U-Net for slices, and what its masks are worth: it segments to measure what it is given, for no patient."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor, list_data_collate
from monai.losses import DiceLoss
from monai.metrics import compute_average_surface_distance, compute_dice
from monai.networks.nets import DynUNet
from monai.transforms import (
    Compose,
    CropForegroundd,
    DivisiblePadd,
    EnsureTyped,
    Lambdad,
    NormalizeIntensityd,
    Orientationd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    SpatialPadd,
    ThresholdIntensityd,
    Transform,
)
from torch import Tensor, nn
from torch.utils.data import RandomSampler

from ..data.loading import LoadSubject
from ..options import with_defaults
from ..progress import bar
from .regions import Regions

BOTH = ["image", "label"]


QUICK = {"steps": 30, "batch_size": 4, "filters": (8, 16, 16)}


class Settings(NamedTuple):
    """Of a training.

    Attributes:
        steps, batch_size, learning_rate: `batch_size` counts slices.
        slices: adjacent ones that are an input, 1 for 2D, 3 for 2.5D.
        filters: widths from full resolution down; each further one halves the size.
        seed: the same one, data and machine give the same network.
    """

    steps: int = 1000
    batch_size: int = 8
    learning_rate: float = 0.004
    slices: int = 1
    filters: tuple[int, ...] = (16, 32, 64, 128)
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any], quick: bool = False) -> Settings:
        """From a command's options; with `quick` a training of seconds.

        Raises:
            ValueError: there is no such option, or it is not above 0.
        """
        given = {name: value for name, value in options.items() if name != "traceback"}
        settings = cls(**with_defaults(cls()._asdict(), given) | (QUICK if quick else {}))
        settings = settings._replace(filters=tuple(int(width) for width in settings.filters))
        if min(settings[:4]) <= 0 or settings.slices % 2 == 0 or len(settings.filters) < 3:
            raise ValueError(f"{settings}: all must be above 0, slices odd, and filters three or more.")
        return settings

    @property
    def multiple(self) -> int:
        """What the sizes of a slice must be multiples of."""
        return 2 ** (len(self.filters) - 1)


class WithRegions:
    """An item's mask as its "label", regions [R, X, Y, Z]."""

    def __init__(self, mask: str, regions: Regions) -> None:
        self.mask, self.regions = mask, regions

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if self.mask not in data:
            raise ValueError(
                f"Subject {data['subject']} has no mask '{self.mask}' in the subject list; name another by --mask."
            )
        label = self.regions.channels(data[self.mask], data["subject"])
        return {"subject": data["subject"], "image": data["image"], "label": label}


def preparation(sequences: Sequence[str], mask: str, regions: Regions, multiple: int, grid: str = "") -> Compose:
    """From a list's item to "subject", "image" [S, X, Y, Z] and "label" [R, X, Y, Z], in RAS, cut to the foreground.

    Each image has mean 0 and deviation 1 over its foreground, so that the scale of a synthesised one is no matter; what
    is missing is 0.
    """
    return Compose(
        [
            LoadSubject(sequences, grid, masks=[mask]),
            WithRegions(mask, regions),
            Orientationd(BOTH, axcodes="RAS", labels=None),
            ThresholdIntensityd("image", 0.0),  # resampling leaves a little below 0 in the air
            CropForegroundd(BOTH, source_key="image", allow_smaller=True),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            DivisiblePadd(BOTH, k=(multiple, multiple, 1)),
        ]
    )


class OneHot(nn.Module):
    """Codes [B, 1, X, Y] as [B, K, X, Y]."""

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.codes = codes

    def forward(self, image: Tensor) -> Tensor:
        return F.one_hot(image[:, 0].long(), self.codes).movedim(-1, 1).to(image.dtype)


def create_network(channels: int, regions: int, filters: Sequence[int], codes: int = 0) -> nn.Module:
    """MONAI's 2D DynUNet, a logit for each region; of images that are codes, of which there are so many, one-hot."""
    down = [1] + [2] * (len(filters) - 1)
    network = DynUNet(2, codes or channels, regions, [3] * len(filters), down, down[1:], filters=filters)
    return nn.Sequential(OneHot(codes), network) if codes else network


def stacks(image: Tensor, slices: int) -> Tensor:
    """[C, X, Y, Z] to [Z, C * slices, X, Y], each slice with its neighbours; the last one stands in for what lacks."""
    ends = [image[..., :1]] * (slices // 2), [image[..., -1:]] * (slices // 2)
    padded = torch.cat([*ends[0], image, *ends[1]], -1)
    return padded.unfold(-1, slices, 1).permute(3, 0, 4, 1, 2).flatten(1, 2)


def _random(settings: Settings, samples: int, mode: str) -> list[Any]:
    """Slices, half of them at a lesion, turned, flipped and scaled: alike for images and for latents."""
    size, middle = (-1, -1, settings.slices), settings.slices // 2
    return [
        RandCropByPosNegLabeld(BOTH, "lesion", size, pos=1, neg=1, num_samples=samples, allow_smaller=True),
        EnsureTyped(BOTH, track_meta=False),
        Lambdad("image", lambda image: image.movedim(-1, 1).flatten(0, 1)),
        Lambdad("label", lambda label: label[..., middle]),
        RandFlipd(BOTH, 0.5, 0),
        RandFlipd(BOTH, 0.5, 1),
        RandAffined(
            BOTH, prob=0.5, rotate_range=0.3, scale_range=(0.15, 0.15), mode=(mode, "nearest"), padding_mode="border"
        ),
    ]


def train(
    items: Sequence[Mapping[str, Any]],
    prepare: Callable[[Mapping[str, Any]], dict[str, Any]],
    settings: Settings,
    *,
    regions: int,
    name: str,
    codes: int = 0,
    device: str | torch.device = "cpu",
    cache: int = 200,
) -> tuple[nn.Module, float]:
    """Trains a network on the slices of subjects; the same seed, data and machine give the same one.

    Args:
        items: of the subjects.
        prepare: makes "image" [C, X, Y, Z] and "label" [R, X, Y, Z] of an item.
        settings: of the training.
        regions: R.
        name: stands before the bar.
        codes: see `create_network`.
        device: where.
        cache: so many prepared subjects are kept in memory.

    Returns:
        The network, and the mean loss of the last tenth of the steps.
    """
    torch.manual_seed(settings.seed)
    samples = min(4, settings.batch_size)  # of a subject
    subjects = -(-settings.batch_size // samples)
    kept = CacheDataset(items, _Prepared(prepare), cache_num=cache, num_workers=1, progress=False)
    data = Dataset(kept, Compose(_random(settings, samples, "nearest" if codes else "bilinear")))
    sampler = RandomSampler(data, replacement=True, num_samples=settings.steps * subjects)
    loader = DataLoader(data, batch_size=subjects, sampler=sampler, collate_fn=_batched)
    channels = len(data[0][0]["image"])
    network = create_network(channels, regions, settings.filters, codes).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps)
    losses = []
    for batch in bar(loader, desc=name, unit="steps", leave=False):
        loss = region_loss(network(batch["image"].to(device)), batch["label"].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    last = losses[-math.ceil(len(losses) / 10) :]
    return network.eval(), sum(last) / len(last)


def _batched(drawn: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """One batch of the slices of several subjects, whose sizes differ: padded to the largest, as a subject is."""
    slices = [{key: each[key] for key in BOTH} for several in drawn for each in several]
    size = [max(each["label"].shape[axis] for each in slices) for axis in (1, 2)]
    pad = Compose([SpatialPadd("image", size, mode="edge"), SpatialPadd("label", size)])
    return list_data_collate([pad(each) for each in slices])


def region_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Dice and binary cross-entropy of regions [B, R, X, Y], each by itself.

    MONAI's `DiceCELoss` has a softmax's cross-entropy of several channels, by which regions could not overlap.
    """
    dice = DiceLoss(sigmoid=True, batch=True)(logits, target)
    return dice + F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))


class _Prepared(Transform):
    """As a `Transform` that is not random, which alone is cached; "lesion" is the union of the regions."""

    def __init__(self, prepare: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self.prepare = prepare

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        data = self.prepare(item)
        return {**data, "lesion": data["label"].amax(0, keepdim=True)}


@torch.no_grad()
def predict(network: nn.Module, image: Tensor, slices: int, device: str | torch.device = "cpu") -> Tensor:
    """Probabilities [R, X, Y, Z] of an image [C, X, Y, Z], with its place in space."""
    inputs = stacks(torch.as_tensor(image), slices).split(16)
    made = torch.cat([network(each.to(device)).sigmoid().cpu() for each in inputs]).movedim(0, -1)
    return MetaTensor(made).copy_meta_from(image) if isinstance(image, MetaTensor) else made


def score(prediction: Tensor, truth: Tensor, names: Sequence[str], spacing: Sequence[float]) -> dict[str, float]:
    """Dice and average symmetric surface distance in mm of each region, by BraTS' convention for what is empty.

    Where prediction and truth are both empty Dice is 1 and the distance 0; where one of them is, 0 and the image's
    diagonal.

    Args:
        prediction, truth: [R, X, Y, Z], of 0 and 1.
        names: of the R regions.
        spacing: in mm.

    Returns:
        `<region>_dice` and `<region>_assd`.
    """
    a, b = (torch.as_tensor(each).float()[None] for each in (prediction, truth))
    diagonal = math.dist([0] * 3, [size * step for size, step in zip(truth.shape[1:], spacing, strict=True)])
    with warnings.catch_warnings(action="ignore"):  # of empty masks, and of MONAI's own deprecations
        dice = compute_dice(a, b, ignore_empty=False)[0]
        options = {"include_background": True, "symmetric": True, "spacing": [float(step) for step in spacing]}
        distance = compute_average_surface_distance(a, b, **options)[0]
    empty = ~(a.flatten(2).any(-1) | b.flatten(2).any(-1))[0]
    distance = torch.where(empty, 0.0, distance.nan_to_num(diagonal, posinf=diagonal))
    pairs = {f"{name}_dice": dice[k].item() for k, name in enumerate(names)}
    return pairs | {f"{name}_assd": distance[k].item() for k, name in enumerate(names)}


def prepared(items: Sequence[Mapping[str, Any]], prepare: Any, name: str) -> Any:
    """Each of the items, prepared, with a bar."""
    return bar(Dataset(items, prepare), desc=name, unit="subjects", leave=False, total=len(items))
