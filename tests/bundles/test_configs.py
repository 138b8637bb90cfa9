"""The configs say the same thing, MONAI's own tools accept them, and a wrong run says what to pass."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import combinations, pairwise, permutations
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out
from monai.bundle.config_item import ComponentLocator

BUNDLES = Path(__file__).parents[2] / "bundles"
METHODS = ("mri_seq2seq", "mri_vq_seq2seq", "mri_crl", "mri_aldm")
NAMES = ["mri_seq2seq", "mri_vq_seq2seq", "mri_aldm", "mri_resvit", "mri_wavelet_flow", "mri_mmgan"]
PAIRS = ("mri_pgan", "mri_cyclegan")  # of two sequences
NAMES += PAIRS
ALL = [*NAMES, "mri_crl"]
VOLUMES = ("mri_aldm", "mri_wavelet_flow")  # that see whole volumes
ALL_FILES = [(name, path.name) for name in ALL for path in sorted((BUNDLES / name / "configs").glob("*.json"))]
COMPLETE = {"train.json", "inference.json", "train_autoencoder.json", "train_translation.json", "metadata.json"}
COMPLETE |= {"tensorrt.json"}  # which is for another command
# What an overlay adds, to be given on the command line or to be run.
SCORED = {"truth", "regions", "lpips_weights", "conventions", "multi_source", "paths", "keep", "disturbance", "level"}
OWN = {
    "evaluate.json": {*SCORED, "split", "weights", "translations", "validate", "evaluating"},
    "differentiation.json": {"differentiation", "per_frame"},
    "encode.json": {"encode"},
    "sweep.json": {"parameter", "start", "stop", "steps", "at", "sweep"},
    "grid.json": {"tr", "te", "ti", "grid_error"},
    "robustness.json": {"comparison", "robustness"},
    "export.json": {"format", "output_file", "exported", "export"},
    "multi_gpu_train.json": {"imports", "finalize"},
}
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
FEW = [("train.json", "small.json", "evaluate.json"), ("inference.json",)]  # of rivals; the others are slow in number
EACH_RUN = [
    pytest.param((bundle, *files), marks=() if bundle in METHODS or files in FEW else pytest.mark.full)
    for bundle in NAMES
    for files in RUNS
    if not (bundle in PAIRS and "differentiation.json" in files)  # of one source there are no two to compare
]
EACH_RUN.append(("mri_vq_seq2seq", "inference.json", "encode.json"))
STAGES = ["train_autoencoder.json", "train_translation.json"]
EACH_RUN += [("mri_aldm", stage, *more) for stage in STAGES for more in ([], ["small.json"])]

every_bundle = pytest.mark.parametrize("bundle", NAMES)
every_file = pytest.mark.parametrize(("bundle", "name"), ALL_FILES)
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
    output = {"ckpt_dir": tmp_path, "output_dir": tmp_path, "weights": weights_of(run[0])}
    assert workflow(*run, dataset_dir=phantom_dir, **output).check_properties() == []


@every_run
def test_a_run_without_data_says_what_to_pass(workflow, weights_of, tmp_path: Path, run: tuple[str, ...]):
    output = {"ckpt_dir": tmp_path, "output_dir": tmp_path, "weights": weights_of(run[0])}
    with pytest.raises(RuntimeError) as error:
        workflow(*run, **output).run()
    cause: BaseException | None = error.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, ValueError) and "pass --dataset_dir FOLDER" in str(cause)
    assert not list(tmp_path.iterdir()), "and leaves nothing behind"


@every_bundle
def test_inference_without_weights_is_an_error(workflow, phantom_dir: Path, tmp_path: Path, bundle: str):
    settings = {"dataset_dir": phantom_dir, "output_dir": tmp_path / "out", "weights": tmp_path / "none.pt"}
    with pytest.raises(RuntimeError) as error:
        workflow(bundle, "inference.json", **settings).run()
    assert "No weights at" in str(error.value.__cause__.__cause__ or error.value.__cause__)
    assert not (tmp_path / "out").exists()


def parsed(bundle: str, *names: str) -> ConfigParser:
    """Configurations without weights, and so with values of their own."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLES / bundle / "configs" / name) for name in names])
    parser.update({"bundle_root": "nowhere", "dataset_dir": "nowhere"})
    return parser


@pytest.mark.parametrize("bundle", ALL)
def test_metadata_agrees_with_the_network(bundle: str):
    inference, metadata = parsed(bundle, "inference.json"), config(bundle, "metadata.json")
    names, divisible = (inference.get_parsed_content(key) for key in ("sequences", "divisible"))
    for side in metadata["network_data_format"].values():
        (tensor,) = side.values()
        assert tensor["num_channels"] == len(names)
        assert tensor["channel_def"] == {str(k): name for k, name in enumerate(names)}
        sizes = [int(size.split("*")[0]) if "*" in size else 1 for size in tensor["spatial_shape"]]
        assert all(size % step == 0 for size, step in zip(sizes, divisible, strict=True))
    assert metadata["name"] == bundle and metadata["version"] in metadata["changelog"]


