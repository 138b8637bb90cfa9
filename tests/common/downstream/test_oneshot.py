from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.subjects import read_subjects, write_subjects
from common.downstream import oneshot as module
from common.downstream.cases import Cases
from common.downstream.latents import Encoder, LatentSpace, principal_axes
from common.downstream.masks import save_mask, score_masks
from common.downstream.oneshot import oneshot
from common.downstream.regions import BRATS
from common.workflows import run_workflow

TINY = {"steps": 2, "batch_size": 2, "filters": (4, 4, 4), "device": "cpu"}


@pytest.fixture(scope="module")
def vq_weights(tmp_path_factory: pytest.TempPathFactory, tiny_network: Callable[..., Any]) -> Path:
    """Random ones, described, so that they are used without further options."""
    from common.description import write

    network, path = tiny_network("mri_vq_seq2seq"), tmp_path_factory.mktemp("vq") / "model.pt"
    torch.save(network.state_dict(), path)
    sizes = {"roi_size": [16, 16, 1], "divisible": [2, 2, 1]}
    write(path, network, sequences=["T1", "T1Gd", "T2", "FLAIR"], normalisation="p99_foreground", **sizes)
    return path


@pytest.fixture(scope="module")
def cases(tumours_dir: Path) -> Cases:
    return Cases(str(tumours_dir), sequences=["T1", "T1Gd", "T2", "FLAIR"], regions=BRATS)


@pytest.fixture(scope="module")
def encoder(vq_weights: Path, cases: Cases) -> Encoder:
    return Encoder("mri_vq_seq2seq", str(vq_weights), cases, "cpu")


