"""ALDM at the paper's size (counted, never run) and at a tiny one (run)."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mri_aldm.memory import activation_bytes, example_step, gmacs, with_checkpointing, without_values
from mri_aldm.network import ALDM, METHODS
from mri_aldm.sampling import Process, seeded_noise

VOLUME = (192, 192, 144)


def tiny(**options) -> ALDM:
    torch.manual_seed(0)
    small = {
        **{"channels": (4, 8), "res_blocks": 1, "norm_groups": 2, "codes": 16, "spade_channels": (4, 4)},
        **{"spade_hidden": 4, "unet_channels": (4, 8), "unet_res_blocks": 1, "unet_attention": (False, True)},
        **{"head_channels": 4, "unet_norm_groups": 2, "steps": 2, "sequences": 3},
    }
    network = ALDM(**{**small, **options}).eval()
    for parameter in network.parameters():  # the UNet starts with zeros in its last layer
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def image(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, 16, 12, 8, generator=torch.Generator().manual_seed(seed))


def test_parameters_at_paper_size():
    with torch.device("meta"):
        paper = ALDM()
    millions = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in paper.named_children()}
    del millions["process"]  # a module for TorchScript alone
    assert millions == pytest.approx({"autoencoder": 237.55, "translator": 55.64, "denoiser": 197.01}, abs=0.01)


def test_cached_latents_save_more_than_two_thirds_of_a_training_step():
    """Forward and backward pass of the UNet, against the same after encoding two volumes and translating one."""
    with torch.device("meta"):
        paper = ALDM()
    paper.requires_grad_(False)
    paper.denoiser.requires_grad_(True)
    inputs, code = example_step(paper, VOLUME), paper.codes[:1]
    predict = inputs["image"], inputs["timesteps"], inputs["like"], code
    cached = gmacs(paper, "predict", *predict, backward=True)
    assert cached == pytest.approx(3 * gmacs(paper, "predict", *predict), rel=0.05)
    encoding = gmacs(paper.autoencoder, "encode", torch.zeros(2, 1, *VOLUME, device="meta"))
    assert cached + encoding + gmacs(paper, "target_like", inputs["image"], code, code) > 3 * cached


@pytest.mark.parametrize("method", [name for name in METHODS if name != "autoencoder"])
def test_a_subject_is_completed(method: str):
    network = tiny(method=method)
    subject = image()
    subject[:, 1] = -1
    with torch.no_grad():
        made = network(subject)
    assert made.shape == subject.shape and made.min() >= 0 and made.max() <= 1
    alone = subject.clone()
    alone[:, 0] = -1
    with torch.no_grad():
        itself = network(alone)[:, 2]
        plain = network.autoencoder.decode(network.encode(subject[:, 2:], network.codes[2:]).latent)
    torch.testing.assert_close(itself, (plain[:, 0] + 1).div(2).clamp(1e-3, 1) * (subject[:, 2] > 0))


def test_a_word_that_is_not_known_is_an_error():
    with pytest.raises(ValueError, match="method is 'gan'; choose one of autoencoder, spade"):
        tiny(method="gan")
    with pytest.raises(ValueError, match="sampler is 'euler'"):
        tiny(sampler="euler")
    with pytest.raises(ValueError, match="regularisation is 'ae'; choose one of vq, kl"):
        tiny(regularisation="ae")
    with pytest.raises(ValueError, match="decoding is 'tiled'"), torch.no_grad():
        tiny(decoding="tiled")(image())


@pytest.mark.parametrize("options", [{}, {"sampler": "flow"}, {"method": "no_palette"}], ids=str)
def test_draws_are_repeatable_and_their_spread_is_the_uncertainty(options: dict):
    network = tiny(samples=3, **options)
    subject = image()
    with torch.no_grad():
        first, second = (network.complete(subject, [0], [1], uncertainty=True) for _ in range(2))
        single = [network.complete(subject, [0], [1])]
        network.samples = 1
        for seed in range(3):
            network.seed = seed
            single.append(network.complete(subject, [0], [1]))
        network.samples, network.seed = 3, 0
        matrix = network.translate(subject, [0], [1])
    assert torch.equal(first, second)
    each = torch.stack(single[1:])[:, :, 1]
    torch.testing.assert_close(first[:, 1], each.mean(0))
    torch.testing.assert_close(single[0][:, 1], each.mean(0))
    torch.testing.assert_close(matrix[:, 0], each.mean(0))
    torch.testing.assert_close(first[:, 4], each.std(0), rtol=1e-3, atol=1e-6)
    assert each.std(0).max() > 1e-5


def test_noise_is_normal_and_depends_on_the_seed():
    noise = seeded_noise(torch.zeros(2, 3, 24, 24, 24), 1)
    assert torch.equal(noise[0], noise[1]) and torch.equal(noise, seeded_noise(noise, 1))
    moments = [noise[0].pow(k).mean().item() for k in (1, 2, 3, 4)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.1)
    other = seeded_noise(noise, 0)
    assert (noise * other).mean().abs() < 0.02 and (noise[0, :, 1:] * noise[0, :, :-1]).mean().abs() < 0.02


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "flow"])
def test_a_perfect_network_leads_to_the_target(sampler: str):
    """With the true noise or velocity of one known latent, every sampler ends at it."""
    process = Process(sampler, steps=10)
    latent, like = torch.randn(2, 1, 2, 4, 4, 4)
    if sampler == "flow":
        begin = like + process.flow_noise * seeded_noise(like, 5)
        made = process.sample(lambda x, t: latent - begin, like, 5)
    else:

        def predict(x: torch.Tensor, t: int) -> torch.Tensor:
            share = process.scheduler.alphas_cumprod[t]
            return (x - share.sqrt() * latent) / (1 - share).sqrt()

        made = process.sample(predict, like, 5)
    torch.testing.assert_close(made, latent, rtol=0, atol=0.03)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_a_network_that_answers_the_latent_leads_to_it(sampler: str):
    process = Process(sampler, steps=10, prediction="latent")
    latent, like, noise = torch.randn(3, 1, 2, 4, 4, 4)
    noisy, wanted = process.noised(latent, like, noise, torch.tensor([700]))
    assert torch.equal(wanted, latent) and not torch.allclose(noisy, latent)
    torch.testing.assert_close(process.sample(lambda x, t: latent, like, 5), latent, rtol=0, atol=1e-4)
    assert any(name.startswith("denoiser.latent.") for name in tiny(prediction="latent").state_dict())
    with pytest.raises(ValueError, match="prediction is 'v'; choose one of noise, latent"):
        tiny(prediction="v")


@pytest.mark.parametrize(("steps", "start"), [(1, 1.0), (2, 1.0), (4, 1.0), (10, 0.5), (50, 1.0)])
def test_few_steps_leave_no_noise(steps: int, start: float):
    """With the exact noise of latents of deviation 0.1, whatever their number, DDIM ends within what is plausible."""
    process = Process("ddim", steps=steps, start=start)
    asked = []

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        asked.append(t)
        share = process.scheduler.alphas_cumprod[t]
        return x * (1 - share).sqrt() / (0.01 * share + 1 - share)

    made = process.sample(predict, 0.1 * torch.randn(1, 1, 16, 16, 16), 5)
    assert made.std() < 0.12
    assert len(asked) == steps and asked[0] == start * 1000 - 1 and asked == sorted(set(asked), reverse=True)


@pytest.mark.parametrize("seed", [2**23 + 5, 20261121, -3])
def test_any_seed_is_a_seed(seed: int):
    noise = seeded_noise(torch.zeros(1, 1, 8, 8, 8), seed)
    assert 0.9 < noise.std() < 1.1 and not torch.equal(noise, seeded_noise(noise, seed + 1))


def test_what_the_network_answers_is_named_in_its_weights():
    noise, velocity = tiny().state_dict(), tiny(sampler="flow").state_dict()
    assert any(name.startswith("denoiser.noise.") for name in noise)
    assert any(name.startswith("denoiser.velocity.") for name in velocity)


@pytest.mark.parametrize("slabs", [2, 5])
@pytest.mark.parametrize("norm", ["everywhere", "branches", "none"])
def test_split_decoding_is_whole_decoding(slabs: int, norm: str):
    network = tiny(channels=(4, 8, 8), norm=norm).autoencoder
    latent = 3 * torch.randn(2, 3, 11, 5, 4)
    with torch.no_grad():
        whole = network.decode(latent)
        torch.testing.assert_close(network.decode(latent, "split", slabs), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("slabs", [2, 3, 9])
@pytest.mark.parametrize("norm", ["everywhere", "branches", "none"])
def test_split_encoding_is_whole_encoding(slabs: int, norm: str):
    network = tiny(channels=(4, 8, 8), norm=norm).autoencoder
    volume = torch.randn(2, 1, 28, 12, 8)
    with torch.no_grad():
        whole = network.encode(volume)
        torch.testing.assert_close(network.encode(volume, "split", slabs), whole, rtol=0, atol=1e-4)


def test_without_normalisation_a_crop_is_encoded_as_within_its_volume():
    """Away from the crop's edges; with it, how bright the crop is on the whole is taken away."""
    volume = torch.randn(1, 1, 48, 8, 8)
    volume[:, :, 24:] += 3
    differences = {}
    for norm in ("everywhere", "none"):
        network = tiny(channels=(4, 8), norm=norm).autoencoder
        with torch.no_grad():
            whole, crop = network.encode(volume), network.encode(volume[:, :, 24:])
        differences[norm] = (whole[:, :, -4:] - crop[:, :, -4:]).abs().max()
    assert differences["none"] < 1e-5 < 1e-2 < differences["everywhere"]
    with pytest.raises(ValueError, match="norm is 'off'; choose one of everywhere, branches, none"):
        tiny(norm="off")


