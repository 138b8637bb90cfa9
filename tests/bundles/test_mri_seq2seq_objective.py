"""Eq. 1 by hand with a translator that knows the answer; Eq. 2 and 3 with a small network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mri_seq2seq.common.training.adversary import Adversary
from mri_seq2seq.common.training.pairs import Pairs
from torch import Tensor, nn

from mri_seq2seq.network import Seq2Seq
from mri_seq2seq.objective import Seq2SeqObjective

SLOPES = torch.tensor([1.0, 0.5, 0.25])  # image of sequence j = slope j * anatomy


class Translator(nn.Module):
    """Knows how the sequences hang together; adds `offset` to what it makes and notes what it was asked."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset
        self.asked: list[tuple[int, int]] = []

    def forward(self, image: Tensor, source: Tensor, rows: tuple[Tensor, ...], target: Tensor) -> SimpleNamespace:
        i = source.argmax(1)
        anatomy = image / SLOPES[i].view(-1, *[1] * (image.ndim - 1))
        self.asked += [(int(i[r]), j) for j in range(len(target)) for r in rows[j]]
        made = torch.cat([SLOPES[j] * anatomy[r] for j, r in enumerate(rows)])
        return SimpleNamespace(prediction=made + self.offset)


class PatchMaps(nn.Module):
    """A discriminator per sequence, small enough for 8 x 8 images."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.ModuleList(nn.Conv2d(3, 1, 3) for _ in range(3))

    def forward(self, image: Tensor, sequence: Tensor) -> list[Tensor | None]:
        return [d(image[sequence == j]) if (sequence == j).any() else None for j, d in enumerate(self.each)]


def batch(available: list[list[int]]) -> dict[str, Tensor]:
    """Images [B, 3, 8, 8, 3]."""
    anatomy = torch.rand(len(available), 1, 8, 8, 3, generator=torch.Generator().manual_seed(0))
    present = torch.tensor(available, dtype=torch.bool)[(...,) + (None,) * 3]
    return {"image": torch.where(present, SLOPES.view(1, 3, 1, 1, 1) * anatomy, -1.0)}


def tiny() -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(3, channels=(4, 8), res_blocks=1, lstm_layers=1, code_channels=8, bank_channels=4)


ALL, SOME = [[1, 1, 1]] * 2, [[1, 1, 0], [0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("available", [ALL, SOME])
@pytest.mark.parametrize("options", [{}, {"spatial_dims": 3}, {"slice_axis": -3}])
@pytest.mark.parametrize("offset", [0.0, 0.2, -0.1])
def test_eq_1_of_an_offset(available: list, options: dict, offset: float):
    terms, samples = Seq2SeqObjective(3, **options)(Translator(offset), batch(available))
    assert samples == {} and set(terms) == {"l1", "l1_self"}
    assert sum(terms.values()).item() == pytest.approx(10 * 2 * abs(offset), abs=1e-5)
    itself = 3 / 9 if available is ALL else 5 / 9  # SOME has 4 + 4 + 1 pairs
    assert terms["l1_self"].item() == pytest.approx(20 * abs(offset) * itself, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"spatial_dims": 3}])
def test_the_gradient_term_sees_edges_only(options: dict):
    terms, _ = Seq2SeqObjective(3, gradient_weight=10.0, **options)(Translator(0.2), batch(ALL))
    assert terms["gradient"].item() == pytest.approx(0, abs=1e-4), "an offset has no edges"


def test_the_gradient_term_of_a_ramp():
    def add_ramp(*args) -> SimpleNamespace:
        return SimpleNamespace(prediction=Translator()(*args).prediction + torch.arange(8.0).view(8, 1))

    terms, _ = Seq2SeqObjective(3, gradient_weight=10.0)(add_ramp, batch(ALL))
    assert terms["gradient"].item() == pytest.approx(10 * 2, rel=1e-5), "a step of 1 in [0, 1] along one axis, 0 else"


def test_eq_1_of_a_wrong_sequence():
    # Whoever ignores the target and repeats the source is off by the difference of the images.
    image = batch([[1, 1, 0]])["image"]

    def repeat(image: Tensor, source: Tensor, rows: tuple[Tensor, ...], target: Tensor) -> SimpleNamespace:
        return SimpleNamespace(prediction=torch.cat([image[r] for r in rows]))

    terms, _ = Seq2SeqObjective(3)(repeat, {"image": image})
    # Two of the four pairs are wrong, each by |1 - 0.5| of the anatomy.
    assert terms["l1"].item() == pytest.approx(10 * 2 * 0.5 * image[0, 0].mean().item() * 2 / 4, rel=1e-5)
    assert terms["l1_self"].item() == 0


@pytest.mark.parametrize(("self_weight", "expected"), [(1.0, 20 * 0.2 * 3 / 9), (0.25, 20 * 0.2 * 3 / 9 / 4), (0, 0)])
def test_self_weight(self_weight: float, expected: float):
    network = Translator(0.2)
    terms, _ = Seq2SeqObjective(3, self_weight=self_weight)(network, batch(ALL[:1]))
    assert terms["l1_self"].item() == pytest.approx(expected, abs=1e-5)
    assert terms["l1"].item() == pytest.approx(20 * 0.2 * (1 if self_weight == 0 else 6 / 9), abs=1e-5)
    pairs = {(i, j) for i in range(3) for j in range(3) if i != j or self_weight}
    assert set(network.asked) == pairs and len(network.asked) == len(pairs)


@pytest.mark.parametrize("adversarial", [False, True])
def test_missing_sequences_never_enter(adversarial: bool):
    adversary = Adversary(PatchMaps(), torch.device("cpu")) if adversarial else None
    objective, network, data = Seq2SeqObjective(3, adversary=adversary), tiny(), batch(SOME)
    terms, _ = objective(network, data)
    missing = data["image"] == -1
    missing[..., 0] = False  # one slice still says that it is missing
    image = torch.where(missing, torch.rand_like(data["image"]), data["image"])
    assert not torch.equal(image, data["image"])
    again, _ = objective(network, {"image": image})
    assert {k: v.item() for k, v in again.items()} == {k: v.item() for k, v in terms.items()}


def test_a_reference_is_what_images_shall_look_like():
    """The translator is right about the images, so only the reference's difference from them is left."""
    data = batch([[1, 1, 1]])
    data["reference"] = data["image"] + 0.1
    terms, _ = Seq2SeqObjective(3)(Translator(), data)
    assert terms["l1"].item() == pytest.approx(10 * 2 * 0.1 * 6 / 9, rel=1e-4)
    assert terms["l1_self"].item() == pytest.approx(10 * 2 * 0.1 * 3 / 9, rel=1e-4)


