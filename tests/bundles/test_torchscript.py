"""TorchScript compiles what is deployed of every network, whatever its options, and makes what the network makes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from common.inference.export import Deployed, trial_image
from common.translation import TranslationNetwork

OPTIONS = [
    ("mri_seq2seq", {"lstm_layers": 2, "source_code": True}),
    ("mri_seq2seq", {"spatial_dims": 3, "norm": "branches"}),
    ("mri_seq2seq", {"conditioning": "adain", "slice_axis": -2}),
    ("mri_seq2seq", {"conditioning": "dynamic"}),
    ("mri_vq_seq2seq", {"source_code": True}),
    ("mri_vq_seq2seq", {"quantiser": "ema", "slices": 3}),
    ("mri_vq_seq2seq", {"quantiser": "none", "spatial_dims": 3}),
    ("mri_crl", {"downsampling": 2}),
    ("mri_crl", {"variant": "gain"}),
    ("mri_crl", {"variant": "physical", "fusion": "features", "downsampling": 2}),
    ("mri_aldm", {"source_code": True, "samples": 2}),
    ("mri_aldm", {"sampler": "flow", "method": "no_spade"}),
    ("mri_aldm", {"sampler": "ddpm", "method": "no_palette", "start": 0.003}),
    ("mri_aldm", {"method": "spade", "regularisation": "kl"}),
    ("mri_aldm", {"fusion": "latents", "sampler": "flow", "norm": "none", "usual": [0.3, 0.1]}),
    ("mri_resvit", {"slice_axis": -2}),
    pytest.param("mri_resvit", {"transformers": []}, marks=pytest.mark.full),
    ("mri_mmgan", {"slice_axis": -2}),
    ("mri_wavelet_flow", {"path": "displacement"}),
    pytest.param("mri_wavelet_flow", {"steps": 3}, marks=pytest.mark.full),
]
each = pytest.mark.parametrize(("bundle", "options"), OPTIONS, ids=lambda each: str(each))


@pytest.fixture(scope="module")
def network(tiny_network):
    def create(bundle: str, **options: Any) -> TranslationNetwork:
        if bundle == "mri_crl":
            from mri_crl.network import CRL

            torch.manual_seed(0)
            settings = [(2479.0, 9.62, 1055.0), (8142.0, 104.2, 0.0), (8000.0, 98.78, 2025.0)]
            return CRL(settings, features=8, res_blocks=1, heads=2, **options)
        return tiny_network(bundle, sequences=3, **options)

    return create


@each
def test_it_is_compiled(network, bundle: str, options: dict[str, Any]):
    made = network(bundle, **options).eval()
    compiled, depth = torch.jit.script(made), 8 if bundle in ("mri_aldm", "mri_wavelet_flow") else 5
    depth += 3 if options.get("spatial_dims") == 3 else 0
    results = []
    for batch, missing in ((1, []), (2, [0]), (2, [1, 2])):
        image = trial_image(
            [batch, 3, 16, depth, 24] if "slice_axis" in options else [batch, 3, 16, 24, depth], missing
        )
        with torch.no_grad():
            results.append(made(image)[:1])
            torch.testing.assert_close(compiled(image), made(image), rtol=0, atol=1e-5)
            torch.testing.assert_close(compiled(image, [1])[:, 1], made(image)[:, 1], rtol=0, atol=1e-5)
    assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(results)), "they differ"


@pytest.mark.parametrize("bundle", ["mri_seq2seq", "mri_vq_seq2seq"])
@pytest.mark.parametrize("conditioning", ["hyperconv", "adain"])
def test_of_a_single_target(network, bundle: str, conditioning: str):
    options = {"conditioning": conditioning} if bundle == "mri_seq2seq" else {}
    deployed = Deployed(network(bundle, **options).eval(), [1])
    image = trial_image([1, 3, 16, 16, 4])
    with torch.no_grad():
        expected = deployed(image)
        torch.testing.assert_close(torch.jit.script(deployed)(image), expected, rtol=0, atol=1e-5)


def test_the_network_is_left_as_it_was(network):
    """It can be trained on; and a size that it cannot be run with is told by the file, too."""
    made = network("mri_seq2seq")
    compiled = torch.jit.script(made)
    images, codes = torch.rand(3, 3, 8, 8), torch.eye(3)
    trained = made(images, codes, [torch.tensor([0, 1])], codes[2:])
    assert trained.prediction.shape == (2, 3, 8, 8) and "forward" not in vars(made)
    with pytest.raises(ValueError, match=r"Image size \(9, 8\) is not a multiple of 2"):
        made(torch.zeros(1, 3, 9, 8, 3))
    with pytest.raises(torch.jit.Error, match=r"Image size \(9, 8\) is not a multiple of 2, .* pad it first"):
        compiled(torch.zeros(1, 3, 9, 8, 3))
