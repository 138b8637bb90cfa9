"""The three ways to steer a convolution block: mixed batches, normalisation and freezing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.blocks.adain import FrozenAdaIN
from common.blocks.conditional import CONDITIONING, ConditionalConv, ConditionalResBlock

OPTIONS = {"code_channels": 6, "bank_channels": 3}


def block(conditioning: str, spatial_dims: int = 2, kernel_size: int = 3, **options) -> ConditionalConv:
    torch.manual_seed(0)
    conv = ConditionalConv(spatial_dims, 2, 4, kernel_size, conditioning=conditioning, **OPTIONS, **options)
    for parameter in conv.parameters():
        nn.init.normal_(parameter)
    return conv


@pytest.mark.parametrize("conditioning", CONDITIONING)
@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.no_grad()
def test_mixed_targets_equal_one_target_at_a_time(conditioning: str, spatial_dims: int):
    conv, x, code = block(conditioning, spatial_dims), torch.randn(3, 2, *[6] * spatial_dims), torch.randn(3, 6)
    mixed = conv(x, code)
    assert mixed.shape == (3, 4, *x.shape[2:])
    one_by_one = torch.cat([conv(x[b : b + 1], code[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(mixed, one_by_one, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(mixed, conv(x, code.roll(1, 0)), atol=0.1)  # the code matters


@pytest.mark.parametrize("conditioning", CONDITIONING)
@pytest.mark.parametrize("norm", [True, False])
@torch.no_grad()
def test_frozen_block_equals_the_live_one(conditioning: str, norm: bool):
    conv, x, code = block(conditioning, norm=norm), torch.randn(2, 2, 6, 6), torch.randn(1, 6)
    live = conv(x, code)
    conv.freeze(code)
    torch.testing.assert_close(conv(x, torch.full((1, 6), torch.nan)), live, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in conv.parameters()) == 4 * 2 * 9 + 4
    assert isinstance(conv.adaptive_norm, FrozenAdaIN) == (conditioning == "adain" and norm)


@pytest.mark.parametrize("conditioning", ["hyperconv", "dynamic"])
@torch.no_grad()
def test_the_norm_is_an_instance_norm(conditioning: str):
    x, code = torch.randn(2, 2, 6, 6), torch.randn(1, 6)
    with_norm, without = (block(conditioning, norm=norm)(x, code) for norm in (True, False))
    torch.testing.assert_close(with_norm.mean((2, 3)), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(with_norm, F.instance_norm(without))
    assert not torch.allclose(with_norm, without, atol=0.1)


@torch.no_grad()
def test_adain_sets_mean_and_deviation():
    conv, code = block("adain"), torch.randn(1, 6)
    made = conv(torch.randn(1, 2, 32, 32), code)
    scale, shift = conv.adaptive_norm.affine(code)[0].split(4)
    torch.testing.assert_close(made.mean((0, 2, 3)), shift, atol=1e-4, rtol=0)
    torch.testing.assert_close(made.std((0, 2, 3), correction=0), (1 + scale).abs(), atol=1e-3, rtol=0)


@torch.no_grad()
def test_adain_without_norm_is_a_plain_convolution():
    conv, x = block("adain", norm=False), torch.randn(2, 2, 6, 6)
    torch.testing.assert_close(conv(x, torch.randn(2, 6)), conv.conv(F.pad(x, [1] * 4, mode="reflect")))


@pytest.mark.parametrize("kernel_size", [1, 3, 7])
@torch.no_grad()
def test_padding_reflects(kernel_size: int):
    # Reflection makes no edge: a constant image stays constant.
    made = block("hyperconv", kernel_size=kernel_size, norm=False)(torch.ones(1, 2, 8, 8), torch.randn(1, 6))
    torch.testing.assert_close(made, made[..., :1, :1].expand_as(made), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_residual_block_adds_to_its_input():
    block = ConditionalResBlock(2, 4, **OPTIONS)
    x, code = torch.randn(2, 4, 6, 6), torch.randn(1, 6)
    branch = block.conv2(F.leaky_relu(block.conv1(x, code), 0.2), code)
    torch.testing.assert_close(block(x, code) - x, branch, atol=1e-5, rtol=1e-5)
    nn.init.zeros_(block.conv2.conv.bank)
    torch.testing.assert_close(block(x, code), x)


def test_unknown_conditioning():
    with pytest.raises(ValueError, match=r"'film'.*hyperconv, adain, dynamic"):
        ConditionalConv(2, 1, 1, conditioning="film")
