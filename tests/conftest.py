"""What every test may use: a coarse phantom, a tiny network and a bundle's workflows in this process."""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
PERCEPTUAL = ("mri_seq2seq", "mri_vq_seq2seq", "mri_aldm")  # with VGG19 in a loss


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also run the slow checks (marker `full`)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="slow; pass --full to run it"))


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training, one validation and one test subject of 25 x 30 x 24 voxels, four sequences each."""
    from common.data.phantom import make_phantom

    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(folder, subjects=4, spacing=8, seed=0)
    return folder


@pytest.fixture(scope="session")
def mri_data() -> Path:
    """Real images, where the environment variable MRI_DATA says so."""
    if not os.environ.get("MRI_DATA"):
        pytest.skip("MRI_DATA, the folder of real images, is not set")
    return Path(os.environ["MRI_DATA"])


@pytest.fixture(scope="session")
def tiny() -> dict[str, dict[str, Any]]:
    """By bundle, config overrides that make its network small enough for a test."""
    options = {"norm": "everywhere", "source_code": False}
    sizes = {"channels": [4, 8], "res_blocks": 1, "code_channels": 4, "bank_channels": 2, **options}
    networks = {"mri_seq2seq": {**sizes, "lstm_layers": 0}, "mri_vq_seq2seq": {**sizes, "codes": 16}}
    networks["mri_aldm"] = {
        **{"channels": [4, 8], "res_blocks": 1, "norm_groups": 2, "codes": 16, "spade_channels": [4, 4]},
        **{"spade_hidden": 4, "unet_channels": [4, 8], "unet_res_blocks": 1, "unet_attention": [False, True]},
        **{"head_channels": 4, "unet_norm_groups": 2, "steps": 2, "spade_blocks": [1, 1], "spade_norm": "everywhere"},
        **{"source_code": False, "latent_channels": 3, "norm": "everywhere", "usual": [0.5, 0.5]},
        **{"prediction": "noise"},
    }
    vit = {"art_blocks": 2, "width": 8, "mlp_width": 8, "layers": 1, "heads": 2, "grid": 4, "transformers": [1]}
    networks["mri_resvit"] = {"channels": [4, 8], **vit}
    networks["mri_wavelet_flow"] = {"channels": [4, 8], "res_blocks": 1, "norm_groups": 2}
    resnet = {"channels": [4, 8], "res_blocks": 1}
    networks |= {"mri_pgan": resnet, "mri_mmgan": {"channels": [4, 8]}, "mri_cyclegan": resnet}
    aldm = {"roi_size": [16, 16, 16], "crop_size": [16, 16, 16], "divisible": [4, 4, 4]}
    aldm |= {"adversarial_weight": 0.0, "sampler": "ddim", "cycle_weight": 1.0, "regularisation": "vq"}
    own = {"mri_aldm": aldm, "mri_vq_seq2seq": {"repeats": 1}}
    own["mri_resvit"] = {"roi_size": [32, 32, 1], "divisible": [8, 8, 1], "adversarial_weight": 0.0}
    own["mri_wavelet_flow"] = {"roi_size": [16, 16, 16], "divisible": [4, 4, 4], "batch_size": 1, "learning_rate": 1e-3}
    gan = {"roi_size": [32, 32, 1], "discriminator_channels": 4}  # what a discriminator's patches fit into
    own |= {"mri_pgan": {**gan, "roi_size": [32, 32, 3]}, "mri_mmgan": {**gan, "divisible": [4, 4, 1], "batch_size": 1}}
    own["mri_cyclegan"] = gan
    others = {
        "divisible": [2, 2, 1],
        "num_workers": 0,
        "epochs": 2,
        "val_interval": 1,
    }
    for bundle in ("mri_seq2seq", "mri_vq_seq2seq", "mri_aldm", "mri_pgan"):
        own[bundle] = {"perceptual_weights": "none", **own.get(bundle, {})}
    return {
        bundle: {
            **{f"network_def#{name}": value for name, value in network.items()},
            "roi_size": [16, 16, 3 if bundle == "mri_seq2seq" else 1],
            **others,
            **({"perceptual_weights": "none"} if bundle in PERCEPTUAL else {}),
            **own.get(bundle, {}),
        }
        for bundle, network in networks.items()
    }


@pytest.fixture(scope="session")
def tiny_network(tiny: dict[str, dict[str, Any]]) -> Callable[[str], Any]:
    """`tiny_network("mri_seq2seq", **options)`: the network of a bundle's train.json, tiny, much as it starts."""

    def create(bundle: str, **others: Any) -> Any:
        definition = json.loads((REPOSITORY / "bundles" / bundle / "configs" / "train.json").read_text())["network_def"]
        options = {name.removeprefix("network_def#"): v for name, v in tiny[bundle].items() if "network_def#" in name}
        torch.manual_seed(0)
        network = locate(definition["_target_"].removesuffix(".as_described"))(**{**options, **others})
        for name, parameter in network.named_parameters():
            if name.startswith(("denoiser", "unet")) and not parameter.any():  # all zeros at its end, it sees nothing
                torch.nn.init.normal_(parameter, std=0.1)
        return network

    return create


