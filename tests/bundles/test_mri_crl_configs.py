"""The configs say the same thing, MONAI's own tools accept them, and a wrong run says what to pass."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out
from mri_crl.common.data.mr_signal import FSE9

from mri_crl.network import CRL

ROOT = Path(__file__).parents[2] / "bundles" / "mri_crl"
FILES = [path.name for path in sorted((ROOT / "configs").glob("*.json"))]
RUNS = [
    ("train.json",),
    ("train.json", "small.json"),
    ("train.json", "evaluate.json"),
    ("train.json", "evaluate.json", "robustness.json"),
    ("inference.json",),
    ("inference.json", "small.json"),
    ("inference.json", "sweep.json"),
    ("inference.json", "grid.json"),
]
TINY = {"network_def#features": 8, "network_def#res_blocks": 1, "network_def#heads": 2}


def config(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "configs" / name).read_text())


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield path, node
    else:
        for name, child in items:
            yield from leaves(child, f"{path}#{name}")


def test_examples_and_defaults_lie_in_the_trained_range():
    times = [(each.tr, each.te, each.ti) for name, each in FSE9.items() if name not in ("FSE4", "FSE6")]
    low, high = (tuple(map(end, zip(*times, strict=True))) for end in (min, max))
    sweep, grid = config("sweep.json"), config("grid.json")
    points = [(FSE9[sweep["at"]].tr, FSE9[sweep["at"]].te, sweep[end]) for end in ("start", "stop")]
    points += itertools.product(grid["tr"], grid["te"], grid["ti"])
    text = (ROOT / "docs" / "README.md").read_text() + (ROOT.parents[1] / "docs" / "label.md").read_text()
    points += [tuple(map(float, found)) for found in re.findall(r"\[(\d+), (\d+), (\d+)\]", text)]
    swept = re.findall(r"--parameter TI --start (\d+) --stop (\d+) .*--at (FSE\d)", text)
    points += [(FSE9[at].tr, FSE9[at].te, float(end)) for *ends, at in swept for end in ends]
    assert len(swept) == 1 and len(points) > 70
    beyond = [p for p in points if not all(a <= x <= b for a, x, b in zip(low, p, high, strict=True))]
    assert beyond == []


@pytest.mark.parametrize("files", RUNS, ids=" ".join)
def test_monai_finds_every_property(crl, fse_dir: Path, crl_weights: Path, tmp_path: Path, files):
    folders = {"dataset_dir": fse_dir, "ckpt_dir": tmp_path, "output_dir": tmp_path, "weights": crl_weights}
    assert crl(*files, **folders).check_properties() == []


@pytest.mark.parametrize("files", RUNS, ids=" ".join)
def test_a_run_without_data_says_what_to_pass(crl, crl_weights: Path, tmp_path: Path, files):
    folders = {"ckpt_dir": tmp_path, "output_dir": tmp_path, "weights": crl_weights}
    with pytest.raises(RuntimeError) as error:
        crl(*files, **folders).run()
    cause: BaseException | None = error.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert isinstance(cause, ValueError) and "pass --dataset_dir FOLDER" in str(cause)
    assert not list(tmp_path.iterdir()), "and leaves nothing behind"


def test_inference_without_weights_is_an_error(crl, fse_dir: Path, tmp_path: Path):
    settings = {"dataset_dir": fse_dir, "output_dir": tmp_path / "out", "weights": tmp_path / "none.pt"}
    with pytest.raises(RuntimeError) as error:
        crl("inference.json", **settings).run()
    assert "No weights at" in str(error.value.__cause__.__cause__ or error.value.__cause__)
    assert not (tmp_path / "out").exists()


def test_held_out_is_one_name_or_several_of_the_settings():
    for held_out, seen in (("T2FLAIR", ["T2"]), (["T2", "T2FLAIR"], [])):
        parser = ConfigParser(config("train.json"))
        parser.update({"acquisitions": {"T2": [4000, 100, 0], "T2FLAIR": [9000, 100, 2500]}, "held_out": held_out})
        assert parser.get_parsed_content("seen") == seen
    parser.update({"held_out": ["T2FLAR"]})
    with pytest.raises(RuntimeError) as error:
        ConfigParser(parser.get()).get_parsed_content("seen")
    assert "There is no T2FLAR to leave out of T2, T2FLAIR" in str(error.value.__cause__)
    parser.update({"held_out": config("train.json")["held_out"], "ckpt_dir": "nowhere"})
    assert ConfigParser(parser.get()).get_parsed_content("seen") == ["T2", "T2FLAIR"]


def test_settings_are_those_of_the_paper():
    parser = ConfigParser({**config("train.json"), "ckpt_dir": "nowhere"})
    paper = {name: [each.tr, each.te, each.ti] for name, each in FSE9.items()}
    assert parser.get_parsed_content("acquisitions") == paper
    assert parser.get_parsed_content("seen") == [name for name in FSE9 if name not in ("FSE4", "FSE6")]


@pytest.mark.parametrize("variant", ["attention", "gain"])
def test_network_in_and_out(variant: str):
    files = {"meta_file": str(ROOT / "configs/metadata.json"), "config_file": str(ROOT / "configs/inference.json")}
    verify_net_in_out("network_def", **files, device="cpu", n=1, variant=variant, **TINY)


def test_exported_network_equals_its_source(crl_weights: Path, tmp_path: Path):
    """Traced with everything available, it must see at run time what is missing, of other subjects and sizes."""
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(crl_weights),
        meta_file=str(ROOT / "configs/metadata.json"),
        config_file=str(ROOT / "configs/inference.json"),
        use_trace=True,
        input_shape=[1, 9, 16, 20, 2],
        **TINY,
    )
    settings = [(each.tr, each.te, each.ti) for each in FSE9.values()]
    network = CRL(settings, **{key.removeprefix("network_def#"): value for key, value in TINY.items()})
    network.load_state_dict(torch.load(crl_weights, weights_only=True))
    exported = torch.jit.load(tmp_path / "model.ts")
    image = torch.rand(2, 9, 16, 20, 3, generator=torch.Generator().manual_seed(0))
    results = []
    for missing in ([], [3, 8], [0, 1, 2, 4, 5, 6, 7, 8]):
        subject = image.clone()
        subject[:, missing] = -1
        with torch.no_grad():
            results.append(network.eval()(subject))
            torch.testing.assert_close(exported(subject), results[-1], rtol=0, atol=1e-4)
    assert all((a - b).abs().max() > 1e-2 for a, b in pairwise(results)), "they differ"
