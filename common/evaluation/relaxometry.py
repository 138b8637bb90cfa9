"""The rivals a physicist would name: images at a wanted setting from acquired ones, by the signal equation.

    predict = PHYSICS["fit"]
    wanted = predict(images, settings, (8000, 100, 2025))       # [K, ...] and K settings (TR, TE, TI) in ms,
                                                              # with a flip angle in degrees of gradient echoes

All images are in one unit, whatever it is: a scale per subject, none per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.acquisition import four
from ..data.mr_signal import TISSUES, setting_of, signal

Setting = Sequence[float]  # TR, TE, TI in ms, and a gradient echo's flip angle in degrees

T1, T2 = np.geomspace(100, 6000, 96), np.geomspace(10, 3000, 96)  # ms
FEWEST = 3  # settings, for as many unknowns
# The prior: tissues that vary from person to person, and voxels that hold two of them.
SHARES = {"csf": 0.15, "grey_matter": 0.45, "white_matter": 0.35}  # of a brain; the other tissues have the rest
DRAWS, SPREAD = 1500, 0.1
GAINS = np.geomspace(0.2, 5, 33)
NOISE = 0.03  # deviation, as a share of the brightest image's 99th percentile
AT_ONCE = 1 << 14  # voxels
ONSET = np.array([1000.0, 10.0, 100.0, 10.0])  # at which the logarithm of TR, TE, TI and the flip angle sets in


def fit(images: Tensor, settings: Sequence[Setting], wanted: Setting) -> Tensor:
    """PD, T1 and T2 of each voxel by least squares over T1 and T2 of a fine grid, and the signal they give.

    Args:
        images: [K, ...], at least 0.
        settings: of the images, three or more.
        wanted: the setting to make.

    Raises:
        ValueError: there are fewer than three settings.
    """
    if len(settings) < FEWEST:
        raise ValueError(f"PD, T1 and T2 cannot be fitted to {len(settings)} settings; it takes {FEWEST}.")
    t1, t2 = (each.ravel() for each in np.meshgrid(T1, T2))
    atoms, made = _signals(np.ones_like(t1), t1, t2, settings), _signals(np.ones_like(t1), t1, t2, [wanted])[0]
    norm = np.linalg.norm(atoms, axis=0)
    directions = atoms / norm  # [K, atoms]

    def predict(voxels: NDArray) -> NDArray:
        along = voxels @ directions  # the best PD's signal; the larger, the smaller the residual
        best = along.argmax(1)
        return along[np.arange(len(voxels)), best] / norm[best] * made[best]

    return _where_there_is_signal(images, predict)


def prior(images: Tensor, settings: Sequence[Setting], wanted: Setting) -> Tensor:
    """The expected signal given those acquired, one or more, if voxels are of tissues as they are known to be.

    The prior is `TISSUES`, as often as a brain has them, and mixtures of any two, with T1, T2 and PD that vary by 10 %.
    The gain of the subject's images is the likeliest one.

    Args:
        images, settings, wanted: as for `fit`; one setting will do.
    """
    pd, t1, t2 = _drawn()
    atoms, made = _signals(pd, t1, t2, settings).T, _signals(pd, t1, t2, [wanted])[0]  # [draws, K]
    voxels = images.flatten(1).cpu().double().numpy()
    seen = voxels[:, (voxels > 0).all(0)].T
    if not len(seen):
        return torch.zeros_like(images[0])
    noise = NOISE * np.percentile(seen, 99, axis=0).max()
    few = seen[:: max(len(seen) // 100, 1)]
    gain = max(GAINS, key=lambda each: np.log(_likelihood(few, each * atoms, noise).mean(1) + 1e-12).mean())
    steps = 4 / noise  # voxels alike within a quarter of the noise are one

    def predict(chunk: NDArray) -> NDArray:
        alike, which = np.unique((chunk * steps).round(), axis=0, return_inverse=True)
        weight = _likelihood(alike / steps, gain * atoms, noise)
        return (gain * (weight @ made) / weight.sum(1))[which.ravel()]

    return _where_there_is_signal(images, predict)


def between(images: Tensor, settings: Sequence[Setting], wanted: Setting) -> Tensor:
    """Linearly between those two acquired settings whose connecting line comes nearest to the wanted one.

    Distances are those of log(1 + TR / 1000), log(1 + TE / 10), log(1 + TI / 100), times in ms, and log(1 + flip / 10).

    Args:
        images, settings, wanted: as for `fit`; one setting is copied.
    """
    *places, place = np.log1p(np.array(four([*settings, wanted])) / ONSET)
    ways = []
    for i, j in combinations(range(len(places)), 2):
        way = places[j] - places[i]
        share = float(np.clip((place - places[i]) @ way / max(way @ way, 1e-12), 0, 1))
        ways.append((float(np.linalg.norm(places[i] + share * way - place)), i, j, share))
    if not ways:
        return images[0]
    _, i, j, share = min(ways)
    return torch.lerp(images[i], images[j], share)


FROM = {"fit": FEWEST, "prior": 1, "between": 2}  # so many settings
PHYSICS: dict[str, Callable[[Tensor, Sequence[Setting], Setting], Tensor]] = {
    "fit": fit,
    "prior": prior,
    "between": between,
}


def _signals(pd: NDArray, t1: NDArray, t2: NDArray, settings: Sequence[Setting]) -> NDArray:
    """[K, atoms]."""
    return np.stack([signal(pd, t1, t2, setting_of(*map(float, each))) for each in settings])


@cache
def _drawn() -> NDArray:
    """PD, T1 and T2 [3, draws] of the prior, the same ones each time."""
    rng = np.random.default_rng(0)
    tissues = np.log([(each.pd, each.t1, each.t2) for each in TISSUES.values()])
    rest = (1 - sum(SHARES.values())) / (len(TISSUES) - len(SHARES))
    one, other = tissues[rng.choice(len(tissues), (2, DRAWS), p=[SHARES.get(name, rest) for name in TISSUES])]
    share = rng.uniform(0, 1, (DRAWS, 1)) * (rng.uniform(size=(DRAWS, 1)) < 0.5)  # half of the voxels are pure
    return np.exp((1 - share) * one + share * other + SPREAD * rng.standard_normal((DRAWS, 3))).T


def _likelihood(voxels: NDArray, atoms: NDArray, noise: float) -> NDArray:
    """Of voxels [V, K] given atoms [draws, K], up to a factor, [V, draws]; what is like none of them is like all."""
    voxels, atoms = voxels.astype(np.float32), atoms.astype(np.float32)
    square = (voxels**2).sum(1)[:, None] + (atoms**2).sum(1) - 2 * voxels @ atoms.T
    return np.exp(-square / (2 * noise**2)) + 1e-12


def _where_there_is_signal(images: Tensor, predict: Callable[[NDArray], NDArray]) -> Tensor:
    """`predict` of the voxels [V, K] that are above 0 in every image; the others are 0."""
    flat = images.flatten(1).cpu().double()
    inside = (flat > 0).all(0)
    made = [torch.as_tensor(predict(each.numpy())) for each in flat[:, inside].T.split(AT_ONCE)]
    result = torch.zeros(flat.shape[1], dtype=torch.float64)
    if made:
        result[inside] = torch.cat(made)
    return result.view(images.shape[1:]).to(images)
