"""Exported networks make what their source makes, of any subject and at any size; tiny networks of every bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import onnx_export, trt_export

from common.inference.export import SUFFIXES, Deployed, difference, runner, trial_image, write
from common.inference.weights import sha256

BUNDLES = Path(__file__).parents[3] / "bundles"
NAMES = ["mri_seq2seq", "mri_vq_seq2seq", "mri_crl", "mri_aldm"]
ALONE = ("mri_resvit", "mri_wavelet_flow", "mri_mmgan", "mri_pgan", "mri_cyclegan")  # rivals
RIVALS = [pytest.param(name, marks=pytest.mark.full) for name in ALONE]
VOLUMES = ("mri_aldm", "mri_wavelet_flow")  # that see whole volumes
PAIRS = ("mri_aldm", "mri_pgan", "mri_cyclegan")  # of two sequences
SETTINGS = [(2479.0, 9.62, 1055.0), (8142.0, 104.2, 0.0), (8000.0, 98.78, 2025.0)]
full = pytest.mark.full
every_bundle = pytest.mark.parametrize("bundle", [*NAMES, *RIVALS])
# ALDM's graph is large however tiny its layers; its TorchScript at small.json's size is tested with ./ci/verify.
aldm = pytest.param("mri_aldm", marks=full)
every_graph = pytest.mark.parametrize("bundle", [*NAMES[:3], aldm, *RIVALS])
quantised_graph = pytest.mark.parametrize("bundle", ["mri_vq_seq2seq", aldm])
quantised = pytest.mark.parametrize("bundle", ["mri_vq_seq2seq", "mri_aldm"])
every_format = pytest.mark.parametrize("format", ["torchscript", pytest.param("onnx", marks=full)])


@pytest.fixture(scope="module")
def network(tiny_network: Callable[..., Any]) -> Callable[[str], Any]:
    """Of three sequences, two where every pair takes a sampler's steps."""

    def create(bundle: str) -> Any:
        if bundle == "mri_crl":
            from mri_crl.network import CRL

            torch.manual_seed(0)
            return CRL(SETTINGS, features=8, res_blocks=1, heads=2).eval()
        sampler = {"mri_aldm": {"sampler": "flow", "flow_noise": 0.0}, **{name: {} for name in ALONE}}
        options = sampler.get(bundle, {"source_code": True})
        return tiny_network(bundle, sequences=2 if bundle in PAIRS else 3, **options).eval()

    return create


def own(bundle: str) -> Any:
    """The module as the bundle knows it, whose quantisers are of its own class."""
    return import_module(f"{bundle}.common.inference.export")


def shape_of(bundle: str, batch: int, x: int, y: int, z: int) -> list[int]:
    return [batch, 2 if bundle in PAIRS else 3, x, y, 8 * z if bundle in VOLUMES else z]


@every_format
def test_a_file_takes_the_frames_of_series(tiny_network: Callable[..., Any], tmp_path: Path, format: str):
    """A channel for each; of a subject that lacks single frames, or a whole series, it makes what the network makes."""
    made = tiny_network("mri_seq2seq", sequences=3, frames=[1, 3, 2], lstm_layers=1, source_code=True).eval()
    deployed, file = Deployed(made), tmp_path / f"model{SUFFIXES[format]}"
    write(deployed, file, format, [trial_image((1, 6, 16, 16, 1))])
    run = runner(file)
    for missing in ([], [1, 2, 3], [2], range(1, 6)):
        image = trial_image((2, 6, 24, 16, 3), missing, seed=1)
        assert run(image)[0].shape == image.shape and difference(deployed, run, image) < 1e-5


@every_format
@every_graph
def test_a_file_holds_for_other_subjects_and_sizes(network, tmp_path: Path, bundle: str, format: str):
    deployed = Deployed(network(bundle))
    file = tmp_path / f"model{SUFFIXES[format]}"
    write(deployed, file, format, [trial_image(shape_of(bundle, 1, 16, 16, 1))])
    run = runner(file)
    for shape in (shape_of(bundle, 1, 16, 16, 1), shape_of(bundle, 2, 24, 16, 3)):
        images = [trial_image(shape, missing) for missing in ([], [0], range(1, shape[1]))]
        assert all(difference(deployed, run, image) <= 1e-4 for image in images)
        results = [run(image)[0] for image in images]
        assert all((a - b).abs().max() > 1e-3 for a, b in pairwise(results)), "they differ"


@every_format
@quantised_graph
def test_codes_are_found_alike(network, bundle: str, format: str):
    deployed = own(bundle).Deployed(network(bundle))
    small, large = (trial_image(shape_of(bundle, *size)) for size in ((1, 16, 16, 1), (1, 32, 24, 2)))
    equal, worst = own(bundle).codes_compared(deployed, format, small, large)
    assert equal >= 0.999 and worst <= 1e-4


@quantised
def test_given_codes_are_those_that_are_decoded(network, bundle: str):
    model = own(bundle).WithCodes(Deployed(network(bundle)))
    image = trial_image(shape_of(bundle, 1, 16, 16, 1))
    with torch.no_grad():
        made, *codes = model(image)
        again, *found = model(image, *codes)
        other, *still = model(image, *(torch.zeros_like(each) for each in codes))
    torch.testing.assert_close(again, made)
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(codes, found, still, strict=True))
    assert (other - made).abs().max() > 1e-3


