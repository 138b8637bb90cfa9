"""Seq2Seq at the paper's size (counted, never run) and at a tiny one (run)."""

from __future__ import annotations

import pytest
import torch
from mri_seq2seq.common.blocks.conditional import CONDITIONING
from mri_seq2seq.common.translation import select
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mri_seq2seq.network import Representation, Seq2Seq

TOLD = {"norm": "branches", "source_code": True}
SIZES = [{"slices": 1}, {"slices": 3}, {"spatial_dims": 3}, {"slices": 3, **TOLD}]  # 2D, 2.5D, 3D


def tiny(**options) -> Seq2Seq:
    torch.manual_seed(0)
    small = {"channels": (4, 8), "res_blocks": 1, "lstm_layers": 2, "code_channels": 8, "bank_channels": 4}
    return Seq2Seq(**{"sequences": 3, **small, **options}).eval()


def network_input(network: Seq2Seq, batch: int = 2) -> Tensor:
    return torch.rand(batch, network.slices, *[8, 12, 6][: network.spatial_dims])


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize(
    ("conditioning", "spatial_dims", "total"),
    [("hyperconv", 2, 155.16), ("adain", 2, 43.66), ("dynamic", 2, 520.63), ("hyperconv", 3, 465.18)],
)
def test_parameters_of_the_papers_networks(conditioning: str, spatial_dims: int, total: float):
    with torch.device("meta"):
        network = Seq2Seq(conditioning=conditioning, spatial_dims=spatial_dims)
    assert millions(network) == pytest.approx(total, abs=0.005)
    if total == 155.16:
        parts = network.encoder, network.encoder_lstm, network.decoder_lstm, network.decoder
        assert [round(millions(part), 2) for part in parts] == [7.46, 14.16, 14.16, 119.38]


def test_four_targets_from_one_encoding_cost_130_gmacs():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = Seq2Seq()
        representation = network.encode(torch.empty(1, 3, 192, 192), network.codes[:1])
        for j in range(4):
            assert network.decode(representation, network.codes[j : j + 1]).shape == (1, 3, 192, 192)
    assert 120 <= counter.get_total_flops() / 2e9 <= 135


def test_frozen_decoder_of_the_papers_size():
    with torch.device("meta"):
        frozen = Seq2Seq().freeze(0)
    assert millions(frozen.decoder) == pytest.approx(7.46, abs=0.01)
    assert millions(frozen.code_layer) == 0


@pytest.mark.parametrize("conditioning", CONDITIONING)
@pytest.mark.parametrize("options", SIZES)
@torch.no_grad()
def test_images_have_the_inputs_shape_and_range(options: dict, conditioning: str):
    network = tiny(conditioning=conditioning, **options)
    image = network_input(network)
    made = network.decode(network.encode(image, network.codes[:1]), network.codes[1:2])
    assert made.shape == image.shape
    assert made.min() >= 0 and made.max() <= 1 and made.std() > 0.01


@pytest.mark.parametrize("options", SIZES)
@torch.no_grad()
def test_completion_of_a_subject(options: dict):
    network, image = tiny(**options), torch.rand(2, 3, 8, 12, 6)
    image[1, 2] = -1
    image[:, :, 0] = image[:, :, 0].clamp(max=0)
    pred = network(image)
    assert pred.shape == image.shape and pred.min() >= 0 and pred.max() <= 1
    assert (pred[:, :, 0] == 0).all() and (pred[:, :, 1:] > 0).all()
    image[0, 0, 1:] *= 0.5
    torch.testing.assert_close(network(image)[0, 0], pred[0, 0])  # not made from itself


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_trace_completes_other_subjects():
    network, image = tiny(), torch.rand(2, 3, 8, 12, 4)
    traced = torch.jit.trace(network, image, check_trace=False)
    image[0, 1] = image[1, 0] = image[1, 2] = -1
    torch.testing.assert_close(traced(image), network(image))


@pytest.mark.parametrize("options", SIZES)
@torch.no_grad()
def test_encoding_once_equals_encoding_for_every_target(options: dict):
    network = tiny(**options)
    image, code = network_input(network, 3), network.codes
    once = network.encode(image, code[:1])
    assert once.source.shape == (3, 3)
    for j in range(3):
        one_target = network.decode(once, code[j : j + 1])
        torch.testing.assert_close(network.decode(network.encode(image, code[:1]), code[j : j + 1]), one_target)
        torch.testing.assert_close(network.decode(once, code)[j], one_target[j], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["everywhere", "branches"])
