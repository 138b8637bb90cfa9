"""Generated kernels are Algorithm 1's, start at an ordinary layer's size and can be frozen."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.blocks.hyperconv import CodeLayer, DynamicConv, GeneratedConv, HyperConv

CODE, BANK = 6, 3


def generated(kind: type[GeneratedConv], spatial_dims: int = 2) -> GeneratedConv:
    torch.manual_seed(0)
    return kind(spatial_dims, 2, 4, 3, CODE, BANK) if kind is HyperConv else kind(spatial_dims, 2, 4, 3, CODE)


def algorithm_1(layer: HyperConv, x: Tensor, code: Tensor) -> Tensor:
    kernel, bias = torch.zeros(layer.bank.shape[:-1]), torch.zeros(len(layer.bias_bank))
    for k in range(layer.bank.shape[-1]):
        kernel += layer.bank[..., k] * (layer.mix.weight[k] @ code + layer.mix.bias[k])
        bias += layer.bias_bank[:, k] * (layer.bias_mix.weight[k] @ code + layer.bias_mix.bias[k])
    return (F.conv2d if x.ndim == 4 else F.conv3d)(x, kernel, bias)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("codes", [1, 2])
def test_hyperconv_is_algorithm_1(spatial_dims: int, codes: int):
    layer = generated(HyperConv, spatial_dims)
    nn.init.normal_(layer.bias_bank)
    x, code = torch.randn(2, 2, *[7, 6, 5][:spatial_dims]), torch.randn(codes, CODE)
    expected = torch.cat([algorithm_1(layer, x[b : b + 1], code[b % codes]) for b in range(2)])
    torch.testing.assert_close(layer(x, code), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gain", [1, 0.1])
@torch.no_grad()
def test_kernels_start_like_an_ordinary_layers(gain: float):
    torch.manual_seed(0)
    layer, plain = HyperConv(2, 256, 256, 3, gain=gain), nn.Conv2d(256, 256, 3)
    nn.init.kaiming_normal_(plain.weight, a=0.2).mul_(gain)
    kernels, biases = layer.generate(CodeLayer(64)(torch.eye(4)))
    torch.testing.assert_close(kernels.std((1, 2, 3, 4)), plain.weight.std().expand(4), rtol=0.35, atol=0)
    assert (biases == 0).all()
    apart = torch.stack([(kernels[i] - kernels[j]).std() for i in range(4) for j in range(i)])
    assert (apart > plain.weight.std() / 4).all()


@pytest.mark.parametrize("kind", [HyperConv, DynamicConv])
@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.no_grad()
def test_frozen_layer_equals_the_live_one(kind: type[GeneratedConv], spatial_dims: int):
    layer, code = generated(kind, spatial_dims), torch.randn(1, CODE)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    frozen, x = layer.freeze(code), torch.randn(2, 2, *[5] * spatial_dims)
    torch.testing.assert_close(frozen(x), layer(x, code), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in frozen.parameters()) == 4 * 2 * 3**spatial_dims + 4


def test_dynamic_kernel_is_linear_in_the_code():
    layer, (a, b) = generated(DynamicConv), torch.randn(2, 1, CODE)
    (at_a, _), (at_b, _), (between, _) = (layer.generate(code) for code in (a, b, (a + b) / 2))
    torch.testing.assert_close(between, (at_a + at_b) / 2)
    assert not torch.allclose(at_a, at_b)


def test_gradient_reaches_bank_mix_and_code_layer():
    layer, code_layer = generated(HyperConv), CodeLayer(CODE)
    nn.init.normal_(layer.bias_bank)
    layer(torch.randn(2, 2, 5, 5), code_layer(torch.eye(2))).square().sum().backward()
    for name, parameter in (*layer.named_parameters(), *code_layer.named_parameters()):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_codes_shorter_than_the_layer_are_padded_and_longer_ones_refused():
    layer = CodeLayer(CODE)
    torch.testing.assert_close(layer(torch.eye(2)), layer(torch.eye(2, CODE)))
    with pytest.raises(ValueError, match=rf"7 values.*not {CODE}"):
        layer(torch.eye(7))


def test_a_subclass_must_say_how_its_kernel_is_made():
    with pytest.raises(TypeError, match="GeneratedConv"):
        GeneratedConv(2, 1, 1, 3)(torch.zeros(1, 1, 3, 3), torch.zeros(1, CODE))
