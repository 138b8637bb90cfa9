"""Weights of monai-generative 0.2.3 in core's classes, against that package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from generative.networks import nets as old_nets
from monai.networks import nets
from torch import nn

from mri_aldm.generative import convert, load_old_weights

KL = {
    **{"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "latent_channels": 3, "norm_num_groups": 4},
    **{"num_res_blocks": (1, 2), "attention_levels": (False, True)},
}
UNET = {
    **{"spatial_dims": 3, "in_channels": 2, "out_channels": 1, "norm_num_groups": 4, "num_head_channels": 4},
    **{"num_res_blocks": (1, 1), "attention_levels": (False, True)},
}
CROSS = {"with_conditioning": True, "cross_attention_dim": 4}
VQVAE = {
    **{"spatial_dims": 3, "in_channels": 1, "out_channels": 1, "num_res_layers": 1, "num_res_channels": (8, 8)},
    **{"downsample_parameters": ((2, 4, 1, 1),) * 2, "upsample_parameters": ((2, 4, 1, 1, 0),) * 2},
    **{"num_embeddings": 16, "embedding_dim": 4},
}


def both(name: str, options: dict) -> tuple[nn.Module, nn.Module]:
    """The old network with random weights, zero-initialised layers too, and core's with the same."""
    torch.manual_seed(0)
    old = getattr(old_nets, name)(num_channels=(8, 8), **options).eval()
    for parameter in old.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    torch.manual_seed(1)
    new = getattr(nets, name)(channels=(8, 8), **options).eval()
    return old, load_old_weights(new, old.state_dict())


def test_vqvae_to_the_bit():
    old, new = both("VQVAE", VQVAE)
    x = torch.randn(1, 1, 16, 16, 8)
    with torch.no_grad():
        for a, b in zip(old(x), new(x), strict=True):
            assert torch.equal(a, b)


def test_autoencoder_with_attention():
    old, new = both("AutoencoderKL", KL)
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        for a, b in zip(old.encode(x), new.encode(x), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        torch.testing.assert_close(old.reconstruct(x), new.reconstruct(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, CROSS], ids=["self-attention", "cross-attention"])
def test_diffusion_unet(options: dict):
    old, new = both("DiffusionModelUNet", {**UNET, **options})
    x, t = torch.randn(2, 2, 8, 8, 8), torch.tensor([3, 700])
    context = {"context": torch.eye(4)[:2, None]} if options else {}
    with torch.no_grad():
        made, expected = new(x, t, **context), old(x, t, **context)
    assert expected.std() > 0.1
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


def test_a_file_is_converted(tmp_path: Path):
    old, new = both("AutoencoderKL", KL)
    torch.save(old.state_dict(), tmp_path / "old.pt")
    definition = {"_target_": "AutoencoderKL", "channels": [8, 8], **KL}
    convert(str(tmp_path / "old.pt"), str(tmp_path / "new.pt"), definition)
    written = torch.load(tmp_path / "new.pt", weights_only=True)
    assert written.keys() == new.state_dict().keys()
    assert all(torch.equal(written[name], value) for name, value in new.state_dict().items())


def test_other_weights_are_an_error():
    old, _ = both("VQVAE", VQVAE)
    for network in (nets.VQVAE(channels=(4, 4), **VQVAE), nets.AutoencoderKL(channels=(8, 8), **KL)):
        with pytest.raises(ValueError, match="The weights are not of this"):
            load_old_weights(network, old.state_dict())
    with pytest.raises(ValueError, match="Linear is not one"):
        load_old_weights(nn.Linear(1, 1), {})
