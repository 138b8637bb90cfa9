from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tumours_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training, one validation and two test subjects of 25 x 30 x 24 voxels, each with a tumour."""
    from common.data.phantom import make_phantom

    folder = tmp_path_factory.mktemp("tumours")
    make_phantom(folder, subjects=5, spacing=8, seed=1, test=0.4, tumours=1)
    return folder
