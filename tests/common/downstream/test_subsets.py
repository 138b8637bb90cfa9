from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from common.data.subjects import read_subjects, write_subjects
from common.downstream import trainers
from common.downstream.cases import Cases
from common.downstream.masks import save_mask, score_masks, slices_of, true_regions
from common.downstream.paired import Difference
from common.downstream.regions import BRATS, Regions
from common.downstream.segmenter import preparation
from common.downstream.subsets import subsets
from common.downstream.subsets_page import paper_statements
from common.downstream.synthesis import Synthesis

TINY = {"steps": 3, "batch_size": 2, "filters": (4, 4, 4), "device": "cpu"}


@pytest.fixture(scope="module")
def cases(tumours_dir: Path) -> Cases:
    return Cases(str(tumours_dir), sequences=["T1", "T1Gd", "T2", "FLAIR"], regions=BRATS)


def test_the_true_regions_written_as_a_prediction_score_one(cases: Cases, tmp_path: Path) -> None:
    """From the grid of what is trained on (RAS, cut and padded) back to the label map's own."""
    items = cases.items["test"]
    prepare = preparation(cases.sequences, "tumour", Regions(), 8)
    for item in items:
        case = prepare(item)
        assert case["image"].shape[0] == 4 and all(size % 8 == 0 for size in case["image"].shape[1:3])
        save_mask(case["label"], item, cases, tmp_path / f"{item['subject']}.nii.gz")
        written = nib.load(tmp_path / f"{item['subject']}.nii.gz")
        assert written.shape == nib.load(item["masks"]["tumour"]).shape
    for numbers in score_masks(items, tmp_path, cases).values():
        assert all(value == (1 if name.endswith("dice") else 0) for name, value in numbers.items())


def test_a_prepared_image_has_no_scale_and_zeros_where_one_is_missing(cases: Cases) -> None:
    item = cases.items["test"][0]
    less = {**item, "images": {name: file for name, file in item["images"].items() if name != "T2"}}
    image = preparation(cases.sequences, "tumour", Regions(), 8)(less)["image"].as_tensor()
    assert not image[2].any()
    for channel in image[[0, 1, 3]]:
        inside = channel[channel != 0]
        assert inside.mean().abs() < 1e-3 and inside.std() == pytest.approx(1, abs=1e-2)


def test_only_a_part_of_the_body_is_scored(cases: Cases, tmp_path: Path) -> None:
    item = cases.items["test"][0]
    truth = true_regions(item, cases)
    middle = float(truth.affine[2, 3] + truth.affine[2, 2] * truth.as_tensor()[0].nonzero()[:, 2].median())
    above = {**item, "part": (middle, np.inf)}
    there = slices_of(truth, above["part"])
    assert 0 < there.start < truth.shape[-1] and slices_of(truth, None) == slice(None)
    wrong = truth.clone()
    wrong[..., : there.start] = 0
    save_mask(wrong, item, cases, tmp_path / f"{item['subject']}.nii.gz")
    assert score_masks([above], tmp_path, cases)[item["subject"]]["whole_dice"] == 1
    assert score_masks([item], tmp_path, cases)[item["subject"]]["whole_dice"] < 1
    with pytest.raises(ValueError, match="--gap"):
        slices_of(truth, (9000, 9001))


def test_a_run_writes_its_page_and_goes_on(tumours_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"subsets": "all,T1+T2", "weights": "none", **TINY}
    subsets(str(tumours_dir), str(tmp_path), **options)
    written = json.loads((tmp_path / "subsets.json").read_text())
    assert [(row["arm"], row["subject"]) for row in written["rows"]] == [
        (arm, name) for arm in ("all", "T1+T2") for name in ("phantom_003", "phantom_004")
    ]
    assert {*written["tests"]} == {f"T1+T2 | all | {name}" for name in ("whole", "core", "enhancing")}
    page = (tmp_path / "subsets.html").read_text()
    assert "no proof of equality" in page and "measures synthesis" in page and "data:image/png" in page
    assert sorted(path.name for path in (tmp_path / "predictions").rglob("*.nii.gz"))[::2] == [
        "phantom_003.nii.gz",
        "phantom_004.nii.gz",
    ]
    for name in ("subsets.html", "arms/T1+T2/test.json"):  # stopped before the last test
        (tmp_path / name).unlink()
    monkeypatch.setattr(trainers, "train", None)  # trains nothing again
    subsets(str(tumours_dir), str(tmp_path), **options)
    assert json.loads((tmp_path / "subsets.json").read_text())["rows"] == written["rows"]
    with pytest.raises(ValueError, match="steps"):
        subsets(str(tumours_dir), str(tmp_path), **options | {"steps": 4})
    monkeypatch.setattr("common.downstream.cases.sha256", lambda file: f"of another {Path(file).name}")
    with pytest.raises(ValueError, match="files_sha256"):
        subsets(str(tumours_dir), str(tmp_path), **options)


