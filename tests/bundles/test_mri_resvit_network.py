"""ResViT at the paper's size (counted, never run) and at a tiny one (run)."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mri_resvit.network import ResViT


def tiny(**options) -> ResViT:
    torch.manual_seed(0)
    small = {"channels": (4, 8), "art_blocks": 3, "transformers": (1, 3), "width": 8, "mlp_width": 12, "layers": 2}
    return ResViT(**{"sequences": 3, **small, "heads": 2, "grid": 4, **options}).eval()


@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"sequences": 1}, 123_441_537),  # the authors', of one pair
        ({"sequences": 1, "transformers": ()}, 11_370_881),  # of their first training
        ({"sequences": 4}, 123_460_356),
    ],
)
def test_parameters_of_the_paper_s_networks(options: dict, total: int):
    with torch.device("meta"):
        network = ResViT(**options)
    assert sum(parameter.numel() for parameter in network.parameters()) == total
    assert network.downsampling == 16


def test_a_slice_costs_what_the_authors_network_does():
    """119.66 GMACs, counted in their code."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert ResViT(1).eval().generate_from(torch.empty(1, 1, 256, 256), torch.ones(1, 1)).shape == (1, 1, 256, 256)
    assert counter.get_total_flops() / 2e9 == pytest.approx(119.66, abs=0.01)


def test_the_transformer_is_one_and_the_positions_are_each_block_s_own():
    network = tiny()
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    assert sum(name.endswith("qkv.weight") for name in names) == 2  # layers, not blocks
    assert sum(name.endswith("positions") for name in names) == 2


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_positions_are_the_learned_ones_at_their_own_size_and_interpolated_at_others(size: tuple[int, int]):
    """The paper's grid is 16 x 16 of a 256 x 256 image."""
    context = tiny(grid=16).art[0].context
    torch.nn.init.normal_(context.positions)
    torch.nn.init.zeros_(context.patches.weight)
    torch.nn.init.zeros_(context.patches.bias)
    seen = context.embed(torch.rand(1, 8, *(4 * side for side in size)))
    assert seen.shape[2:] == size
    if size == (16, 16):
        assert torch.equal(seen, context.positions)
    else:
        middle = seen[0, 0, 0, 10].item()  # between the middle columns, which lie 20 / 16 apart
        expected = torch.lerp(context.positions[0, 0, :, 7], context.positions[0, 0, :, 8], (10.5 * 0.8 - 0.5) - 7)
        assert middle == pytest.approx(torch.lerp(expected[0], expected[1], 0.5 * 16 / 12 - 0.5).item(), abs=1e-5)


def theirs(network: ResViT) -> dict[str, Tensor]:
    """A state dict with the names that the authors' code gives its tensors."""
    found = {}

    def take(name: str, conv_norm: torch.nn.Sequential, conv: int, norm: int) -> None:
        found[f"{name}.{conv}.weight"] = conv_norm[0].weight
        found.update({f"{name}.{norm}.{kind}": getattr(conv_norm[1], kind) for kind in ("weight", "bias")})

    take("encoder_1", network.encoder[0], 1, 2)
    take("encoder_2", network.encoder[1], 0, 1)
    for k, block in enumerate(network.art, 1):
        take(f"art_{k}.residual_cnn.0.conv_block", block.residual.conv1, 1, 2)
        take(f"art_{k}.residual_cnn.0.conv_block", block.residual.conv2, 5, 6)
        if block.context is None:
            continue
        for way, part in (("downsample", block.context.down), ("upsample", block.context.up)):
            take(f"art_{k}.{way}", part[0], 0, 1)
            take(f"art_{k}.{way}", part[1], 3, 4)
        take(f"art_{k}.cc.skip", block.context.compression.skip, 0, 1)
        take(f"art_{k}.cc.block", block.context.compression.conv1, 0, 1)
        take(f"art_{k}.cc.block", block.context.compression.conv2, 3, 4)
        for kind in ("weight", "bias"):
            found[f"art_{k}.embeddings.patch_embeddings.{kind}"] = getattr(block.context.patches, kind)
        found[f"art_{k}.embeddings.positional_encoding"] = block.context.positions.flatten(2).mT
    for k, block in enumerate(network.transformer.blocks):
        name = f"transformer_encoder.layer.{k}"
        for kind in ("weight", "bias"):
            for part, value in zip(("query", "key", "value"), getattr(block.attn.qkv, kind).chunk(3), strict=True):
                found[f"{name}.attn.{part}.{kind}"] = value
            found[f"{name}.attn.out.{kind}"] = getattr(block.attn.out_proj, kind)
            found[f"{name}.ffn.fc1.{kind}"] = getattr(block.mlp.linear1, kind)
            found[f"{name}.ffn.fc2.{kind}"] = getattr(block.mlp.linear2, kind)
            found[f"{name}.attention_norm.{kind}"] = getattr(block.norm1, kind)
            found[f"{name}.ffn_norm.{kind}"] = getattr(block.norm2, kind)
            found[f"transformer_encoder.encoder_norm.{kind}"] = getattr(network.transformer.norm, kind)
    take("decoder_1", network.decoder[0], 0, 1)
    found["decoder_2.1.weight"], found["decoder_2.1.bias"] = network.decoder[1].weight, network.decoder[1].bias
    return found


