"""MM-GAN: the paper's sizes and layers, its curriculum, and what its discriminator is shown and told."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data.subjects import read_subjects, write_subjects
from mri_mmgan.adversary import PatchDiscriminator, SubsetAdversary
from mri_mmgan.network import MMGAN
from mri_mmgan.objective import MMGANObjective, draw_missing

CPU = torch.device("cpu")


def tiny(**options) -> MMGAN:
    torch.manual_seed(0)
    return MMGAN(**{"sequences": 3, "channels": (4, 8), **options}).eval()


def test_parameters_of_the_paper_s_networks():
    with torch.device("meta"):
        network, discriminator = MMGAN(), PatchDiscriminator(4)
    assert sum(parameter.numel() for parameter in network.parameters()) == 54_407_172
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_794_432
    assert network.downsampling == 256
    dropouts = [level[-1].p for level in (*network.unet.down, *network.unet.up)]
    assert dropouts == [0.0] * 3 + [0.2] * 5 + [0.2] * 5 + [0.0] * 2


def pix2pix_unet(state: list[Tensor], levels: int, image: Tensor) -> Tensor:
    """pix2pix's U-Net as its layers are known, by plain operations on its tensors in their order."""
    left, skips, x = iter(state), [], image
    for k in range(levels):
        x = F.conv2d(x, next(left), stride=2, padding=1)
        x = F.leaky_relu(F.instance_norm(x) if 0 < k < levels - 1 else x, 0.2)
        skips.append(x)
    for skip in reversed(skips[:-1]):
        x = F.instance_norm(F.conv_transpose2d(x, next(left), stride=2, padding=1)).relu()
        x = torch.cat([x, skip], 1)
    x = F.pad(x.repeat_interleave(2, 2).repeat_interleave(2, 3), (1, 0, 1, 0))
    x = F.conv2d(x, next(left), next(left), padding=1).relu()
    assert next(left, None) is None
    return x


def test_the_generator_is_pix2pix_s_unet():
    """Its tensors have the order and the shapes of that network's, and what it makes of them is the same."""
    network = tiny(channels=(4, 8, 16, 16))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    image = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        expected = pix2pix_unet(list(network.unet.state_dict().values()), 4, image)
        made = network(image, step="generate_from", given=torch.ones(2, 3))
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


def test_a_target_is_made_of_all_others_and_stays_in_range():
    network = tiny()
    nn.init.normal_(network.unet.final[2].weight, std=1.0)
    subject = torch.rand(1, 3, 16, 24, 5)
    changed = subject.clone()
    changed[:, 0] = torch.rand(1, 16, 24, 5)
    with torch.no_grad():
        made, again = network(subject), network(changed)
    assert made.min() == 0 and made.max() == 1
    torch.testing.assert_close(made[:, 0], again[:, 0])
    assert not torch.allclose(made[:, 1], again[:, 1], atol=1e-3)


@pytest.mark.parametrize(("most", "scenarios"), [(1, 4), (2, 10), (3, 14), (9, 14)])
def test_every_scenario_of_a_stage_is_drawn_as_often(most: int, scenarios: int):
    """The paper's 14 scenarios of four sequences, from the easy to the hard."""
    torch.manual_seed(0)
    drawn, counts = draw_missing(torch.ones(200 * scenarios, 4, dtype=torch.bool), most).unique(
        dim=0, return_counts=True
    )
    assert len(drawn) == scenarios and drawn.sum(1).max() == min(most, 3) and drawn.sum(1).min() == 1
    assert counts.min() > 140 and counts.max() < 260


def test_only_what_is_there_can_go_missing():
    torch.manual_seed(0)
    there = torch.tensor([[True, False, True, True], [True, True, False, False]]).repeat(50, 1)
    drawn = draw_missing(there, 3)
    assert not (drawn & ~there).any() and (there & ~drawn).any(1).all() and drawn.any(1).all()
    with pytest.raises(ValueError, match="one sequence only"):
        draw_missing(torch.tensor([[True, False]]), 1)


