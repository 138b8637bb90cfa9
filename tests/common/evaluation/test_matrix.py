"""`run evaluating` on the phantom, in process, with random weights."""

from __future__ import annotations

import csv
import json
import statistics
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from mri_seq2seq.common.evaluation.conventions import CONVENTIONS, score
from mri_seq2seq.common.evaluation.matrix import ScoreMatrix

from common.data.subjects import read_subjects
from common.evaluation.scores import ScoreTable
from common.inference.engine import root_cause
from common.inference.weights import sha256

NAMES = ["T1", "T1Gd", "T2", "FLAIR"]
METHODS = ("network", "copy", "map")


def turned(file: str, folder: Path) -> str:
    """The same image, stored along other axes."""
    image = nib.load(file)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt("PIL")
    )
    path = folder / Path(file).name
    nib.save(image.as_reoriented(turn), path)
    assert nib.aff2axcodes(nib.load(path).affine) == tuple("PIL")
    return str(path)


@pytest.fixture(scope="module")
def evaluated(phantom_dir: Path, workflow, tiny_weights: Path, tmp_path_factory) -> SimpleNamespace:
    """Test subjects: one, the same stored along other axes, and the same without FLAIR and without masks."""
    folder = tmp_path_factory.mktemp("evaluation")
    subjects = read_subjects(phantom_dir)
    one = subjects["test"][0]
    images, masks = ({name: turned(file, folder) for name, file in one[field].items()} for field in ("images", "masks"))
    fewer = {name: file for name, file in one["images"].items() if name != "FLAIR"}
    subjects["test"] = [
        {**one, "subject": "one"},
        {"subject": "turned", "images": images, "masks": masks},
        {"subject": "fewer", "images": fewer},
    ]
    (folder / "subjects.json").write_text(json.dumps(subjects))
    seen = {}
    update = ScoreMatrix.update

    def keep(self, engine) -> None:
        item = {**engine.state.batch[0], **engine.state.output[0]}
        names = {"pred", "label", "source", "brain", "lesion"} & item.keys()
        seen[item["subject"]] = {name: torch.as_tensor(item[name]).clone() for name in names}
        update(self, engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreMatrix, "update", keep)
        evaluation = workflow(
            "mri_seq2seq",
            "train.json",
            "evaluate.json",
            dataset_dir=folder,
            output_dir=folder / "scores",
            weights=tiny_weights,
            seed=5,
            conventions="declared",
            regions="lesion",
        )
        evaluation.run()
    with open(folder / "scores" / "scores_declared.csv", newline="") as file:
        rows = {(r["subject"], r["method"], r["source"], r["target"]): r for r in csv.DictReader(file)}
    return SimpleNamespace(
        rows=rows, seen=seen, info=json.loads((folder / "scores" / "scores_declared.json").read_text())
    )


def test_a_row_per_subject_pair_and_method(evaluated: SimpleNamespace):
    expected = {
        (subject, method, i, j)
        for subject, names in (("one", NAMES), ("turned", NAMES), ("fewer", NAMES[:3]))
        for i in names
        for j in names
        for method in (METHODS if i != j else METHODS[:1])
    }
    assert evaluated.rows.keys() == expected
    assert Counter(key[0] for key in expected) == {"one": 40, "turned": 40, "fewer": 21}


def test_what_a_reader_needs_to_trust_the_numbers(evaluated: SimpleNamespace, tiny_weights: Path):
    info = evaluated.info
    assert (
        info["weights"] == tiny_weights.name
        and info["bundle"] == "mri_seq2seq"
        and info["weights_sha256"] == sha256(tiny_weights)
    )
    assert info["convention"] == "declared" and info["truth"] == "images" and info["seed"] == 5
    assert info["lpips"] == "missing" and info["torch"] == torch.__version__
    assert info["brain_mask"] == "the subject list's and the target's non-background"
    assert len({frozenset(each.items()) for each in info["label_sha256"].values()}) == 3
    assert info["subjects"] == ["one", "turned", "fewer"] and len(info["summary"]) == 40


def test_predictions_lie_on_the_subject_s_own_grid(evaluated: SimpleNamespace):
    """A network's output is above 0 in the source's foreground and 0 in its air, so the two must coincide."""
    for subject, names in (("one", NAMES), ("fewer", NAMES[:3])):
        pred, label = (evaluated.seen[subject][name] for name in ("pred", "label"))
        assert label.shape == (4, 25, 30, 24) and pred.shape == (16, *label.shape[1:])
        for i in range(len(names)):
            assert torch.equal(pred[4 * i : 4 * i + 4] > 0, (label[i] > 0).expand(4, -1, -1, -1))
    assert (evaluated.seen["fewer"]["pred"][12:] == 0).all(), "no source, no row"