def test_each_image_is_encoded_once(monkeypatch: pytest.MonkeyPatch):
    network, encoded = tiny(), []
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda image, source: encoded.append(len(image)) or encode(image, source))
    terms, _ = Seq2SeqObjective(3)(network, batch(SOME))
    assert encoded == [5]
    sum(terms.values()).backward()
    # Distributed training waits for a gradient of every parameter, be it 0.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_adversary_and_cycle():
    adversary = Adversary(PatchMaps(), torch.device("cpu"), learning_rate=0.1)
    network, data = tiny(), batch(SOME)
    terms, samples = Seq2SeqObjective(3, adversary=adversary)(network, data)
    assert set(terms) == {"l1", "l1_self", "adversarial", "cycle"} and all(t > 0 for t in terms.values())
    assert len(samples["real"]) == 5 and len(samples["fake"]) == 10  # two wanted per image, be they there or not
    sum(terms.values()).backward()
    assert all(p.grad is None for p in adversary.discriminators.parameters())
    assert all(p.requires_grad for p in adversary.discriminators.parameters())
    assert network.encoder[0].conv.weight.grad.abs().sum() > 0
    before = {name: p.clone() for name, p in adversary.discriminators.named_parameters()}
    grads = [p.grad.clone() for p in network.parameters()]
    loss, norm = adversary.backward(**samples)
    assert loss.isfinite() and norm > 0
    adversary.optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in adversary.discriminators.named_parameters())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(network.parameters(), grads, strict=True))


@pytest.mark.parametrize("options", [{}, {"self_weight": 0}])
def test_perfect_translator_has_no_cycle_error(options: dict):
    adversary = Adversary(PatchMaps(), torch.device("cpu"))
    terms, _ = Seq2SeqObjective(3, adversary=adversary, **options)(Translator(), batch(SOME))
    assert terms["cycle"].item() == pytest.approx(0, abs=1e-5)
    biased, _ = Seq2SeqObjective(3, adversary=adversary, **options)(Translator(0.1), batch(SOME))
    # There: slope j * anatomy + 0.1; back: slope i * (that / slope j) + 0.1.
    off = [0.1 * (1 + SLOPES[i] / SLOPES[j]) for i in (0, 1, 1, 2, 2) for j in range(3) if i != j]
    assert biased["cycle"].item() == pytest.approx(10 * 2 * torch.stack(off).mean().item(), rel=1e-4)


def test_weights_of_the_terms():
    adversary, data = Adversary(PatchMaps(), torch.device("cpu")), batch(SOME)
    doubled = {"l1_weight": 20.0, "adversarial_weight": 2.0, "cycle_weight": 20.0}
    one, _ = Seq2SeqObjective(3, adversary=adversary)(Translator(0.1), data)
    two, _ = Seq2SeqObjective(3, adversary=adversary, **doubled)(Translator(0.1), data)
    assert all(two[name].item() == pytest.approx(2 * one[name].item()) for name in one)


def test_perceptual_term(monkeypatch: pytest.MonkeyPatch):
    class Difference(nn.Module):
        def forward(self, prediction: Tensor, target: Tensor, row: Tensor) -> Tensor:
            assert prediction.shape == (9, 3, 8, 8) and target.shape == (3, 3, 8, 8), "a truth once, not for each pair"
            return (prediction - target[row]).mean()

    monkeypatch.setattr("mri_seq2seq.objective.VGG19Loss", lambda weights: Difference())
    terms, _ = Seq2SeqObjective(3, perceptual_weights="a file")(Translator(0.2), batch(ALL[:1]))
    assert terms["perceptual"].item() == pytest.approx(0.01 * 0.2, rel=1e-4), "of images in [0, 1]"