@every_bundle
def test_a_single_target(network, bundle: str):
    whole = network(bundle)
    image = trial_image(shape_of(bundle, 1, 16, 16, 1))
    with torch.no_grad():
        made, alone = whole(image), Deployed(whole, [1])(image)
    torch.testing.assert_close(alone[:, 1], made[:, 1], rtol=0, atol=1e-5)
    assert not alone[:, 0].any() and not alone[:, 2:].any()
    kinds = {type(module).__name__ for module in Deployed(whole, [1]).modules()}
    assert "HyperConv" not in kinds and ("HyperConv" in {type(module).__name__ for module in whole.modules()}) == (
        bundle in ("mri_seq2seq", "mri_vq_seq2seq")
    )
    assert Deployed(whole, [0, 1]).network is whole


def metadata(folder: Path) -> str:
    written = {"name": "mri_toy", "version": "0.1.0"}
    written["network_data_format"] = {"inputs": {"image": {"spatial_shape": ["16*n", "16*n", "n"]}}}
    (folder / "metadata.json").write_text(json.dumps(written))
    return str(folder / "metadata.json")


def test_what_is_written(network, tmp_path: Path):
    made = network("mri_seq2seq")
    weights = tmp_path / "model.pt"
    torch.save(made.state_dict(), weights)
    names = ["T1", "T2", "FLAIR"]
    export_network = own("mri_seq2seq").export_network
    said = export_network(made, metadata(tmp_path), names, weights=str(weights), targets="FLAIR")
    assert said.startswith(f"{tmp_path / 'model_FLAIR.ts'}: as the network within 0.0001")
    record = json.loads((tmp_path / "model_FLAIR.ts.json").read_text())
    assert record["weights_sha256"] == sha256(weights) and record["targets"] == ["FLAIR"] and record["check"] in said
    extra = {"metadata.json": ""}
    torch.jit.load(tmp_path / "model_FLAIR.ts", _extra_files=extra)
    assert json.loads(extra["metadata.json"])["name"] == "mri_toy"


def test_bad_requests(network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made, file, names = network("mri_seq2seq"), metadata(tmp_path), ["T1", "T2", "FLAIR"]
    weights = tmp_path / "model.pt"
    torch.save(made.state_dict(), weights)
    export = own("mri_seq2seq")
    with pytest.raises(ValueError, match="format is 'onx'; choose one of torchscript, onnx"):
        export.export_network(made, file, names, weights=str(weights), format="onx")
    with pytest.raises(ValueError, match="targets has T3; this network makes T1, T2, FLAIR"):
        export.export_network(made, file, names, weights=str(weights), targets="T3")
    with pytest.raises(ValueError, match=r"name ends in .ts, but the path is .*deployed"):
        export.export_network(made, file, names, weights=str(weights), path=str(tmp_path / "deployed"))
    ones = torch.ones(1, 3, 4, 4, 4)
    assert export.difference(lambda image: image, lambda image: [image * math.nan], ones) == math.inf
    monkeypatch.setattr(export, "difference", lambda *_: 0.5)
    with pytest.raises(ValueError, match=r"model.ts differs from the network by 5.0e-01, more than 0.0001"):
        export.export_network(made, file, names, weights=str(weights))
    assert not (tmp_path / "model.ts").exists()


def test_rounding_may_decide_between_two_codes(network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = network("mri_vq_seq2seq")
    weights = tmp_path / "model.pt"
    torch.save(made.state_dict(), weights)
    export = own("mri_vq_seq2seq")
    monkeypatch.setattr(export, "difference", lambda *_: 0.5)
    said = export.export_network(made, metadata(tmp_path), ["T1", "T2", "FLAIR"], weights=str(weights))
    assert "100.00 % of the codes equal; with the network's codes as the network within 0.0001" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="would build an engine")
@pytest.mark.parametrize("bundle", [*NAMES, *RIVALS])
def test_tensorrt_options_are_taken_up_to_the_missing_gpu(bundle: str, tiny, weights_of, tmp_path: Path):
    root = BUNDLES / bundle
    options = json.loads((root / "configs" / "tensorrt.json").read_text())
    shape = json.loads((root / "configs" / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    assert options["input_shape"][1] == shape["num_channels"]
    for size, allowed in zip(options["input_shape"][2:], shape["spatial_shape"], strict=True):
        assert size % (int(allowed.split("*")[0]) if "*" in allowed else 1) == 0
    files = {key: str(root / options[key]) for key in ("meta_file", "config_file")}
    if bundle == "mri_crl":
        return  # its tiny weights are those of another folder's tests
    sizes = {name: value for name, value in tiny[bundle].items() if name.startswith("network_def#")}
    with pytest.raises(Exception, match="Cannot find any GPU devices"):
        trt_export(
            args_file=str(root / "configs" / "tensorrt.json"),
            **{**files, **sizes, "ckpt_file": str(weights_of(bundle)), "filepath": str(tmp_path / "model.ts")},
            **({"sampler": "ddim"} if bundle == "mri_aldm" else {}),
        )


@full
def test_monai_exports_the_same(tiny, tiny_network, weights_of, tmp_path: Path):
    configs = BUNDLES / "mri_vq_seq2seq" / "configs"
    onnx_export(
        "network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(weights_of("mri_vq_seq2seq")),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        use_trace=True,
        converter_kwargs={"dynamo": False, "input_names": ["image"], "output_names": ["pred"]},
        **tiny["mri_vq_seq2seq"],
    )
    made = tiny_network("mri_vq_seq2seq").eval()
    made.load_state_dict(torch.load(weights_of("mri_vq_seq2seq"), weights_only=True))
    assert difference(Deployed(made), runner(tmp_path / "model.onnx"), trial_image([1, 4, 16, 16, 1])) <= 1e-4
