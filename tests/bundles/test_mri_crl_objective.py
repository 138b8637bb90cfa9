"""Eq. 4 and 5 by hand with a translator that knows the answer; the cost of a step at the paper's size."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mri_crl.common.data.mr_signal import FSE9
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mri_crl.network import CRL
from mri_crl.objective import CRLObjective, StructuralSimilarity, drawn_together

SETTINGS = torch.tensor([[2000.0, 10.0, 0.0], [4000.0, 50.0, 0.0], [8000.0, 100.0, 2000.0]])
ALL, SOME = [[1, 1, 1]] * 2, [[1, 1, 0], [0, 1, 1], [0, 0, 1]]


def brightness(parameters: Tensor) -> Tensor:
    return parameters[..., 0] / 8000


class Translator(nn.Module):
    """Knows that an image is TR times the anatomy; adds `offset`, and notes what it was asked for."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset
        self.asked: list[tuple[tuple, tuple]] = []

    def told(self, parameters: Tensor) -> Tensor:
        return parameters

    def forward(self, image: Tensor, source: Tensor, rows: tuple[Tensor, ...], target: Tensor) -> tuple:
        anatomy = image / brightness(source).view(-1, 1, 1, 1)
        self.asked += [
            (tuple(source[r].tolist()), tuple(target[t].tolist())) for t in range(len(target)) for r in rows[t]
        ]
        made = torch.cat([brightness(target[t]) * anatomy[r] for t, r in enumerate(rows)])
        return made + self.offset, SimpleNamespace(common=anatomy)


def batch(available: list[list[int]], parameters: Tensor | None = None) -> dict[str, Tensor]:
    """Images [B, 3, 16, 16, 1]."""
    anatomy = torch.rand(len(available), 1, 16, 16, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    present = torch.tensor(available, dtype=torch.bool)[(...,) + (None,) * 3]
    parameters = SETTINGS.expand(len(available), 3, 3) if parameters is None else parameters
    image = torch.where(present, brightness(parameters)[(...,) + (None,) * 3] * anatomy, -1.0)
    return {"image": image, "parameters": parameters}


def tiny(**options) -> CRL:
    torch.manual_seed(0)
    return CRL(SETTINGS.tolist(), features=8, res_blocks=1, heads=2, **options).train()


@pytest.mark.parametrize("available", [ALL, SOME])
@pytest.mark.parametrize("offset", [0.0, 0.2, -0.1])
def test_eq_5_of_an_offset(available: list, offset: float):
    terms, samples = CRLObjective()(Translator(offset), batch(available))
    assert samples == {} and terms["l1"].item() == pytest.approx(abs(offset), abs=1e-5)
    assert terms["structure"].item() == pytest.approx(-0.1, abs=1e-4), "the same anatomy: a similarity of 1"


def test_every_pair_of_different_settings_is_asked_for_once():
    network = Translator()
    CRLObjective()(network, batch([[1, 1, 1]]))
    wanted = {(tuple(a), tuple(b)) for a in SETTINGS.tolist() for b in SETTINGS.tolist() if a != b}
    assert set(network.asked) == wanted and len(network.asked) == 6
    network = Translator()
    CRLObjective(self_weight=0.5)(network, batch([[1, 1, 1]]))
    assert len(network.asked) == 9


def test_subjects_with_parameters_of_their_own():
    parameters = SETTINGS.expand(2, 3, 3).clone()
    parameters[1, 0] = torch.tensor([3000.0, 10.0, 0.0])
    network = Translator(0.1)
    terms, _ = CRLObjective()(network, batch(ALL, parameters))
    assert terms["l1"].item() == pytest.approx(0.1, abs=1e-5)
    assert ((4000.0, 50.0, 0.0), (3000.0, 10.0, 0.0)) in network.asked
    assert ((3000.0, 10.0, 0.0), (2000.0, 10.0, 0.0)) not in network.asked, "it has no image of another subject's"


def test_sequences_of_the_same_parameters_are_decoded_together():
    parameters = SETTINGS.clone()
    parameters[2] = parameters[0]
    network = Translator(0.1)
    terms, _ = CRLObjective(structure_weight=0)(network, batch([[1, 1, 1]], parameters[None]))
    assert len(network.asked) == 6 and set(terms) == {"l1"}
    assert terms["l1"].item() == pytest.approx(0.1, abs=1e-5)


def test_self_weight():
    class SelfOnly(Translator):
        def forward(self, image: Tensor, source: Tensor, rows: tuple[Tensor, ...], target: Tensor) -> tuple:
            made, representation = super().forward(image, source, rows, target)
            wrong = torch.cat([(source[r] == target[t]).all(1) for t, r in enumerate(rows)])
            return made + wrong.view(-1, 1, 1, 1), representation

    terms, _ = CRLObjective(self_weight=0.25)(SelfOnly(), batch([[1, 1, 1]]))
    assert terms["l1"].item() == pytest.approx(3 * 0.25 / (6 + 3 * 0.25), abs=1e-5)


def test_air_of_the_source_costs_nothing():
    data = batch([[1, 1, 1]])
    data["image"][:, :, :8] = 0
    terms, _ = CRLObjective()(Translator(0.2), data)
    assert terms["l1"].item() == pytest.approx(0.1, abs=1e-5), "half of the image"


@pytest.mark.parametrize("variant", ["attention", "gain"])
def test_each_image_is_encoded_once_and_every_weight_learns(monkeypatch: pytest.MonkeyPatch, variant: str):
    network, encoded = tiny(variant=variant), []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda image, source: encoded.append(len(image)) or encode(image, source))
    terms, _ = CRLObjective()(network, batch(SOME))
    assert encoded == [5]
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert network.encoder.head.weight.grad.abs().sum() > 0