def test_people_whom_the_network_saw_are_not_tested(tumours_dir: Path, tmp_path: Path) -> None:
    listed = read_subjects(tumours_dir)
    listed["training"].append({**listed["test"][1], "subject": f"{listed['test'][1]['subject']}_ses-2"})
    file = write_subjects(tmp_path / "seen.json", listed)
    refused = pytest.raises(ValueError, match=r"1 of 2 test subjects are of people whom .* \(phantom_004\)")
    with refused:
        subsets(str(tumours_dir), str(tmp_path / "out"), trained_on=str(file), **TINY)
    listed["training"][-1]["person"] = "P17"  # called otherwise
    write_subjects(file, listed)
    with refused:
        subsets(str(tumours_dir), str(tmp_path / "out"), trained_on=str(file), **TINY)


def test_what_is_synthesised_is_made_from_the_others_alone(
    tumours_dir: Path, cases: Cases, described_weights: Path, tmp_path: Path
) -> None:
    items, given = cases.items["test"], ["T1", "FLAIR"]
    [first, _] = Synthesis(tmp_path, weights=str(described_weights), device="cpu").fill(items, given, cases.sequences)
    assert first["images"]["T1"] == items[0]["images"]["T1"]
    assert Path(first["images"]["T2"]) == tmp_path / "T1+FLAIR/phantom_003/phantom_003_T2.nii.gz"
    folder = Synthesis(tmp_path / "none", synthesised=str(tmp_path / "T1+FLAIR"))
    assert folder.fill(items, given, ["T2"])[0]["images"]["T2"] == first["images"]["T2"]
    assert len(folder.origin["weights_sha256"]) == 64
    with pytest.raises(ValueError, match="made from T1, FLAIR, and here"):
        folder.fill(items, ["T1", "T1Gd"], ["T2"])
    with pytest.raises(ValueError, match=r"mri-contrast complete DATA .* --targets FLAIR"):
        folder.fill(items, ["T1"], ["FLAIR"])


@pytest.mark.full
def test_the_segmenter_of_all_is_given_three_and_one(
    tumours_dir: Path, tmp_path: Path, described_weights: Path
) -> None:
    subsets(str(tumours_dir), str(tmp_path), subsets="all", weights=str(described_weights), **TINY)
    rows = json.loads((tmp_path / "subsets.json").read_text())["rows"]
    arms = {f"{name} {what}" for name in ("T1", "T1Gd", "T2", "FLAIR") for what in ("synthesised", "zeros")}
    assert {row["arm"] for row in rows} == {"all", *arms}


def test_the_statements_follow_the_tests() -> None:
    def of(arm: str, region: str, worse: float, margin: float) -> dict:
        return {(arm, "all", region): Difference(-0.1, -0.2, 0, worse, worse, margin, margin, 9)}

    lost = of("T1+T2", "enhancing", 0.001, 1) | of("T1+T2", "whole", 0.2, 1) | of("T1Gd+FLAIR", "core", 0.5, 0.01)
    assert [statement.seen for statement in paper_statements(lost, "all")] == [True, None, True]
    assert paper_statements(of("T1Gd", "whole", 1, 0.01), "all")[0].seen is False
    assert paper_statements(of("T1Gd", "whole", 1, 1), "all")[0].seen is None
    assert paper_statements({}, "all") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": "all,T1+PD"}, r"T1\+PD has PD, none of"),
        ({"mask": "seg"}, "no mask 'seg', only brain"),
        ({"epochs": 5}, "no option --epochs"),
        ({"synthesised": "x", "weights": "y"}, "one of them"),
        ({"regions": "whole=0"}, "regions is"),
        ({"fill": True, "subsets": "T1", "weights": "none"}, "nothing makes the T1Gd, T2, FLAIR"),
    ],
)
def test_bad_options(tumours_dir: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        subsets(str(tumours_dir), str(tmp_path), **{**TINY, **options})
    assert not any(tmp_path.rglob("*.pt")) and torch.is_grad_enabled()
