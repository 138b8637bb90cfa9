"""The declared convention, measured again with numpy and scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from common.evaluation.conventions import brain_mask, percentiles, score

SHAPE = (40, 44, 36)


@pytest.fixture
def head() -> tuple[torch.Tensor, torch.Tensor]:
    """A prediction and a truth in training units, with empty background."""
    rng = np.random.default_rng(0)
    inside = np.zeros(SHAPE, dtype=bool)
    inside[8:-8, 8:-8, 8:-8] = True
    tissue = gaussian_filter(rng.random(SHAPE), 1.5)
    target = (0.1 + (tissue - tissue.min()) / (tissue.max() - tissue.min())) * inside
    pred = (target + 0.05 * rng.standard_normal(SHAPE)) * inside
    return torch.from_numpy(pred.astype(np.float32)), torch.from_numpy(target.astype(np.float32))


def test_declared_equals_an_independent_computation(head):
    pred, target = head
    brain = brain_mask(target)
    p, t, b = pred.double().numpy(), target.double().numpy(), brain.numpy()
    low, high = np.percentile(t[b], [0.5, 99.5])
    p, t = (np.clip((x - low) / (high - low), 0, 1) for x in (p, t))
    mean, full = structural_similarity(
        p, t, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, full=True
    )
    expected = {
        "psnr": -10 * np.log10(((p - t)[b] ** 2).mean()),
        "ssim": full[b].mean(),
        "nmse": ((p - t)[b] ** 2).sum() / (t[b] ** 2).sum(),
        "psnr_volume": -10 * np.log10(((p - t) ** 2).mean()),
        "ssim_volume": mean,  # scikit-image's own mean leaves the same rim of 5 voxels out
        "nmse_volume": ((p - t) ** 2).sum() / (t**2).sum(),
    }
    assert score(pred, target, brain) == pytest.approx(expected, abs=1e-4)


def test_the_training_scale_does_not_matter(head):
    pred, target = head
    brain = brain_mask(target)
    assert score(3 * pred + 1, 3 * target + 1, brain) == pytest.approx(score(pred, target, brain), rel=1e-3)


def test_the_prediction_has_no_scale_of_its_own(head):
    pred, target = head
    brain = brain_mask(target)
    assert score(2 * pred, target, brain)["psnr"] < score(pred, target, brain)["psnr"] - 3


def test_wrong_measuring_is_caught(head):
    pred, target = head
    brain = brain_mask(target)
    right = score(pred, target, brain)
    assert score(pred.roll(1, 0), target, brain)["psnr"] < right["psnr"] - 1
    assert score(pred.roll(1, 0), target, brain)["ssim"] < right["ssim"] - 0.02
    assert right["psnr_volume"] > right["psnr"] + 1
    assert right["ssim_volume"] > right["ssim"] + 0.02


def test_regions_and_lpips(head):
    pred, target = head
    brain = brain_mask(target)
    lesions = torch.zeros(SHAPE, dtype=torch.bool)
    lesions[10:14, 10:14, 10:14] = True
    numbers = score(pred, target, brain, lpips=lambda p, t, mask: 0.25, regions={"brain": brain, "lesions": lesions})
    assert numbers["psnr_brain"] == numbers["psnr"] and numbers["nmse_brain"] == numbers["nmse"]
    assert numbers["psnr_lesions"] != pytest.approx(numbers["psnr"], abs=1e-3)
    assert numbers["lpips"] == 0.25
    assert "lpips" not in score(pred, target, brain)


def test_undefined_scales_give_nan(head):
    pred, target = head
    for truth, brain in ((target, torch.zeros(SHAPE, dtype=torch.bool)), (torch.ones(SHAPE), target > 0)):
        assert all(math.isnan(value) for value in score(pred, truth, brain).values())


def test_identical_images(head):
    _, target = head
    numbers = score(target, target, brain_mask(target))
    assert numbers["psnr"] == math.inf and numbers["ssim"] == 1 and numbers["nmse"] == 0


def test_percentiles_beyond_torch_quantiles_limit():
    values = torch.arange(2**24 + 1, dtype=torch.float32)
    assert percentiles(values, 0, 50) == (0, 2**23)


def test_wrong_input_raises(head):
    pred, target = head
    brain = brain_mask(target)
    with pytest.raises(ValueError, match=r"'nobody'.*declared"):
        score(pred, target, brain, convention="nobody")
    with pytest.raises(ValueError, match="region lesions"):
        score(pred, target, brain, regions={"lesions": brain[1:]})
    with pytest.raises(ValueError, match="volume"):
        score(pred, target, brain, regions={"volume": brain})
    with pytest.raises(ValueError, match=r"X, Y, Z"):
        score(pred[None], target[None], brain[None])
