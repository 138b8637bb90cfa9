"""How far a synthesised volume is from the true one: PSNR, NMSE, SSIM map, spectral distance, LPIPS.

The functions take single volumes [X, Y, Z], float32, on any device, and know nothing of intensity scaling or regions:
`conventions.py` decides those. A mask is a bool volume of the same shape; an empty one gives nan.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..inference.weights import pretrained_file, read_state

BANDS = 16  # of spatial frequency, up to half a cycle per voxel


def _pair(pred: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The two images' values inside the mask; raises ValueError when the shapes differ."""
    shapes = [tuple(x.shape) for x in (pred, target, mask) if x is not None]
    if len(set(shapes)) > 1:
        raise ValueError(f"Inconsistent shapes of prediction, target (and mask): {shapes}")
    return (pred, target) if mask is None else (pred[mask], target[mask])


def psnr(pred: Tensor, target: Tensor, mask: Tensor | None = None, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio, 10 log10(peak^2 / MSE).

    Args:
        pred: prediction, [X, Y, Z].
        target: truth, [X, Y, Z].
        mask: voxels to measure, bool [X, Y, Z]; all when None.
        peak: the intensity range of both images.

    Returns:
        dB; inf for identical images, nan for an empty mask.

    Raises:
        ValueError: the shapes differ.
    """
    pred, target = _pair(pred, target, mask)
    return (10 * torch.log10(peak**2 / (pred - target).square().mean())).item()


def nmse(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Normalised squared error, ||pred - target||^2 / ||target||^2, no unit.

    Args:
        pred: prediction, [X, Y, Z].
        target: truth, [X, Y, Z].
        mask: voxels to measure, bool [X, Y, Z]; all when None.

    Returns:
        0 for identical images, nan for an empty mask, inf (or nan, when both are 0) for a target of zeros.

    Raises:
        ValueError: the shapes differ.
    """
    pred, target = _pair(pred, target, mask)
    return ((pred - target).square().sum() / target.square().sum()).item()


def spectral_distance(pred: Tensor, target: Tensor, mask: Tensor) -> float:
    """How unlike the two images' textures are, wherever their details lie: what is blurred, or grainy, is far.

    The root mean square, over bands of spatial frequency, of the ratio of their power in dB. The bands are 1/32 of a
    cycle per voxel wide, from the second up to half a cycle. Each image counts without its mean in the mask, and as 0
    outside of it, so that the mask's edge does not.

    Args:
        pred: prediction, [X, Y, Z].
        target: truth, [X, Y, Z].
        mask: brain, bool [X, Y, Z].

    Returns:
        dB; 0 for images of the same spectrum, inf where one of them has no power in a band, nan for an empty mask.

    Raises:
        ValueError: the shapes differ.
    """
    _pair(pred, target, mask)
    if not mask.any():
        return math.nan
    box = tuple(slice(int(places.min()), int(places.max()) + 1) for places in mask.nonzero().T)
    inside = torch.stack([x - x[mask].mean() for x in (pred, target)])[(slice(None), *box)] * mask[box]
    power = torch.fft.fftn(inside, dim=(1, 2, 3)).abs().square().flatten(1)
    axes = [torch.fft.fftfreq(size, device=mask.device).square() for size in inside.shape[1:]]
    frequency = (axes[0][:, None, None] + axes[1][:, None] + axes[2]).sqrt().flatten()
    band = (frequency * 2 * BANDS).long()
    means = torch.zeros(2, int(band.max()) + 1, device=mask.device).index_add_(1, band, power)[:, 1:BANDS]
    here = torch.bincount(band)[1:BANDS] > 0  # of a small box not all
    ratio = 10 * torch.log10(means[0] / means[1])[here]
    return ratio.square().mean().sqrt().item()


@dataclass(frozen=True)
class Window:
    """What SSIM's local means and variances are taken over: the same weights along each of some axes.

    Attributes:
        weights: along one axis, an odd number of voxels, summing to 1.
        axes: the volume's axes; without the last, every axial slice is an image of its own.
        sample: divide variances by N - 1 instead of N, for N voxels of equal weight, as scikit-image does by default.

    Raises:
        ValueError: the window is even.
    """

    weights: tuple[float, ...]
    axes: tuple[int, ...] = (-3, -2, -1)
    sample: bool = False

    def __post_init__(self) -> None:
        if len(self.weights) % 2 == 0:
            raise ValueError(f"The SSIM window must be odd, got {len(self.weights)} voxels")

    def mean(self, x: Tensor) -> Tensor:
        """The local means of x [..., X, Y, Z], borders mirrored: d c b a|a b c d.

        Shifted sums instead of `conv3d`: on recent GPUs convolutions round to TF32 (10 bits), which ruins variances.
        """
        radius = len(self.weights) // 2
        for axis in self.axes:
            size = x.shape[axis]
            index = torch.arange(-radius, size + radius, device=x.device) % (2 * size)
            padded = x.index_select(axis, torch.minimum(index, 2 * size - 1 - index))
            x = torch.zeros_like(x)
            for k, weight in enumerate(self.weights):
                x.add_(padded.narrow(axis, k, size), alpha=weight)
        return x

    def variance(self, x: Tensor, mean: Tensor) -> Tensor:
        """The local variances of x, whose local means are known."""
        count = len(self.weights) ** len(self.axes)
        return (self.mean(x.square()) - mean.square()) * (count / (count - 1) if self.sample else 1)

    def inside(self, x: Tensor) -> Tensor:
        """x [X, Y, Z] without the rim from which the window reaches over the border; empty if it always does."""
        rim = len(self.weights) // 2
        for axis in self.axes:
            x = x.narrow(axis, min(rim, x.shape[axis]), max(x.shape[axis] - 2 * rim, 0))
        return x


def gaussian(sigma: float, width: int) -> tuple[float, ...]:
    """The weights of a Gaussian with this standard deviation and width in voxels."""
    weights = [math.exp(-0.5 * ((k - width // 2) / sigma) ** 2) for k in range(width)]
    return tuple(weight / sum(weights) for weight in weights)


GAUSSIAN = Window(gaussian(1.5, 11))  # Wang et al. 2004; torchmetrics' and MONAI's default
GAUSSIAN_2D = Window(gaussian(1.5, 11), axes=(-3, -2))
UNIFORM = Window((1 / 7,) * 7, sample=True)  # scikit-image's default


def ssim_map(
    pred: Tensor, target: Tensor, *, window: Window = GAUSSIAN, data_range: float = 1.0, low: float = 0.0
) -> Tensor:
    """Structural similarity of every voxel (Wang et al. 2004, doi:10.1109/TIP.2003.819861, Eq. 13).

    Equals scikit-image's `structural_similarity(..., full=True)` on the whole map, mirrored borders included; there
    `GAUSSIAN` is called `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`, and `UNIFORM` the default.

    Args:
        pred: prediction, [X, Y, Z].
        target: truth, [X, Y, Z].
        window: what local means are taken over.
        data_range: the intensity range of both images.
        low: where that range begins; the result is that of any other value, but for rounding.

    Returns:
        The map, [X, Y, Z], at most 1.

    Raises:
        ValueError: the shapes differ.
    """
    pred, target = _pair(pred, target, None)
    # Half sum s and half difference d: 2 cov(p, t) = 2 (var s - var d) and var p + var t = 2 (var s + var d). Four
    # moments instead of five, exact where the images agree; shifting s by the range's middle, which leaves its
    # variance, keeps the rest of the cancellation below 1e-4 in float32.
    shift = low + data_range / 2
    half = torch.stack([(pred + target) / 2 - shift, (pred - target) / 2])  # (2, X, Y, Z)
    mean = window.mean(half)
    var_s, var_d = window.variance(half, mean)
    mean_s, mean_d = (mean[0] + shift).square(), mean[1].square()
    c1, c2 = (0.01 * data_range) ** 2 / 2, (0.03 * data_range) ** 2 / 2
    luminance = (mean_s - mean_d + c1) / (mean_s + mean_d + c1)
    return luminance * (var_s - var_d + c2) / (var_s + var_d + c2)


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018, arXiv:1801.03924), AlexNet, mean over axial slices with brain.

    The small linear layers come with the `lpips` package, the backbone from a file: a `state_dict` of torchvision's
    AlexNet. There is no way to get an instance with random weights.

    Args:
        weights: that file, or "download" for torchvision's ImageNet weights.
        device: where to compute.
        batch: slices at once.

    Attributes:
        sha256: of the backbone's file, for the result file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a state dict of AlexNet.
        RuntimeError: the download failed.
    """

    def __init__(self, weights: str | Path, *, device: str | torch.device = "cpu", batch: int = 16) -> None:
        from torchvision.models import AlexNet_Weights

        path = pretrained_file(weights, AlexNet_Weights.IMAGENET1K_V1.url, "lpips_weights")
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self.device, self.batch = device, batch
        self.net = _lpips_net(path).to(device)

    @torch.no_grad()
    def __call__(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
        """Mean distance over the slices [X, Y, z] whose mask holds a voxel (all when None); nan without such a slice.

        Args:
            pred: prediction in [0, 1], [X, Y, Z], Z from inferior to superior.
            target: truth in [0, 1], [X, Y, Z].
            mask: brain, bool [X, Y, Z].
        """
        _pair(pred, target, mask)
        keep = slice(None) if mask is None else mask.any(0).any(0)
        slices = torch.stack([pred, target])[..., keep].movedim(-1, 1).to(self.device) * 2 - 1  # (2, n, X, Y)
        pieces = slices[:, :, None].expand(-1, -1, 3, -1, -1).split(self.batch, dim=1)
        return torch.cat([self.net(p, t).flatten() for p, t in pieces]).mean().item()


def load_lpips(weights: str | Path, *, device: str | torch.device = "cpu") -> Lpips | None:
    """`Lpips` for a path or "download"; None for "none", and the metric is then reported as missing."""
    return None if str(weights) == "none" else Lpips(weights, device=device)


def _lpips_net(path: Path) -> torch.nn.Module:
    """The lpips network with the backbone read from the file."""
    import lpips

    state = read_state(path)
    with warnings.catch_warnings():  # lpips calls torchvision with arguments that it now warns about
        warnings.simplefilter("ignore")
        net = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    try:  # lpips groups torchvision's `features.3.weight` as `slice2.3.weight`
        net.net.load_state_dict({name: state["features." + name.split(".", 1)[1]] for name in net.net.state_dict()})
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} is not a state dict of torchvision's AlexNet: {error}") from error
    return net.eval().requires_grad_(False)
