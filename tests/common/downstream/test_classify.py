import json

import nibabel as nib
import numpy as np
import pytest
import torch

from common.downstream.classify import classify
from common.downstream.folds import auc, classification_scores, is_above_chance
from common.downstream.volume_classifier import outer_fold, volume_network

OPTIONS = {"network": "resnet10", "width": 0.125, "pretrained": "", "inner_folds": 2, "learning_rates": [1e-3],
           "epochs": 6, "batch_size": 8, "amp": ""}  # fmt: skip
RUN = {"label": "MGMT", "roi_size": (12, 12, 12), "quick": True, "device": "cpu"}


@pytest.fixture
def folder(tmp_path):
    """Twelve people, four of them for training, each with T1, T2 and their maps."""
    rng, entries = np.random.default_rng(0), []
    (tmp_path / "data").mkdir()
    for k in range(12):
        name = f"s{k:02d}"
        for sequence in ("T1", "T2"):
            image = np.zeros((14, 13, 12), np.float32)
            image[2:-2, 2:-2, 2:-2] = 100 + 20 * rng.random((10, 9, 8))
            nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "data" / f"{name}_{sequence}.nii.gz")
            made = tmp_path / "maps" / name / f"{name}_{sequence}_differentiation.nii.gz"
            made.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(image / 10, np.eye(4)), made)
        made.with_name(made.name.replace(".nii.gz", ".json")).write_text('{"weights_sha256": "abc"}')
        images = {sequence: f"{name}_{sequence}.nii.gz" for sequence in ("T1", "T2")}
        entries.append({"subject": name, "images": images, "labels": {"MGMT": k % 2}})
    listed = {"sequences": ["T1", "T2"], "training": entries[:4], "test": entries[4:]}
    (tmp_path / "data" / "subjects.json").write_text(json.dumps(listed))
    return tmp_path


def test_a_label_that_shows_is_told_and_a_coin_is_not():
    rng = np.random.default_rng(0)
    labels = np.arange(32) % 2
    images = torch.as_tensor(rng.random((32, 1, 12, 12, 12)), dtype=torch.float32)
    shown = images.clone()
    shown[labels == 1, :, 4:8, 4:8, 4:8] += 1
    people, test = [str(k) for k in range(32)], np.arange(32) >= 16
    told = outer_fold(shown, labels, people, test, OPTIONS, 0, "cpu")
    assert auc(labels[test], np.array(told["probabilities"]))[0] > 0.95 and told["learning_rate"] == 1e-3
    coin = outer_fold(images, labels, people, test, OPTIONS, 0, "cpu")
    assert not is_above_chance(classification_scores(labels[test], np.array(coin["probabilities"]), people[16:]))


def test_classification_with_maps_and_its_second_start(folder, monkeypatch):
    run = {**RUN, "maps": str(folder / "maps"), "trained_on": str(folder / "data"), "split": "test"}
    classify(str(folder / "data"), str(folder / "out"), **run)
    record = json.loads((folder / "out" / "classify.json").read_text())
    assert {row["arm"] for row in record["rows"]} == {"images", "images and maps"}
    assert record["settings"]["weights_sha256"] == ["abc"] and record["difference"].keys() == {"value", "low", "high"}
    page = (folder / "out" / "classify.html").read_text()
    assert (
        "8 subjects of 8 people" in page and "come from a network that has not seen them" in page and "Table 4" in page
    )
    monkeypatch.setattr("common.downstream.classify.outer_fold", lambda *_: pytest.fail("it was done before"))
    classify(str(folder / "data"), str(folder / "out"), **run)
    assert json.loads((folder / "out" / "classify.json").read_text()) == record
    with pytest.raises(ValueError, match=r"seed 0, now 1"):
        classify(str(folder / "data"), str(folder / "out"), **run, seed=1)


def test_maps_that_would_tell_are_refused(folder):
    data, out, maps = str(folder / "data"), str(folder / "out"), str(folder / "maps")
    with pytest.raises(ValueError, match=r"4 of 12 subjects are of people whom the maps' network was trained on"):
        classify(data, out, **RUN, maps=maps, trained_on=data)
    with pytest.raises(ValueError, match=r"--trained_on names 0 lists"):
        classify(data, out, **RUN, maps=maps)
    for sidecar in (folder / "maps").glob("*/*.json"):
        sidecar.write_text('{"trained_on": "others, 9 subjects"}')
    with pytest.raises(ValueError, match=r"trained on 'others, 9 subjects', and .*data is called 'data'"):
        classify(data, out, **RUN, maps=maps, trained_on=data, split="test")
    (first, *_), label = sorted((folder / "maps").glob("*/*.json")), "weights_sha256"
    first.write_text(json.dumps({label: "another"}))
    with pytest.raises(ValueError, match="were made by different weights"):
        classify(data, out, **RUN, maps=maps, trained_on="none")
    first.write_text('{"trained_on": "others, 9 subjects"}')
    classify(data, out, **RUN, maps=maps, trained_on="none")
    assert "the word of whoever ran this" in (folder / "out" / "classify.html").read_text()


def test_a_coin_is_the_leak_test(folder):
    classify(str(folder / "data"), str(folder / "out"), **{**RUN, "label": "coin", "seed": 2})
    record = json.loads((folder / "out" / "classify.json").read_text())
    assert [each["paper"] for each in record["statements"]] == ["Not in the paper"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"mask": "lesion"}, "has no mask 'lesion' to crop round; it has none"), ({"sequences": "T1,FLAIR"}, "FLAIR"),
     ({"network": "resnet9"}, "choose one of resnet10"), ({"folds": 9}, "too few for 9 folds")],
)  # fmt: skip
def test_what_cannot_be_classified(folder, change, message):
    options = {**RUN, "quick": False, "folds": 2, "inner_folds": 2, "epochs": 1, "width": 0.125, **change}
    with pytest.raises(ValueError, match=message):
        classify(str(folder / "data"), str(folder / "out"), **options)


def test_a_loss_that_is_no_number_is_said(folder):
    images, labels = torch.full((12, 1, 16, 16, 16), torch.nan), np.arange(12) % 2
    with pytest.raises(ValueError, match=r"learning rates \[0\.001\] no network gave numbers"):
        outer_fold(images, labels, list("abcdefghijkl"), labels[::-1].cumsum() > 4, OPTIONS, 0, "cpu")


def test_weights_of_medicalnet_are_spread_over_the_channels(tmp_path):
    donor = volume_network("resnet10", 1)
    state = {f"module.{name}": value for name, value in donor.state_dict().items() if not name.startswith("fc.")}
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    network = volume_network("resnet10", 3, pretrained=str(tmp_path / "weights.pth"))
    image = torch.rand(1, 1, 16, 16, 16)
    assert torch.allclose(network.conv1(image.expand(-1, 3, -1, -1, -1)), donor.conv1(image), atol=1e-5)
    assert torch.equal(network.layer4[0].conv1.weight, donor.layer4[0].conv1.weight)
    with pytest.raises(ValueError, match=r"is not of a resnet10 of width 0\.5"):
        volume_network("resnet10", 3, 0.5, str(tmp_path / "weights.pth"))
    with pytest.raises(ValueError, match="No weights at"):
        volume_network("resnet10", 3, pretrained=str(tmp_path / "none.pth"))
