"""The authors' weights of VQ-Seq2Seq: a file as their trainer writes it, and what their network makes with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from common.description import Description
from common.inference.weights import load_weights
from mri_vq_seq2seq.network import VQSeq2Seq
from mri_vq_seq2seq.released import carry_over


def test_the_network_gives_the_authors_latent_and_images(mri_data: Path, tmp_path: Path):
    weights = tmp_path / "released.pt"
    carry_over(str(mri_data / "parity" / "vq_seq2seq_like.pth"), str(weights))
    network = load_weights(VQSeq2Seq.as_described(Description(weights)), str(weights))
    arrays = np.load(mri_data / "parity" / "vq_seq2seq_expected.npz")
    expected = {name: torch.tensor(arrays[name]) for name in arrays}
    with torch.no_grad():
        encoded = network.encode(expected["image"], network.codes[:1])
        made = torch.cat([network.decode(encoded, network.codes[j : j + 1]) for j in range(4)])
    torch.testing.assert_close(encoded.latent, expected["latent"], rtol=0, atol=1e-5)
    torch.testing.assert_close(made, expected["made"], rtol=0, atol=1e-5)
    described = json.loads(weights.with_suffix(".json").read_text())
    assert described["axes"] == "PLS" and described["crop"] == [192, 192, -1] and described["normalisation"] == "p99"
    assert described["network"]["codes"] == 256 and described["network"]["dimensions"] == 3


def test_weights_of_seq2seq_are_refused(mri_data: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"decoder_lstm.* absent in the network.*python -m mri_seq2seq.released"):
        carry_over(str(mri_data / "parity" / "seq2seq_released_like.pth"), str(tmp_path / "released.pt"))
    assert not list(tmp_path.iterdir())