def test_what_is_drawn_together_is_of_the_same_subject_and_never_the_truth():
    subject = torch.tensor([0, 0, 0, 0, 1, 1])
    row, truth = torch.tensor([0, 1, 4, 5]), torch.tensor([1, 3, 5, 5])  # the last one from itself
    seen = torch.stack([drawn_together(row, truth, subject) for _ in range(200)])
    assert seen[:, torch.arange(4), row].all(), "the drawn source is always there"
    assert not seen[:, torch.arange(3), truth[:3]].any()
    assert not seen[:, :2, 4:].any() and not seen[:, 2:, :4].any()
    counts = seen[:, 0].sum(1)
    assert {*counts.tolist()} == {1, 2, 3} and seen[:, 3, 4].any()


@pytest.mark.parametrize("variant", ["attention", "physical"])
def test_features_of_several_sources_are_learned_from(variant: str):
    network = tiny(variant=variant, fusion="features")
    terms, _ = CRLObjective(fusion="features")(network, batch([[1, 1, 1], [1, 1, 0]]))
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert network.log_share.weight.grad.abs().sum() > 0 and network.encoder.head.weight.grad.abs().sum() > 0


def test_images_of_their_own_scale_have_no_common_maps():
    with pytest.raises(ValueError, match="PD, T1 and T2 explain images of one scale only"):
        CRLObjective(variant="physical", scale_per="image")
    CRLObjective(variant="attention", scale_per="image")


def test_missing_sequences_never_enter():
    network, data = tiny(), batch(SOME)
    terms, _ = CRLObjective()(network, data)
    missing = data["image"] == -1
    missing[..., 0, :, :] = False  # one row still says that it is missing
    data["image"] = torch.where(missing, torch.rand_like(data["image"]), data["image"])
    data["parameters"] = torch.where(missing[..., 1, 0, 0, None], 7777.0, data["parameters"])
    again, _ = CRLObjective()(network, data)
    assert {k: v.item() for k, v in again.items()} == {k: v.item() for k, v in terms.items()}


def test_few_pairs_are_bounded():
    torch.manual_seed(0)
    network = Translator(0.2)
    terms, _ = CRLObjective(pairs_per_subject=2)(network, batch(ALL))
    assert len(network.asked) == 4 and terms["l1"].item() == pytest.approx(0.2, abs=1e-5)


def test_structural_term_by_hand():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 12, 13, generator=generator)
    b = 0.5 * a + 0.5 * b
    x = torch.stack([a, b])
    z = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True)
    place = torch.arange(11) - 5.0
    window = torch.exp(-(place[:, None] ** 2 + place**2) / (2 * 1.5**2))
    window = (window / window.sum())[None, None]

    def mean(image: Tensor) -> Tensor:
        return F.conv2d(image[None], window)[0]

    covariance = mean(z[0] * z[1]) - mean(z[0]) * mean(z[1])
    deviation = [(mean(each * each) - mean(each) ** 2).sqrt() for each in z]
    expected = (covariance / (deviation[0] * deviation[1] + 1e-4)).mean()
    found = StructuralSimilarity()(x, torch.tensor([0, 0]), torch.tensor([1, 0]))
    torch.testing.assert_close(found, torch.stack([expected, torch.tensor(1.0)]), atol=1e-3, rtol=0)
    assert 0.3 < found[0] < 0.9


