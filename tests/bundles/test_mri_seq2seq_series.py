"""Seq2Seq with series: their frames are its time axis, and sequences without frames are as ever."""

from __future__ import annotations

import pytest
import torch
from mri_seq2seq.common.inference.inferers import CompletionInferer, MatrixInferer
from mri_seq2seq.common.training.adversary import Adversary
from mri_seq2seq.common.training.pairs import draw_series_pairs, series_input
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mri_seq2seq.network import Seq2Seq
from mri_seq2seq.objective import Seq2SeqObjective

FRAMES = (1, 3, 2)  # T1, DCE, DWI
NAMES = ["T1", "DCE", "DWI"]
VALUES = [[0.0], [0.0, 0.1, 0.5], [0.0, 1.0]]
CODES = [{"frame_codes": "place", "lstm_layers": 0}, {"frame_codes": "value", "frame_values": VALUES, "lstm_layers": 0}]
CODES.append({**CODES[1], "lstm_layers": 1})
LAYOUTS = [{"slices": 3}, {"slices": 1, "slice_axis": -2}, {"spatial_dims": 3}]


def tiny(**options) -> Seq2Seq:
    torch.manual_seed(0)
    small = {"channels": (4, 8), "res_blocks": 1, "lstm_layers": 2, "code_channels": 8, "bank_channels": 4}
    return Seq2Seq(**{"sequences": 3, "frames": FRAMES, "norm": "branches", **small, **options}).eval()


def coded(**options) -> Seq2Seq:
    """Encoders that are told start as if they were not."""
    network = tiny(**options)
    for name, parameter in network.encoder.named_parameters():
        if ".norm." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def subjects(batch: int = 2, missing: tuple[int, ...] = ()) -> Tensor:
    """[B, 6, 8, 12, 6]; the first rows are air, and of the first subject some channels are missing."""
    image = torch.rand(batch, 6, 8, 12, 6, generator=torch.Generator().manual_seed(1)) + 0.1
    image[:, :, 0] = 0
    image[0, list(missing)] = -1
    return image.clamp(max=1)


