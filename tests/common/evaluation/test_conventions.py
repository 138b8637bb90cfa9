"""Every convention measured again with numpy, scikit-image and torchmetrics, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional import image as torchmetrics

from common.evaluation.conventions import CONVENTIONS, Pair, brain_mask, percentiles, score

ALL = pytest.mark.parametrize("convention", CONVENTIONS)
LESION = {"psnr_lesion", "ssim_lesion", "nmse_lesion"}
SIZES = {"seq2seq": (192, 192, 128), "aldm": (192, 192, 144), "brasyn": (240, 240, 155)}


class Case(NamedTuple):
    """Images and masks as numpy arrays [X, Y, Z]."""

    pred: np.ndarray
    target: np.ndarray
    brain: np.ndarray
    lesion: np.ndarray

    def score(self, convention: str) -> dict[str, float]:
        pred, target, brain, lesion = (torch.from_numpy(x) for x in self)
        return score(pred, target, brain, convention=convention, regions={"lesion": lesion})


def random_case() -> Case:
    """Noise, worse towards right and up, larger than the crops, with clipped values, air and slices crl leaves out."""
    rng = np.random.default_rng(0)
    shape = (245, 14, 158)
    target = rng.random(shape, dtype=np.float32) ** 3
    target[:30] = 0
    target[..., :4] = 0
    target[..., 40] = 0.5
    noise = rng.random(shape, dtype=np.float32) * np.linspace(0.1, 0.5, shape[2], dtype=np.float32)
    pred = 0.9 * target + noise * np.linspace(0.5, 1.5, shape[0], dtype=np.float32)[:, None, None] - 0.1
    brain = np.zeros(shape, dtype=bool)
    brain[40:-40, 2:, 30:-30] = True
    lesion = np.zeros(shape, dtype=bool)
    lesion[90:110, 4:9, 60:75] = True
    return Case(pred, target, brain, lesion)


def phantom_case(folder: Path) -> Case:
    """A subject's T2 and the same without noise and bias field."""
    images = {path.name[12:-7]: nib.load(path).get_fdata() for path in folder.glob("phantom_000/*.nii.gz")}
    pred, target = (np.float32(images[name] / images["T2"].max()) for name in ("T2_reference", "T2"))
    return Case(pred, target, images["brain"] > 0, images["lesion"] > 0)


def real_case(folder: Path) -> Case:
    """Every seventh voxel of a T1 scan, and the same blurred, darker and slightly negative."""
    scan = np.float32(nib.load(min(folder.glob("*/T1.nii.gz"))).get_fdata()[::7, ::7, ::7])
    target = np.clip(scan / np.percentile(scan, 99.5), 0, 1)
    pred = 0.95 * gaussian_filter(target, 0.5) - 0.01
    lesion = np.zeros(target.shape, dtype=bool)
    lesion[8:14, 10:15, 9:16] = True
    return Case(pred, target, target > 0, lesion)


@pytest.fixture(scope="module", params=["random", "phantom", "real"])
def case(request: pytest.FixtureRequest) -> Case:
    if request.param == "phantom":
        return phantom_case(request.getfixturevalue("phantom_dir"))
    return real_case(request.getfixturevalue("mri_data")) if request.param == "real" else random_case()


# --- the conventions again, in float64 ---