def test_structure_has_neither_brightness_nor_contrast():
    x = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pairs = torch.zeros(3, dtype=torch.long), torch.tensor([1, 2, 3])
    found = StructuralSimilarity()(torch.cat([x, 100 * x + 7, 1e-3 * x, -x]), *pairs)
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, -1.0]), atol=3e-3, rtol=0)


def test_flat_features_are_not_alike_and_have_a_finite_gradient():
    """Were they, features would learn to be flat."""
    x = torch.zeros(2, 1, 12, 12, requires_grad=True)
    similarity = StructuralSimilarity()(x, torch.tensor([0]), torch.tensor([1]))
    similarity.sum().backward()
    assert similarity.item() == 0 and x.grad.isfinite().all()
    step = torch.zeros(2, 1, 40, 40)
    step[..., 20:] = 1  # as a brain without anatomy
    assert StructuralSimilarity()(step, torch.tensor([0]), torch.tensor([1])).item() < 0.4


def test_features_smaller_than_the_window_are_refused():
    with pytest.raises(ValueError, match=r"\(8, 8\) pixels, are smaller than.*11.*structure_weight"):
        CRLObjective()(tiny(downsampling=2), batch(ALL))


@pytest.mark.parametrize("variant", ["attention", "gain"])
def test_a_step_of_42_pairs_takes_at_most_1300_gmacs(variant: str):
    """The authors' takes 6652: they encode each image once per pair."""
    settings = [(each.tr, each.te, each.ti) for name, each in FSE9.items() if name not in ("FSE4", "FSE6")]
    with torch.device("meta"):
        network = CRL(settings, variant).train()
    image, parameters = torch.rand(1, 7, 64, 64, 1), torch.tensor(settings)[None]

    class Counted(nn.Module):  # the network alone is on the meta device: which pairs there are depends on the data
        told = network.told

        def forward(self, image: Tensor, source: Tensor, rows: tuple[Tensor, ...], target: Tensor) -> tuple:
            with torch.device("meta"):
                rows = [r.to("meta") for r in rows]
            made, representation = network(image.to("meta"), source.to("meta"), rows, target.to("meta"))
            assert made.shape == (42, 1, 64, 64)
            return torch.zeros(made.shape), representation._replace(common=torch.zeros(7, 256, 64, 64))

    with FlopCounterMode(display=False) as counter:
        CRLObjective()(Counted(), {"image": image, "parameters": parameters})
    assert 1100 < counter.get_total_flops() / 2e9 <= 1300


RANK = """
import sys
import torch
from mri_crl.network import CRL
from mri_crl.objective import CRLObjective
from common.distributed import wrapped
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
network = wrapped(CRL([(4000, 10, 0), (5000, 30, 900)], features=4, res_blocks=1, heads=2))
parameters = torch.tensor([[[[4000.0, 10, 0], [5000, 30, 900]]], [[[6000.0, 20, 0], [4500, 40, 100]]]])[rank]
terms, _ = CRLObjective(structure_weight=0)(network, {"image": torch.rand(1, 2, 8, 8, 1), "parameters": parameters})
sum(terms.values()).backward()
torch.save(network.module.trained_range, f"{folder}/rank{rank}.pt")
torch.distributed.barrier()  # else who is first to end takes the other's connection along
torch.distributed.destroy_process_group()
"""


def test_the_trained_range_is_that_of_all_processes(tmp_path: Path):
    root = Path(__file__).parents[2]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "bundles" / "mri_crl")])}
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(k), str(tmp_path)], env=paths, stderr=subprocess.PIPE)
        for k in range(2)
    ]
    assert [(rank.communicate(timeout=300)[1][-2000:], rank.returncode)[1] for rank in ranks] == [0, 0]
    for k in range(2):
        found = torch.load(tmp_path / f"rank{k}.pt", weights_only=True)
        assert found.tolist() == [[4000, 10, 0], [6000, 40, 900]]
