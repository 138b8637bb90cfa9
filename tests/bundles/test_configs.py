"""The configs say the same thing, MONAI's own tools accept them, and a wrong run says what to pass."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from monai.bundle import ckpt_export, verify_net_in_out
from monai.bundle.config_item import ComponentLocator

BUNDLES = Path(__file__).parents[2] / "bundles"
NAMES = ["mri_seq2seq", "mri_vq_seq2seq", "mri_aldm"]
FILES = [(name, path.name) for name in NAMES for path in sorted((BUNDLES / name / "configs").glob("*.json"))]
RUNS = [
    ("train.json",),
    ("train.json", "small.json"),
    ("train.json", "evaluate.json"),
    ("train.json", "small.json", "evaluate.json"),
    ("inference.json",),
    ("inference.json", "small.json"),
    ("inference.json", "differentiation.json"),
    ("train.json", "evaluate.json", "robustness.json"),
]
EACH_RUN = [(bundle, *files) for bundle in NAMES for files in RUNS]
EACH_RUN.append(("mri_vq_seq2seq", "inference.json", "encode.json"))
STAGES = ["train_autoencoder.json", "train_translation.json"]
EACH_RUN += [("mri_aldm", stage, *more) for stage in STAGES for more in ([], ["small.json"])]

every_bundle = pytest.mark.parametrize("bundle", NAMES)
every_file = pytest.mark.parametrize(("bundle", "name"), FILES)
every_run = pytest.mark.parametrize("run", EACH_RUN, ids=" ".join)


def config(bundle: str, name: str) -> dict[str, Any]:
    return json.loads((BUNDLES / bundle / "configs" / name).read_text())


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield path, node
    else:
        for name, child in items:
            yield from leaves(child, f"{path}#{name}")


@every_run
def test_monai_finds_every_property(workflow, phantom_dir: Path, weights_of, tmp_path: Path, run: tuple[str, ...]):
    output = {"ckpt_dir": tmp_path, "output_dir": tmp_path, "ckpt_path": weights_of(run[0])}
    assert workflow(*run, dataset_dir=phantom_dir, **output).check_properties() == []


@every_run
def test_a_run_without_data_says_what_to_pass(workflow, weights_of, tmp_path: Path, run: tuple[str, ...]):
    output = {"ckpt_dir": tmp_path, "output_dir": tmp_path, "ckpt_path": weights_of(run[0])}
    with pytest.raises(RuntimeError) as error:
        workflow(*run, **output).run()
    cause: BaseException | None = error.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, ValueError) and "pass --dataset_dir FOLDER" in str(cause)
    assert not list(tmp_path.iterdir()), "and leaves nothing behind"


@every_bundle
def test_inference_without_weights_is_an_error(workflow, phantom_dir: Path, tmp_path: Path, bundle: str):
    settings = {"dataset_dir": phantom_dir, "output_dir": tmp_path / "out", "ckpt_path": tmp_path / "none.pt"}
    with pytest.raises(RuntimeError) as error:
        workflow(bundle, "inference.json", **settings).run()
    assert "No weights at" in str(error.value.__cause__.__cause__ or error.value.__cause__)
    assert not (tmp_path / "out").exists()


@every_bundle
@pytest.mark.parametrize("name", ["inference.json", "evaluate.json"])
def test_training_and_use_agree(bundle: str, name: str):
    """`evaluate.json` is laid over `train.json`: it must not change what the network is fed."""
    train, other = config(bundle, "train.json"), config(bundle, name)
    shared = ["sequences", "normalisation", "spatial_dims", "slices", "slice_axis", "roi_size", "divisible", "slab"]
    for key in {*shared, "grid", "network_def", "window"} & train.keys():
        if name == "inference.json" or key in other:
            assert other[key] == train[key], key
    *steps, select = train["train"]["deterministic_transforms"]
    assert select["_target_"] == "SelectItemsd"
    steps += train["validate"]["padding"] + train["train"]["final_transforms"][:1]
    used = other["preprocessing" if name == "inference.json" else "validate::preprocessing"]["transforms"]
    additions = {"masks": "@validate#masks", "label": "@truth"} if name == "evaluate.json" else {}
    assert used[0] == {**steps[0], **additions}
    if name == "evaluate.json":
        used.remove("@disturb")
        used.remove({"_target_": "CopyItemsd", "keys": "image", "names": "source"})  # what the rivals start from
        assert other["disturbance"] == "none"
    for step, own in zip(steps[1:], used[1:], strict=True):
        if name == "evaluate.json" and step["_target_"].endswith("ScaleSequencesd"):
            step = {**step, "keys": ["image", "label"]}
        assert own == step


@every_bundle
def test_metadata_agrees_with_the_network(bundle: str):
    train, metadata = config(bundle, "train.json"), config(bundle, "metadata.json")
    network = train["network_def"]
    factor = 2 ** (len(network["channels"]) + len(network.get("unet_channels", [0])) - 2)
    for side in (
        *metadata["network_data_format"]["inputs"].values(),
        *metadata["network_data_format"]["outputs"].values(),
    ):
        assert side["num_channels"] == len(train["sequences"])
        assert side["channel_def"] == {str(k): name for k, name in enumerate(train["sequences"])}
        sizes = [int(size.split("*")[0]) if "*" in size else 1 for size in side["spatial_shape"]]
        assert all(size % factor == 0 for size in sizes[:2])
    assert all(k % factor == 0 for k in train["divisible"][:2]) and all(k % factor == 0 for k in train["roi_size"][:2])
    if "slices" in train:
        assert train["roi_size"][train["slice_axis"]] == train["slices"]
    assert metadata["name"] == bundle and metadata["version"] in metadata["changelog"]


@every_bundle
def test_small_changes_nothing_that_is_not_there(bundle: str):
    """A misspelt key of an overlay would be ignored in silence."""
    train: dict[str, Any] = {}
    for path in (BUNDLES / bundle / "configs").glob("train*.json"):
        train |= config(bundle, path.name)
    small = config(bundle, "small.json")
    for key in small:
        name, *rest = key.split("::")
        assert name in train and (not rest or rest[0] in train[name]), key
    factor = 2 ** (len(small["network_def::channels"]) - 1)
    assert all(size % factor == 0 for size in small["roi_size"][:2])


@every_file
def test_targets_are_importable_and_named_in_full(bundle: str, name: str):
    builtin = ComponentLocator()
    targets = {value for path, value in leaves(config(bundle, name)) if path.endswith("#_target_")}
    for target in targets:
        if "." in target:
            assert callable(locate(target)), target
        else:
            assert isinstance(builtin.get_component_module_name(target), str), (
                f"{target} is none of MONAI's, or several"
            )
    assert targets or name in ("metadata.json", "small.json", "tensorrt.json")


@every_file
def test_no_absolute_path(bundle: str, name: str):
    absolute = re.compile(r"^(/|~|\\|[A-Za-z]:[\\/])|(?<!\+ )['\"](/|~|[A-Za-z]:[\\/])")
    assert absolute.search("$'/data' + @x") and absolute.search("/data") and not absolute.search("$@x + '/data'")
    words = {path: value for path, value in leaves(config(bundle, name)) if isinstance(value, str)}
    assert not {path: value for path, value in words.items() if absolute.search(value)}


def files_of(bundle: str) -> dict[str, str]:
    return {
        "meta_file": str(BUNDLES / bundle / "configs" / "metadata.json"),
        "config_file": str(BUNDLES / bundle / "configs" / "inference.json"),
    }


@every_bundle
def test_network_in_and_out(tiny: dict[str, dict[str, Any]], bundle: str):
    """At sizes beyond the smallest, with which ci/verify tests."""
    names = [name for name in tiny[bundle] if name.startswith("network_def#")]
    small = {**{name: tiny[bundle][name] for name in names}, "network_def#channels": [4, 4, 8]}
    n = 2 if bundle == "mri_aldm" else 8  # whole volumes, three axes of which grow
    verify_net_in_out("network_def", **files_of(bundle), device="cpu", n=n, **small)


@every_bundle
@torch.jit.optimized_execution(False)  # to optimise takes longer than it saves here
def test_exported_network_equals_its_source(tiny, tiny_network, weights_of, tmp_path: Path, bundle: str):
    """Traced with everything available, it must see at run time what is missing, of other subjects and sizes."""
    shape = [1, 4, 16, 20, 8 if bundle == "mri_aldm" else 5]
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(weights_of(bundle)),
        **files_of(bundle),
        use_trace=True,
        input_shape=shape,
        **tiny[bundle],
    )
    network = tiny_network(bundle).eval()
    network.load_state_dict(torch.load(weights_of(bundle), weights_only=True))
    exported = torch.jit.load(tmp_path / "model.ts")
    image = torch.rand([2, *shape[1:4], 2 * shape[4]], generator=torch.Generator().manual_seed(0))
    image[..., :4, :] = 0
    results = []
    for missing in ([], [3], [0, 1, 2]):
        subject = image.clone()
        subject[:, missing] = -1
        with torch.no_grad():
            results.append(network(subject))
            torch.testing.assert_close(exported(subject), results[-1], rtol=0, atol=1e-4)
    assert all((a - b).abs().max() > 1e-2 for a, b in pairwise(results)), "they differ"
