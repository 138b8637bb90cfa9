"""Eq. 6 to 8 by hand, with a translator that knows the answer; when each part of the schedule sets in."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mri_vq_seq2seq.common.training.pairs import draw_pairs
from torch import Tensor, nn

from mri_vq_seq2seq.augmentation import IntensityAugmentation
from mri_vq_seq2seq.network import VQSeq2Seq
from mri_vq_seq2seq.objective import (
    Consistency,
    Reconstruction,
    VQSeq2SeqObjective,
    foreground_of,
    to_positions,
    with_samples,
)

SLOPES = torch.tensor([1.0, 0.5, 0.25])  # image of sequence j = slope j * anatomy
ALL, SOME = [[1, 1, 1]] * 2, [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
PAIRED = [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]


class Translator(nn.Module):
    """Knows how the sequences hang together; adds `offset`, notes what it was asked, has no latent of its own."""

    def __init__(self, offset: float = 0.0, vq: float = 0.0) -> None:
        super().__init__()
        self.offset, self.vq = offset, vq
        self.asked: list[tuple[int, int]] = []
        self.seen: Tensor | None = None
        self.sampled = False

    def forward(
        self, image: Tensor, source: Tensor, rows: Sequence[Tensor], target: Tensor, subject: Tensor | None
    ) -> tuple[Tensor, SimpleNamespace]:
        self.seen, self.sampled = image, subject is not None
        anatomy = image / SLOPES[source.argmax(1)].view(-1, *[1] * (image.ndim - 1))
        if subject is not None:  # of one image of each subject: they agree
            anatomy = torch.cat([anatomy, *(anatomy[subject == g][:1] for g in subject.unique())])
        self.asked += [(int(r), j) for j, each in enumerate(rows) for r in each]
        made = torch.cat([SLOPES[j] * anatomy[each] for j, each in enumerate(rows)]) + self.offset
        latent = image[:, :1, ::2, ::2].repeat(1, 3, *[1] * (image.ndim - 2))
        return made, SimpleNamespace(latent=latent, loss=torch.full((len(image),), self.vq))


def batch(available: list[list[int]]) -> dict[str, Tensor]:
    """Images [B, S, 8, 8, 1]."""
    anatomy = 0.1 + 0.7 * torch.rand(len(available), 1, 8, 8, 1, generator=torch.Generator().manual_seed(0))
    present = torch.tensor(available, dtype=torch.bool)[(...,) + (None,) * 3]
    return {"image": torch.where(present, SLOPES.view(1, 3, 1, 1, 1) * anatomy, -1.0)}


def objective(**options: Any) -> VQSeq2SeqObjective:
    starts = {"contrastive_start": -1, "sampling_start": -1, "translation_start": -1}
    return VQSeq2SeqObjective(3, **{"consistency_weight": 0.0, **starts, **options})


def tiny(sequences: int = 3, **options: Any) -> VQSeq2Seq:
    torch.manual_seed(0)
    small = {"channels": (4, 8), "res_blocks": 1, "codes": 16, "code_channels": 8, "bank_channels": 4}
    return VQSeq2Seq(sequences, **{**small, **options})


def test_eq_6_of_an_offset_and_of_equals():
    truth = torch.rand(2, 1, 16, 16)
    same = Reconstruction(2, 10.0, 1.0, 0.1, "none")(truth, truth)
    assert same.keys() == {"l1", "ssim"} and all(term.item() == pytest.approx(0, abs=1e-5) for term in same.values())
    off = Reconstruction(2, 10.0, 1.0, 0.1, "none")(truth + 0.2, truth)
    assert off["l1"].item() == pytest.approx(10 * 2 * 0.2, rel=1e-5), "in [-1, 1]"
    assert 0 < off["ssim"] < 1
    inverse = Reconstruction(2, 10.0, 3.0, 0.1, "none")(1 - truth, truth)
    assert inverse["ssim"].item() > 3, "structure turned over is worse than none"


def test_eq_6_of_constants():
    one, other = torch.full((1, 1, 8, 8), 0.2), torch.full((1, 1, 8, 8), 0.6)
    made = Reconstruction(2, 10.0, 1.0, 0.1, "none")(one, other)
    assert made["ssim"].item() == pytest.approx(1 - (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), rel=1e-3)


def test_the_perceptual_term_sees_the_images_in_0_to_1(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "mri_vq_seq2seq.objective.VGG19Loss", lambda weights: lambda made, truths, row: F.mse_loss(made, truths)
    )
    terms = Reconstruction(2, 10.0, 1.0, 0.1, "a file")(torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8))
    assert terms["perceptual"].item() == pytest.approx(0.1 * 0.25)


def test_eq_7_squares_of_the_foreground():
    one, other = torch.zeros(1, 2, 4, 4, requires_grad=True), torch.full((1, 2, 4, 4), 3.0, requires_grad=True)
    inside = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    inside[..., 0] = True
    loss = Consistency().squared(one, other, inside)
    assert loss.item() == pytest.approx(2 * 9), "both orders"
    loss.backward()
    torch.testing.assert_close(one.grad[..., 0], torch.full((1, 2, 4), -2 * 3.0 / 8))
    torch.testing.assert_close(other.grad, -one.grad)
    assert not one.grad[..., 1:].any(), "air does not count"


def by_hand(one: Tensor, other: Tensor, temperature: float) -> float:
    """InfoNCE over positions [M, D] of two views, anchor by anchor."""
    views = torch.nn.functional.normalize(torch.cat([one, other]), dim=1)
    losses = []
    for i in range(len(views)):
        logits = views @ views[i] / temperature
        rest = torch.tensor([k for k in range(len(views)) if k != i])
        losses.append(torch.logsumexp(logits[rest], 0) - logits[(i + len(one)) % len(views)])
    return torch.stack(losses).mean().item()


def test_eq_7_contrast_by_hand():
    torch.manual_seed(0)
    one, other = torch.randn(2, 3, 3, 4), torch.randn(2, 3, 3, 4)
    loss = Consistency(0.07, 12).contrastive(one, other, torch.ones(2, 1, 3, 4, dtype=torch.bool))
    pairs = [by_hand(a.flatten(1).T, b.flatten(1).T, 0.07) for a, b in zip(one, other, strict=True)]
    assert loss.item() == pytest.approx(2 * sum(pairs) / 2, rel=1e-5), "both orders"
    again = Consistency(0.07, 12).contrastive(other, one, torch.ones(2, 1, 3, 4, dtype=torch.bool))
    assert again.item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("positions", [4, 6, 100])
def test_positions_are_drawn_from_the_foreground_alone(positions: int):
    """The air is poisoned: whoever draws it, gets NaN."""
    inside = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    inside[0, 0, :2, :3] = inside[1, 0, 5] = True
    one = torch.randn(2, 3, 8, 8).masked_fill(~inside, torch.nan).requires_grad_()
    contrast = Consistency(0.07, positions)
    losses = []
    for seed in range(5):
        torch.manual_seed(seed)
        clean = torch.where(inside, one, 0.0 if positions > 6 else torch.nan)
        losses.append(contrast.contrastive(clean, clean, inside).item())
    assert all(0 <= loss < 2 * 8 for loss in losses)
    if positions == 4:
        assert len(set(losses)) > 1, "others each time"
    if positions == 100:
        pairs = [by_hand(z[:, m[0]].T, z[:, m[0]].T, 0.07) for z, m in zip(one.detach(), inside, strict=True)]
        assert losses[0] == pytest.approx(2 * (2 * 6 * pairs[0] + 2 * 8 * pairs[1]) / 28, rel=1e-4)


def test_no_foreground_has_no_contrast():
    latent = torch.randn(1, 3, 4, 4, requires_grad=True)
    nothing = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    loss = Consistency().contrastive(latent, latent, nothing) + Consistency().squared(latent, latent, nothing)
    loss.backward()
    assert loss.item() == 0 and not latent.grad.any()


def test_the_contrast_of_a_volume_is_as_small_as_that_of_a_slice():
    inside, sizes = torch.ones(1, 1, 40, 40, 40, dtype=torch.bool), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
        Consistency(positions=64).contrastive(*torch.randn(2, 1, 3, 40, 40, 40, requires_grad=True), inside)
    assert max(sizes) <= 3 * 40**3


@pytest.mark.parametrize("available", [ALL, SOME])
@pytest.mark.parametrize("sampled", [False, True])
def test_eq_8_of_an_offset(available: list, sampled: bool):
    """Six reconstructions, whatever the number of pairs; the quantiser's loss of two images."""
    network = Translator(0.1, vq=0.5)
    terms, samples = objective(sampling_start=0 if sampled else -1)(network, batch(available))
    assert samples == {} and terms.keys() == {"l1", "ssim", "vq"}
    assert terms["l1"].item() == pytest.approx(6 * 10 * 2 * 0.1, rel=1e-4)
    assert terms["vq"].item() == pytest.approx(10 * 2 * 0.5)
    assert network.sampled == sampled
    images = sum(map(sum, available))
    from_samples = [(row, j) for row, j in network.asked if row >= images]
    several = [g for g, each in enumerate(available) if sum(each) > 1]
    wanted = {(images + g, j) for g in several for j in range(3) if available[g][j]}
    assert set(from_samples) == (wanted if sampled else set()) and len(set(network.asked)) == len(network.asked)


