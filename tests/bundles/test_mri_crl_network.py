"""CRL at the paper's size (counted, never run) and at a tiny one (run)."""

from __future__ import annotations

import pytest
import torch
from mri_crl.common.data.mr_signal import FSE9, Acquisition, setting_of, signal, spin_echo
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mri_crl.network import CRL, LARGEST_GAIN, AttentionContrast, Embedding, GainContrast, PhysicalContrast

SETTINGS = [(each.tr, each.te, each.ti) for each in FSE9.values()]
VARIANTS = ["attention", "gain"]
KINDS = [{"variant": variant, "downsampling": factor} for variant in VARIANTS for factor in (1, 2)]
KINDS += [{"variant": "physical", "fusion": "features", "downsampling": factor} for factor in (1, 2)]


def tiny(**options) -> CRL:
    torch.manual_seed(0)
    network = CRL(**{"settings": SETTINGS[:3], "features": 16, "res_blocks": 1, "heads": 4, **options}).eval()
    # Within the clamp, or the tests would compare zeros; what the signal equation makes is there by itself.
    nn.init.normal_(network.decoder[-1].weight, std=0.1 if options.get("variant") == "physical" else 0.003)
    nn.init.constant_(network.decoder[-1].bias, 0.5)
    return network


def count(module: nn.Module, kind: type) -> int:
    return sum(isinstance(part, kind) for part in module.modules())


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_released_variant_has_the_parameters_that_its_authors_forward_uses():
    with torch.device("meta"):
        network = CRL(SETTINGS, "gain")
    assert parameters(network) == 38_951_169
    assert count(network.contrast.embedding, nn.Linear) == 5 and count(network.decoder, nn.Conv2d) == 6
    assert parameters(network.encoder) == 38_357_760


def test_the_papers_variant_has_the_papers_layers():
    with torch.device("meta"):
        network = CRL(SETTINGS)
    assert count(network.contrast.embedding, nn.Linear) == 4 and network.contrast.heads == 8
    widths = [layer.out_channels for layer in network.decoder if isinstance(layer, nn.Conv2d)]
    assert widths == [256, 256, 256, 256, 1]
    assert len(network.encoder.body) == 32 + 1


def test_downsampling_by_2_takes_a_quarter():
    gmacs = []
    for factor in (1, 2):
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            network = CRL(SETTINGS, downsampling=factor)
            network.decode(network.encode(torch.empty(1, 1, 192, 192), network.codes[:1]), network.codes[1:2])
        gmacs.append(counter.get_total_flops() / 2e9)
    assert gmacs[0] == pytest.approx(1425, rel=0.01) and gmacs[0] / gmacs[1] == pytest.approx(4, rel=0.01)


@pytest.mark.parametrize("options", KINDS, ids=str)
@torch.no_grad()
def test_images_have_the_inputs_shape_and_range(options: dict):
    network, image = tiny(**options), torch.rand(2, 1, 8, 12)
    made = network.decode(network.encode(image, network.codes[:1]), network.codes[1:2])
    assert made.shape == image.shape and made.min() >= 0 and made.max() <= 1 and made.std() > 1e-3


@pytest.mark.parametrize("options", KINDS, ids=str)
@torch.no_grad()
def test_source_and_target_count(options: dict):
    network, image = tiny(**options), torch.rand(1, 1, 8, 12)
    near = torch.tensor([[2479.0, 20.0, 1055.0]])
    made = [
        network.decode(network.encode(image, source), target)
        for source, target in ((network.codes[:1], network.codes[1:2]), (near, network.codes[1:2]), (near, near))
    ]
    assert not torch.allclose(made[0], made[1], atol=1e-6) and not torch.allclose(made[1], made[2], atol=1e-6)


@pytest.mark.parametrize("options", KINDS, ids=str)
@torch.no_grad()
def test_encoding_once_equals_encoding_for_every_target(options: dict):
    network, image = tiny(**options), torch.rand(3, 1, 8, 12)
    once = network.encode(image, network.codes)
    assert torch.equal(once.source, network.codes)
    for j in range(3):
        one_target = network.decode(once, network.codes[j : j + 1])
        torch.testing.assert_close(network.decode(once, network.codes)[j], one_target[j])
        alone = network.encode(image[j : j + 1], network.codes[j : j + 1])
        torch.testing.assert_close(
            network.decode(alone, network.codes[:1]), network.decode(once, network.codes[:1])[j:][:1]
        )


