"""The phantom of CRL's nine settings, its network's weights and its workflows, all tiny."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

TINY_CRL = {
    "network_def#features": 8,
    "network_def#res_blocks": 1,
    "network_def#heads": 2,
    "roi_size": [16, 16, 1],
    "slab": 16,
    "num_workers": 0,
    "epochs": 2,
    "val_interval": 1,
    "learning_rate": 0.01,
    "visits_per_epoch": 1,
    "batch_size": 2,
}


@pytest.fixture(scope="session")
def fse_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training, one validation and one test subject of 25 x 30 x 12 voxels, nine sequences each, of one gain."""
    from common.data.phantom import make_phantom

    folder = tmp_path_factory.mktemp("fse")
    make_phantom(folder, subjects=4, spacing=(8, 8, 16), sequences="fse9", one_gain=True)
    return folder


@pytest.fixture(scope="session")
def crl_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, trained on TR 2000 to 9000, TE 5 to 110 and TI up to 2100 ms as far as they say."""
    from common.data.mr_signal import FSE9
    from mri_crl.network import CRL

    torch.manual_seed(0)
    network = CRL([(each.tr, each.te, each.ti) for each in FSE9.values()], features=8, res_blocks=1, heads=2)
    network.trained_range.copy_(torch.tensor([[2000.0, 5.0, 0.0], [9000.0, 110.0, 2100.0]]))
    path = tmp_path_factory.mktemp("crl") / "model.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def crl() -> Callable[..., Any]:
    """`crl("train.json", "small.json", **overrides)`: the initialised workflow, tiny."""
    from monai.bundle import create_workflow

    root = Path(__file__).parents[2] / "bundles" / "mri_crl"

    def create(*files: str, **overrides: Any) -> Any:
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in overrides.items()}
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that a config can run any code
            return create_workflow(
                config_file=[str(root / "configs" / file) for file in files],
                workflow_type="inference" if files[0].startswith("inference") else "train",
                logging_file=False,
                **{"bundle_root": str(root), **TINY_CRL, **plain},
            )

    return create