@pytest.mark.parametrize("options", LAYOUTS)
@torch.no_grad()
def test_a_missing_frame_is_left_out(options: dict):
    network = tiny(**options)
    frames = torch.rand(2, 4, network.slices, *[8, 12, 6][: network.spatial_dims])
    code = network.codes[1:2]
    for missing, kept in (([2], [0, 1, 3]), ([0, 3], [1, 2]), ([0, 1, 2], [3])):
        marked = frames.clone()
        marked[:, missing] = -1
        given, without = network.encode(marked, code, 3), network.encode(frames[:, kept], code, 3)
        torch.testing.assert_close(given.compressed, without.compressed, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(given.features, without.features, atol=1e-5, rtol=1e-4)
    assert network.encode(torch.full_like(frames, -1), code).compressed.isfinite().all(), "none at all"


@pytest.mark.parametrize("options", LAYOUTS)
@torch.no_grad()
def test_completion(options: dict):
    network, image = tiny(**options), subjects(missing=(1, 2, 3))  # of the first subject the whole DCE
    pred = network(image)
    assert pred.shape == image.shape and pred.min() >= 0 and pred.max() <= 1
    assert (pred[:, :, 0] == 0).all() and (pred[:, :, 1:] > 0).all()
    assert (pred[0, 1] - pred[0, 2]).abs().max() > 1e-4, "frames differ"
    for b, sources in ((0, [0, 2]), (1, [0, 1, 2])):
        alone = network.complete(image[b : b + 1], sources=sources)
        torch.testing.assert_close(alone[0], pred[b], atol=1e-5, rtol=1e-4)
    changed = image.clone()
    changed[1, 1:4] *= 0.5
    made = network(changed)
    torch.testing.assert_close(made[1, 1:4], pred[1, 1:4])  # not made from itself
    assert not torch.allclose(made[1, 4:], pred[1, 4:], atol=1e-5)


@torch.no_grad()
def test_inferers():
    network, image = tiny(), subjects(1, missing=(4, 5))
    everything = network(image)
    lacking = CompletionInferer(NAMES, slab=2)(image, network)
    torch.testing.assert_close(lacking[:, 4:], everything[:, 4:], atol=1e-5, rtol=1e-4)
    assert not lacking[:, :4].any(), "only what is missing"
    matrix = MatrixInferer(NAMES, multi_source=True, paths=["T1", "DCE", "DWI"], slab=4)
    made = matrix(image, network)
    assert made.shape[1] == 3 * 6 + 6 + 2
    torch.testing.assert_close(made[:, 18:24][:, 4:], everything[:, 4:], atol=1e-5, rtol=1e-4)
    assert not made[:, 12:18].any(), "without DWI nothing is made from it"
    step = image.clone()
    step[:, 1:4] = made[:, 1:4]
    expected = network.translate(step, [1], [2])
    torch.testing.assert_close(made[:, 24:], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_trace_completes_other_subjects():
    network = tiny()
    traced = torch.jit.trace(network, subjects(), check_trace=False)
    for missing in ((0, 2), (1, 2, 3), (4,)):
        image = subjects(missing=missing)
        torch.testing.assert_close(traced(image), network(image), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", CODES)
@torch.no_grad()
def test_frames_with_codes(options: dict):
    network, image = coded(**options), subjects(missing=(1, 2, 3))
    pred = network(image)
    assert (pred[0, 1] - pred[0, 2]).abs().max() > 1e-4, "frames differ"
    compiled, lacking = torch.jit.script(network), subjects(missing=(2,))
    torch.testing.assert_close(compiled(lacking), network(lacking), atol=1e-5, rtol=1e-4)
    swapped = image[1:, [0, 3, 2, 1, 4, 5]]
    assert not torch.allclose(network(swapped)[:, :1], pred[1:, :1], atol=1e-5), "of a source, too"
    code = network.codes[1:2]
    first = network.encode(network.sequence_input(image[1:], 1), code, 3)
    torch.testing.assert_close(network.decode(first, code), network.decode(first, code, 3)[:, 0])
    torch.testing.assert_close(network.freeze(1).complete_available(image, [1])[:, 1:4], pred[:, 1:4])


@torch.no_grad()
def test_what_is_told_of_frames():
    options = {**CODES[1], "source_code": False}
    network, image = coded(**options), subjects(1, missing=(1, 2, 3))
    pred = network(image)
    network.tell(torch.tensor([[0, 0, 0], [0, 0.1, 0.9], [0, 1.0, 0]]))
    told = network(image)
    torch.testing.assert_close(told[:, [1, 2]], pred[:, [1, 2]])
    assert (told[:, 3] - pred[:, 3]).abs().max() > 1e-4
    network.tell(torch.tensor([[0, 0, 0], [0, 0.1, 0.5], [0, 0.8, 0]]))
    assert (network(image)[:, 0] - pred[:, 0]).abs().max() > 1e-4, "a source's b values"
    more = {"frames": (1, 4, 2), "frame_values": [[0.0], [0.0, 0.1, 0.3, 0.5], [0.0, 1.0]]}
    other = coded(**{**options, **more})
    other.load_state_dict(network.state_dict())
    made = other(torch.cat([image[:, :4], image[:, 3:]], 1))
    torch.testing.assert_close(made[:, [0, 1, 2, 4, 5, 6]], pred, atol=1e-5, rtol=1e-4)  # at any times


def test_a_step_tells_each_subject_its_own():
    network = coded(**CODES[2]).train()
    image, values = subjects()[..., :3], torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(2))
    terms = [
        Seq2SeqObjective(3)(network, {"image": image[b], "frame_values": values[b]})[0]["l1"]
        for b in ([0, 1], [0], [1])
    ]
    torch.testing.assert_close(terms[0], (terms[1] + terms[2]) / 2)
    swapped, _ = Seq2SeqObjective(3)(network, {"image": image, "frame_values": values.flip(0)})
    assert (swapped["l1"] - terms[0]).abs() > 1e-4


def test_frames_need_something_that_tells_them_apart():
    with pytest.raises(ValueError, match="lstm_layers is 0, and without ConvLSTMs"):
        tiny(lstm_layers=0)
    with pytest.raises(ValueError, match="neither times nor b values are known of all frames of sequence 2 of 3"):
        tiny(frame_codes="value", frame_values=[[0.0], [], [0.0, 1.0]])
    with pytest.raises(ValueError, match="frame_codes is 'time'; choose one of none, place, value"):
        tiny(frame_codes="time")
    with pytest.raises(ValueError, match=r"frames is \[1, 3\]; it must be a number above 0 for each of 3 sequences"):
        tiny(frames=[1, 3])


def test_a_sequence_is_drawn_as_often_whatever_its_frames():
    network, image = tiny(), subjects(1)
    torch.manual_seed(0)
    drawn = [draw_series_pairs(image, network, pairs_per_subject=1) for _ in range(1800)]
    counts = torch.bincount(torch.tensor([3 * int(each.source[each.row]) + int(each.target) for each in drawn]))
    assert len(counts) == 9 and counts.min() > 150 and counts.max() < 250  # 200 +- 13 each


def test_pairs_of_ragged_subjects():
    network, image = tiny(), subjects(missing=(0, 2))  # the first lacks T1 and the second frame of DCE
    pairs = draw_series_pairs(image, network)
    assert pairs.encoded.tolist() == [0, 1, 2] and [len(each) for each in pairs.images] == [1, 2, 2]
    assert torch.equal(pairs.images[1], image[:, 1:4]) and torch.equal(pairs.images[0], image[1:, :1])
    assert pairs.target.tolist() == sorted(pairs.target.tolist()) and len(pairs.target) == 4 + 9
    f = 0
    for p, (row, target) in enumerate(zip(pairs.row.tolist(), pairs.target.tolist(), strict=True)):
        for channel in {0: [0], 1: [1, 2, 3], 2: [4, 5]}[target]:
            assert pairs.pair[f] == p and torch.equal(pairs.truths[f, 0], image[pairs.subject[row], channel])
            f += 1
    assert f == len(pairs.truths)


class Constant(Seq2Seq):
    """Makes the target's code of every source, whatever its frames, and lists the frames that it encoded."""

    def forward(self, image, source, rows, target):
        self.seen = [each.shape[:2] for each in image]
        value = torch.tensor([0.25, 0.5, 0.75])
        first = image[0][:1, 0]
        made = [value[t].expand(len(r) * self.frames[t], *first.shape[1:]) for t, r in enumerate(rows)]
        return type("Made", (), {"prediction": torch.cat(made), "representation": None})


def test_the_loss_is_over_all_frames_and_a_pair_counts_once():
    network = Constant(sequences=3, frames=FRAMES, slices=1, channels=(4,), res_blocks=0, lstm_layers=1)
    image = torch.full((1, 6, 4, 4, 1), 0.5)
    image[:, 2] = -1  # DCE's second frame is missing, and its last differs by 0.2 from what is made
    image[:, 3] = 0.7
    terms, samples = Seq2SeqObjective(3, slice_axis=-1)(network, {"image": image})
    assert network.seen == [(1, 1), (1, 3), (1, 2)] and not samples, "each frame is encoded once"
    # |made - true| of T1 0.25, DCE (0 + 0.2) / 2, DWI 0.25; 10 times, in [-1, 1]; 9 pairs, 3 of them with themselves.
    torch.testing.assert_close(terms["l1"], torch.tensor(20 * 2 * (0.25 + 0.1 + 0.25) / 9))
    torch.testing.assert_close(terms["l1_self"], torch.tensor(20 * (0.25 + 0.1 + 0.25) / 9))


def test_a_step_trains_every_part():
    network = tiny(source_code=True).train()
    terms, _ = Seq2SeqObjective(3, gradient_weight=1.0)(network, {"image": subjects(missing=(0, 2))[..., :3]})
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(p.grad.abs().max() > 0 for p in network.decoder_lstm.cells.parameters())


def step_flops(frames: int) -> float:
    network = tiny(frames=(1, frames, 1)).train()
    with FlopCounterMode(display=False) as counter:
        terms, _ = Seq2SeqObjective(3)(network, {"image": torch.rand(1, 2 + frames, 8, 8, 3)})
        sum(terms.values()).backward()
    return counter.get_total_flops()


def test_cost_grows_linearly_with_frames():
    four, eight, twelve = (step_flops(frames) for frames in (4, 8, 12))
    assert twelve - eight == pytest.approx(eight - four, rel=0.01) and eight < 2 * four


def test_unpaired_series_meet_an_adversary_and_come_back():
    """Eq. 2 sees every made frame of another sequence, also of missing ones, and each frame that is there; Eq. 3 by
    hand.
    """
    network, image = tiny().train(), subjects(1, missing=(2, 4, 5))[..., :3]  # no DWI, and a frame of DCE lacks
    image = image.repeat_interleave(4, 2).repeat_interleave(4, 3)
    adversary = Adversary.of_sequences(3, 2, 3, torch.device("cpu"))
    batch = {"image": image}
    terms, shown = Seq2SeqObjective(3, adversary=adversary)(network, batch)
    paired, nothing = Seq2SeqObjective(3)(network, batch)
    assert not nothing and all(torch.equal(terms[name], paired[name]) for name in paired), (
        "what is missing has no truth"
    )
    assert shown["real_sequence"].tolist() == [0, 1, 1] and shown["fake_sequence"].tolist() == [0] + [1] * 3 + [2] * 4
    stacks = {i: series_input(network.channels(image, i), 2) for i in (0, 1)}
    assert torch.equal(shown["real"], torch.cat([stacks[0][:, 0], stacks[1][0, [0, 2]]]))
    errors = []
    for i, j in ((0, 1), (0, 2), (1, 0), (1, 2)):
        code, other = network.codes[i : i + 1], network.codes[j : j + 1]
        made = network.decode(network.encode(stacks[i], code, 3), other, FRAMES[j])
        made = made * (stacks[i] > 0).any(1, keepdim=True)
        back = network.decode(network.encode(made, other, 3), code, FRAMES[i])
        errors.append((back - stacks[i])[:, [0, 2] if i else [0]].abs())
    expected = 10 * 2 * torch.cat(errors, 1).mean()
    torch.testing.assert_close(terms["cycle"], expected, atol=1e-4, rtol=1e-4)
    sum(terms.values()).backward()
    loss, _ = adversary.backward(**shown)
    assert loss.isfinite() and all(p.grad is not None for p in network.decoder_lstm.parameters())