def test_approximate_decoding_is_near_where_statistics_are_alike():
    network = tiny().autoencoder
    latent = torch.randn(1, 3, 40, 6, 6)
    with torch.no_grad():
        whole, apart = network.decode(latent), network.decode(latent, "approximate", 2)
    assert apart.shape == whole.shape and 0 < (apart - whole).abs().max() < 0.3 * whole.std()


def test_checkpointing_changes_nothing_but_memory():
    network = tiny(method="autoencoder")
    other = with_checkpointing(copy.deepcopy(network))
    gradients = []
    for each in (network, other):
        made = each.reconstruct(image()[:, :1])
        made.image.square().sum().backward()
        gradients.append([p.grad for p in each.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))
    kept, less = (activation_bytes(network, (16, 16, 16), checkpointing=c) for c in (False, True))
    assert 0 < less < kept
    assert "forward" not in without_values(other, FakeTensorMode()).autoencoder.encoder.blocks[1].__dict__
    assert "forward" in other.autoencoder.encoder.blocks[1].__dict__


@pytest.mark.full
@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="bf16 is counted as a GPU has it")
def test_the_papers_first_stage_fits_80_gb():
    """Whole volumes of 192x192x144, with --checkpointing true --amp bf16: activations, weights, gradients, AdamW."""
    with torch.device("meta"):
        network = ALDM(method="autoencoder")
    kept = activation_bytes(network, (192, 192, 144), checkpointing=True, half=True)
    needed = kept + 16 * sum(p.numel() for p in network.parameters())
    assert 60e9 < needed < 70e9, "10 GB are left for the discriminator and the perceptual network"
    assert not torch.is_autocast_enabled("cuda")


