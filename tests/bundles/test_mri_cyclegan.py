"""CycleGAN: the paper's sizes, its terms by hand, the pool of earlier images, and RegGAN's registration."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from mri_cyclegan.common.training.adversary import SequenceDiscriminators
from torch import Tensor, nn

from common.data.subjects import read_subjects, write_subjects
from common.translation import Translation
from mri_cyclegan.adversary import PooledAdversary
from mri_cyclegan.network import CycleGAN
from mri_cyclegan.objective import CycleGANObjective

CPU = torch.device("cpu")


def tiny(**options) -> CycleGAN:
    torch.manual_seed(0)
    return CycleGAN(**{"channels": (4, 8), "res_blocks": 1, **options}).eval()


def adversary(**options) -> PooledAdversary:
    return PooledAdversary.of_sequences(2, 2, 1, CPU, channels=4, **options)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_the_paper_s_networks():
    with torch.device("meta"):
        network, discriminators = CycleGAN(), SequenceDiscriminators(2, 2, 1)
    assert count(network) == 2 * 11_365_633 and count(discriminators) == 2 * 2_761_793


def test_each_sequence_has_a_generator_of_its_own():
    network = tiny()
    image = torch.rand(1, 2, 8, 12, 5)
    changed = image.clone()
    changed[:, 0] = torch.rand(8, 12, 5)
    with torch.no_grad():
        made, again = network(image), network(changed)
        assert torch.equal(made[:, 0], again[:, 0]) and not torch.allclose(made[:, 1], again[:, 1], atol=1e-3)
        nn.init.zeros_(network.generators[1][-1][-2].weight)  # the last convolution, before the tanh
        still = network(image)
    assert torch.equal(made[:, 0], still[:, 0]) and (still[:, 1] == 0.5).all()


def test_only_the_generators_that_are_wanted_run():
    network, calls = tiny(), []
    for j, generator in enumerate(network.generators):
        generator.register_forward_hook(lambda *_, j=j: calls.append(j))
    with torch.no_grad():
        network.complete(torch.rand(1, 2, 8, 12, 5), [0], [1])
    assert calls == [1]


def test_other_numbers_of_sequences_are_an_error():
    with pytest.raises(ValueError, match=r"sequences has 4 names; .* pass two, such as --sequences T1,T2"):
        tiny(sequences=4)


class Shift(nn.Module):
    """Brightens by 0.1 what is to be the second sequence, by 0.3 what is to be the first."""

    def forward(self, image: Tensor, source: Tensor, rows: list[Tensor], target: Tensor) -> Translation:
        made = torch.cat([image[r] + by for r, by in zip(rows, (0.3, 0.1), strict=True)])
        return Translation(made.requires_grad_(), None)


def test_the_terms_of_a_known_image():
    image = torch.full((2, 2, 32, 32, 1), 0.25)
    image[1, 1] = -1  # a subject with the first alone: no pair is needed
    judge = adversary()
    terms, samples = CycleGANObjective(adversary=judge)(Shift(), {"image": image})
    # There and back 0.4 are added; each direction counts, and differences are twice as much in [-1, 1].
    assert terms["cycle"].item() == pytest.approx(10 * 2 * 2 * 0.4, rel=1e-5)
    assert terms["identity"].item() == pytest.approx(10 * 0.5 * 2 * (0.3 + 0.1), rel=1e-5)
    assert samples["fake_sequence"].tolist() == [0, 1, 1] and samples["real_sequence"].tolist() == [0, 1, 0]
    torch.testing.assert_close(samples["fake"].mean((1, 2, 3)), torch.tensor([0.55, 0.35, 0.35]))
    verdicts = judge.discriminators(samples["fake"], samples["fake_sequence"])
    assert terms["adversarial"].item() == pytest.approx(sum((v - 1).square().mean().item() for v in verdicts), rel=1e-5)


def test_terms_of_no_weight_are_not_computed():
    image = torch.rand(1, 2, 32, 32, 1)
    terms, _ = CycleGANObjective(adversary=adversary(), cycle_weight=0.0)(Shift(), {"image": image})
    assert terms.keys() == {"adversarial"}
    terms, _ = CycleGANObjective(adversary=adversary(), identity_weight=0.0)(Shift(), {"image": image})
    assert terms.keys() == {"adversarial", "cycle"}


def test_gradients_reach_both_generators():
    network = tiny().train()
    terms, _ = CycleGANObjective(adversary=adversary())(network, {"image": torch.rand(1, 2, 32, 32, 1)})
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_pool_shows_earlier_images_and_goes_on_from_a_checkpoint():
    def shown(judge: PooledAdversary, values: range) -> list[float]:
        return [judge._exchanged(torch.full((1, 2, 2), float(v)), judge.kept.setdefault(0, [])).mean() for v in values]

    torch.manual_seed(0)
    judge = adversary(pool=10)
    assert shown(judge, range(10)) == list(range(10)), "until it is full"
    later = shown(judge, range(10, 210))
    assert 60 < sum(v == k for k, v in enumerate(later, 10)) < 140 and len(set(map(float, later))) == 200
    assert len(judge.kept[0]) == 10
    again = adversary(pool=10)
    again.load_state_dict(judge.state_dict())
    results = []
    for each in (judge, again):
        torch.manual_seed(1)
        results.append(shown(each, range(300, 320)))
    assert results[0] == results[1]
    assert shown(adversary(pool=0), range(3)) == [0, 1, 2]


def test_the_registration_aligns_what_is_made_with_the_truth():
    """The truth is the source, three voxels further: a network that copies it can be right by the warp alone."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, 8, 8, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    batch = {"image": torch.cat([image, image.roll(2, 2)], 1)}
    network = tiny(registration=2)
    assert network.downsampling == 4

    class Copies(nn.Module):
        registration = network.registration

        def forward(self, image: Tensor, source: Tensor, rows: list[Tensor], target: Tensor) -> Translation:
            return Translation(image[torch.cat(list(rows))], None)

    options = {"adversarial_weight": 0.0, "cycle_weight": 0.0, "registration_weight": 20.0, "smooth_weight": 0.1}
    objective, network = CycleGANObjective(adversary=adversary(), **options), network.train()
    optimizer = torch.optim.Adam(network.registration.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        terms, _ = objective(Copies(), batch)
        sum(terms.values()).backward()
        optimizer.step()
        losses.append(terms["registration"].item())
    plain = 2 * 20 * 2 * (batch["image"][:, 0] - batch["image"][:, 1]).abs().mean().item()
    assert losses[0] == pytest.approx(plain, rel=1e-4), "it begins with no field"
    assert losses[-1] < 0.6 * losses[0] and terms["smooth"] > 0


def test_the_registration_needs_pairs():
    image = torch.rand(1, 2, 32, 32, 1)
    image[:, 1] = -1
    objective = CycleGANObjective(adversary=adversary(), registration_weight=20.0, cycle_weight=0.0)
    with pytest.raises(ValueError, match="registration_weight is for pairs, and no subject of this batch has both"):
        objective(tiny(registration=2), {"image": image})


@pytest.mark.parametrize("registered", [False, True])
def test_train_and_complete(workflow, phantom_dir: Path, tmp_path: Path, registered: bool):
    """Of subjects that have one sequence each; or registered, of pairs."""
    subjects = read_subjects(phantom_dir)
    for entry, name in zip(subjects["training"], ("T1", "T2"), strict=True):
        entry["images"] = entry["images"] if registered else {name: entry["images"][name]}
    [entry] = subjects["test"]
    source = entry["images"]["T2"]
    del entry["images"]["T1"]
    write_subjects(tmp_path / "list.json", subjects)
    given = {"dataset_dir": phantom_dir, "subject_list": tmp_path / "list.json"}
    own = {"registration_weight": 20.0, "cycle_weight": 0.0, "network_def#registration": 2, "divisible": [4, 4, 1]}
    training = workflow(
        "mri_cyclegan",
        "train.json",
        ckpt_dir=tmp_path,
        output_dir=tmp_path / "eval",
        **given,
        **own if registered else {},
    )
    training.run()
    options = {"weights": tmp_path / "model.pt", "output_dir": tmp_path / "out", "split": "test"}
    options |= {"divisible": [4, 4, 1]} if registered else {}
    workflow("mri_cyclegan", "inference.json", **given, **options).run()
    [written] = (tmp_path / "out").rglob("*.nii.gz")
    made = nib.load(written)
    assert written.name.endswith("_T1.nii.gz") and np.array_equal(made.affine, nib.load(source).affine)
    assert made.get_fdata().any()