@pytest.fixture(scope="session")
def weights_of(tmp_path_factory: pytest.TempPathFactory, tiny_network: Callable[[str], Any]) -> Callable[[str], Path]:
    """Random weights of a bundle's tiny network, with a reference scale of each sequence."""

    @functools.cache
    def create(bundle: str) -> Path:
        network = tiny_network(bundle)
        scales = torch.tensor([[100.0, 0.0], [200.0, 0.0], [300.0, 10.0], [400.0, 20.0]])
        network.reference_scale.copy_(scales[: network.sequences])
        path = tmp_path_factory.mktemp(bundle) / "model.pt"
        torch.save(network.state_dict(), path)
        return path

    return create


@pytest.fixture(scope="session")
def tiny_weights(weights_of: Callable[[str], Path]) -> Path:
    """Those of mri_seq2seq, where it does not matter which bundle's."""
    return weights_of("mri_seq2seq")


@pytest.fixture(scope="session")
def described_weights(tmp_path_factory: pytest.TempPathFactory, tiny_network: Callable[[str], Any]) -> Path:
    """Of mri_seq2seq, with the description that a training writes: to be used without further options."""
    from common.description import write

    network = tiny_network("mri_seq2seq")
    network.reference_scale.copy_(torch.tensor([[100.0, 0.0]] * 4))
    path = tmp_path_factory.mktemp("described") / "model.pt"
    torch.save(network.state_dict(), path)
    sizes = {"roi_size": [16, 16, 3], "divisible": [2, 2, 1]}
    write(path, network, sequences=["T1", "T1Gd", "T2", "FLAIR"], normalisation="p99_foreground", **sizes)
    return path


@pytest.fixture(scope="session")
def workflow(tiny: dict[str, dict[str, Any]], weights_of: Callable[[str], Path]) -> Callable[..., Any]:
    """`workflow("mri_seq2seq", "train.json", "small.json", **overrides)`: the initialised workflow, tiny.

    Trainings that go on from others' weights have random ones.
    """
    from monai.bundle import create_workflow

    def create(bundle: str, *files: str, **overrides: Any) -> Any:
        root = REPOSITORY / "bundles" / bundle
        earlier = {}
        if bundle == "mri_aldm" and files[0] in ("train.json", "train_translation.json"):
            earlier = dict.fromkeys(("autoencoder_weights", "translation_weights"), weights_of(bundle))
        settings = {name: _plain(value) for name, value in {**tiny[bundle], **earlier, **overrides}.items()}
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a config can run any code
            return create_workflow(
                config_file=[str(root / "configs" / file) for file in files],
                workflow_type="inference" if files[0].startswith("inference") else "train",
                logging_file=False,
                **{"bundle_root": str(root), **settings},
            )

    return create


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value