@torch.no_grad()
def test_attention_looks_at_the_image():
    """With one key it would add the same vector to every pixel of every image."""
    contrast, source = AttentionContrast(16, 4), torch.tensor([[8000.0, 100.0, 0.0]])
    features = 10 * torch.randn(1, 16, 5, 6)
    added = contrast.to_common(features, source) - features
    assert added.std((2, 3)).min() > 1e-4
    torch.nn.init.zeros_(contrast.query.weight)
    torch.nn.init.zeros_(contrast.query.bias)
    added = contrast.to_common(features, source) - features
    assert added.std((2, 3)).max() < 1e-5, "and nothing else tells pixels apart"


@torch.no_grad()
def test_attention_by_hand():
    contrast, source = AttentionContrast(4, 2), torch.tensor([[8000.0, 100.0, 500.0]])
    features = torch.randn(1, 4, 1, 1)
    tokens = contrast.key_value(contrast.embedding(source, tokens=True)[0] + contrast.kind)  # (4, 8)
    query, found = contrast.query(features).flatten(), []
    for head in range(2):
        own = slice(2 * head, 2 * head + 2)
        weight = (tokens[:, :4][:, own] @ query[own] / 2**0.5).softmax(0)
        found.append(weight @ tokens[:, 4:][:, own])
    expected = features + contrast.out(torch.cat(found).view(1, 4, 1, 1))
    torch.testing.assert_close(contrast.to_common(features, source), expected)


@torch.no_grad()
def test_tokens_are_of_one_parameter_each_and_of_all():
    embedding = Embedding(8, 4)
    a, b = torch.tensor([[8000.0, 100.0, 500.0]]), torch.tensor([[8000.0, 50.0, 500.0]])
    same = torch.isclose(embedding(a, tokens=True), embedding(b, tokens=True)).all(2)
    assert same.tolist() == [[True, False, True, False]], "only TE differs"
    torch.testing.assert_close(embedding(a, tokens=True)[:, 3], embedding(a))


@torch.no_grad()
def test_gains_are_positive_bounded_and_undo_each_other():
    contrast, features = GainContrast(16), torch.randn(2, 16, 3, 3)
    for weight in contrast.parameters():
        weight.mul_(50)
    source = torch.tensor([[8000.0, 100.0, 0.0], [500.0, 10.0, 300.0]])
    common = contrast.to_common(features, source)
    gain = features / common
    assert gain.min() >= 0.99 / LARGEST_GAIN and gain.max() <= 1.01 * LARGEST_GAIN and gain.std() > 1
    torch.testing.assert_close(contrast.to_target(common, source), features)


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_ti_of_0_is_the_limit_of_short_ones(variant: str):
    network, image = tiny(variant=variant), torch.rand(1, 1, 8, 8)
    made = [network.decode(network.encode(image, t), t) for t in torch.tensor([[[3000.0, 20, 0]], [[3000, 20, 0.01]]])]
    torch.testing.assert_close(*made, atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [*KINDS, {"slice_axis": -3}], ids=str)
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


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_trace_completes_other_subjects(variant: str):
    network, image = tiny(variant=variant), torch.rand(2, 3, 8, 12, 4)
    traced = torch.jit.trace(network, image, check_trace=False)
    image[0, 1] = image[1, 0] = image[1, 2] = -1
    torch.testing.assert_close(traced(image), network(image))


@torch.no_grad()
def test_slots_at_other_settings():
    network, image = tiny(), torch.rand(1, 3, 8, 8, 2)
    other = torch.tensor([[9000.0, 80.0, 2000.0], *SETTINGS[1:3], [5000.0, 33.0, 0.0]])
    view = network.at(other)
    assert view.sequences == 4 and torch.equal(view.codes, other)
    assert network.sequences == 3 and torch.equal(network.codes, torch.tensor(SETTINGS[:3]))
    assert view.encoder is network.encoder

    def make(settings: Tensor) -> Tensor:
        return network.at(settings).complete(image, sources=[0], targets=[3])[:, 3]

    by_hand = network.decode(
        network.encode(image[:, 0].movedim(-1, 0).transpose(0, 1)[0][:, None], other[:1]), other[3:]
    )
    torch.testing.assert_close(make(other)[0].movedim(-1, 0), by_hand[:, 0] * (image[0, 0] > 0).movedim(-1, 0))
    assert not torch.allclose(make(other), make(torch.cat([network.codes, other[3:]])))


def test_training_notes_the_range_of_what_it_sees():
    network, image = tiny().train(), torch.rand(2, 1, 8, 8)
    network.encode(image, torch.tensor([[5000.0, 20.0, 0.0], [4000.0, 30.0, 900.0]]))
    network.eval().encode(image, torch.tensor([[9000.0, 90.0, 0.0]]))
    network.train().encode(image, torch.tensor([[4500.0, 10.0, 50.0]]))
    assert network.trained_range.tolist() == [[4000, 10, 0], [5000, 30, 900]]
    assert "trained_range" in network.state_dict() and "codes" not in network.state_dict()


