"""The perceptual loss on a VGG19 of few channels."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import vgg19
from torchvision.models.vgg import cfgs, make_layers

from common.training import perceptual
from common.training.perceptual import VGG19Loss

LAYOUT = [width if width == "M" else width // 32 for width in cfgs["E"]]


class SmallVGG19(nn.Module):
    def __init__(self, weights: None = None) -> None:
        super().__init__()
        self.features = make_layers(LAYOUT)
        for parameter in self.features.parameters():
            nn.init.normal_(parameter, std=0.2)


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(torchvision.models, "vgg19", SmallVGG19)
    torch.manual_seed(0)
    torch.save(SmallVGG19().state_dict(), tmp_path / "vgg19.pt")
    return tmp_path / "vgg19.pt"


def by_hand(weights: Path, prediction: Tensor, target: Tensor) -> Tensor:
    """Grey images [P, 3, H, W] in [0, 1] through thirteen convolutions with average pooling."""
    state, layer, loss, pair = torch.load(weights, weights_only=True), 0, torch.zeros(()), []
    for image in (prediction, target):
        normal = [(image[:, k] - m) / d for k, (m, d) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)])]
        pair.append(torch.stack(normal, 1))
    for width in LAYOUT[:17]:  # thirteen convolutions and four poolings
        if width == "M":
            pair, layer = [F.avg_pool2d(x, 2) for x in pair], layer + 1
            continue
        weight, bias = state[f"features.{layer}.weight"], state[f"features.{layer}.bias"]
        pair, layer = [F.conv2d(x, weight, bias, padding=1).relu() for x in pair], layer + 2
        loss = loss + (pair[0] - pair[1]).square().mean()
    return loss


def test_against_its_definition(weights: Path):
    loss = VGG19Loss(str(weights))
    prediction, target = torch.rand(2, 2, 1, 16, 16)
    expected = by_hand(weights, *(x.expand(-1, 3, -1, -1) for x in (prediction, target)))
    torch.testing.assert_close(loss(prediction, target), expected)
    assert loss(prediction, prediction) == 0 and expected > 0
    layers = [type(layer) for layer in loss.layers]
    assert layers.count(nn.ReLU) == 13 and layers.count(nn.AvgPool2d) == 4 and nn.MaxPool2d not in layers


def test_channels_and_slices_are_grey_images(weights: Path):
    loss = VGG19Loss(str(weights))
    prediction, target = torch.rand(2, 2, 1, 16, 16, 3)
    slices = [volume.movedim(-1, 1).flatten(0, 2)[:, None] for volume in (prediction, target)]
    stacks = [volume[:, 0].movedim(-1, 1) for volume in (prediction, target)]
    torch.testing.assert_close(loss(prediction, target), loss(*slices))
    torch.testing.assert_close(loss(*stacks), loss(*slices))


@pytest.mark.parametrize("size", [(2, 16, 16), (1, 16, 16, 3)])
def test_a_truth_of_several_predictions_is_looked_at_once(weights: Path, size: tuple[int, ...]):
    loss, counts = VGG19Loss(str(weights)), []
    predictions, targets = torch.rand(5, *size, requires_grad=True), torch.rand(4, *size)
    row = torch.tensor([3, 0, 3, 3, 0])
    each = loss(predictions, targets[row])
    (expected,) = torch.autograd.grad(each, predictions)
    features = loss._features
    loss._features = lambda images: counts.append(len(images)) or features(images)
    once = loss(predictions, targets, row)
    (gradient,) = torch.autograd.grad(once, predictions)
    assert counts == [2, 5]
    torch.testing.assert_close(once, each, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-7)


def test_gradient_reaches_the_prediction_only(weights: Path):
    loss = VGG19Loss(str(weights))
    prediction, target = (torch.rand(1, 1, 16, 16, requires_grad=True) for _ in range(2))
    loss(prediction, target).backward()
    assert prediction.grad.abs().sum() > 0 and target.grad is None
    assert not any(p.requires_grad or p.grad is not None for p in loss.parameters())


def test_the_value_of_the_authors_code(monkeypatch: pytest.MonkeyPatch):
    """Of fiy2W/mri_seq2seq at 0414c07; images were drawn after three networks, of which the first is used."""
    torch.manual_seed(0)
    network, *_ = [vgg19(weights=None) for _ in range(3)]
    prediction, target = torch.rand(1, 3, 48, 48), torch.rand(1, 3, 48, 48)
    monkeypatch.setattr(torchvision.models, "vgg19", lambda weights: network)
    monkeypatch.setattr(perceptual, "pretrained_file", lambda *_: Path())
    monkeypatch.setattr(perceptual, "read_state", lambda _: network.state_dict())
    assert VGG19Loss("a file")(prediction, target).item() == pytest.approx(0.21100, abs=1e-5)


@pytest.mark.parametrize("name", ["absent.pt", ""])
def test_no_file_no_random_weights(weights: Path, name: str):
    with pytest.raises(FileNotFoundError, match=r"perceptual_weights is .*'none'"):
        VGG19Loss(str(weights.parent / name))


def test_offline_says_which_file_to_fetch(weights: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(weights.parent / "hub"))
    with pytest.raises(RuntimeError, match=r"Could not download .*vgg19.*no network.*perceptual_weights.*'none'"):
        VGG19Loss("download")
