"""VQ-Seq2Seq at the paper's size (counted, never run) and at a tiny one (run); Eq. 4 and 5 by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mri_vq_seq2seq.network import VQSeq2Seq, common_latent

SIZES = [{}, {"slices": 3, "norm": "branches"}, {"spatial_dims": 3}]  # 2D, 2.5D, 3D
KINDS = ["gradient", "ema", "none"]


def tiny(**options) -> VQSeq2Seq:
    torch.manual_seed(0)
    small = {"channels": (4, 8), "res_blocks": 1, "codes": 32, "code_channels": 8, "bank_channels": 4}
    return VQSeq2Seq(**{"sequences": 3, **small, **options}).eval()


def network_input(network: VQSeq2Seq, batch: int = 2) -> Tensor:
    return torch.rand(batch, network.slices, *[8, 12, 6][: network.spatial_dims])


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def gmacs(call) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(("options", "total"), [({}, 126.74), ({"spatial_dims": 3}, 380.24), ({"codes": 8192}, 126.76)])
def test_parameters_of_the_papers_networks(options: dict, total: float):
    with torch.device("meta"):
        network = VQSeq2Seq(**options)
    assert millions(network) == pytest.approx(total, abs=0.005)


def test_nothing_is_encoded_twice():
    """A training step of the paper: two images encoded, six decoded; a completion decodes once per target."""
    with torch.device("meta"):
        network = VQSeq2Seq()
        code, images = network.codes[:2], torch.empty(2, 1, 192, 192)
        representation = network.encode(images[:1], code[:1])
        encoding = gmacs(lambda: network.encode(images[:1], code[:1]))
        decoding = gmacs(lambda: network.decode(representation, code[:1]))
        kernels = 119.4e6 / 1e9  # the banks' products, once per target and not per image
        rows, subject = (torch.arange(3), torch.arange(3)), torch.zeros(2, dtype=torch.long, device="cpu")
        step = gmacs(lambda: network(images, code, rows, code, subject))
        subject_image = torch.empty(1, 4, 192, 192, 1)
        completion = gmacs(lambda: network.complete(subject_image, [0, 1, 2], [3]))
    assert encoding == pytest.approx(17.8, abs=0.1) and decoding == pytest.approx(22.0, abs=0.1)
    assert step == pytest.approx(2 * encoding + 6 * decoding - 4 * kernels, rel=1e-3)
    assert completion == pytest.approx(3 * encoding + decoding, rel=1e-3)


@pytest.mark.parametrize("quantiser", KINDS)
@pytest.mark.parametrize("options", SIZES)
@torch.no_grad()
def test_images_have_the_inputs_shape_and_range(options: dict, quantiser: str):
    network = tiny(quantiser=quantiser, **options)
    image = network_input(network)
    representation = network.encode(image, network.codes[:1])
    assert representation.latent.shape == (2, 8 if quantiser == "none" else 3, *[s // 2 for s in image.shape[2:]])
    assert representation.loss.shape == (2,) and representation.source.shape == (2, 3)
    made = network.decode(representation, network.codes[1:2])
    assert made.shape == image.shape
    assert made.min() >= 0 and made.max() <= 1 and made.std() > 0.01


@torch.no_grad()
def test_the_encoder_may_be_told_its_source():
    network, image = tiny(source_code=True), torch.rand(1, 1, 8, 12)
    for parameter in network.encoder.parameters():
        nn.init.normal_(parameter, std=0.1)
    first, second = (network.encode(image, network.codes[i : i + 1]).features for i in (0, 1))
    assert not torch.allclose(first, second)


@torch.no_grad()
def test_the_latent_is_made_of_codes():
    network = tiny()
    latent = network.encode(network_input(network), network.codes[:1]).latent
    positions = latent.movedim(1, -1).flatten(0, 2)
    assert (positions[:, None] == network.quantiser.codebook).all(2).any(1).all()


def test_without_a_quantiser_the_latent_is_the_encoders():
    network = tiny(quantiser="none")
    image = network_input(network)
    representation = network.encode(image, network.codes[:1])
    torch.testing.assert_close(representation.latent, network.encoder(2 * image - 1))
    assert representation.features is representation.latent and not representation.loss.any()


def test_eq_4_by_hand():
    one, two, three = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]), torch.tensor([8.0, 5.0])
    latents = torch.stack([one, two, three])[None, :, :, None, None].repeat(4, 1, 1, 1, 1)
    mean, variance = common_latent(latents, torch.tensor([[1.0, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0]]))
    assert mean.shape == (4, 2, 1, 1)
    torch.testing.assert_close(mean[:, :, 0, 0], torch.tensor([[4.0, 3.0], [2, 2], [3, 2], [0, 0]]))
    torch.testing.assert_close(variance[:, :, 0, 0], torch.tensor([[13.0, 3.0], [2, 0], [0, 0], [0, 0]]))


def test_eq_4_where_each_source_has_tissue():
    latents = torch.randn(2, 2, 3, 4, 4)
    available = torch.ones(2, 2, 4, 4)
    available[0, 1, :, 2:] = 0
    mean, variance = common_latent(latents, available)
    torch.testing.assert_close(mean[0, :, :, 2:], latents[0, 0, :, :, 2:])
    torch.testing.assert_close(mean[1], latents[1].mean(0))
    assert not variance[0, :, :, 2:].any()
    torch.testing.assert_close(variance[0, :, :, :2], latents[0, :, :, :, :2].var(0))


def test_eq_4_of_slices():
    """Two subjects of three slices: each slice has its subject's sequences."""
    latents, available = torch.randn(6, 2, 3, 4, 4), torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    tissue = available[(...,) + (None,) * 3].expand(2, 2, 8, 8, 3)
    mean, variance = common_latent(latents, tiny()._at_latents(tissue))
    torch.testing.assert_close(mean, torch.cat([latents[:3].mean(1), latents[3:, 1]]))
    torch.testing.assert_close(variance, torch.cat([latents[:3].var(1), torch.zeros(3, 3, 4, 4)]))


