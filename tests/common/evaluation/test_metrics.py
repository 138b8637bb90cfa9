"""The metrics against scikit-image, torchmetrics, the lpips package and numbers worked out by hand."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional import image as torchmetrics

from common.evaluation.conventions import score
from common.evaluation.metrics import (
    GAUSSIAN,
    GAUSSIAN_2D,
    UNIFORM,
    Lpips,
    Window,
    load_lpips,
    nmse,
    psnr,
    spectral_distance,
    ssim_map,
)

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


def phantom_pair(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """A subject's T2 and the same without noise and bias field."""
    target, pred = (nib.load(next(folder.glob(f"*/*_T2{end}.nii.gz"))).get_fdata() for end in ("", "_reference"))
    return tuple(torch.from_numpy(x / target.max()).float() for x in (pred, target))


def real_pair(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The middle of a T1 scan and the same, blurred."""
    scan = nib.load(min(folder.glob("*/T1.nii.gz")))
    size = tuple(slice(max(n // 2 - 32, 0), n // 2 + 32) for n in scan.shape)
    target = np.asarray(scan.dataobj[size], dtype=np.float32)
    target = np.clip(target / np.percentile(target, 99.5), 0, 1)
    return torch.from_numpy(gaussian_filter(target, 0.7)), torch.from_numpy(target)


@pytest.fixture(params=["random", "smooth", "bright flat", "phantom", "real"])
def pair(request: pytest.FixtureRequest) -> tuple[torch.Tensor, torch.Tensor]:
    if request.param == "phantom":
        return phantom_pair(request.getfixturevalue("phantom_dir"))
    if request.param == "real":
        return real_pair(request.getfixturevalue("mri_data"))
    return {"random": random_pair, "smooth": smooth_pair, "bright flat": bright_flat_pair}[request.param]()


IN_SCIKIT_IMAGE = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def skimage_map(pred: torch.Tensor, target: torch.Tensor, data_range: float = 1.0, **options: object) -> np.ndarray:
    pred, target = pred.double().numpy(), target.double().numpy()
    return structural_similarity(pred, target, data_range=data_range, full=True, **options)[1]


def test_gaussian_ssim_equals_scikit_image(pair):
    np.testing.assert_allclose(ssim_map(*pair).numpy(), skimage_map(*pair, **IN_SCIKIT_IMAGE), atol=1e-4)


def test_uniform_ssim_equals_scikit_image(pair):
    np.testing.assert_allclose(ssim_map(*pair, window=UNIFORM).numpy(), skimage_map(*pair, win_size=7), atol=1e-4)


def test_ssim_of_slices_equals_scikit_image(pair):
    pred, target = pair
    slices = [skimage_map(pred[..., z], target[..., z], **IN_SCIKIT_IMAGE) for z in range(pred.shape[-1])]
    np.testing.assert_allclose(ssim_map(pred, target, window=GAUSSIAN_2D).numpy(), np.stack(slices, -1), atol=1e-4)


@pytest.mark.parametrize("low, data_range", [(0, 200), (-1, 2)])
def test_ssim_on_another_range(low, data_range):
    pred, target = (low + data_range * image for image in smooth_pair())
    ours = ssim_map(pred, target, data_range=data_range, low=low)
    np.testing.assert_allclose(ours.numpy(), skimage_map(pred, target, data_range, **IN_SCIKIT_IMAGE), atol=1e-4)


def test_ssim_equals_torchmetrics(pair):
    middle = tuple(slice(n // 2 - 11, n // 2 + 11) for n in pair[0].shape)  # its 3D convolution is slow
    pred, target = (image[middle].double()[None, None] for image in pair)
    ssim = torchmetrics.structural_similarity_index_measure
    for options, window in (
        ({"gaussian_kernel": True}, GAUSSIAN),
        ({"gaussian_kernel": False, "kernel_size": 7}, Window(UNIFORM.weights)),
    ):
        theirs = ssim(pred, target, data_range=1.0, return_full_image=True, **options)[1][0, 0]
        ours = ssim_map(pred[0, 0].float(), target[0, 0].float(), window=window)
        torch.testing.assert_close(window.inside(ours).double(), window.inside(theirs), atol=1e-4, rtol=0)


def test_psnr_equals_scikit_image_and_torchmetrics(pair):
    pred, target = (image.double() for image in pair)
    expected = peak_signal_noise_ratio(target.numpy(), pred.numpy(), data_range=2)
    assert psnr(*pair, peak=2) == pytest.approx(expected, abs=1e-4)
    expected = torchmetrics.peak_signal_noise_ratio(pred, target, data_range=2.0).item()
    assert psnr(*pair, peak=2) == pytest.approx(expected, abs=1e-4)


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


def test_spectral_distance_tells_blur_and_grain_from_what_is_as_sharp():
    torch.manual_seed(0)
    smooth, mask = (lambda x: F.avg_pool3d(x[None, None], 3, 1, 1)[0, 0]), torch.ones(20, 24, 22, dtype=torch.bool)
    truth, other = smooth(torch.rand(20, 24, 22)), smooth(torch.rand(20, 24, 22))
    assert spectral_distance(2 * truth, truth, mask) == pytest.approx(20 * math.log10(2), rel=1e-4)
    as_sharp = spectral_distance(other, truth, mask)  # another image of the same texture, whose PSNR is low
    assert as_sharp < 1 < spectral_distance(truth + 0.05 * torch.randn(truth.shape), truth, mask)
    assert spectral_distance(smooth(truth), truth, mask) > 3 and psnr(smooth(truth), truth) > psnr(other, truth)
    inside = torch.zeros_like(mask)
    inside[4:15, 5:16, 3:17] = True
    changed = torch.where(inside, truth, 7.0)
    assert spectral_distance(changed, truth, inside) == 0 and math.isnan(spectral_distance(truth, truth, ~mask))
    assert spectral_distance(0 * truth, truth, mask) == math.inf
    brighter, grainy = truth + 0.3, truth + 0.02 * torch.randn(truth.shape)
    assert spectral_distance(brighter, truth, inside) < 1e-3 < 0.1 < spectral_distance(grainy, truth, inside)


def test_edge_cases():
    pred, target = smooth_pair()
    empty = torch.zeros(SHAPE, dtype=torch.bool)
    assert psnr(target, target) == math.inf
    assert nmse(target, target) == 0
    assert ssim_map(target, target).eq(1).all()
    assert math.isnan(psnr(pred, target, empty)) and math.isnan(nmse(pred, target, empty))
    assert nmse(pred, torch.zeros(SHAPE)) == math.inf
    assert math.isnan(psnr(pred * math.nan, target))
    thin = ssim_map(torch.rand(3, 1, 20), torch.rand(3, 1, 20))
    assert thin.shape == (3, 1, 20) and GAUSSIAN.inside(thin).numel() == 0  # thinner than the window


def test_wrong_input_raises():
    with pytest.raises(ValueError, match=r"shapes.*\(2, 2, 2\).*\(2, 2, 3\)"):
        psnr(torch.zeros(2, 2, 2), torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match="odd"):
        Window((0.5, 0.5))


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


@pytest.fixture(scope="module")
def package(backbone: Path) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The lpips package's own network with these weights: slices [n, 1, X, Y] in [-1, 1] to distances."""
    import lpips
    from torchvision.models import alexnet

    state = torch.load(backbone, weights_only=True)
    features = alexnet().features
    features.load_state_dict({name.removeprefix("features."): value for name, value in state.items()})
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # of torchvision, about lpips' arguments
        network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers = [layer for part in range(1, 6) for layer in getattr(network.net, f"slice{part}")]
    for mine, theirs in zip(layers, features, strict=False):
        mine.load_state_dict(theirs.state_dict())
    return torch.no_grad()(network)


def test_lpips_equals_the_package(backbone: Path, package):
    pred, target = (torch.rand(64, 72, 5, generator=torch.Generator().manual_seed(k)) for k in range(2))
    mask = torch.zeros(64, 72, 5, dtype=torch.bool)
    mask[30, 30, [0, 1, 3]] = True
    slices = [image[..., [0, 1, 3]].movedim(-1, 0)[:, None] * 2 - 1 for image in (pred, target)]
    metric = Lpips(backbone, batch=2)
    assert metric(pred, target, mask) == pytest.approx(package(*slices).mean().item(), rel=1e-4)
    assert metric(pred, target, mask) != pytest.approx(metric(pred, target), rel=1e-4)
    assert metric(target, target, mask) == 0
    assert len(metric.sha256) == 64


def test_conventions_with_lpips(backbone: Path, package):
    """`declared` takes the mean over the slices with brain, `seq2seq` the sum over all; the others have none."""
    pred, target = (torch.rand(64, 72, 5, generator=torch.Generator().manual_seed(k)) for k in range(2))
    target[..., 2] = 0
    brain = target > 0
    metric = Lpips(backbone)

    low, high = np.percentile(target[brain], (0.5, 99.5))
    slices = [((x - low) / (high - low)).clamp(0, 1).movedim(-1, 0)[[0, 1, 3, 4], None] * 2 - 1 for x in (pred, target)]
    expected = package(*slices).mean().item()
    assert score(pred, target, brain, lpips=metric)["lpips"] == pytest.approx(expected, rel=1e-4)

    top = 2 * np.percentile(target, 99)
    slices = [(x.clamp(0, top) / top).movedim(-1, 0)[:, None] * 2 - 1 for x in (pred, target)]
    expected = package(*slices).sum().item()
    assert score(pred, target, brain, convention="seq2seq", lpips=metric)["lpips"] == pytest.approx(expected, rel=1e-4)

    for convention in ("aldm", "crl", "brasyn"):
        assert "lpips" not in score(pred, target, brain, convention=convention, lpips=metric)


def test_lpips_without_slices_is_nan(backbone: Path):
    image, metric = torch.rand(64, 64, 3), Lpips(backbone)
    assert math.isnan(metric(image, image, image > 1))
    for convention in ("declared", "seq2seq"):
        numbers = score(image, torch.zeros_like(image), image > 1, convention=convention, lpips=metric)
        assert math.isnan(numbers["lpips"])


def test_lpips_never_has_random_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert load_lpips("none") is None
    with pytest.raises(FileNotFoundError, match=r"lpips_weights is .*no.pth', which is no file.*alexnet.*'none'"):
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
