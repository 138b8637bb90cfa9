"""What a training keeps of its subjects is as it was, whatever is drawn from it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from monai.data import list_data_collate

RUNS = [
    ("mri_seq2seq", "train.json"),
    ("mri_vq_seq2seq", "train.json"),
    ("mri_aldm", "train_autoencoder.json"),
    ("mri_crl", "train.json"),
    pytest.param("mri_resvit", "train.json", marks=pytest.mark.full),
    pytest.param("mri_wavelet_flow", "train.json", marks=pytest.mark.full),
    pytest.param("mri_mmgan", "train.json", marks=pytest.mark.full),
    pytest.param("mri_pgan", "train.json", marks=pytest.mark.full),
]


@pytest.mark.parametrize(("bundle", "file"), RUNS)
def test_draws_leave_it_alone_and_are_those_of_a_copy(
    bundle: str, file: str, request: pytest.FixtureRequest, tmp_path: Path
):
    create = request.getfixturevalue("crl" if bundle == "mri_crl" else "workflow")
    data = request.getfixturevalue("fse_dir" if bundle == "mri_crl" else "phantom_dir")
    files = [file] if bundle == "mri_crl" else [bundle, file]
    created = create(*files, dataset_dir=data, ckpt_dir=tmp_path / "models", output_dir=tmp_path)
    ours = created.parser.get_parsed_content("train#dataset")
    before, copied = copy.deepcopy(ours._cache), copy.copy(ours)
    copied.copy_cache = True  # MONAI copies all of a subject before anything is drawn
    assert ours.copy_cache is False
    for seed in range(12):
        drawn = []
        for dataset in (ours, copied):
            dataset.transform.set_random_state(seed)
            drawn.append(list_data_collate([dataset[k] for k in range(2)]))
        for name, value in drawn[0].items():
            assert torch.equal(value, drawn[1][name]) if isinstance(value, torch.Tensor) else value == drawn[1][name]
        for value in drawn[0].values():
            if isinstance(value, torch.Tensor):
                value.zero_()  # a batch is nobody else's
    for kept, was in zip(ours._cache, before, strict=True):
        assert kept.keys() == was.keys()
        assert torch.equal(kept["image"].as_tensor(), was["image"].as_tensor())
        assert torch.equal(kept["image"].affine, was["image"].affine)
        assert len(kept["image"].applied_operations) == len(was["image"].applied_operations)
        assert all(torch.equal(kept[name], was[name]) for name in ("available", "scale", "offset"))