@torch.no_grad()
@pytest.mark.parametrize("uncertainty", [False, True])
def test_slices_that_a_source_does_not_cover_are_made_as_without_it(uncertainty: bool):
    network = tiny(slices=3)
    image = torch.rand(1, 3, 16, 16, 6).clamp(min=0.01)
    image[:, 2:] = -1
    image[:, :, :3] = image[:, :, :3].clamp(max=0)  # air beside it
    image[:, 1, ..., 3:] = 0
    both, first = network.complete(image, [0, 1], [2], uncertainty), network.complete(image, [0], [2])
    torch.testing.assert_close(both[:, 2, ..., 3:], first[:, 2, ..., 3:])
    assert not torch.allclose(both[:, 2, ..., :3], first[:, 2, ..., :3])
    if uncertainty:
        assert both[:, 5, ..., 3:].max() < 1e-6 and (both[:, 5, :, :, :3] > 0).any()
    latent = network.encode_subject(image, [0, 1])
    torch.testing.assert_close(latent[..., 3:], network.encode_subject(image, [0])[..., 3:])


@pytest.mark.parametrize(("spread", "width"), [("variance", 4.0), ("deviation", 2.0)])
def test_eq_5_by_hand(spread: str, width: float):
    network, mean, variance = tiny(spread=spread), torch.full((1, 3, 50, 50), 7.0), torch.full((1, 3, 50, 50), 4.0)
    drawn = network.sample(mean, variance)
    assert drawn.mean().item() == pytest.approx(7, abs=0.1) and drawn.std().item() == pytest.approx(width, rel=0.05)
    torch.testing.assert_close(network.sample(mean, variance, torch.ones_like(mean)), mean + width)
    nothing = torch.zeros_like(variance, requires_grad=True)
    sample = network.sample(mean, nothing)
    torch.testing.assert_close(sample, mean, atol=1e-5, rtol=0)
    (grad,) = torch.autograd.grad(sample.sum(), nothing)
    assert grad.isfinite().all(), "where the sequences agree"