@pytest.mark.parametrize("options", [{}, {"spatial_dims": 3}, {"slice_axis": -3}])
def test_a_perfect_translator_has_no_error(options: dict):
    data = batch(SOME)
    data["image"] = data["image"].expand(-1, -1, 8, 8, 8) if options else data["image"]
    terms, _ = objective(sampling_start=0, **options)(Translator(), data)
    assert all(term.item() == pytest.approx(0, abs=1e-4) for term in terms.values())


def test_with_samples():
    row, target, truth = with_samples(draw_pairs(batch(SOME)["image"]))
    # Images 0, 1 are the first subject's sequences 0, 1; 2, 3 the second's 1, 2; 4 the third's 2, which has no sample.
    asked = set(zip(row.tolist(), target.tolist(), truth.tolist(), strict=True))
    pairs = {(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 1), (2, 1, 2), (3, 1, 2), (2, 2, 3), (3, 2, 3), (4, 2, 4)}
    assert asked == pairs | {(5, 0, 0), (5, 1, 1), (6, 1, 2), (6, 2, 3)}
    assert target.tolist() == sorted(target.tolist())


def test_foregrounds():
    images = torch.zeros(3, 1, 4, 4)
    images[0, 0, 0] = images[1, 0, 1] = images[2, 0, 2] = 1
    inside = foreground_of(images, torch.tensor([0, 0, 1]))
    assert inside.shape == (5, 1, 4, 4) and torch.equal(inside[:3], images > 0)
    assert inside[3, 0, :, 0].tolist() == [True, True, False, False] and torch.equal(inside[4], images[2] > 0)
    block = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    block[0, 0, :2, :2] = True
    block[0, 0, 0, 2] = True
    assert to_positions(block, torch.Size([2, 2])).tolist() == [[[[True, False], [False, False]]]]


