"""ResViT's losses, and what its second training begins with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mri_resvit.common.training.adversary import Adversary
from torch import Tensor, nn

from mri_resvit.network import ResViT
from mri_resvit.objective import ResViTObjective
from mri_resvit.pretrained import Begun, vit_state, with_vit


class Constant(nn.Module):
    """Makes a half of everything, and keeps what it was shown."""

    def forward(self, image: Tensor, *, step: str, given: Tensor) -> Tensor:
        self.source = given
        return torch.full_like(image, 0.5, requires_grad=True)


def test_the_terms_of_a_known_image():
    """Targets are 0.25 and sources 0.75 off, in [-1, 1] twice as much."""
    batch = {"image": torch.tensor([0.25, 0.25])[None, :, None, None, None].repeat(1, 1, 8, 8, 2)}
    batch["reference"] = batch["image"].clone()
    network, objective = Constant(), ResViTObjective(self_weight=0.5)
    terms, samples = objective(network, batch)
    assert network.source.shape == (2, 2) and (network.source.sum(1) == 1).all(), "a slice is an image"
    target = int(network.source[0].argmin())
    batch["reference"][:, 1 - target] = 1.0
    torch.manual_seed(0)
    for _ in range(8):
        terms, samples = objective(network, batch)
        if int(network.source[0].argmin()) == target:
            break
    assert terms["l1"].item() == pytest.approx(100 * 0.5) and not samples
    assert terms["l1_self"].item() == pytest.approx(50 * 1.0)


def test_what_is_missing_costs_nothing_and_is_not_shown():
    image = torch.rand(2, 3, 32, 32, 1)
    image[1, 2] = -1
    adversary = Adversary.of_sequences(1, 2, 6, torch.device("cpu"))
    terms, samples = ResViTObjective(adversary=adversary)(Constant(), {"image": image})
    real, fake = samples["real"], samples["fake"]
    assert real.shape == fake.shape == (2, 6, 32, 32)
    assert (real[1, 2] == 0).all() and (real[1, 5] == 0).all() and (fake[1, 5] == 0).all()
    assert torch.equal(real[:, :3], fake[:, :3]), "the sources are the condition"
    shown = real.flatten(2).any(-1)
    assert (shown[0, :3] ^ shown[0, 3:]).all(), "each sequence is a source or a target"
    assert torch.isfinite(torch.stack(list(terms.values()))).all() and terms["adversarial"] > 0


def vit_file(path: Path, width: int = 8, heads: int = 2, layers: int = 2, grid: int = 3) -> dict[str, np.ndarray]:
    """As vit_jax saves one, with random numbers."""
    rng = np.random.default_rng(0)
    shapes = {"embedding/kernel": (1, 1, 32, width), "embedding/bias": (width,)}
    shapes["Transformer/posembed_input/pos_embedding"] = (1, 1 + grid**2, width)
    for norm in (
        "Transformer/encoder_norm",
        *(f"Transformer/encoderblock_{k}/LayerNorm_{n}" for k in range(layers) for n in (0, 2)),
    ):
        shapes |= {f"{norm}/scale": (width,), f"{norm}/bias": (width,)}
    for k in range(layers):
        block = f"Transformer/encoderblock_{k}"
        for part in ("query", "key", "value"):
            name = f"{block}/MultiHeadDotProductAttention_1/{part}"
            shapes |= {f"{name}/kernel": (width, heads, width // heads), f"{name}/bias": (heads, width // heads)}
        name = f"{block}/MultiHeadDotProductAttention_1/out"
        shapes |= {f"{name}/kernel": (heads, width // heads, width), f"{name}/bias": (width,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (width, 12), f"{block}/MlpBlock_3/Dense_0/bias": (12,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (12, width), f"{block}/MlpBlock_3/Dense_1/bias": (width,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    np.savez(path, **arrays)
    return arrays


def tiny(**options) -> ResViT:
    small = {"channels": (4, 8), "art_blocks": 3, "transformers": (1, 3), "width": 8, "mlp_width": 12, "layers": 2}
    return ResViT(**{"sequences": 2, **small, "heads": 2, "grid": 5, **options}).eval()


def test_a_vit_s_weights_are_taken(tmp_path: Path):
    arrays = vit_file(tmp_path / "vit.npz")
    network = with_vit(tiny(), tmp_path / "vit.npz")
    x = torch.randn(1, 8)
    kernel = arrays["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel"].reshape(8, 8)
    expected = x @ torch.from_numpy(kernel) + torch.from_numpy(
        arrays["Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/bias"].flatten()
    )
    torch.testing.assert_close(network.transformer.blocks[1].attn.qkv(x)[:, 8:16], expected)
    dense = torch.from_numpy(arrays["Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"])
    torch.testing.assert_close(network.transformer.blocks[0].mlp.linear1.weight, dense.T)
    table = torch.from_numpy(arrays["Transformer/posembed_input/pos_embedding"])[0, 1:]  # 3 x 3 to 5 x 5
    for block in (network.art[0], network.art[2]):
        positions = block.context.positions[0]
        torch.testing.assert_close(positions[:, 0, 0], table[0])
        torch.testing.assert_close(positions[:, 4, 2], table[7])
        torch.testing.assert_close(positions[:, 0, 1], (table[0] + table[1]) / 2)
    assert (
        set(network.transformer.state_dict()) <= vit_state({n: torch.from_numpy(a) for n, a in arrays.items()}).keys()
    )


def test_what_is_no_such_vit_is_refused(tmp_path: Path):
    vit_file(tmp_path / "vit.npz")
    (tmp_path / "text.npz").write_text("no weights")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(FileNotFoundError, match=r"vit_weights is '.*none\.npz', which is no file\. Fetch https"):
        with_vit(tiny(), tmp_path / "none.npz")
    for name in ("text.npz", "other.npz"):
        with pytest.raises(ValueError, match="holds no ViT as vit_jax saves it"):
            with_vit(tiny(), tmp_path / name)
    with pytest.raises(ValueError, match=r"is of another transformer: .* differ"):
        with_vit(tiny(mlp_width=16), tmp_path / "vit.npz")
    with pytest.raises(ValueError, match="this network has no transformer"):
        with_vit(tiny(transformers=()), tmp_path / "vit.npz")


def test_the_second_training_has_transformers_whatever_the_first_had(tmp_path: Path):
    (tmp_path / "first.pt").touch()
    network = {"transformers": [], "channels": [4, 8]}
    (tmp_path / "first.json").write_text(json.dumps({"network": network, "normalisation": "p99"}))
    begun = Begun(tmp_path / "models", tmp_path / "first.pt")
    assert begun("transformers", [1, 6]) == [1, 6] and begun("channels", None) == [4, 8]
    assert begun("normalisation", "minmax") == "p99"
