from __future__ import annotations

import json
import os
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.data.subjects import read_subjects, write_subjects
from common.downstream.cases import Cases
from common.downstream.nnunet import NnUnet, export
from common.downstream.regions import Regions
from common.downstream.subsets import subsets

CHANNELS = ["FLAIR", "T1Gd"]


def load(path: Path | str) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def cases(tumours_dir: Path) -> Cases:
    return Cases(str(tumours_dir), sequences=CHANNELS, regions=Regions().text)


def test_a_raw_data_set_has_the_list_s_images_labels_and_splits(
    cases: Cases, tumours_dir: Path, tmp_path: Path
) -> None:
    root = export(cases.items, tmp_path, CHANNELS, mask="tumour", regions=Regions(), number=812)
    assert root == tmp_path / "nnUNet_raw" / "Dataset812_FLAIR_T1Gd"
    described = json.loads((root / "dataset.json").read_text())
    assert described == {
        "channel_names": {"0": "FLAIR", "1": "T1Gd"},
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]},
        "regions_class_order": [1, 2, 3],
        "numTraining": 3,
        "validation": ["phantom_002"],
        "file_ending": ".nii.gz",
    }
    split = json.loads((tmp_path / "nnUNet_preprocessed" / root.name / "splits_final.json").read_text())
    assert split == [{"train": ["phantom_000", "phantom_001"], "val": ["phantom_002"]}]
    listed = read_subjects(tumours_dir)
    for part, entries in (("Tr", listed["training"] + listed["validation"]), ("Ts", listed["test"])):
        names = {f"{entry['subject']}_000{k}.nii.gz" for entry in entries for k in (0, 1)}
        assert {path.name for path in (root / f"images{part}").iterdir()} == names
        for entry in entries:
            name = entry["subject"]
            for k, sequence in enumerate(CHANNELS):
                assert np.array_equal(
                    load(root / f"images{part}/{name}_000{k}.nii.gz"), load(entry["images"][sequence])
                )
            label, mask = nib.load(root / f"labels{part}/{name}.nii.gz"), nib.load(entry["masks"]["tumour"])
            wanted = np.array([0, 2, 1, 3])[load(entry["masks"]["tumour"])]  # necrosis 1, oedema 2, rim 3
            assert np.array_equal(np.asarray(label.dataobj), wanted) and np.allclose(label.affine, mask.affine)
    export(cases.items, tmp_path, CHANNELS, mask="tumour", regions=Regions(), number=812)  # again, over itself
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


def test_one_region_is_a_plain_class(cases: Cases, tmp_path: Path) -> None:
    root = export(cases.items, tmp_path, ["T1Gd"], mask="lesion", regions=Regions("lesion=1"), name="plaques")
    described = json.loads((root / "dataset.json").read_text())
    assert root.name == "Dataset800_plaques" and described["labels"] == {"background": 0, "lesion": 1}
    assert "regions_class_order" not in described


def test_a_missing_channel_or_mask_is_named(cases: Cases, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"phantom_000 has no T2; .*--synthesised"):
        export(cases.items, tmp_path, ["T1Gd", "T2"], mask="tumour", regions=Regions())
    with pytest.raises(ValueError, match="phantom_000 has no mask 'seg'"):
        export(cases.items, tmp_path, CHANNELS, mask="seg", regions=Regions())


def test_an_export_per_subset_with_what_is_missing_synthesised(
    tumours_dir: Path, described_weights: Path, tmp_path: Path
) -> None:
    listed = read_subjects(tumours_dir)
    del listed["test"][0]["images"]["T2"]
    file, images = write_subjects(tmp_path / "subjects.json", listed), tmp_path / "out/nnunet/nnUNet_raw"
    options = {"export": True, "subject_list": str(file), "subsets": "all,T1+FLAIR", "device": "cpu"}
    with pytest.raises(ValueError, match=r"phantom_003 has no T2: .*--fill"):
        subsets("", str(tmp_path / "out"), **options)
    subsets("", str(tmp_path / "out"), **options, fill=True, weights=str(described_weights))
    described = [json.loads((path / "dataset.json").read_text()) for path in sorted(images.iterdir())]
    assert [path.name for path in sorted(images.iterdir())] == ["Dataset800_all", "Dataset801_T1_FLAIR"]
    assert all(list(each["channel_names"].values()) == ["T1", "T1Gd", "T2", "FLAIR"] for each in described)
    made = tmp_path / "out/synthesised/T1+FLAIR/phantom_003/phantom_003_T2.nii.gz"
    assert np.array_equal(load(images / "Dataset801_T1_FLAIR/imagesTs/phantom_003_0002.nii.gz"), load(made))
    sources = json.loads(made.with_name("phantom_003_T2.json").read_text())["sources"]
    assert [*sources] == ["T1", "FLAIR"]
    real = images / "Dataset800_all/imagesTs/phantom_004_0002.nii.gz"
    assert np.array_equal(load(real), load(listed["test"][1]["images"]["T2"]))