def test_memory_estimate_is_what_autograd_keeps():
    """Counted without a value, it is what a real forward pass saves."""
    network = tiny(method="spade")
    seen = {p.untyped_storage().data_ptr() for p in network.parameters()}
    total, kept = 0, []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        kept.append(tensor)  # an address is not used twice
        if tensor.untyped_storage().data_ptr() not in seen:
            seen.add(tensor.untyped_storage().data_ptr())
            total += tensor.untyped_storage().nbytes()
        return tensor

    network.autoencoder.requires_grad_(False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(**example_step(network, (16, 16, 16)))
    assert activation_bytes(network, (16, 16, 16)) == pytest.approx(total, rel=0.15)


@pytest.mark.parametrize("sampler", ["ddim", "flow"])
@torch.jit.optimized_execution(False)  # to optimise takes longer than it saves here
def test_a_trace_draws_the_same_at_every_call_and_size(sampler: str):
    network = tiny(sampler=sampler)
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):
        traced = torch.jit.trace(network, image(), check_trace=False)
        other = torch.rand(2, 3, 8, 16, 12)
        other[0, 1] = other[1, 2] = -1
        for subject in (image(1), other, other):
            torch.testing.assert_close(traced(subject), network(subject), rtol=0, atol=1e-5)


@torch.no_grad()
def test_latents_of_several_sources_are_averaged_and_decoded_once():
    network = tiny(method="spade", fusion="latents", sequences=4)
    image = torch.rand(2, 4, 16, 16, 16) + 0.1
    image[1, 1] = -1  # the second subject lacks it
    made = network(image)[:, 3]
    calls = []
    network.autoencoder.decoder.register_forward_hook(lambda *_: calls.append(1))
    network.complete(image[:1], sources=[0, 1, 2], targets=[3])
    assert len(calls) == 1
    codes = network.codes
    for subject, sources in ((0, [0, 1, 2]), (1, [0, 2])):
        z = [network.encode(image[subject, i][None, None], codes[i : i + 1]) for i in sources]
        like = [network.target_like(each.latent, codes[3:], each.source) for each in z]
        by_hand = network._to_image(torch.stack(like).mean(0))
        torch.testing.assert_close(made[subject], by_hand[0, 0])
    alone = tiny(method="spade", sequences=4)
    torch.testing.assert_close(
        network.complete(image[:1], sources=[0], targets=[3]), alone.complete(image[:1], sources=[0], targets=[3])
    )
    image[0, 1:] = -1
    torch.testing.assert_close(network(image)[0, 0], alone(image)[0, 0])  # which is plain reconstruction


