"""Whether an autoencoder fits the images that are to be translated through it, before anything is trained on that."""

from __future__ import annotations

import logging
from itertools import combinations

import torch
from ignite.engine import Engine, Events
from monai.transforms import CenterSpatialCrop
from torch import Tensor

from .common.data.doubts import remaining_skull
from .common.data.preparation import Subjects
from .common.distributed import is_main_process, unwrapped
from .common.memory import advising
from .network import ALDM

logger = logging.getLogger(__name__)
LEAST = 0.5  # of what varies in the tissue
SCALES = (0.5, 0.7, 1.4, 2.0)
MIDDLE = 96  # voxels, a multiple of what any autoencoder halves to


class CheckReconstruction:
    """At a training's start, warns where the autoencoder gives back less than half of what varies in the images.

    No translation brings back what it loses. The warning says what is likely to be the matter: a skull, axes that have
    changed places, or another scale of intensities; else, that stage 1 is to be trained on such images, or for longer.

    Args:
        subjects: of the training; its first one is looked at.
    """

    def __init__(self, subjects: Subjects) -> None:
        self.subjects = subjects

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED(once=1), self)

    def __call__(self, engine: Engine) -> None:
        item = next((each for each in self.subjects.items("training", required=False)), None)
        if item is None:
            return
        data = self.subjects.use()(item)
        with advising(["--decoding split"]):
            found = doubts(unwrapped(engine.network), data["image"], self.subjects.sequences)
        for text in found if is_main_process() else ():  # all processes look, so that none waits for another
            logger.warning(f"{item['subject']}: {text}")


@torch.no_grad()
def doubts(network: ALDM, images: Tensor, sequences: list[str]) -> list[str]:
    """A sentence for each of a subject's images [S, X, Y, Z] that the autoencoder does not give back."""
    found = []
    for name, image in zip(sequences, images, strict=True):
        volume = torch.as_tensor(image).as_subclass(Tensor).to(network.codes.device)
        if volume.max() <= 0:
            continue  # a sequence that the subject lacks
        share = given_back(network, volume)
        logger.info(f"The autoencoder gives back {share:.0%} of what varies in {name}.")
        if share < LEAST:
            found.append(
                f"the autoencoder gives back {max(share, 0):.0%} of what varies in {name}, less than {LEAST:.0%}, and "
                "no translation will bring back the rest"
            )
            if len(found) == 1:
                affine = images.affine.numpy() if hasattr(images, "affine") else None
                found[0] += f": {_causes(network, volume, affine)}"
    return found


@torch.no_grad()
def given_back(network: ALDM, image: Tensor) -> float:
    """1 - MSE / variance, in the tissue of an image [X, Y, Z]; 1 is all, and 0 no more than its mean."""
    latent = network.autoencoder.encode(2 * image[None, None] - 1, network.decoding, network.slabs)
    made = (network.autoencoder.decode(latent, network.decoding, network.slabs)[0, 0] + 1) / 2
    tissue = image > 0
    return 1 - float((made - image)[tissue].square().mean() / image[tissue].var().clamp(min=1e-12))


def _causes(network: ALDM, image: Tensor, affine: object) -> str:
    """What an image would have to be for the autoencoder to fit it, by its middle."""
    skull = remaining_skull(image.cpu().numpy(), affine) if affine is not None else ""
    causes = [f"it {skull}"] if skull else []
    image = CenterSpatialCrop([min(size, MIDDLE) for size in image.shape])(image[None])[0]
    for a, b in combinations(range(3), 2):
        share = given_back(network, image.transpose(a, b).contiguous())
        if share >= LEAST:
            causes.append(f"with axes {a} and {b} in each other's place it would be {share:.0%}: check its orientation")
    share, factor = max((given_back(network, image * factor), factor) for factor in SCALES)
    if share >= LEAST:
        causes.append(f"{factor:g} times as bright it would be {share:.0%}: check --normalisation")
    return "; ".join(causes) or "train stage 1 on images like this one, or for longer"