def test_axes_on_disk_do_not_change_a_score(evaluated: SimpleNamespace):
    for name in ("label", "brain", "lesion", "pred"):
        torch.testing.assert_close(evaluated.seen["turned"][name], evaluated.seen["one"][name])
    for (subject, *pair), row in evaluated.rows.items():
        if subject == "turned":
            twin = evaluated.rows["one", *pair]
            assert all(float(row[m]) == pytest.approx(float(twin[m]), rel=1e-4) for m in ("psnr", "ssim", "nmse"))


@pytest.mark.parametrize(("i", "j"), [(0, 2), (2, 0), (3, 3)])
def test_the_numbers_are_those_of_the_images(evaluated: SimpleNamespace, i: int, j: int):
    seen = evaluated.seen["one"]
    brain, regions = seen["brain"][0] > 0, {"lesion": seen["lesion"][0] > 0}
    images = {"network": seen["pred"].unflatten(0, (4, 4))[i, j]} | ({"copy": seen["label"][i]} if i != j else {})
    for method, image in images.items():
        row = evaluated.rows["one", method, NAMES[i], NAMES[j]]
        for metric, value in score(image, seen["label"][j], brain, regions=regions).items():
            assert float(row[metric]) == pytest.approx(value, rel=1e-5), metric


def test_the_rivals_get_what_the_network_gets(phantom_dir: Path, workflow, tiny_weights: Path, tmp_path: Path):
    """The noisy and disturbed image, not the truth that the phantom knows."""
    seen, update = {}, ScoreMatrix.update

    def keep(self, engine) -> None:
        item = {**engine.state.batch[0], **engine.state.output[0]}
        seen.update({name: torch.as_tensor(item[name]).clone() for name in ("source", "label", "brain")}, map=self.map)
        update(self, engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScoreMatrix, "update", keep)
        settings = {"dataset_dir": phantom_dir, "output_dir": tmp_path, "weights": tiny_weights}
        disturbed = {"truth": "reference", "disturbance": "noise", "level": 3}
        workflow("mri_seq2seq", "train.json", "evaluate.json", **settings, **disturbed).run()
    assert (seen["source"] - seen["label"])[seen["label"] > 0].std() > 0.05
    rows = {(r["method"], r["source"], r["target"]): r["psnr"] for r in ScoreTable.read(tmp_path).rows}
    for method, image in (("copy", seen["source"][0]), ("map", seen["map"].predict(seen["source"][0], 0, 2))):
        by_hand = score(image, seen["label"][2], seen["brain"][0] > 0)["psnr"]
        assert rows[method, "T1", "T2"] == pytest.approx(by_hand, rel=1e-5)


def test_all_conventions_several_sources_and_kept_volumes(
    phantom_dir: Path, workflow, tiny_weights: Path, tmp_path: Path
):
    (tmp_path / "volumes").mkdir()
    (tmp_path / "volumes" / "of_an_earlier_run.npz").touch()
    evaluation = workflow(
        "mri_seq2seq",
        "train.json",
        "evaluate.json",
        dataset_dir=phantom_dir,
        output_dir=tmp_path,
        weights=tiny_weights,
        conventions=list(CONVENTIONS),
        split="training",
        multi_source=True,
        paths=[["T1", "T1Gd", "T2"]],
        keep=1,
    )
    evaluation.run()
    for name in CONVENTIONS:
        table = ScoreTable.read(tmp_path, name)
        assert table.info["convention"] == name and table.info["region"] and len(table.subjects) == 2
        pairs = {(row["source"], row["target"]) for row in table.rows if row["method"] == "map"}
        assert pairs == {(i, j) for i in [*NAMES, "others"] for j in NAMES if i != j} | {("T1>T1Gd", "T2")}
    psnr = {
        s: statistics.mean(
            r["psnr"] for r in ScoreTable.read(tmp_path).rows if (r["subject"], r["method"]) == (s, "network")
        )
        for s in table.subjects
    }
    (kept,) = (tmp_path / "volumes").iterdir()
    assert kept.stem == min(psnr, key=psnr.get), "the one that scored worse"
    volumes = np.load(kept)
    assert volumes["pred"].shape == (4, 4, *volumes["label"].shape[1:]) and volumes["spacing"].tolist() == [8, 8, 8]
    assert volumes["brain"].shape == volumes["label"].shape[1:] and volumes["sequences"].tolist() == NAMES


def test_an_unknown_convention_is_refused_at_once(workflow, phantom_dir: Path, tiny_weights: Path, tmp_path: Path):
    with pytest.raises(Exception) as error:
        workflow(
            "mri_seq2seq",
            "train.json",
            "evaluate.json",
            dataset_dir=phantom_dir,
            output_dir=tmp_path,
            weights=tiny_weights,
            conventions=["psnr"],
        ).run()
    assert "declared" in str(root_cause(error.value))


def test_the_map_is_fitted_on_training_subjects_and_beats_copying(evaluated: SimpleNamespace):
    psnr = {
        method: [
            float(r["psnr"]) for (s, m, i, j), r in evaluated.rows.items() if s == "one" and m == method and i != j
        ]
        for method in ("map", "copy")
    }
    assert sum(psnr["map"]) / 12 > sum(psnr["copy"]) / 12 + 3