class Written:
    """The generator as the paper and its code describe it, from such a state dict, by plain operations."""

    def __init__(self, state: dict[str, Tensor], heads: int) -> None:
        self.state, self.heads = state, heads

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Of one image at a time, as their trainer and their test show them."""
        scale = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return torch.cat([F.batch_norm(one[None], None, None, *scale, training=True) for one in x])

    def conv(self, x: Tensor, name: str, conv: int, norm: int, reflect: int = 0, **options) -> Tensor:
        x = F.pad(x, [reflect] * 4, mode="reflect") if reflect else x
        return self.norm(F.conv2d(x, self.state[f"{name}.{conv}.weight"], **options), f"{name}.{norm}")

    def up(self, x: Tensor, name: str, conv: int, norm: int) -> Tensor:
        options = {"stride": 2, "padding": 1, "output_padding": 1}
        return self.norm(F.conv_transpose2d(x, self.state[f"{name}.{conv}.weight"], **options), f"{name}.{norm}").relu()

    def linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], 1e-6)

    def transformer(self, x: Tensor) -> Tensor:
        layers = {found[1] for name in self.state if (found := re.match(r"transformer_encoder\.layer\.(\d+)", name))}
        for k in sorted(layers, key=int):
            name = f"transformer_encoder.layer.{k}"
            y = self.layer_norm(x, f"{name}.attention_norm")
            q, k_, v = (
                self.linear(y, f"{name}.attn.{part}").unflatten(2, (self.heads, -1)).transpose(1, 2)
                for part in ("query", "key", "value")
            )
            weights = (q @ k_.mT / q.shape[-1] ** 0.5).softmax(-1)
            x = x + self.linear((weights @ v).transpose(1, 2).flatten(2), f"{name}.attn.out")
            y = self.layer_norm(x, f"{name}.ffn_norm")
            x = x + self.linear(F.gelu(self.linear(y, f"{name}.ffn.fc1")), f"{name}.ffn.fc2")
        return self.layer_norm(x, "transformer_encoder.encoder_norm")

    def art(self, x: Tensor, name: str) -> Tensor:
        if f"{name}.embeddings.positional_encoding" in self.state:
            y = self.conv(x, f"{name}.downsample", 0, 1, stride=2, padding=1).relu()
            y = self.conv(y, f"{name}.downsample", 3, 4, stride=2, padding=1).relu()
            patches = f"{name}.embeddings.patch_embeddings"
            y = F.conv2d(y, self.state[f"{patches}.weight"], self.state[f"{patches}.bias"])
            tokens = y.flatten(2).mT + self.state[f"{name}.embeddings.positional_encoding"]
            y = self.transformer(tokens).mT.reshape(y.shape)
            y = torch.cat([self.up(self.up(y, f"{name}.upsample", 0, 1), f"{name}.upsample", 3, 4), x], 1)
            inner = self.conv(y, f"{name}.cc.block", 0, 1, padding=1).relu()
            inner = self.conv(inner, f"{name}.cc.block", 3, 4, padding=1)
            x = (inner + self.conv(y, f"{name}.cc.skip", 0, 1)).relu()
        block = f"{name}.residual_cnn.0.conv_block"
        return x + self.conv(self.conv(x, block, 1, 2, reflect=1).relu(), block, 5, 6, reflect=1)

    def __call__(self, x: Tensor, art_blocks: int) -> Tensor:
        x = self.conv(x, "encoder_1", 1, 2, reflect=3).relu()
        x = self.conv(x, "encoder_2", 0, 1, stride=2, padding=1).relu()
        for k in range(1, art_blocks + 1):
            x = self.art(x, f"art_{k}")
        x = F.pad(self.up(x, "decoder_1", 0, 1), [3] * 4, mode="reflect")
        return F.conv2d(x, self.state["decoder_2.1.weight"], self.state["decoder_2.1.bias"]).tanh()


def test_it_computes_what_the_authors_layers_do_by_their_names():
    network = tiny(sequences=1)
    for name, value in network.state_dict().items():  # as if trained: no norm does nothing, no position is 0
        if value.ndim == 1 or "positions" in name:
            value.normal_(1 if name.endswith("weight") else 0, 0.3)
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        expected = Written(theirs(network), heads=2)(2 * image - 1, 3)
        made = network(image, step="generate_from", given=torch.ones(2, 1))
    torch.testing.assert_close(2 * made - 1, expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05


def test_the_values_of_a_missing_sequence_do_not_matter():
    network = tiny()
    image = torch.rand(1, 3, 16, 16)
    image[:, 2, :8] = 0
    given = torch.tensor([[1.0, 1.0, 0.0]])
    other = image.clone()
    other[:, 2] = -1
    with torch.no_grad():
        assert torch.equal(network.generate_from(image, given), network.generate_from(other, given))
        assert not torch.allclose(
            network.generate_from(image, given), network.generate_from(image, torch.ones(1, 3)), atol=1e-4
        )


def test_a_target_is_not_made_from_itself_and_all_slabs_are_one_volume():
    network = tiny()
    subject = torch.rand(1, 3, 16, 24, 5)
    subject[..., 4] = 0  # a slice of air
    subject[:, 1, ..., 0] = 0  # which one sequence does not reach
    with torch.no_grad():
        made = network(subject)
        changed = subject.clone()
        changed[:, 0] = torch.rand(1, 16, 24, 5)
        again = network(changed)
        slabs = torch.cat([network.complete(part, [0, 1, 2]) for part in subject.split(2, -1)], -1)
    assert torch.allclose(made[:, 0][changed[:, 0] > 0], again[:, 0][changed[:, 0] > 0], atol=1e-6)
    assert not torch.allclose(made[:, 1], again[:, 1], atol=1e-3)
    torch.testing.assert_close(slabs, made, rtol=0, atol=1e-6)
    assert (made[..., 4] == 0).all() and made.min() >= 0 and made.max() <= 1


def test_a_block_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match=r"transformers has \[9\]; there are the blocks 1 to 3"):
        tiny(transformers=(1, 9))
