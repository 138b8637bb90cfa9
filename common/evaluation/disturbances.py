"""Disturbed inputs of known strength, to see how far a method withstands them (VQ-Seq2Seq, Table 2).

| disturbance  | what its strength is                                                      | levels 1, 2, 3  |
|--------------|---------------------------------------------------------------------------|-----------------|
| `noise`      | sigma of Rician noise, as a share of the scaled image's range             | 0.02, 0.05, 0.1 |
| `bias_field` | b: a smooth factor whose largest and smallest value are as 1 + b to 1 - b | 0.2, 0.4, 0.6   |
| `motion`     | turn (degrees) and shift (mm) of the head between the shots of a scan     | 0.5, 1, 2       |
| `spike`      | amplitude of the wave from a spike in k-space, as a share of the range    | 0.02, 0.05, 0.1 |

The paper trains with noise up to 0.05 and an (additive) bias field of scale 0.2. Tissue lies around 0.3 of the range.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import Affine, MapTransform, RandBiasField, RandKSpaceSpikeNoise, RandRicianNoise
from scipy.spatial.transform import Rotation
from torch import Tensor

from ..data.normalisation import DARKEST_TISSUE

SHOTS = 4
STILL = 0.05  # the share of the lines of k-space, the central ones, in which the head is at rest


class Scan(NamedTuple):
    """One sequence: `image` [X, Y, Z] in [0, 1], 0 where there is air, and its `spacing` in mm."""

    image: Tensor
    spacing: Tensor


def add_noise(scan: Scan, sigma: float, random: np.random.RandomState) -> Tensor:
    """Rician noise, which a magnitude image has; in tissue it is all but Gaussian of the same `sigma`."""
    return RandRicianNoise(1.0, std=sigma, sample_std=False).set_random_state(state=random)(scan.image)


def add_bias_field(scan: Scan, bias: float, random: np.random.RandomState) -> Tensor:
    """A polynomial field of degree 2, its mean logarithm 0 and its largest to smallest (1 + bias) to (1 - bias)."""
    field = RandBiasField(degree=2, coeff_range=(-1, 1), prob=1.0).set_random_state(state=random)
    log = field(torch.ones_like(scan.image)[None])[0].log()
    tissue = log[scan.image > 0]
    return scan.image * torch.exp((log - tissue.mean()) * 2 * np.arctanh(bias) / (tissue.max() - tissue.min()))


def add_spike(scan: Scan, amplitude: float, random: np.random.RandomState) -> Tensor:
    """One point of k-space too bright by far: waves of that amplitude all over the image."""
    log_intensity = float(np.log(amplitude * scan.image.numel()))  # of an unnormalised Fourier transform
    spike = RandKSpaceSpikeNoise(1.0, intensity_range=(log_intensity, log_intensity))
    return spike.set_random_state(state=random)(scan.image[None])[0]


def add_motion(scan: Scan, size: float, random: np.random.RandomState) -> Tensor:
    """The head moves between interleaved shots, which share the lines of k-space in turn: ghosts and blurred edges.

    In the first shot and in the central lines it is at rest, so that the image stays in its place; in each other shot
    it is turned and shifted by `size`. The phase is encoded from back to front, the second axis.
    """
    lines = torch.fft.fftfreq(scan.image.shape[1])
    shot = torch.arange(len(lines)) % SHOTS
    shot[lines.abs() <= STILL / 2] = 0
    mixed = torch.fft.fft(scan.image, dim=1)
    for number in range(1, SHOTS):
        moved = torch.fft.fft(_moved(scan, size, random), dim=1)
        mixed[:, shot == number] = moved[:, shot == number]
    return torch.fft.ifft(mixed, dim=1).abs()


def _moved(scan: Scan, size: float, random: np.random.RandomState) -> Tensor:
    """Turned by `size` degrees about an axis through the centre and shifted by `size` mm, both in random directions."""
    axis, shift = random.normal(size=(2, 3))
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec(size * axis / np.linalg.norm(axis), degrees=True).as_matrix()
    pose[:3, 3] = size * shift / np.linalg.norm(shift)
    to_mm = np.diag([*scan.spacing.tolist(), 1.0])
    move = Affine(affine=np.linalg.inv(to_mm) @ pose @ to_mm, padding_mode="zeros", image_only=True)
    return move(scan.image[None])[0]


class Disturbance(NamedTuple):
    """What disturbs a scan to [X, Y, Z], and the strength of each of `LEVELS`."""

    disturb: Callable[[Scan, float, np.random.RandomState], Tensor]
    strengths: tuple[float, float, float]


DISTURBANCES = {
    "noise": Disturbance(add_noise, (0.02, 0.05, 0.1)),
    "bias_field": Disturbance(add_bias_field, (0.2, 0.4, 0.6)),
    "motion": Disturbance(add_motion, (0.5, 1.0, 2.0)),
    "spike": Disturbance(add_spike, (0.02, 0.05, 0.1)),
}
LEVELS = (1, 2, 3)


class Disturbd(MapTransform):
    """Disturbs every available sequence [S, X, Y, Z], after `ScaleSequencesd`: in [0, 1], background 0.

    What is random depends on seed, subject, disturbance, level and sequence alone, so that every method sees the very
    same images. Air stays 0 and tissue at least 0.001, so that the foreground is the undisturbed one's.

    Args:
        keys: "image"; the label stays as it is, and is what is scored against.
        disturbance: a name of `DISTURBANCES`, or "none".
        level: 1, 2 or 3.
        seed: another one gives other noise, fields, moves and spikes of the same strength.

    Raises:
        ValueError: an unknown disturbance or level.
    """

    def __init__(
        self,
        keys: KeysCollection,
        disturbance: str = "none",
        level: int = 1,
        seed: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.seed = seed
        self.choose(disturbance, level)

    def choose(self, disturbance: str, level: int = 1) -> None:
        """What is done from now on."""
        if disturbance not in ("none", *DISTURBANCES):
            raise ValueError(f"disturbance is '{disturbance}'; choose one of none, {', '.join(DISTURBANCES)}.")
        if level not in LEVELS:
            raise ValueError(f"level is {level}; choose 1, 2 or 3.")
        self.disturbance, self.level = disturbance, level

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if self.disturbance == "none":
            return d
        disturb, strengths = DISTURBANCES[self.disturbance]
        for key in self.key_iterator(d):
            disturbed = d[key].clone()
            for i in d["available"].nonzero()[:, 0].tolist():
                scan = Scan(d[key][i].as_tensor(), d[key].pixdim)
                made = disturb(scan, strengths[self.level - 1], self._random(d["subject"], i))
                disturbed[i] = torch.where(scan.image > 0, made.clamp(DARKEST_TISSUE, 1), 0)
            d[key] = disturbed
        return d

    def _random(self, subject: str, sequence: int) -> np.random.RandomState:
        what = repr((self.seed, subject, self.disturbance, self.level, sequence))
        return np.random.RandomState(np.frombuffer(hashlib.sha256(what.encode()).digest(), np.uint32))
