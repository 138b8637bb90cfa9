"""Weights are loaded or refused, never left at random."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from common.inference.weights import Weights, load_weights, sha256


def test_loaded_weights_are_the_file_s(tmp_path: Path):
    saved, network = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save(saved.state_dict(), tmp_path / "model.pt")
    loaded = load_weights(network, str(tmp_path / "model.pt"))
    assert loaded is network and not network.training
    assert torch.equal(network.weight, saved.weight) and torch.equal(network.bias, saved.bias)


def test_a_missing_file_is_an_error_that_says_what_to_do(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"none.pt.*training.*--weights"):
        load_weights(nn.Linear(3, 2), str(tmp_path / "none.pt"))


def test_a_part_s_weights_are_taken_from_the_whole_s(tmp_path: Path):
    whole = nn.ModuleDict({"first": nn.Linear(3, 2), "second": nn.Linear(3, 2)})
    torch.save(whole.state_dict(), tmp_path / "model.pt")
    part = load_weights(nn.Linear(3, 2), str(tmp_path / "model.pt"), prefix="second.")
    assert torch.equal(part.weight, whole["second"].weight)
    with pytest.raises(FileNotFoundError, match=r"monai.bundle run first\), or pass --first_weights"):
        load_weights(part, str(tmp_path / "none.pt"), command="run first", option="first_weights")


def test_another_size_is_refused_with_both_shapes(tmp_path: Path):
    torch.save(nn.Linear(3, 2).state_dict() | {"more": torch.tensor(1.0)}, tmp_path / "model.pt")
    network = nn.Linear(4, 2, bias=False)
    before = network.weight.clone()
    message = (
        "3 tensors.*bias: 2 in the file, absent in the network.*more: scalar in the file, absent.*"
        "weight: 2x3 in the file, 2x4 in the network.*small.json"
    )
    with pytest.raises(ValueError, match=message):
        load_weights(network, str(tmp_path / "model.pt"))
    assert torch.equal(network.weight, before)


def test_a_training_s_last_state_is_not_taken_for_weights(tmp_path: Path):
    network = nn.Linear(3, 2)
    torch.save({"model": network.state_dict(), "progress": {"epoch": 1}}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt"):
        load_weights(network, str(tmp_path / "last.pt"))


def test_what_a_description_does_not_say_is_never_guessed_silently(tmp_path: Path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "model.pt")
    with warnings.catch_warnings(action="error"):  # without any description the configuration's own values hold
        assert Weights(tmp_path / "model.pt")("roi_size", [64, 64, 1]) == [64, 64, 1]
    (tmp_path / "model.json").write_text(json.dumps({"normalisation": "p99", "network": {"features": 32}}))
    described = Weights(tmp_path / "model.pt")
    with warnings.catch_warnings(action="error"):
        assert (described("normalisation", "minmax"), described("features", 64)) == ("p99", 32)
    with pytest.warns(UserWarning, match=r"model.json does not say roi_size: \[64, 64, 1\] is taken. Pass --roi_size"):
        assert described("roi_size", [64, 64, 1]) == [64, 64, 1]


def test_sha256(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"abc" * 10**6)
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 10**6).hexdigest()


DAMAGES = {
    "empty": (b"", "it is empty"),
    "truncated": (None, "it ends after"),
    "web": (b"<html><title>Log in</title>", "it is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "text": (b"\x00\x01 no tensors", "no file of PyTorch's"),
    "python": (Path("a"), "Python objects, which are never loaded"),
    "list": ([torch.zeros(2)], "no tensors by name, but a list"),
    "number": ({"weight": 3, "bias": torch.zeros(2)}, "not a network's weights"),
}


@pytest.mark.parametrize(("content", "said"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_weights_are_named_and_what_to_do(tmp_path: Path, content: object, said: str):
    path = tmp_path / "model.pt"
    torch.save(nn.Linear(3, 2).state_dict() if content is None else content, path)
    if content is None or isinstance(content, bytes):
        path.write_bytes(path.read_bytes()[:700] if content is None else content)
    with pytest.raises(ValueError, match=rf"{path} .*(Copy or download it again|pass model.pt)") as caught:
        load_weights(nn.Linear(3, 2), str(path))
    assert said in str(caught.value) and "\n" not in str(caught.value) and caught.value.__cause__ is None
    assert "weights_only" not in str(caught.value) and "torch.load" not in str(caught.value)


@pytest.mark.parametrize(("content", "said"), [
    ("", "it is empty|empty"), ('{"network": {', "Expecting"), ("<!DOCTYPE html>", "web page"), ("[1]", "JSON object"),
    ("version https://git-lfs.github.com/spec/v1", "git lfs pull"), ('{"network": 3}', "network is 3, no dict"),
    ('{"sequences": "T1"}', "sequences is 'T1', no list"), ('{"sha256": 3}', "sha256 is 3, no str"),
    ("[" * 100_000, "damaged"), ("\x00\udcff", "damaged"),
])  # fmt: skip
def test_a_damaged_description_is_named_and_what_to_do(tmp_path: Path, content: str, said: str):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "model.pt")
    (tmp_path / "model.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"model.json .*({said}).*Copy it again, or remove it"):
        Weights(tmp_path / "model.pt")