def middle(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    for axis, m in enumerate(size):
        if (n := x.shape[axis]) > m:
            x = x.take(range((n - m) // 2, (n - m) // 2 + m), axis)
    return x


def scaled(case: Case, convention: str) -> Case:
    """What is measured; of crl, the slices that count."""
    p, t, brain, lesion = case.pred.astype(float), case.target.astype(float), case.brain, case.lesion
    if convention == "declared":
        low, high = np.percentile(t[brain], (0.5, 99.5))
        return Case(*(((x - low) / (high - low)).clip(0, 1) for x in (p, t)), brain, lesion)
    if convention == "seq2seq":
        top = 2 * np.percentile(t, 99)
        return Case(*(middle(2 * x.clip(0, top) / top - 1, SIZES[convention]) for x in (p, t)), brain, lesion)
    if convention == "crl":
        keep = [z for z in range(t.shape[2]) if t[..., z].max() > max(t[..., z].min(), 0)]
        pairs = [(p[..., z], t[..., z]) for z in keep]
        pairs = [[(x - t.min()) / (t.max() - t.min()) for x in (p, t)] for p, t in pairs]
        return Case(*np.stack(pairs, -1), brain, lesion)
    p, t, brain, lesion = (middle(x, SIZES[convention]) for x in (p, t, brain, lesion))
    if convention == "aldm":
        low, high = np.percentile(t, (0.5, 99.5))
        return Case(*(2 * (x - low) / (high - low) - 1 for x in (p, t)), brain, lesion)
    limits = [np.percentile(x, (0.5, 99.5)).clip(0) for x in (p, t)]
    images = (((x - low) / (high - low)).clip(0, 1) for x, (low, high) in zip((p, t), limits, strict=True))
    return Case(*images, brain, lesion)


GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def similarity(pred: np.ndarray, target: np.ndarray, data_range: float, **options: object) -> tuple[float, np.ndarray]:
    """scikit-image's mean, which leaves the rim out, and its map."""
    return structural_similarity(target, pred, data_range=data_range, full=True, **(options or GAUSSIAN))


def error(p: np.ndarray, t: np.ndarray) -> float:
    return ((p - t) ** 2).sum() / (t**2).sum()


def by_scikit_image(case: Case, convention: str) -> dict[str, float]:
    p, t, brain, lesion = scaled(case, convention)
    psnr = peak_signal_noise_ratio
    if convention == "crl":
        slices = [(p[..., z], t[..., z]) for z in range(p.shape[2])]
        return {
            "psnr": np.mean([psnr(t, p, data_range=1) for p, t in slices]),
            "ssim": np.mean([similarity(p, t, 1)[0] for p, t in slices]),
        }
    if convention == "seq2seq":
        return {"psnr": psnr(t, p, data_range=2), "ssim": similarity(p, t, 2, win_size=7)[0]}
    if convention == "aldm":
        return {"psnr": psnr(t, p, data_range=2), "ssim": similarity(p, t, 2)[0], "nmse": error(p, t)}
    mean, ssim = similarity(p, t, 1)
    if convention == "brasyn":
        numbers = {"psnr": psnr(t, p, data_range=1), "ssim": mean}
        for name, mask in {"lesion": lesion, "outside_lesion": ~lesion}.items():
            numbers[f"psnr_{name}"] = psnr(t[mask], p[mask], data_range=1)
            numbers[f"ssim_{name}"] = similarity(p * mask, t * mask, 1)[1][mask].mean()
        return numbers
    numbers = {"psnr_volume": psnr(t, p, data_range=1), "ssim_volume": mean, "nmse_volume": error(p, t)}
    for name, mask in {"": brain, "_lesion": lesion, "_outside_lesion": brain & ~lesion}.items():
        numbers[f"psnr{name}"] = psnr(t[mask], p[mask], data_range=1)
        numbers[f"ssim{name}"] = ssim[mask].mean()
        numbers[f"nmse{name}"] = error(p[mask], t[mask])
    return numbers


def by_torchmetrics(case: Case, convention: str) -> dict[str, float]:
    """PSNR of all, and SSIM but seq2seq's, whose sample covariance torchmetrics does not have."""
    p, t, _, lesion = (torch.from_numpy(x) for x in scaled(case, convention))
    data_range = 2.0 if convention in ("seq2seq", "aldm") else 1.0
    images = [x.movedim(-1, 0)[:, None] if convention == "crl" else x[None, None] for x in (p, t)]
    rim = (..., *[slice(5, -5)] * (images[0].ndim - 2))

    def ssim(mask: torch.Tensor | float = 1.0) -> torch.Tensor:
        measure = torchmetrics.structural_similarity_index_measure
        return measure(*(x * mask for x in images), data_range=data_range, return_full_image=True)[1]

    psnr = torchmetrics.peak_signal_noise_ratio
    every = [psnr(*pair, data_range=data_range) for pair in zip(*images, strict=True)]
    numbers = {"psnr_volume" if convention == "declared" else "psnr": torch.stack(every).mean()}
    if convention != "seq2seq":
        numbers["ssim_volume" if convention == "declared" else "ssim"] = ssim()[rim].mean()
    if convention == "brasyn":
        numbers["ssim_lesion"] = ssim(lesion)[0, 0][lesion].mean()
    return {name: value.item() for name, value in numbers.items()}


@ALL
def test_equals_scikit_image(case, convention):
    numbers = {name: value for name, value in case.score(convention).items() if name != "spectrum"}
    assert numbers == pytest.approx(by_scikit_image(case, convention), abs=1e-4)


@ALL
def test_equals_torchmetrics(case, convention):
    case = Case(*(middle(x, (16, 16, 16)) for x in case))  # its 3D convolution is slow
    lesion = np.zeros_like(case.lesion)
    lesion[6:10, 6:9, 5:11] = True  # clear of the borders, which torchmetrics mirrors in another way
    case = case._replace(lesion=lesion)
    expected = by_torchmetrics(case, convention)
    numbers = case.score(convention)
    assert {name: numbers[name] for name in expected} == pytest.approx(expected, abs=1e-4)


@ALL
@pytest.mark.parametrize("mistake", ["range", "shift", "mask"])
def test_a_wrong_metric_is_caught(monkeypatch, convention, mistake):
    """The comparison is so tight that no such mistake gets through."""
    case = random_case()
    right, rules = by_scikit_image(case, convention), CONVENTIONS[convention]

    def shift(pair: Pair) -> Pair:
        return replace(pair, pred=pair.pred.roll(1, 0))

    def fewer_slices(pair: Pair) -> Pair:
        return pair.part((..., slice(20, None)))

    masks = {"declared": {"places": lambda pair: {"": None}}, "crl": {"steps": (fewer_slices, *rules.steps)}}
    wrong = {
        "range": {"span": (rules.span[0], rules.span[1] + 1)},
        "shift": {"steps": (*rules.steps, shift)},
        "mask": masks.get(convention, {"places": lambda pair: {"": pair.brain}}),
    }
    monkeypatch.setitem(CONVENTIONS, convention, replace(rules, **wrong[mistake]))
    numbers = case.score(convention)
    assert numbers["psnr"] != pytest.approx(right["psnr"], abs=1e-3)
    assert numbers["ssim"] != pytest.approx(right["ssim"], abs=1e-4)


def ramps() -> tuple[torch.Tensor, torch.Tensor]:
    """A volume whose q-th percentile is q, from 0 to 100, and a prediction that is 4 too bright."""
    target = torch.linspace(0, 100, 20 * 20 * 20).reshape(20, 20, 20)
    return target + 4, target


@pytest.mark.parametrize("convention, one", [("seq2seq", 99), ("aldm", 49.5)])
def test_hand_computed_psnr(convention, one):
    """A peak of 2, where 1 is that much of the target: p99 goes from -1 to 0, or p0.5 to p99.5 from -1 to 1."""
    pred, target = ramps()
    expected = 20 * math.log10(2 / (4 / one))
    assert score(pred, target, target > 0, convention=convention)["psnr"] == pytest.approx(expected, abs=1e-3)


def test_hand_computed_psnr_of_slices():
    """Slices from 0 to 1, 2 and 4, each predicted 0.01 too bright; two without foreground and one constant."""
    slice_ = torch.linspace(0, 1, 144).reshape(12, 12)
    target = torch.stack([slice_, 2 * slice_, 4 * slice_, 0 * slice_, -0.1 * slice_, 0 * slice_ + 3], -1)
    values = [20 * math.log10(height / 0.01) for height in (1, 2, 4)]
    pred = target + 0.01
    numbers = score(pred, target, target > 0, convention="crl")
    assert numbers["psnr"] == pytest.approx(np.mean(values), abs=1e-3)
    pred[..., 3:] = 9  # what was made of the others does not count
    assert score(pred, target, target > 0, convention="crl") == numbers
    pred[..., 0] = target[..., 0]  # one perfect slice
    assert score(pred, target, target > 0, convention="crl")["psnr"] == math.inf


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("convention", SIZES)
def test_what_lies_outside_of_the_crop_does_not_count(convention, axis):
    size = SIZES[convention][axis]
    shape = [12, 12, 12]
    shape[axis] = size + 10
    target = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    target.narrow(axis, 0, 5).mul_(0.5)  # of another range, which must not be scaled by
    pred = target.clone()
    for start, length in ((0, 5), (size + 5, 5)):
        pred.narrow(axis, start, length).fill_(0.2)
    brain = target > 0
    assert score(pred, target, brain, convention=convention)["psnr"] == math.inf
    for inside in (5, size + 4):
        other = pred.clone()
        other.select(axis, inside).fill_(0.2)
        assert math.isfinite(score(other, target, brain, convention=convention)["psnr"])


def test_the_training_scale_does_not_matter():
    case = random_case()
    again = case._replace(pred=3 * case.pred, target=3 * case.target)
    for convention in CONVENTIONS:
        assert again.score(convention) == pytest.approx(case.score(convention), abs=1e-3)


def test_only_brasyn_gives_the_prediction_a_scale_of_its_own():
    case = random_case()
    double = case._replace(pred=2 * case.pred)
    assert double.score("brasyn")["psnr"] == pytest.approx(case.score("brasyn")["psnr"], abs=1e-3)
    for convention in CONVENTIONS.keys() - {"brasyn"}:
        assert double.score(convention)["psnr"] < case.score(convention)["psnr"] - 1


@ALL
def test_what_has_no_scale_or_no_voxel_is_nan(convention):
    case = random_case()
    zero, damaged = np.zeros_like(case.target), case.target.copy()
    damaged[100, 6, 70] = np.nan
    for target in (zero, zero + 0.5, damaged):
        assert all(math.isnan(value) for value in case._replace(target=target).score(convention).values())
    for size in ((1, 1, 1), (3, 1, 20), (6, 6, 6)):
        thin = Case(*(x[-size[0] :, : size[1], 50 : 50 + size[2]] for x in case))
        assert math.isnan(thin.score(convention)["ssim"])


def test_what_is_nan_without_a_brain_a_region_or_a_prediction():
    case = random_case()
    zero, empty = np.zeros_like(case.target), np.zeros_like(case.brain)
    for convention in CONVENTIONS:
        numbers = case._replace(brain=empty).score(convention)  # only declared asks for the brain
        assert all(math.isnan(value) == (convention == "declared") for value in numbers.values())
        numbers = case._replace(lesion=empty).score(convention)
        assert {name for name, value in numbers.items() if math.isnan(value)} == numbers.keys() & LESION
        numbers = case._replace(pred=zero).score(convention)  # a bad prediction, but one that has the target's scale
        assert all(math.isnan(value) == (convention == "brasyn") for value in numbers.values())


def test_identical_images():
    case = random_case()
    for convention in CONVENTIONS:
        numbers = case._replace(pred=case.target).score(convention)
        assert numbers["psnr"] == math.inf and numbers["ssim"] == 1 and numbers.get("nmse", 0) == 0
        assert numbers.get("spectrum", 0) == 0


def test_percentiles_beyond_torch_quantiles_limit():
    values = torch.arange(2**24 + 1, dtype=torch.float32)
    assert percentiles(values, 0, 50) == [0, 2**23]


def test_wrong_input_raises():
    pred, target = ramps()
    brain = brain_mask(target)
    with pytest.raises(ValueError, match=r"'nobody'.*declared.*brasyn"):
        score(pred, target, brain, convention="nobody")
    with pytest.raises(ValueError, match="region lesions"):
        score(pred, target, brain, regions={"lesions": brain[1:]})
    for name in ("volume", "outside_lesions"):
        with pytest.raises(ValueError, match=name):
            score(pred, target, brain, regions={name: brain})
    with pytest.raises(ValueError, match=r"X, Y, Z"):
        score(pred[None], target[None], brain[None])