class Constant(nn.Module):
    """Makes a half of everything."""

    def forward(self, image: Tensor, *, step: str, given: Tensor) -> Tensor:
        self.source = given
        return torch.full_like(image, 0.5, requires_grad=True)


def test_the_terms_of_a_known_image():
    """Three sequences of 0.75, of which the third is not there; half of the image is air."""
    image = torch.zeros(1, 3, 32, 32, 2)
    image[:, :, :16] = 0.75
    image[:, 2] = -1
    adversary = SubsetAdversary(3, CPU, channels=4)
    network = Constant()
    terms, shown = MMGANObjective(adversary=adversary)(network, {"image": image})
    assert network.source.shape == (2, 3) and network.source.sum() == 2 and not network.source[:, 2].any()
    assert terms["l1"].item() == pytest.approx(0.9 * 3 * 0.25 / 2)
    missing = shown["missing"].bool()
    assert torch.equal(missing, ~network.source.bool() & torch.tensor([True, True, False]))
    assert shown["fake"][missing][:, :16].unique().item() == 0.5, "made"
    assert torch.equal(shown["fake"][~missing], shown["real"][~missing]), "pasted back"
    assert not shown["fake"][:, 2].any() and not shown["real"][:, 2].any()
    assert not shown["fake"][:, :, 16:].any(), "air stays air"


class Told(nn.Module):
    """Says the mean of the first images, plus what was learned."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, shown: Tensor) -> Tensor:
        return shown.chunk(2, 1)[0].mean((2, 3), keepdim=True) + self.bias


def test_the_discriminator_is_told_the_truth_of_each_sequence():
    adversary = SubsetAdversary(3, CPU, channels=4)
    adversary.discriminators = adversary.trained = Told()
    real = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    fake = torch.tensor([1.0, 0.25, 0.0]).view(1, 3, 1, 1)
    masks = {"given": torch.tensor([[1.0, 0, 0]]), "missing": torch.tensor([[0.0, 1, 0]])}  # of the third nothing is
    # Sequences that count: the generator is asked for (1, 1); what is real is (1, 1), what was pasted back (1, 0).
    assert adversary.generator_loss(fake, real, **masks).item() == pytest.approx((0 + 0.75**2) / 2)
    loss, norm = adversary.backward(fake, real, **masks)
    assert loss.item() == pytest.approx(((0 + 0.5**2) / 2 + (0 + 0.25**2) / 2) / 2) and norm > 0
    assert not loss.requires_grad


def test_the_curriculum_follows_the_epochs():
    image, objective = torch.rand(60, 4, 16, 16, 1), MMGANObjective(stage=10)
    most = {}
    for epoch in (1, 10, 11, 20, 21, 30, 60):
        objective.epoch = epoch
        network = Constant()
        objective(network, {"image": image})
        most[epoch] = int((1 - network.source).sum(1).max())
    assert most == {1: 1, 10: 1, 11: 2, 20: 2, 21: 3, 30: 3, 60: 3}


def test_train_and_complete(workflow, phantom_dir: Path, tmp_path: Path):
    folders = {"dataset_dir": phantom_dir, "ckpt_dir": tmp_path / "models"}
    workflow("mri_mmgan", "train.json", output_dir=tmp_path / "eval", **folders).run()
    subjects = read_subjects(phantom_dir)
    [entry] = subjects["test"]
    source = entry["images"]["T2"]
    entry["images"] = {name: entry["images"][name] for name in ("T1Gd", "T2")}
    write_subjects(tmp_path / "list.json", subjects)
    options = {"weights": tmp_path / "models" / "model.pt", "output_dir": tmp_path / "out", "split": "test"}
    workflow("mri_mmgan", "inference.json", subject_list=tmp_path / "list.json", **folders, **options).run()
    made = {path.name.split("_")[-1]: nib.load(path) for path in (tmp_path / "out").rglob("*.nii.gz")}
    assert made.keys() == {"T1.nii.gz", "FLAIR.nii.gz"}
    assert all(np.array_equal(image.affine, nib.load(source).affine) for image in made.values())
    assert all(image.get_fdata().any() for image in made.values())