def test_the_truth_stays_clean():
    torch.manual_seed(0)
    network, data = Translator(), batch(ALL)
    wild = IntensityAugmentation(1.0, noise=0.3)
    terms, _ = objective(intensity=wild)(network, data)
    clean = data["image"].flatten(0, 1).squeeze(-1)[:, None]
    assert not torch.allclose(network.seen, clean) and terms["l1"] > 1

    def knows_the_truth(image: Tensor, source: Tensor, *arguments: Any) -> tuple:
        return Translator()(clean, source, *arguments)

    terms, _ = objective(intensity=wild)(knows_the_truth, data)
    assert terms["l1"].item() == pytest.approx(0, abs=1e-4)


SCHEDULE = {"consistency_weight": 10.0, "contrastive_start": 1, "sampling_start": 2, "translation_start": 3}


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_the_schedule(epoch: int, monkeypatch: pytest.MonkeyPatch):
    made, network = objective(**SCHEDULE), Translator()
    made.epoch = epoch
    translated = []
    monkeypatch.setattr(made.translation, "forward", lambda network, seen, *rest: translated.append(1) or seen)
    terms, _ = made(network, batch(ALL))
    assert ("contrastive" in terms) == (epoch > 1) and "consistency" in terms
    assert network.sampled == (epoch > 2) and bool(translated) == (epoch > 3)


