"""The metrics against scikit-image, the lpips package and numbers worked out by hand."""

from __future__ import annotations

import math
import os
from pathlib import Path
from urllib.error import URLError

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from common.evaluation.metrics import Lpips, load_lpips, nmse, psnr, ssim_map

SHAPE = (44, 52, 36)


def random_pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(SHAPE, generator=generator), torch.rand(SHAPE, generator=generator)


def smooth_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """An ellipsoid with soft tissue borders in an empty background, and a slightly blurred, brighter prediction."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    tissue = gaussian_filter(np.random.default_rng(0).random(SHAPE), 2) + 0.4 * (radius < 0.5)
    image = (tissue / tissue.max() * (radius < 0.9)).astype(np.float32)
    pred = np.clip(1.05 * gaussian_filter(image, 0.8), 0, 1)
    return torch.from_numpy(pred), torch.from_numpy(image)


def bright_flat_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Small noise on a bright plateau: where variances computed as E[x^2] - E[x]^2 in float32 go wrong."""
    generator = torch.Generator().manual_seed(1)
    pred, target = (0.95 + 0.03 * torch.randn(SHAPE, generator=generator) for _ in range(2))
    return pred, target


def real_pair() -> tuple[torch.Tensor, torch.Tensor]:
    if not os.environ.get("MRI_DATA"):
        pytest.skip("MRI_DATA is unset: no real scan to test on")
    paths = sorted(Path(os.environ["MRI_DATA"]).glob("*/T1.nii.gz"))
    if not paths:
        pytest.skip("MRI_DATA holds no */T1.nii.gz")
    scan = nib.load(paths[0])
    size = tuple(slice(max(n // 2 - 32, 0), n // 2 + 32) for n in scan.shape)
    target = np.asarray(scan.dataobj[size], dtype=np.float32)
    target = np.clip(target / np.percentile(target, 99.5), 0, 1)
    return torch.from_numpy(gaussian_filter(target, 0.7)), torch.from_numpy(target)


PAIRS = pytest.mark.parametrize("make", [random_pair, smooth_pair, bright_flat_pair, real_pair])


def skimage_map(pred: torch.Tensor, target: torch.Tensor, data_range: float = 1.0) -> np.ndarray:
    return structural_similarity(
        pred.double().numpy(),
        target.double().numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
        full=True,
    )[1]


@PAIRS
def test_ssim_map_equals_scikit_image(make):
    pred, target = make()
    np.testing.assert_allclose(ssim_map(pred, target).numpy(), skimage_map(pred, target), atol=1e-4)


def test_ssim_map_on_another_range():
    pred, target = (200 * image for image in smooth_pair())
    np.testing.assert_allclose(
        ssim_map(pred, target, data_range=200).numpy(), skimage_map(pred, target, 200), atol=1e-4
    )


@PAIRS
def test_psnr_equals_scikit_image(make):
    pred, target = make()
    expected = peak_signal_noise_ratio(target.double().numpy(), pred.double().numpy(), data_range=1)
    assert psnr(pred, target) == pytest.approx(expected, abs=1e-3)


def test_hand_computed_numbers():
    target = torch.tensor([1.0, 2.0, 2.0, 0.0]).reshape(1, 2, 2)
    pred = torch.tensor([1.0, 2.0, 1.0, 1.0]).reshape(1, 2, 2)
    mask = torch.tensor([True, True, True, False]).reshape(1, 2, 2)
    assert psnr(pred, target) == pytest.approx(10 * math.log10(1 / 0.5))
    assert psnr(pred, target, peak=2) == pytest.approx(10 * math.log10(4 / 0.5))
    assert psnr(pred, target, mask) == pytest.approx(10 * math.log10(3))
    assert nmse(pred, target) == pytest.approx(2 / 9)
    assert nmse(pred, target, mask) == pytest.approx(1 / 9)


def test_ssim_of_constants_is_the_luminance_term():
    a, b = torch.full((12, 12, 12), 0.8), torch.full((12, 12, 12), 0.4)
    expected = (2 * 0.8 * 0.4 + 1e-4) / (0.8**2 + 0.4**2 + 1e-4)
    torch.testing.assert_close(ssim_map(a, b), torch.full_like(a, expected), atol=1e-4, rtol=0)


def test_edge_cases():
    pred, target = smooth_pair()
    empty = torch.zeros(SHAPE, dtype=torch.bool)
    assert psnr(target, target) == math.inf
    assert nmse(target, target) == 0
    assert ssim_map(target, target).eq(1).all()
    assert math.isnan(psnr(pred, target, empty)) and math.isnan(nmse(pred, target, empty))
    assert nmse(pred, torch.zeros(SHAPE)) == math.inf
    assert math.isnan(psnr(pred * math.nan, target))
    assert ssim_map(torch.rand(3, 1, 20), torch.rand(3, 1, 20)).shape == (3, 1, 20)  # thinner than the window


def test_wrong_input_raises():
    with pytest.raises(ValueError, match=r"shapes.*\(2, 2, 2\).*\(2, 2, 3\)"):
        psnr(torch.zeros(2, 2, 2), torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match="odd"):
        ssim_map(*random_pair(), window=10)


def test_wrong_measuring_gives_other_numbers():
    pred, target = smooth_pair()
    mask = target > 0
    shifted = pred.roll(1, 0)
    right_psnr, right_ssim = psnr(pred, target, mask), ssim_map(pred, target)[mask].mean()
    assert psnr(pred, target, mask, peak=2) == pytest.approx(right_psnr + 20 * math.log10(2))
    assert psnr(pred, target) > right_psnr + 1  # the empty background flatters
    assert psnr(shifted, target, mask) < right_psnr - 1
    assert ssim_map(pred, target, data_range=2)[mask].mean() > right_ssim + 0.005
    assert ssim_map(pred, target).mean() > right_ssim + 0.005
    assert ssim_map(shifted, target)[mask].mean() < right_ssim - 0.02


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An AlexNet state dict with made-up weights, the classifier left out to keep it small."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({name: value for name, value in alexnet().state_dict().items() if name.startswith("features")}, path)
    return path


@pytest.mark.filterwarnings("ignore::UserWarning:torchvision")
def test_lpips_equals_the_package(backbone: Path):
    import lpips
    from torchvision.models import alexnet

    features = alexnet().features
    features.load_state_dict(
        {k.removeprefix("features."): v for k, v in torch.load(backbone, weights_only=True).items()}
    )
    package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = [m for part in range(1, 6) for m in getattr(package.net, f"slice{part}")]
    for mine, theirs in zip(layers, features, strict=False):
        mine.load_state_dict(theirs.state_dict())

    pred, target = (torch.rand(64, 72, 5, generator=torch.Generator().manual_seed(k)) for k in range(2))
    mask = torch.zeros(64, 72, 5, dtype=torch.bool)
    mask[30, 30, [0, 1, 3]] = True
    one_by_one = [
        package(
            pred[None, None, ..., z].repeat(1, 3, 1, 1), target[None, None, ..., z].repeat(1, 3, 1, 1), normalize=True
        )
        for z in (0, 1, 3)
    ]
    metric = Lpips(backbone, batch=2)
    assert metric(pred, target, mask) == pytest.approx(torch.stack(one_by_one).mean().item(), rel=1e-4)
    assert metric(pred, target, mask) != pytest.approx(metric(pred, target), rel=1e-4)
    assert metric(target, target, mask) == 0
    assert len(metric.sha256) == 64


def test_lpips_without_slices_is_nan(backbone: Path):
    image = torch.rand(64, 64, 3)
    assert math.isnan(Lpips(backbone)(image, image, image > 1))


def test_lpips_never_has_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert load_lpips("none") is None
    with pytest.raises(FileNotFoundError):
        load_lpips(tmp_path / "no.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"half.pth is not a state dict"):
        load_lpips(tmp_path / "half.pth")

    def offline(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(RuntimeError, match=r"Could not download .*alexnet.*no network"):
        load_lpips("download")