@torch.no_grad()
def test_a_norm_on_the_main_path_forgets_brightness(norm: str):
    network = tiny(norm=norm, lstm_layers=0)
    image = network_input(network)
    bright, dark = (network.encode(factor * image, network.codes[:1]).features for factor in (1, 0.5))
    assert torch.allclose(bright, dark, atol=1e-2) == (norm == "everywhere")
    with pytest.raises(ValueError, match="norm is 'nowhere'; choose one of everywhere, branches"):
        tiny(norm="nowhere")


@pytest.mark.parametrize("told", [False, True])
@torch.no_grad()
def test_the_encoder_may_be_told_its_source(told: bool):
    network = tiny(source_code=told, lstm_layers=0)
    image, code = network_input(network, 3), network.codes
    torch.testing.assert_close(network.encode(image, code[:1]).features, network.encode(image, code[1:2]).features)
    for parameter in network.encoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    mixed = network.encode(image, code).features
    for i in range(3):
        alone = network.encode(image, code[i : i + 1]).features
        torch.testing.assert_close(mixed[i], alone[i], atol=1e-5, rtol=1e-4)
        assert torch.allclose(mixed[i - 1], alone[i - 1], atol=1e-3) != told


@pytest.mark.parametrize("options", SIZES)
@torch.no_grad()
def test_time_points(options: dict):
    network = tiny(**options)
    image, code = network_input(network), network.codes[:1]
    one = network.encode(image, code)
    for made, expected in zip(network.encode(image[:, None], code), one, strict=True):
        torch.testing.assert_close(made, expected)
    for target in (network.codes[1:2], network.codes[1:]):  # one for all, and one per sample
        several = network.decode(one, target, frames=3)
        assert several.shape == (2, 3, *image.shape[1:])
        torch.testing.assert_close(several[:, 0], network.decode(one, target), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(several[:, 0], several[:, 2], atol=1e-6)
        for b in range(2):
            alone = network.decode(select(one, torch.tensor([b])), target[b % len(target)][None], frames=3)
            torch.testing.assert_close(several[b : b + 1], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(network.decode(one, target, frames=1)[:, 0], network.decode(one, target))


@torch.no_grad()
def test_every_time_point_of_a_source_counts():
    network = tiny()
    image = torch.rand(2, 4, 3, 8, 12)
    before = network.encode(image, network.codes[:1])
    features = torch.stack([network.encoder(2 * image[:, t] - 1) for t in range(4)], 1)
    torch.testing.assert_close(before.compressed, network.encoder_lstm(features).mean(1), atol=1e-5, rtol=1e-5)
    for t in range(4):
        changed = image.clone()
        changed[0, t] = 1 - changed[0, t]
        after = network.encode(changed, network.codes[:1])
        assert not torch.allclose(after.compressed[0], before.compressed[0], atol=1e-6)
        torch.testing.assert_close(after.compressed[1], before.compressed[1])


@torch.no_grad()
def test_without_convlstms_the_encoding_is_the_encoders():
    network = tiny(lstm_layers=0)
    image = network_input(network)
    features = network.encoder(2 * image - 1)
    representation = network.encode(image, network.codes[:1])
    assert isinstance(representation, Representation)
    torch.testing.assert_close(representation.features, features)
    torch.testing.assert_close(representation.compressed, features)


@pytest.mark.parametrize("conditioning", CONDITIONING)
@pytest.mark.parametrize("options", SIZES)
@torch.no_grad()
def test_frozen_network_makes_the_live_ones_image(options: dict, conditioning: str):
    network = tiny(conditioning=conditioning, **options)
    image, target = network_input(network), network.codes[2:3]
    before = sum(p.numel() for p in network.parameters())
    frozen = network.freeze(2)
    live = network.decode(network.encode(image, network.codes[:1]), target)
    made = frozen.decode(frozen.encode(image, network.codes[:1]), target)
    torch.testing.assert_close(made, live, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in network.parameters()) == before  # a copy was frozen
    assert sum(p.numel() for p in frozen.parameters()) < before


def test_sizes_that_do_not_halve_are_refused():
    network = tiny(channels=(4, 8, 8))
    assert network.downsampling == 4
    with pytest.raises(ValueError, match=r"\(8, 6\) is not a multiple of 4"):
        network(torch.rand(1, 3, 8, 6, 4))