@pytest.mark.skipif(find_spec("nnunetv2") is not None, reason="nnU-Net is installed")
def test_without_nnunet_it_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install -r requirements-downstream\.txt"):
        NnUnet(tmp_path, "nnUNetTrainer", "3d_fullres", "cpu")


def test_work_of_other_images_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases) -> None:
    """nnU-Net is not run: its programs are noted."""
    monkeypatch.setattr("common.downstream.nnunet.find_spec", lambda _: True)
    calls: list[str] = []
    monkeypatch.setattr(NnUnet, "_run", lambda self, *command, environment=None: calls.append(Path(command[0]).name))
    runner = types.SimpleNamespace(train_single_model_command=lambda *_: (["nnUNetv2_train"], {}))
    monkeypatch.setattr("monai.apps.nnunet.nnUNetV2Runner", lambda *_, **__: runner)
    root = export(cases.items, tmp_path, CHANNELS, mask="tumour", regions=Regions())
    nnunet = NnUnet(tmp_path, "nnUNetTrainer", "2d", "cpu")
    for _ in range(2):
        nnunet.train(export(cases.items, tmp_path, CHANNELS, mask="tumour", regions=Regions()))
    assert [name for name in calls if name != "nnUNetv2_train"] == [Path(sys.executable).name]  # preprocessed once
    model, images, masks = (tmp_path / name for name in ("model", "images", "masks"))
    for file in (model / "fold_0/checkpoint_final.pth", images / "a_0000.nii.gz", masks / "a.nii.gz"):
        file.parent.mkdir(parents=True)
        file.write_text("one")
    nnunet.predict(model, images, masks)
    assert not (masks / "a.nii.gz").exists()  # nobody knows what made it
    (masks / "a.nii.gz").write_text("one")
    nnunet.predict(model, images, masks)
    assert (masks / "a.nii.gz").exists()
    (model / "fold_0/checkpoint_final.pth").write_text("two")
    nnunet.predict(model, images, masks)
    assert not (masks / "a.nii.gz").exists()
    (root / "imagesTr" / "phantom_000_0000.nii.gz").unlink()
    refused = pytest.raises(ValueError, match="was made of other images, masks or splits")
    with refused:
        nnunet.train(root)
    (tmp_path / "nnUNet_preprocessed" / root.name / "2d.json").unlink()
    trained = tmp_path / "nnUNet_results" / root.name / "any" / "fold_0" / "checkpoint_final.pth"
    trained.parent.mkdir(parents=True)
    trained.touch()
    with refused:  # nobody knows of what
        nnunet.train(root)


@pytest.mark.full
def test_nnunet_trains_predicts_and_goes_on(tumours_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nnunetv2")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    options = {"trainer": "nnUNetTrainer_1epoch", "subsets": "all", "device": "cpu", "weights": "none"}
    subsets(str(tumours_dir), str(tmp_path), **options)
    rows = json.loads((tmp_path / "subsets.json").read_text())["rows"]
    assert {row["subject"] for row in rows} == {"phantom_003", "phantom_004"}
    assert max(row["whole_dice"] for row in rows) > 0.1
    model = tmp_path / "nnunet/nnUNet_results/Dataset800_all/nnUNetTrainer_1epoch__nnUNetPlans__3d_fullres"
    before = (model / "fold_0/checkpoint_final.pth").stat().st_mtime
    subsets(str(tumours_dir), str(tmp_path), **options)
    assert (model / "fold_0/checkpoint_final.pth").stat().st_mtime == before
