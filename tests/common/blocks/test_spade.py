"""MS-SPADE against MONAI's SPADE, one per target."""

from __future__ import annotations

import torch
from monai.networks.blocks import SPADE

from common.blocks.spade import MSSpade, SpadeTranslator


def test_each_target_is_a_spade_of_its_own():
    torch.manual_seed(0)
    layer = MSSpade(targets=3, spatial_dims=3, channels=4, hidden_channels=5)
    torch.nn.init.normal_(layer.shared.bias)
    x, target = torch.randn(4, 4, 6, 5, 4), torch.tensor([2, 0, 1, 0])
    mixed = layer(x, torch.eye(3)[target])
    for row, j in enumerate(target.tolist()):
        plain = SPADE(4, 4, spatial_dims=3, hidden_channels=5)
        for name, conv in (("shared", plain.mlp_shared), ("gamma", plain.mlp_gamma), ("beta", plain.mlp_beta)):
            conv.conv.weight.data = getattr(layer, name).weight.data[j]
            conv.conv.bias.data = getattr(layer, name).bias.data[j]
        # MONAI's own slope is 0.01, the authors' 0.2; and MONAI also normalises gamma and beta, which they do not.
        plain.mlp_shared.adn.A.negative_slope = 0.2
        plain.mlp_gamma.adn = plain.mlp_beta.adn = torch.nn.Identity()
        expected = plain(x[row : row + 1], x[row : row + 1])
        torch.testing.assert_close(mixed[row : row + 1], expected, rtol=1e-4, atol=1e-4)
        alike = layer(x[row : row + 1], torch.eye(3)[j : j + 1])
        torch.testing.assert_close(alike, expected, rtol=1e-4, atol=1e-4)


def test_translator_has_table_b_s_layers_and_learns_each_target_apart():
    with torch.device("meta"):
        paper = SpadeTranslator(4)
    assert [block.convs[1].out_channels for block in paper.blocks] == [256, 256, 256, 256, 256, 128]
    assert [len(block.norms) for block in paper.blocks] == [0, 0, 2, 2, 2, 2]
    translator = SpadeTranslator(2, 2, latent_channels=3, channels=(4, 6), hidden_channels=4)
    made = translator(torch.randn(2, 3, 8, 8), torch.eye(2)[:1])
    assert made.shape == (2, 3, 8, 8)
    made.sum().backward()
    gradient = translator.blocks[2].norms[0].gamma.weight.grad
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0


def test_latents_keep_their_size_at_the_start():
    torch.manual_seed(0)
    translator = SpadeTranslator(4, channels=(16, 32), hidden_channels=16)
    with torch.no_grad():
        made = translator(torch.randn(1, 3, 12, 12, 12), torch.eye(4)[:1])
    assert 0.1 < made.std() < 5


def test_normalisation_in_the_branches_keeps_how_bright_a_latent_is():
    """And the translator undoes the scale of the latents that it is told."""
    torch.manual_seed(0)
    options = {"channels": (4, 6), "hidden_channels": 4, "res_blocks": 1, "spade_blocks": 1}
    keeps = SpadeTranslator(2, 2, norm="branches", **options)
    latent, target = torch.randn(1, 3, 48, 48), torch.eye(2)[:1]
    with torch.no_grad():
        moved = [
            (each(latent + 1, target) - each(latent, target))[..., 20:28, 20:28].abs().mean()
            for each in (keeps, SpadeTranslator(2, 2, **options))
        ]
        made = keeps(latent, target)
        keeps.scale.copy_(torch.tensor([[5.0], [2.0]]).expand(2, 3))
        torch.testing.assert_close(keeps(latent * 2 + 5, target), made * 2 + 5, rtol=1e-4, atol=1e-4)
    assert moved[0] > 3 * moved[1]  # away from the padding


def test_the_source_is_told_where_wanted():
    translator = SpadeTranslator(3, 2, channels=(4, 6), hidden_channels=4, source_code=True)
    latent, target = torch.randn(1, 3, 8, 8), torch.eye(3)[:1]
    with torch.no_grad():
        first, second = (translator(latent, target, torch.eye(3)[i : i + 1]) for i in (1, 2))
    assert (first - second).abs().max() > 1e-4