@torch.no_grad()
def test_the_air_of_a_source_does_not_count():
    """Away from the edge of what it covers, by more than the networks see."""
    options = {"method": "spade", "sequences": 3, "norm": "none", "spade_norm": "branches"}
    image = torch.rand(1, 3, 64, 8, 8) + 0.1
    image[:, 1, 16:] = 0
    network = tiny(**options, fusion="latents")
    # What is normalised over the volume differs; so the translation is that of each latent by itself, as it is.
    network.translator.forward = lambda latent, target, source=None: latent
    made = network.complete(image, sources=[0, 1], targets=[2])[0, 2]
    alone = network.complete(image, sources=[0], targets=[2])[0, 2]
    torch.testing.assert_close(made[40:], alone[40:])
    assert not torch.allclose(made[:8], alone[:8], atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"method": "spade"}, {"sampler": "flow"}], ids=str)
def test_without_draws_the_spread_of_fused_latents_is_that_of_the_sources(options: dict):
    network, image = tiny(fusion="latents", sequences=4, **options), torch.rand(1, 4, 16, 16, 16) + 0.1
    made = network.complete(image, sources=[0, 1], targets=[3], uncertainty=True)[0]
    alone = [network.complete(image, sources=[i], targets=[3])[0, 3] for i in (0, 1)]
    torch.testing.assert_close(made[3], network.complete(image, sources=[0, 1], targets=[3])[0, 3])
    torch.testing.assert_close(made[7], torch.stack(alone).std(0))


@torch.no_grad()
def test_usual_intensities_are_shown_alike_on_every_way():
    network = tiny(usual=[0.3, 0.1], norm="none", regularisation="kl").autoencoder.eval()
    shown: list[torch.Tensor] = []
    network.encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))
    volume = 2 * torch.tensor([0.3, 0.4, 0.2])[None, None, :, None, None].repeat(1, 1, 4, 4, 4) - 1
    latent = network.encode(volume)
    torch.testing.assert_close(shown[0][0, 0, :3, 0, 0], torch.tensor([0.0, 1.0, -1.0]))
    torch.nn.init.constant_(network.to_log_variance.weight, 0)
    torch.nn.init.constant_(network.to_log_variance.bias, -30)  # next to no noise
    torch.testing.assert_close(network.reconstruct(volume).image, network.decode(latent), rtol=0, atol=1e-4)
    torch.testing.assert_close(network.decode(latent, "split", 2), network.decode(latent), rtol=0, atol=1e-4)


@torch.no_grad()
def test_draws_of_fused_latents_differ_and_their_mean_is_the_image():
    network, image = tiny(sampler="flow", fusion="latents", samples=3, sequences=4), torch.rand(1, 4, 16, 16, 16) + 0.1
    made = network.complete(image, sources=[0, 1], targets=[3], uncertainty=True)
    assert (made[0, 7] > 0).any()
    torch.testing.assert_close(made[0, 3], network.complete(image, sources=[0, 1], targets=[3])[0, 3])


def test_an_unknown_fusion_is_refused():
    with pytest.raises(ValueError, match="fusion is 'votes'; choose one of images, latents"):
        tiny(fusion="votes")