def test_outside_the_range_training_has_a_gradient_and_use_has_none():
    network, image = tiny(), torch.rand(1, 1, 8, 8)
    nn.init.constant_(network.decoder[-1].bias, -3.0)
    representation = network.encode(image, network.codes[:1])
    assert (network.decode(representation, network.codes[:1]) == 0).all()
    assert (network.train().decode(representation, network.codes[:1]) < -1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "divide"}, "variant is 'divide'"),
        ({"fusion": "votes"}, "fusion is 'votes'; it must be one of images, features"),
        ({"settings": [(8, 0.1, 2)]}, r"settings\[0\]: TR is 8 ms.*looks like seconds"),
        ({"settings": [(500, 20, 0), (500, 600, 0)]}, r"settings\[1\]: TE must be shorter than TR"),
    ],
)
def test_bad_options(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_sizes_that_do_not_fold_are_refused():
    with pytest.raises(ValueError, match=r"\(8, 7\) is not a multiple of 2"):
        tiny(downsampling=2)(torch.rand(1, 3, 8, 7, 4))


ECHOES = [(500.0, 10.0, 0.0), (4000.0, 90.0, 0.0), (9000.0, 120.0, 2481.0)]
GRADIENT_ECHOES = [
    (200.0, 4.0, 0.0, 70.0),
    (5.0, 2.0, 0.0, 15.0),
    (2000.0, 3.0, 900.0, 9.0),
    (1400.0, 3.0, 1000.0, 9.0),
]


@pytest.mark.parametrize("setting", [*ECHOES, *GRADIENT_ECHOES])
def test_the_physical_variant_gives_the_signal_of_its_maps(setting: tuple):
    contrast, decoded = PhysicalContrast(8, 2, len(setting)), torch.randn(2, 3, 4, 5)
    pd, t1, t2 = contrast.maps(decoded).unbind(1)
    assert pd.min() > 0 and pd.max() < 2 and t1.min() > 100 and t1.max() < 6000 and t2.min() > 10 and t2.max() < 3000
    exact = torch.from_numpy(signal(pd.numpy(), t1.numpy(), t2.numpy(), setting_of(*setting))).float()
    torch.testing.assert_close(contrast.to_image(decoded, torch.tensor([setting]))[:, 0], exact)


@pytest.mark.parametrize("setting", [(*ECHOES[2], 0.0), *GRADIENT_ECHOES])
def test_both_equations_have_gradients(setting: tuple):
    """What is not chosen has none, and no NaN from there reaches what is."""
    contrast, decoded = PhysicalContrast(8, 2, 4), torch.randn(2, 3, 4, 5, requires_grad=True)
    contrast.to_image(decoded, torch.tensor([setting])).sum().backward()
    assert decoded.grad.isfinite().all() and decoded.grad.abs().amax((0, 2, 3)).min() > 0


@pytest.mark.parametrize("variant", ["attention", "gain", "physical"])
@torch.no_grad()
def test_gradient_echoes_are_told_apart(variant: str):
    settings = [(2000.0, 12.0, 900.0), (2000.0, 12.0, 900.0, 9.0), (2000.0, 12.0, 900.0, 10.0)]
    network = tiny(settings=settings, variant=variant, gradient_echoes=True)
    assert network.codes.tolist() == [[*settings[0], 0.0], *map(list, settings[1:])]
    representation = network.encode(torch.rand(1, 1, 8, 8), network.codes[:1])
    spin, *gradient = (network.decode(representation, network.codes[k : k + 1]) for k in range(3))
    assert not torch.allclose(spin, gradient[0], atol=1e-4) and not torch.equal(*gradient)
    assert network.contrast.embedding(network.codes, tokens=True).shape[1] == 5
    with pytest.raises(ValueError, match=r"FA 9\), and the network knows spin echoes only: train with --network_"):
        tiny(settings=settings[:2])
    with pytest.raises(ValueError, match=r"TI 900, FA 9\), and the network knows spin echoes only"):
        tiny().at(torch.tensor([[*settings[0], 9.0]]))
    assert network.at(torch.tensor([settings[0]])).codes.tolist() == [[*settings[0], 0.0]], "three are a spin echo's"


def test_each_family_has_a_trained_range_of_its_own():
    settings = [(2000.0, 12.0, 900.0), (9000.0, 150.0, 0.0), (100.0, 3.0, 0.0, 20.0), (2000.0, 3.0, 900.0, 9.0)]
    network = tiny(settings=settings, gradient_echoes=True).train()
    for k in (0, 2, 1, 3):
        network.encode(torch.rand(1, 1, 8, 8), network.codes[k : k + 1])
    low, high = network.trained_range
    assert low.tolist() == [[2000, 12, 0, 0], [100, 3, 0, 9]] and high.tolist() == [
        [9000, 150, 900, 0],
        [2000, 3, 900, 20],
    ]


@torch.no_grad()
def test_maps_are_those_of_the_image():
    network, image = tiny(variant="physical"), torch.rand(1, 1, 8, 8)
    representation = network.encode(image, network.codes[:1])
    pd, t1, t2 = network.maps(representation)[0].numpy()
    made = network.decode(representation, network.codes[1:2])[0, 0]
    torch.testing.assert_close(made, torch.from_numpy(spin_echo(pd, t1, t2, Acquisition(*SETTINGS[1]))).clamp(0, 1))
    with pytest.raises(ValueError, match="variant is 'attention'; only 'physical' has maps"):
        tiny().maps(representation)


def weighing(**options) -> CRL:
    """With shares that differ; a new network's are all alike."""
    network = tiny(fusion="features", **options)
    nn.init.normal_(network.log_share.weight)
    return network


@torch.no_grad()
def test_sources_of_a_new_network_count_alike_where_they_have_tissue():
    network, image = tiny(fusion="features"), torch.rand(1, 3, 8, 8, 2) + 0.1
    image[0, 1, :4] = 0
    z = [network.encode(network.sequence_input(image, i), network.codes[i : i + 1]) for i in (0, 1)]
    [(fused, where)] = network.fuse(z, torch.stack([network.tissue(image, i) for i in (0, 1)], 1))
    torch.testing.assert_close(fused.common[:, :, 4:], (z[0].common + z[1].common)[:, :, 4:] / 2)
    torch.testing.assert_close(fused.common[:, :, :4], z[0].common[:, :, :4])
    assert (where == 1).all()


@torch.no_grad()
def test_what_counts_more_is_nearer():
    network, image = weighing(), torch.rand(1, 3, 8, 8, 1) + 0.1
    z = [network.encode(network.sequence_input(image, i), network.codes[i : i + 1]) for i in (0, 1)]
    weight = [network.shares(each.common, torch.ones(1, 1, 8, 8)) for each in z]
    assert all(each.min() > 0.999 / LARGEST_GAIN and each.max() < 1.001 * LARGEST_GAIN for each in weight)
    by_hand = sum(w * each.common for w, each in zip(weight, z, strict=True)) / sum(weight)
    [(fused, _)] = network.fuse(z, torch.ones(1, 2, 8, 8, 1))
    torch.testing.assert_close(fused.common, by_hand)
    alone = network.complete(image, sources=[0], targets=[2])
    torch.testing.assert_close(alone[0, 2, ..., 0], network.decode(z[0], network.codes[2:])[0, 0])


@pytest.mark.parametrize("options", [{}, {"downsampling": 2}, {"variant": "physical"}], ids=str)
@torch.no_grad()
def test_a_step_makes_what_inference_makes_of_the_same_sources(options: dict):
    network, image = weighing(**options), torch.rand(1, 3, 8, 8, 1)
    image[0, 1, :3] = 0
    together = torch.tensor([[True, True, False], [True, False, False]])
    inputs = {"parameters": network.codes, "together": together, "wanted": network.codes[2:]}
    step = network(image[0].movedim(-1, 1), step="from_several", predicted=(torch.arange(2),), **inputs)
    for made, sources in zip(step.prediction, ([0, 1], [0]), strict=True):
        torch.testing.assert_close(made[0], network.complete(image, sources=sources, targets=[2])[0, 2, ..., 0])


@torch.no_grad()
def test_the_spread_is_that_of_leaving_one_source_out():
    network, image = weighing(), torch.rand(1, 3, 8, 8, 1) + 0.1
    mean, spread = network.complete(image, sources=[0, 1], targets=[2], uncertainty=True)[0, [2, 5]]
    alone = torch.stack([network.complete(image, sources=[i], targets=[2])[0, 2] for i in (0, 1)])
    torch.testing.assert_close(mean, network.complete(image, sources=[0, 1], targets=[2])[0, 2])
    assert not torch.allclose(mean, alone.mean(0), atol=1e-5), "the image is that of the fused features"
    torch.testing.assert_close(spread, alone.std(0))


@torch.no_grad()
def test_maps_are_of_full_precision_in_a_step_of_half():
    contrast, decoded = PhysicalContrast(8, 2), torch.randn(1, 3, 16, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        made = contrast.to_image(decoded, torch.tensor([[9000.0, 100.0, 700.0]]))
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, contrast.to_image(decoded.float(), torch.tensor([[9000.0, 100.0, 700.0]])))
