"""Validation by some of the slabs: what is scored is what a whole validation makes there, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.inferers import SimpleInferer

from common.data.preparation import Subjects
from common.inference.inferers import slab_starts
from common.training.validation import Validator
from mri_seq2seq.network import Seq2Seq

NAMES = ["T1", "T1Gd", "T2", "FLAIR"]


def validator(phantom_dir: Path, tmp_path: Path, **options: Any) -> Validator:
    torch.manual_seed(0)
    sizes = {"channels": (4, 8), "res_blocks": 1, "code_channels": 4, "bank_channels": 2, "lstm_layers": 0}
    subjects = Subjects(NAMES, dataset_dir=str(phantom_dir), roi_size=[16, 16, 3], divisible=[4, 4, 1])
    network = Seq2Seq(4, **sizes).eval()
    return Validator(network=network, subjects=subjects, output_dir=str(tmp_path), slab=4, **options)


def output(engine: Validator) -> tuple[torch.Tensor, torch.Tensor]:
    engine.run()
    shown = engine.state.output[0]
    return shown["pred"].clone(), shown["label"].clone()


def test_every_second_slab(phantom_dir: Path, tmp_path: Path):
    pred, label = output(whole := validator(phantom_dir, tmp_path))
    some_pred, some_label = output(some := validator(phantom_dir, tmp_path, every=2))
    depth = label.shape[-1]
    kept = torch.tensor([k + i for k in slab_starts(depth, 4, 2) for i in range(4) if k + i < depth])
    left_out = torch.tensor([k for k in range(depth) if k not in kept])
    torch.testing.assert_close(some_pred[..., kept], pred[..., kept], rtol=0, atol=1e-5)
    torch.testing.assert_close(some_label[..., kept], label[..., kept], rtol=0, atol=0)
    assert len(left_out) and not some_label[..., left_out].any() and not some_pred[..., left_out].any()
    scores = [engine.state.metrics["val_psnr"] for engine in (whole, some)]
    assert scores[0] == pytest.approx(scores[1], abs=1.0) and scores[0] != scores[1]


def test_what_works_on_whole_volumes_cannot(phantom_dir: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="every is 2"):
        validator(phantom_dir, tmp_path, every=2, inferer=SimpleInferer())
