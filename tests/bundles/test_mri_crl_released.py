"""What is carried over of the authors' weights, against their encoder and decoder written out with their names."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mri_crl.network import CRL, USUAL
from mri_crl.released import carry_over

from .conftest import TINY_CRL
from .test_described import run

SETTINGS = [(2479, 9.62, 1055), (8000, 99.98, 0)]
WIDTH, BLOCKS = 6, 2


def block() -> nn.Module:
    convs = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
    return nn.ModuleDict({"body": nn.Sequential(convs[0], nn.ReLU(), convs[1])})


class Theirs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        last = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        parts = {"head": nn.Sequential(nn.Conv2d(1, WIDTH, 3)), "body": nn.ModuleList([block(), block(), last])}
        self.encoder = nn.ModuleDict(parts)
        layers = [nn.Linear(WIDTH, WIDTH if k < 5 else 1) for k in range(6)]
        layers = [layers[0], *(part for each in layers[1:] for part in (nn.ReLU(), each))]
        self.imnet = nn.ModuleDict({"layers": nn.Sequential(*layers)})
        self.codemapping_mlp = nn.ModuleDict({"layers": nn.Sequential(nn.Linear(3, WIDTH))})

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features, and what is decoded of them; beyond the edge lies the mean, where the authors have 0."""
        head = self.encoder["head"](F.pad(image, (1,) * 4, value=USUAL[0]))
        features = head
        for each in self.encoder["body"][:-1]:
            features = features + 0.1 * each["body"](features)
        features = head + self.encoder["body"][-1](features)
        return features, self.imnet["layers"](features.movedim(1, -1)).movedim(-1, 1)


@pytest.fixture
def theirs(tmp_path: Path) -> tuple[Theirs, Path]:
    torch.manual_seed(0)
    network = Theirs()
    spec = {"name": "crl", "args": {"imnet_spec": {"name": "mlp"}}, "sd": network.state_dict()}
    torch.save({"model": spec, "optimizer": {"name": "adam"}, "epoch": 3}, tmp_path / "theirs.pth")
    return network, tmp_path / "theirs.pth"


def test_encoder_and_decoder_are_theirs(theirs: tuple[Theirs, Path], tmp_path: Path):
    their_network, file = theirs
    carry_over(str(file), str(tmp_path / "begin.pt"))
    described = json.loads((tmp_path / "begin.json").read_text())
    assert described["normalisation"] == "minmax" and described["scale_per"] == "image"
    options = {name: described["network"][name] for name in ("variant", "features", "res_blocks")}
    assert options == {"variant": "gain", "features": WIDTH, "res_blocks": BLOCKS}
    network = CRL(SETTINGS, **options)
    left = network.load_state_dict(torch.load(tmp_path / "begin.pt", weights_only=True), strict=False)
    assert not left.unexpected_keys
    assert all(name.startswith("contrast.") or name in dict(network.named_buffers()) for name in left.missing_keys)
    image = torch.rand(2, 1, 12, 10)
    with torch.no_grad():
        features, decoded = their_network(image)
        torch.testing.assert_close(network.encoder(image), features, atol=1e-5, rtol=0)
        torch.testing.assert_close(network.decoder(features), decoded, atol=1e-5, rtol=0)


def test_a_training_begins_with_them(theirs: tuple[Theirs, Path], tmp_path: Path, fse_dir: Path):
    carry_over(str(theirs[1]), str(tmp_path / "begin.pt"))
    options = {name: value for name, value in TINY_CRL.items() if not name.startswith("network_def")}
    folders = {"dataset_dir": fse_dir, "ckpt_dir": tmp_path / "run", "output_dir": tmp_path / "eval"}
    run("mri_crl", "train", init_weights=tmp_path / "begin.pt", **folders, **{**options, "epochs": 1})
    described = json.loads((tmp_path / "run" / "model.json").read_text())
    assert described["network"]["variant"] == "gain" and described["network"]["features"] == WIDTH
    assert described["normalisation"] == "minmax" and described["scale_per"] == "image"


def test_other_files_are_refused(theirs: tuple[Theirs, Path], tmp_path: Path):
    network, file = theirs
    for wrong, message in [
        ({"encoder.0.conv.weight": torch.ones(1)}, "has no encoder.head.0.weight, imnet.layers.0.weight"),
        ({"model": {"sd": {}}}, "it has nothing"),
        ({n: v for n, v in network.state_dict().items() if "body.1.body.2" not in n}, "differs in 2 tensors"),
    ]:
        torch.save(wrong, tmp_path / "wrong.pth")
        with pytest.raises(ValueError, match=message):
            carry_over(str(tmp_path / "wrong.pth"), str(tmp_path / "begin.pt"))
    assert not (tmp_path / "begin.pt").exists()
    carry_over(str(file), str(tmp_path / "begin.pt"))
    with pytest.raises(FileExistsError, match="name another file"):
        carry_over(str(file), str(tmp_path / "begin.pt"))