def test_the_authors_schedule_and_weights():
    made = VQSeq2SeqObjective(4)
    assert (made.contrastive_start, made.sampling_start, made.translation_start) == (100, 200, 200)
    assert made.reconstruction.weights == {"l1": 10.0, "ssim": 1.0, "perceptual": 0.1}
    assert made.consistency_weight == made.vq_weight == 10 and made.consistency.temperature == 0.07


def test_missing_sequences_never_enter():
    made, network, data = objective(consistency_weight=10.0, contrastive_start=0, sampling_start=0), tiny(), batch(SOME)
    results = []
    for fill in (0.0, 0.9):
        image = data["image"].clone()
        missing = image == -1
        missing[:, :, 0, 0] = False  # a voxel that still says that it is missing
        torch.manual_seed(0)
        terms, _ = made(network.eval(), {"image": torch.where(missing, fill, image)})
        results.append({name: term.item() for name, term in terms.items()})
    assert results[0] == results[1]


@pytest.mark.parametrize("quantiser", ["gradient", "ema", "none"])
@pytest.mark.parametrize("available", [SOME, [[0, 1, 0]]], ids=["some", "one"])
def test_a_whole_step_with_the_network(quantiser: str, available: list, monkeypatch: pytest.MonkeyPatch):
    network, encoded = tiny(quantiser=quantiser), []
    made = objective(consistency_weight=10.0, contrastive_start=0, sampling_start=0, intensity=IntensityAugmentation())
    encode = network.encode
    monkeypatch.setattr(network, "encode", lambda image, source: encoded.append(len(image)) or encode(image, source))
    terms, _ = made(network, batch(available))
    assert encoded == [sum(map(sum, available))], "each image once"
    sum(terms.values()).backward()
    # Distributed training waits for a gradient of every parameter, be it 0.
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    made.translation_start = 0
    terms, _ = made(network, batch(available))
    assert all(term.isfinite() for term in terms.values())


def test_no_step_ever_sees_t1_with_flair():
    """The paper's pairings: what is made from an image, compared with it or sampled with it is of its own pairing."""
    made, network = VQSeq2SeqObjective(4, contrastive_start=0, sampling_start=0, translation_start=0), tiny(4)
    seen: set[tuple[int, int]] = set()
    forward = network.forward

    def spy(image: Tensor, source: Tensor, rows: Sequence[Tensor], target: Tensor, subject: Tensor | None = None):
        if subject is not None:  # the step itself, not a translation of what the encoder sees
            sequence, owner = source.argmax(1), subject
            for j, each in enumerate(rows):
                for r in each:
                    origin = [int(r)] if r < len(image) else (owner == r - len(image)).nonzero()[:, 0].tolist()
                    seen.update((int(sequence[n]), j) for n in origin)
        return forward(image, source, rows, target, subject)

    network.forward = spy
    draw = torch.Generator().manual_seed(0)
    for step in range(6):
        rows = torch.randint(3, (4,), generator=draw)
        available = torch.tensor(PAIRED, dtype=torch.bool)[rows][(...,) + (None,) * 3]
        image = torch.where(available, 0.2 + 0.6 * torch.rand(4, 4, 8, 8, 1, generator=draw), -1.0)
        torch.manual_seed(step)
        made(network, {"image": image})
    assert seen == {(i, j) for i in range(4) for j in range(4) if abs(i - j) < 2}