def test_mean_and_codes_are_those_that_encode_writes(
    encoder: Encoder, cases: Cases, vq_weights: Path, tumours_dir: Path, tmp_path: Path
) -> None:
    options = {"dataset_dir": str(tumours_dir), "split": "test", "weights": str(vq_weights), "saver#pictures": False}
    run_workflow("mri_vq_seq2seq", "encode", ["inference", "encode"], output_dir=str(tmp_path), device="cpu", **options)
    item = cases.items["test"][0]
    stem = tmp_path / item["subject"] / item["subject"]
    latent, codes = (nib.load(f"{stem}_{name}.nii.gz") for name in ("latent", "codes"))
    values, _ = encoder.encode(item["subject"])
    np.testing.assert_allclose(values.as_tensor().movedim(0, -1), latent.dataobj, atol=1e-5)
    np.testing.assert_allclose(values.affine, latent.affine, atol=1e-4)
    shown = LatentSpace(cases, 4, encoder, "codes")(item)["image"].as_tensor()[0]
    assert all(size % 4 == 0 for size in shown.shape[:2])
    after = np.s_[(size := np.array(shown.shape) - codes.shape)[0] // 2 :, size[1] // 2 :]
    same = shown[after][tuple(slice(n) for n in codes.shape)].numpy() == np.asarray(codes.dataobj)
    assert same.mean() > 0.999


def test_labels_come_back_from_the_latent_s_grid(encoder: Encoder, cases: Cases, tmp_path: Path) -> None:
    """A box of even places in an image of 16 mm steps: exactly; the phantom's own label: most of it."""
    space = LatentSpace(cases, 4, encoder, "mean")
    item = cases.items["test"][0]
    case = space(item)
    assert case["label"].shape[1:] == case["image"].shape[1:] and len(case["image"]) == 3
    steps = case["label"].affine.diag()[:3].tolist()
    assert steps == pytest.approx([16, 16, 8])  # coarser in plane alone: the network is 2D
    save_mask(case["label"], item, cases, tmp_path / f"{item['subject']}.nii.gz")
    assert score_masks([item], tmp_path, cases)[item["subject"]]["whole_dice"] > 0.6


def test_principal_axes_are_of_the_training_subjects_alone(cases: Cases, tiny_weights: Path, described_weights: Path):
    encoder = Encoder("mri_seq2seq", str(described_weights), cases, "cpu")
    space, alone = (LatentSpace(cases, 4, encoder, "features") for _ in range(2))
    first, second = cases.items["training"]
    space.fit([first])
    seen = space(first)["image"].as_tensor(), space(second)["image"].as_tensor()
    inside = space._tissue(first)
    projected = (inside - space.mean) @ space.axes
    assert torch.allclose(projected.mean(0), torch.zeros(3), atol=1e-3)
    assert torch.allclose(projected.var(0, correction=0), torch.ones(3), atol=1e-2)
    encoder.encode.cache_clear()
    encoder._items[second["subject"]] = {**second, "images": first["images"]}  # another second subject
    alone.fit([first])
    assert torch.equal(alone.axes, space.axes) and torch.equal(alone(first)["image"].as_tensor(), seen[0])
    alone.fit([first, second])
    space.fit([second])
    assert not torch.allclose(space.mean, torch.zeros(1)) and seen[1].shape[0] == 3


def test_principal_axes_by_hand() -> None:
    rows = torch.tensor([[3.0, 1, 5], [-3, 1, 5], [0, 2, 5], [0, 0, 5]])
    mean, axes = principal_axes(rows, 2)
    assert mean.tolist() == [0, 1, 5]
    assert torch.allclose(axes.abs(), torch.tensor([[1 / 4.5**0.5, 0], [0, 2**0.5], [0, 0]]), atol=1e-5)


def test_a_run_writes_its_curve_and_goes_on(
    tumours_dir: Path, vq_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"spaces": "codes", "vq_weights": str(vq_weights), "subjects": "1,2", "draws": "2,1", **TINY}
    oneshot(str(tumours_dir), str(tmp_path), **options)
    rows = json.loads((tmp_path / "oneshot.json").read_text())["rows"]
    drawn = {(row["space"], row["training_subjects"], row["draw"]) for row in rows}
    assert drawn == {("codes", *arm) for arm in ((0, 0), (1, 0), (1, 1), (2, 0))} and len(rows) == 2 * len(drawn)
    records = [json.loads((tmp_path / f"arms/codes/{arm}.json").read_text()) for arm in ("1_0", "2_0")]
    one, two = (record["settings"]["training"] for record in records)
    assert len(one) == 1 and {*one} < {*two}
    assert "measures synthesis" in (tmp_path / "oneshot.html").read_text()
    (tmp_path / "arms/codes/2_0.json").unlink()
    calls = []
    monkeypatch.setattr(
        module, "train", lambda *args, train=module.train, **more: calls.append(1) or train(*args, **more)
    )
    oneshot(str(tumours_dir), str(tmp_path), **options)
    assert len(calls) == 1 and json.loads((tmp_path / "oneshot.json").read_text())["rows"] == rows


def test_with_a_gap_all_subjects_are_tested(tumours_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of 5 test subjects are of people whom the network was trained on"):
        oneshot(str(tumours_dir), str(tmp_path), spaces="images", gap=8, trained_on=str(tumours_dir), **TINY)


def test_slices_below_and_above_a_gap_in_one_subject(tumours_dir: Path, tmp_path: Path) -> None:
    listed = read_subjects(tumours_dir)
    listed |= {"training": listed["test"][:1], "validation": [], "test": []}
    file = write_subjects(tmp_path / "one.json", listed)
    oneshot("", str(tmp_path), subject_list=str(file), spaces="images", gap=8, **TINY)
    written = json.loads((tmp_path / "oneshot.json").read_text())
    assert {(row["training_subjects"], row["draw"]) for row in written["rows"]} == {(1, 0), (1, 1)}
    below, above = (nib.load(tmp_path / f"predictions/images/1_{k}/phantom_003.nii.gz").get_fdata() for k in (1, 0))
    slices = [set(np.flatnonzero(each.any((0, 1)))) for each in (below, above)]
    assert max(slices[0], default=-1) < min(slices[1], default=99)
    assert "one side of a gap of 8 mm" in (tmp_path / "oneshot.html").read_text() and not written["tests"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spaces": "images,mean"}, "need --vq_weights FILE"),
        ({"spaces": "pixels"}, "no space pixels"),
        ({"spaces": "images", "subjects": 3}, "from 1 to the list's 2"),
        ({"spaces": "images", "draws": 0}, "from 1 to"),
    ],
)
def test_bad_options(tumours_dir: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        oneshot(str(tumours_dir), str(tmp_path), **{**TINY, "subjects": 1, "draws": 1, **options})
