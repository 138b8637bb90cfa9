"""How far an image is off: learned from what others were off by, and how far their sources disagreed.

Stored with weights it turns the spread over sources into a bound that a stated share of voxels keeps
(`common.inference.saving`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from ..description import error_bound

SHARE = 0.68  # of voxels within the bound: a standard deviation's, were errors normal
MOST = 100_000  # voxels of a subject and target
Errors = dict[str, dict[str, NDArray]]  # by target: "one" [2, N] and "several" [2, N], spreads and absolute errors


def calibration(files: Sequence[Path]) -> dict[str, Any]:
    """From volumes that an evaluation kept (`common.evaluation.volumes`).

    Returns:
        "share"; "bounds", by target {"one": a, "several": [a, b]}: of an image made from one source that share of
        voxels is within a, of one from several within sqrt(a^2 + b^2 s^2), s being the deviation over sources; all in
        normalised units. With two subjects or more "kept", by target: the share of voxels that is within the bound and
        within twice it, where the bound came from the other subjects; the mean and the least over subjects.
    """
    errors = [errors_of(file) for file in files]
    found = {"share": SHARE, "bounds": _bounds(errors)}
    if len(errors) > 1:
        left_out = [(_bounds(errors[:k] + errors[k + 1 :]), own) for k, own in enumerate(errors)]
        found["kept"] = {target: _kept(target, left_out) for target in found["bounds"]}
    return found


def errors_of(file: Path) -> Errors:
    """Of one subject's volumes, as many voxels of the brain as are needed, always the same."""
    with np.load(file) as kept:
        names, available, brain = kept["sequences"].tolist(), kept["available"], kept["brain"]
        voxels = np.flatnonzero(brain)
        voxels = np.random.RandomState(0).permutation(voxels)[:MOST]
        made = kept["pred"].reshape(len(names), len(names), -1)[..., voxels].astype(np.float32)
        truth = kept["label"].reshape(len(names), -1)[:, voxels].astype(np.float32)
    errors: Errors = {}
    for j, target in enumerate(names):
        sources = [i for i in range(len(names)) if available[i] and i != j]
        if not available[j] or not sources:
            continue
        each = made[sources, j]
        off = np.abs(each - truth[j]).ravel()
        errors[target] = {"one": np.stack([np.zeros_like(off), off])}
        if len(sources) > 1:
            errors[target]["several"] = np.stack([each.std(0, ddof=1), np.abs(each.mean(0) - truth[j])])
    return errors


def _bounds(errors: Sequence[Errors]) -> dict[str, dict[str, Any]]:
    """`calibration`'s, in which every subject counts alike."""
    bounds: dict[str, dict[str, Any]] = {}
    for target in dict.fromkeys(name for own in errors for name in own):
        pooled = {
            kind: np.concatenate([own[target][kind] for own in errors if kind in own.get(target, {})], 1)
            for kind in ("one", "several")
            if any(kind in own.get(target, {}) for own in errors)
        }
        bounds[target] = {"one": round(float(np.quantile(pooled["one"][1], SHARE)), 5)}
        if "several" in pooled:
            bounds[target]["several"] = _fitted(*pooled["several"])
    return bounds


def _fitted(spread: NDArray, error: NDArray) -> list[float]:
    """a and b, by least squares over ten groups of voxels of like spread."""
    groups = np.array_split(np.argsort(spread, kind="stable"), 10)
    squares = np.array([[1, np.mean(spread[group] ** 2)] for group in groups])
    reached = np.array([np.quantile(error[group], SHARE) ** 2 for group in groups])
    weight = 1 / np.maximum(reached, 1e-8)  # relative errors, or the largest spread alone would count
    found = nnls(squares * weight[:, None], reached * weight)[0] ** 0.5
    found *= np.quantile(error / np.hypot(found[0], found[1] * spread).clip(1e-6), SHARE)
    return [round(float(value), 5) for value in found]


def _kept(target: str, left_out: Sequence[tuple[Mapping[str, Any], Errors]]) -> dict[str, list[float]]:
    """Of the images from several sources, or from one where no subject has more."""
    kept: dict[str, list[float]] = {"within": [], "within_twice": []}
    for bounds, own in left_out:
        if target in own and target in bounds:
            several = "several" in own[target] and "several" in bounds[target]
            spread, error = own[target]["several" if several else "one"]
            limit = error_bound(spread if several else np.full_like(spread, np.nan), bounds[target])
            kept["within"].append(float(np.mean(error <= limit)))
            kept["within_twice"].append(float(np.mean(error <= 2 * limit)))
    return {name: [round(float(np.mean(values)), 3), round(min(values), 3)] for name, values in kept.items() if values}