def test_images_that_no_pair_is_made_from_change_nothing(monkeypatch: pytest.MonkeyPatch):
    found, counts = [], []
    for everything in (False, True):
        if everything:
            monkeypatch.setattr(Pairs, "encoded", lambda pairs: (torch.arange(len(pairs.images)), pairs.row))
        network, objective = tiny(), Seq2SeqObjective(3, pairs_per_subject=1, gradient_weight=1.0)
        network.register_forward_hook(lambda module, given, result: counts.append(len(given[0])))
        torch.manual_seed(4)
        terms, _ = objective(network, {**batch(ALL), "available": torch.ones(2, 3, dtype=torch.bool)})
        sum(terms.values()).backward()
        found.append([*terms.values(), *(p.grad for p in network.parameters())])
    assert counts == [2, 6]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_few_pairs_are_bounded_and_repeatable():
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        network = Translator(0.2)
        terms, _ = Seq2SeqObjective(3, pairs_per_subject=2)(network, batch(ALL))
        assert len(network.asked) == 4
        assert sum(terms.values()).item() == pytest.approx(4, abs=1e-5)  # a mean, whatever the number of pairs
        drawn.append(network.asked)
    assert drawn[0] == drawn[1] and any(pairs != drawn[0] for pairs in drawn[2:])


def test_so_few_pairs_that_the_adversary_may_have_none_are_refused():
    with pytest.raises(ValueError, match="pairs_per_subject is 3"):
        Seq2SeqObjective(3, adversary=Adversary(PatchMaps(), torch.device("cpu")), pairs_per_subject=3)


def test_unpaired_subject_has_no_perceptual_error():
    objective = Seq2SeqObjective(3, adversary=Adversary(PatchMaps(), torch.device("cpu")), self_weight=0)
    objective.perceptual = nn.MSELoss()
    terms, _ = objective(Translator(), batch([[1, 0, 0]]))
    assert "perceptual" not in terms and terms["l1"].item() == 0 and terms["adversarial"].isfinite()


def test_a_lesion_s_voxels_count_more_in_the_l1():
    lesion = torch.zeros(2, 1, 8, 8, 3)
    lesion[:, :, :4] = 1  # half of each image
    images = {**batch(ALL), "lesion": lesion}
    plain, _ = Seq2SeqObjective(3)(Translator(0.2), images)
    weighted, _ = Seq2SeqObjective(3, lesion_weight=3.0)(Translator(0.2), images)
    assert weighted["l1"].item() == pytest.approx((1 + 3 / 2) * plain["l1"].item(), rel=1e-5)
    without, _ = Seq2SeqObjective(3, lesion_weight=3.0)(Translator(0.2), batch(ALL))
    assert without["l1"].item() == pytest.approx(plain["l1"].item(), rel=1e-6), "no mask is no lesion"


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_lesion_head_teaches_the_encoder_and_changes_no_image(spatial_dims: int):
    torch.manual_seed(0)
    sizes = {"channels": (4, 8), "res_blocks": 1, "lstm_layers": 0, "code_channels": 8, "bank_channels": 4}
    network = Seq2Seq(3, spatial_dims, lesion_head=True, **sizes)
    without = Seq2Seq(3, spatial_dims, **sizes)
    assert without.load_state_dict(network.state_dict(), strict=False).missing_keys == []
    image = {**batch(ALL), "lesion": (torch.rand(2, 1, 8, 8, 3) > 0.8).float()}
    image["image"] = image["image"].repeat_interleave(2, -1)[..., :4]
    image["lesion"] = image["lesion"].repeat_interleave(2, -1)[..., :4]
    if spatial_dims == 2:
        image = {name: value[..., :3] for name, value in image.items()}
    assert torch.equal(network.eval()(image["image"]), without.eval()(image["image"]))
    terms, _ = Seq2SeqObjective(3, spatial_dims=spatial_dims, lesion_head_weight=0.5)(network.train(), image)
    terms["lesion"].backward()
    assert network.lesion_head.weight.grad.abs().sum() > 0
    assert any(each.grad is not None and each.grad.any() for each in network.encoder.parameters())
    assert all(each.grad is None or not each.grad.any() for each in network.decoder.parameters())
    with torch.no_grad():
        network.lesion_head.weight.zero_()
        network.lesion_head.bias.fill_(-50)  # sure that there is none
    sure, _ = Seq2SeqObjective(3, spatial_dims=spatial_dims, lesion_head_weight=0.5)(network, image)
    healthy, _ = Seq2SeqObjective(3, spatial_dims=spatial_dims, lesion_head_weight=0.5)(
        network, {**image, "lesion": 0 * image["lesion"]}
    )
    assert healthy["lesion"].item() == pytest.approx(0, abs=1e-6) and sure["lesion"].item() > 10