@pytest.mark.parametrize("bundle", ALL)
def test_training_and_use_have_one_network_and_preparation(bundle: str):
    """Sizes that are counted on the meta device: the paper's networks take seconds to fill."""
    parsers = [parsed(bundle, name) for name in ("train.json", "inference.json")]
    with torch.device("meta"):
        networks = [parser.get_parsed_content("network_def") for parser in parsers]
    trained, used = (json.dumps(network.options) for network in networks)
    assert trained == used
    first, second = (parser.get_parsed_content("subjects").described for parser in parsers)
    assert first == second
    divisible, slice_axis = parsers[0].get_parsed_content("divisible"), networks[0].slice_axis
    in_plane = [axis for axis in range(3) if networks[0].spatial_dims == 3 or axis != 3 + slice_axis]
    assert all(divisible[axis] % networks[0].downsampling == 0 for axis in in_plane)


@pytest.mark.parametrize(("bundle", "name"), [(b, n) for b, n in ALL_FILES if n not in COMPLETE])
def test_an_overlay_changes_nothing_that_is_not_there(bundle: str, name: str):
    """A misspelt key of an overlay would be ignored in silence."""
    names = [path.name for path in (BUNDLES / bundle / "configs").glob("*.json") if path.name in COMPLETE]
    complete: dict[str, Any] = {}
    for each in (*names, *(["evaluate.json"] if name == "robustness.json" else [])):
        complete |= config(bundle, each)
    own = OWN.get(name, set())
    for key in config(bundle, name):
        first, *rest = key.split("::")
        assert first in complete or first in own, key
        if rest and rest[0] != "_target_" and first in ("network_def", "saver"):
            target = config(bundle, name).get(f"{first}::_target_", complete[first]["_target_"])
            made = locate(target.removesuffix(".as_described"))
            known = {n for each in made.__mro__ for n in inspect.signature(each.__init__).parameters}
            assert rest[0] in known, key


def telling(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if len(line.strip()) > 3]


def shared(first: Path, second: Path) -> int:
    """Telling lines in runs of four or more that two files have in common."""
    blocks = SequenceMatcher(None, telling(first), telling(second), autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks if block.size >= 4)


def test_a_configuration_holds_what_is_its_own():
    lines = {path: len(path.read_text().splitlines()) for path in BUNDLES.glob("*/configs/*.json")}
    bundles = {name: sum(n for path, n in lines.items() if path.parts[-3] == name) for name in ALL}
    assert sum(bundles[name] for name in METHODS) <= 2400
    assert max(count for name, count in bundles.items() if name not in METHODS) <= 340
    assert max(count for path, count in lines.items() if path.name == "inference.json") <= 90
    assert max(count for path, count in lines.items() if path.name == "evaluate.json") <= 60
    for first, second in permutations(sorted(BUNDLES.glob("*/configs/train.json")), 2):
        assert shared(first, second) <= 0.45 * len(telling(first)), (first, second)
    for folder in BUNDLES.glob("*/configs"):
        for first, second in combinations(("train", "inference", "evaluate"), 2):
            assert shared(folder / f"{first}.json", folder / f"{second}.json") <= 15, (folder, first, second)


def test_no_function_is_long():
    root = BUNDLES.parent
    for path in (path for folder in ("common", "bundles", "ci", "label_app") for path in (root / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, (path, node.name)


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
    bare = {
        "metadata.json",
        "small.json",
        "series.json",
        "cnn.json",
        "reggan.json",
        "settings.json",
        "gradient_echoes.json",
        "tensorrt.json",
        "multi_gpu_train.json",
    }
    assert targets or name in bare


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
    n = {"mri_mmgan": 1}.get(bundle, 2 if bundle in VOLUMES else 8)  # of 256; where three axes grow; of 16
    verify_net_in_out("network_def", **files_of(bundle), device="cpu", n=n, **small)


@pytest.mark.parametrize("bundle", [pytest.param(n, marks=() if n in METHODS else pytest.mark.full) for n in NAMES])
@torch.jit.optimized_execution(False)  # to optimise takes longer than it saves here
def test_exported_network_equals_its_source(tiny, tiny_network, weights_of, tmp_path: Path, bundle: str):
    """Traced with everything available, it must see at run time what is missing, of other subjects and sizes."""
    shape = [1, 2 if bundle in PAIRS else 4, 16, 24, 8 if bundle in VOLUMES else 5]
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
    for missing in ([], [0]) if bundle in PAIRS else ([], [3], [0, 1, 2]):
        subject = image.clone()
        subject[:, missing] = -1
        with torch.no_grad():
            results.append(network(subject))
            torch.testing.assert_close(exported(subject), results[-1], rtol=0, atol=1e-4)
    assert all((a - b).abs().max() > 1e-2 for a, b in pairwise(results)), "they differ"