@pytest.mark.parametrize("options", SIZES)
@torch.no_grad()
def test_completion_decodes_the_mean_latent(options: dict):
    network, image = tiny(**options), torch.rand(2, 3, 8, 12, 6)
    image[1, 2] = -1
    image[:, :, 0] = image[:, :, 0].clamp(max=0)
    pred = network(image)
    assert pred.shape == image.shape and pred.min() >= 0 and pred.max() <= 1
    assert (pred[:, :, 0] == 0).all() and (pred[:, :, 1:] > 0).all()
    latents = [network.encode(network.to_input(image[:1, i]), network.codes[i : i + 1]).latent for i in (0, 1)]
    features = network.from_latent(torch.stack(latents).mean(0))
    made = (network.decoder(features, network.code_layer(network.codes[2:3])) + 1) / 2
    expected = network.from_output(made, 1) * (image[:1] > 0).any(1)
    torch.testing.assert_close(pred[:1, 2], expected, atol=1e-5, rtol=1e-5)
    only = network.translate(image[1:], [0], [1])  # one source: its own latent
    torch.testing.assert_close(pred[1:, 1], only[:, 0], atol=1e-5, rtol=1e-5)
    known = network.complete(image[1:], [0, 1], [2])
    torch.testing.assert_close(pred[1:, 2], known[:, 2], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_no_source_makes_nothing():
    assert not tiny()(torch.full((1, 3, 8, 8, 2), -1.0)).any()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("options", [{}, {"spatial_dims": 3}, {"quantiser": "ema"}])
@torch.no_grad()
def test_trace_completes_other_subjects(options: dict):
    network, image = tiny(**options), torch.rand(2, 3, 8, 12, 4)
    traced = torch.jit.trace(network, image, check_trace=False)
    image = torch.rand(2, 3, 16, 12, 6)
    image[0, 1] = image[1, 0] = image[1, 2] = -1
    torch.testing.assert_close(traced(image), network(image))


@pytest.mark.parametrize("options", SIZES)
def test_a_training_step_is_one_call(options: dict):
    """Two subjects, the second with one image: rows 0 to 2 are images, 3 and 4 the subjects' samples."""
    network = tiny(**options).train()
    images, source = network_input(network, 3), network.codes[[0, 1, 2]]
    rows = (torch.tensor([1, 3]), torch.tensor([], dtype=torch.long), torch.tensor([0, 4]))
    made, encoded = network(images, source, rows, network.codes, torch.tensor([0, 0, 1]))
    assert made.shape == (4, *images.shape[1:]) and encoded.latent.shape[0] == 3
    again = network.encode(images, source)
    torch.testing.assert_close(made[0], network.decode(again, network.codes[:1])[1], atol=1e-5, rtol=1e-5)
    alone = network.decode(again, network.codes[2:3])[2]  # one image: the sample is its latent
    torch.testing.assert_close(made[3], alone, atol=1e-5, rtol=1e-5)
    (made.sum() + encoded.loss.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_uncertainty_comes_from_the_sample():
    network, image = tiny(samples=200, norm="branches"), torch.rand(1, 3, 8, 12, 2)
    made = network.complete(image, [0, 1], [2], uncertainty=True)
    assert torch.equal(made, network.complete(image, [0, 1], [2], uncertainty=True)), "seeded"
    network.seed = 1
    again = network.complete(image, [0, 1], [2], uncertainty=True)
    apart = (made[:, 2] - again[:, 2]).std() / made[:, 5].square().mean().sqrt()
    assert 0.05 < apart < 0.15, "the mean of 200 samples is sqrt(2 / 200) of their deviation uncertain"
    torch.testing.assert_close(made[:, 5], again[:, 5], rtol=0.5, atol=0)
    slab = network.complete(image[..., 1:], [0, 1], [2], uncertainty=True)
    torch.testing.assert_close(slab, again[..., 1:], msg="how the volume is cut does not matter")
    same = network.complete(image, [0, 0], [2], uncertainty=True)
    assert same[:, 5].abs().max() < 1e-5, "sources that agree leave no doubt"
    assert network.complete(image, [0], [2], uncertainty=True)[:, 5].isnan().all(), "one source knows of none"


@pytest.mark.parametrize("quantiser", KINDS)
@pytest.mark.parametrize("options", SIZES)
@torch.no_grad()
def test_frozen_network_makes_the_live_ones_image(options: dict, quantiser: str):
    network = tiny(quantiser=quantiser, **options)
    image, target = network_input(network), network.codes[2:3]
    frozen = network.freeze(2)
    live = network.decode(network.encode(image, network.codes[:1]), target)
    made = frozen.decode(frozen.encode(image, network.codes[:1]), target)
    torch.testing.assert_close(made, live, atol=1e-5, rtol=1e-5)
    assert millions(frozen) < millions(network)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"quantiser": "soft"}, "'soft'.*gradient, ema, none"),
        ({"spread": "range"}, "'range'"),
        ({"norm": "nowhere"}, "'nowhere'"),
    ],
)
def test_wrong_words(options: dict, named: str):
    with pytest.raises(ValueError, match=named):
        tiny(**options)
