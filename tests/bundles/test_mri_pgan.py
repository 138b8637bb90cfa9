"""pGAN: the paper's sizes and layers, its losses, and that it makes one direction and says so."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mri_pgan.common.training.adversary import Adversary, SequenceDiscriminators
from torch import Tensor, nn

from common.data.subjects import read_subjects, write_subjects
from common.translation import Translation
from mri_pgan.inference import DirectedInferer, DirectedMatrixInferer, TargetMetric
from mri_pgan.network import PGAN
from mri_pgan.objective import PGANObjective
from mri_pgan.perceptual import VGG16Loss


def tiny(**options) -> PGAN:
    torch.manual_seed(0)
    return PGAN(**{"channels": (4, 8), "res_blocks": 1, **options}).eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_paper_s_networks():
    with torch.device("meta"):
        network, discriminators = PGAN(), SequenceDiscriminators(1, 2, 2)
    assert count(network) == 11_371_905 and count(discriminators) == 2_762_817
    assert network.downsampling == 4


def resnet9(state: list[Tensor], image: Tensor) -> Tensor:
    """pix2pix's generator as its layers are known, by plain operations on its tensors in their order."""
    left = iter(state)

    def conv(x: Tensor, reflect: int = 0, **options) -> Tensor:
        padded = F.pad(x, [reflect] * 4, mode="reflect") if reflect else x
        return F.conv2d(padded, next(left), next(left), **options)

    x = F.instance_norm(conv(image, 3)).relu()
    for _ in range(2):
        x = F.instance_norm(conv(x, stride=2, padding=1)).relu()
    for _ in range(9):
        x = x + F.instance_norm(conv(F.instance_norm(conv(x, 1)).relu(), 1))
    for _ in range(2):
        x = F.conv_transpose2d(x, next(left), next(left), stride=2, padding=1, output_padding=1)
        x = F.instance_norm(x).relu()
    made = conv(x, 3).tanh()
    assert next(left, None) is None
    return made


def test_the_generator_is_pix2pix_s_resnet_of_nine_blocks():
    """Its tensors have the order and the shapes of that network's, and what it makes of them is the same."""
    network = tiny(channels=(4, 8, 16), res_blocks=9)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    image = torch.rand(2, 3, 16, 20)
    with torch.no_grad():
        expected = resnet9(list(network.generator.state_dict().values()), 2 * image - 1)
        made = network.encode(image, torch.tensor([[1.0, 0.0]])).image
    torch.testing.assert_close(2 * made - 1, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.1


def test_one_direction_is_made_and_nothing_else():
    network = tiny()
    image = torch.rand(1, 2, 8, 12, 5)
    with torch.no_grad():
        made = network(image)
        alone = network(torch.cat([torch.full_like(image[:, :1], -1), image[:, 1:]], 1))
        other = network(torch.cat([image[:, :1], torch.full_like(image[:, :1], -1)], 1))
    assert made[:, 1].min() > 0 and not made[:, 0].any(), "T2 of T1, no T1"
    assert torch.equal(made, other), "the target's own image changes nothing"
    assert not alone.any()


def test_three_neighbouring_slices_decide():
    network = tiny()
    image = torch.rand(1, 2, 8, 12, 7)
    changed = image.clone()
    changed[:, 0, ..., 5] = torch.rand(8, 12)
    with torch.no_grad():
        moved = (network(changed) - network(image)).abs().amax((0, 1, 2, 3)) > 1e-6
    assert moved.tolist() == [False] * 4 + [True] * 3


@pytest.mark.parametrize("sequences", [1, 3])
def test_other_numbers_of_sequences_are_an_error(sequences: int):
    with pytest.raises(ValueError, match=f"sequences has {sequences} names; .* --sequences T1,T2 for T2 from T1"):
        tiny(sequences=sequences)


class Constant(nn.Module):
    """Makes 0.75 of everything."""

    def forward(self, image: Tensor, source: Tensor, rows: list[Tensor], target: Tensor) -> Translation:
        self.image, self.source, self.rows = image, source, rows
        return Translation(torch.full_like(image[:, :1], 0.75, requires_grad=True), None)


def test_the_terms_of_a_known_image():
    """In [-1, 1] the image is 0.5 off where the source has tissue; half of it is air, where the truth is air, too."""
    image = torch.zeros(2, 2, 32, 32, 3)
    image[:, :, :16] = 0.5
    adversary = Adversary.of_sequences(1, 2, 2, torch.device("cpu"), channels=4)
    network = Constant()
    terms, samples = PGANObjective(adversary=adversary)(network, {"image": image})
    assert network.image.shape == (2, 3, 32, 32) and network.source.tolist() == [[1, 0]]
    assert [len(rows) for rows in network.rows] == [0, 2]
    assert terms["l1"].item() == pytest.approx(100 * 0.5 / 2) and terms.keys() == {"l1", "adversarial"}
    assert samples["real"].shape == samples["fake"].shape == (2, 2, 32, 32)
    assert torch.equal(samples["real"][:, 0], samples["fake"][:, 0]), "the source is the condition"
    assert samples["fake"][:, 1, :16].unique().tolist() == [0.5] and samples["fake"][:, 1, 16:].unique().item() == -1
    verdict = adversary.discriminators(samples["fake"], samples["fake_sequence"])[0]
    assert terms["adversarial"].item() == pytest.approx((verdict - 1).square().mean().item())


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        state = torchvision.models.vgg16(weights=None).state_dict()
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg16") / "vgg16.pth"
    state = {name: torch.zeros(1).expand(value.shape) for name, value in state.items()}
    state |= {name: torch.rand(value.shape) / 50 for name, value in state.items() if int(name.split(".")[1]) < 9}
    torch.save(state, path)
    return path


def test_the_perceptual_term_is_of_the_layers_before_the_second_pooling(vgg16_file: Path):
    loss, state = VGG16Loss(str(vgg16_file)), torch.load(vgg16_file, weights_only=True)

    def features(image: Tensor) -> Tensor:
        for k in (0, 2, "pool", 5, 7):
            if k == "pool":
                image = F.max_pool2d(image, 2)
            else:
                name = f"features.{k}"
                image = F.conv2d(image, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu()
        return image

    a, b = (2 * torch.rand(2, 1, 16, 16) - 1 for _ in range(2))
    expected = (features(a.repeat(1, 3, 1, 1)) - features(b.repeat(1, 3, 1, 1))).abs().mean()
    assert loss(a, b).item() == pytest.approx(expected.item(), rel=1e-4) and expected > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_what_it_cannot_make_is_said():
    inferer = DirectedInferer(["T1", "T2"])
    image = torch.rand(1, 2, 8, 8, 3)
    image[:, 0] = -1
    with pytest.raises(ValueError, match=r"T1 cannot be made: .* T2 from T1 alone, .* has no T1.* --sequences T2,T1"):
        inferer(image, tiny())
    with pytest.raises(ValueError, match="T1 cannot be made: this network makes T2 from T1 alone"):
        DirectedInferer(["T1", "T2"], "T1")
    made = DirectedInferer(["T1", "T2"], "all")(torch.rand(1, 2, 8, 8, 3), tiny())
    assert made[:, 1].min() > 0 and not made[:, 0].any(), "all that it makes"
    assert not inferer(torch.rand(1, 2, 8, 8, 3), tiny()).any(), "nothing is missing"


def test_one_pair_is_scored():
    inferer = DirectedMatrixInferer(["T1", "T2"], multi_source=True)
    assert [route.given([0, 1], 2) for route in inferer.routes] == [(), (0,), (), ()]
    metric = TargetMetric()
    truth = torch.rand(1, 2, 8, 8, 8)
    metric(torch.stack([torch.zeros(8, 8, 8), truth[0, 1]])[None] + 0.1, truth)
    assert metric.aggregate() > 15, "the source, which is not made, does not count"


def test_train_and_complete(workflow, phantom_dir: Path, tmp_path: Path):
    folders = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path / "models"}
    workflow("mri_pgan", "train.json", output_dir=tmp_path / "eval", **folders).run()
    subjects = read_subjects(phantom_dir)
    [entry] = subjects["test"]
    [other] = subjects["validation"]
    del entry["images"]["T2"], other["images"]["T1"]
    write_subjects(tmp_path / "list.json", {**subjects, "training": []})
    options = {"weights": tmp_path / "models" / "model.pt", "output_dir": tmp_path / "out", "split": "all"}
    with pytest.raises(SystemExit, match=f"1 of 2 subjects failed:\n  {other['subject']}: T1 cannot be made"):
        workflow("mri_pgan", "inference.json", subject_list=tmp_path / "list.json", **folders, **options).run()
    [written] = (tmp_path / "out").rglob("*.nii.gz")
    made, source = nib.load(written), nib.load(entry["images"]["T1"])
    assert written.name == f"{entry['subject']}_T2.nii.gz" and np.array_equal(made.affine, source.affine)
    assert ((made.get_fdata() > 0) == (source.get_fdata() > 0)).all()
