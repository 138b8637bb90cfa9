"""Names by which a subject's images predict each other best."""

from __future__ import annotations

import json
import re
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import pytest
import torch
from torch import Tensor

from ci import measure_agreement
from common import workflows
from common.data.check import check_subjects
from common.data.preparation import Subjects
from common.data.subjects import write_subjects
from common.inference.agreement import agreement, best_names, doubts
from common.inference.inferers import plain
from common.translation import TranslationNetwork

NAMES = ["T1", "T2", "FLAIR", "PD"]


class Code(NamedTuple):
    tissue: Tensor


class Powers(TranslationNetwork):
    """Sequence j shows the tissue to the power of POWER[j]."""

    POWER = torch.tensor([1.0, -2.0, 4.0, 0.3])

    def encode(self, image: Tensor, source: Tensor) -> Code:
        return Code(image.clamp(min=1e-6) ** (1 / (source @ self.POWER)))

    def decode(self, representation: Code, target: Tensor) -> Tensor:
        return representation.tissue ** (target @ self.POWER)


def subject(*names: int, seed: int = 0) -> Tensor:
    tissue = torch.rand(12, 12, 9, generator=torch.Generator().manual_seed(seed)) + 0.3
    tissue[:3] = 0
    image = torch.full((1, 4, 12, 12, 9), -1.0)
    for i in names:
        image[0, i] = torch.where(tissue > 0.1, tissue.clamp(min=0.1) ** Powers.POWER[i], 0)
    return image


@pytest.mark.parametrize(
    "options", [{"slices": 1}, {"slices": 3}, {"slices": 3, "slice_axis": -2}, {"spatial_dims": 3}]
)
def test_right_names_predict_each_other(options: dict):
    found = agreement(Powers(4, **options), subject(0, 1, 2), [0, 1, 2])
    assert found.shape == (3, 4, 3, 4)
    right = torch.stack([found[a, a, b, b] for a, b in permutations(range(3), 2)])
    torch.testing.assert_close(right, torch.ones(6), rtol=0, atol=1e-4)
    assert all(found[a, :, a].isnan().all() for a in range(3)) and found[0, 1, 1, 1].isnan()
    assert best_names(found, [0, 1, 2])[0] == [0, 1, 2] and list(doubts(found, [0, 1, 2], NAMES)) == []


@pytest.mark.parametrize(
    ("labels", "doubted"), [([1, 0, 2], {"T2": "T1", "T1": "T2"}), ([0, 1, 3], {"PD": "FLAIR"}), ([0, 1, 2], {})]
)
def test_wrong_names_are_found(labels: list[int], doubted: dict[str, str]):
    image = subject(0, 1, 2)
    named = torch.full_like(image, -1)
    named[:, labels] = image[:, [0, 1, 2]]
    order = sorted(labels)
    found = list(doubts(agreement(Powers(4), named, order), order, NAMES))
    assert {name: reason.split("seems to be a ")[1].split(":")[0] for name, _, reason in found} == doubted
    assert {code for _, code, _ in found} <= {"WRONG_NAME"}


class Decays(Powers):
    """Sequences 0 and 1 are images, 2 and 3 series whose frame k shows their power divided by k + 1."""

    def encode(self, image: Tensor, source: Tensor, frames: int = 1) -> Code:
        return Code(image[:, 0].clamp(min=1e-6) ** (1 / (source @ self.POWER)))

    def decode(self, representation: Code, target: Tensor, frames: int) -> Tensor:
        power = target @ self.POWER
        return torch.stack([representation.tissue ** (power / (k + 1)) for k in range(frames)], 1)


@pytest.mark.parametrize("swapped", [False, True])
def test_series_are_told_apart_frame_by_frame_and_never_from_images(swapped: bool):
    network = Decays(4, slices=3, frames=[1, 1, 3, 2])
    tissue = (torch.rand(12, 12, 9, generator=torch.Generator().manual_seed(0)) + 0.3).clamp(min=0.1)
    image = torch.full((1, 7, 12, 12, 9), -1.0)
    for j, channel in ((0, 0), (1, 1)):
        image[0, channel] = tissue ** Decays.POWER[j]
    shown = 2 if swapped else 3  # the one is called the other
    for k in range(2):
        image[0, 5 + k] = tissue ** (Decays.POWER[shown] / (k + 1))
    found = agreement(network, image, [0, 1, 3])
    assert found[2, :2].isnan().all() and found[0, 2:].isnan().all() and found[0, 0, 2, 3].isfinite()
    doubted = [(name, code, "a FLAIR" in reason) for name, code, reason in doubts(found, [0, 1, 3], NAMES)]
    assert doubted == ([("PD", "WRONG_NAME", True)] if swapped else [])


def test_an_image_of_another_person_is_found():
    image = subject(0, 1, 2)
    image[:, 1] = subject(1, seed=1)[:, 1]
    found = list(doubts(agreement(Powers(4), image, [0, 1, 2]), [0, 1, 2], NAMES))
    assert ("T2", "OTHER_PERSON") in {(name, code) for name, code, _ in found}


def test_check_warns_of_swapped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    image = subject(0, 1, 2)[0]
    files = {name: str(tmp_path / f"{name}.nii.gz") for name in NAMES[:3]}
    for name, channel in zip(NAMES[:3], (1, 0, 2), strict=True):
        nib.save(nib.Nifti1Image(image[channel].numpy(), torch.eye(4).numpy()), files[name])
    listed = {"sequences": NAMES[:3], "training": [], "validation": [], "test": [{"subject": "P0", "images": files}]}
    write_subjects(tmp_path / "subjects.json", listed)
    monkeypatch.setattr(workflows, "network_of", lambda *_, grid, **where: (Powers(4), Subjects(NAMES, **where)))
    found = check_subjects(tmp_path, weights="model.pt")
    assert [(f.code, f.severity, f.file) for f in found if f.code == "WRONG_NAME"] == [
        ("WRONG_NAME", "warning", "T1.nii.gz"),
        ("WRONG_NAME", "warning", "T2.nii.gz"),
    ]
    assert "WRONG_NAME" not in {f.code for f in check_subjects(tmp_path)}


def test_a_subject_in_two_splits_leaves_the_others_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    image, entries = subject(0, 1, 2)[0], []
    for person, order in (("P0", (0, 1, 2)), ("P1", (1, 0, 2))):
        files = {name: str(tmp_path / person / f"{name}.nii.gz") for name in NAMES[:3]}
        (tmp_path / person).mkdir()
        for name, channel in zip(NAMES[:3], order, strict=True):
            voxels = image[channel] * (1 + (person == "P1"))
            nib.save(nib.Nifti1Image(voxels.numpy(), torch.eye(4).numpy()), files[name])
        entries.append({"subject": person, "images": files})
    listed = {"sequences": NAMES[:3], "training": [], "validation": entries[:1], "test": entries}
    (tmp_path / "subjects.json").write_text(json.dumps(listed))
    monkeypatch.setattr(workflows, "network_of", lambda *_, grid, **where: (Powers(4), Subjects(NAMES, **where)))
    with pytest.warns(UserWarning, match="not all names were compared: there are errors in P0"):
        found = check_subjects(tmp_path, weights="model.pt")
    assert {(f.code, f.subject) for f in found if f.code in ("SUBJECT_IN_TWO_SPLITS", "WRONG_NAME")} == {
        ("SUBJECT_IN_TWO_SPLITS", "P0"),
        ("WRONG_NAME", "P1"),
    }
    assert "SUBJECT_IN_TWO_SPLITS" in capsys.readouterr().out


def test_weights_for_other_sequences_leave_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    nib.save(nib.Nifti1Image(subject(0)[0, 0].numpy(), torch.eye(4).numpy()), tmp_path / "T1.nii.gz")
    listed = {"sequences": ["T1"], "training": [{"subject": "P0", "images": {"T1": "T1.nii.gz"}}]}
    write_subjects(tmp_path / "subjects.json", {**listed, "validation": [], "test": []})
    monkeypatch.setattr(workflows, "network_of", lambda *_, grid, **where: (Powers(4), Subjects(["DWI"], **where)))
    with pytest.warns(UserWarning, match="not all names were compared: .* none of its subjects has any of DWI"):
        check_subjects(tmp_path, weights="model.pt")
    assert "ONE_SEQUENCE_ONLY" in capsys.readouterr().out


def test_the_benchmark_counts_what_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    entries = []
    for seed in range(2):
        (tmp_path / f"P{seed}").mkdir()
        files = {name: str(tmp_path / f"P{seed}" / f"{name}.nii.gz") for name in NAMES[:3]}
        for channel, file in zip(subject(0, 1, 2, seed=seed)[0], files.values(), strict=False):
            nib.save(nib.Nifti1Image(channel.numpy(), torch.eye(4).numpy()), file)
        entries.append({"subject": f"P{seed}", "images": files})
    listed = {"sequences": NAMES[:3], "training": [], "validation": [], "test": entries}
    write_subjects(tmp_path / "subjects.json", listed)
    network, subjects = Powers(4), Subjects(NAMES, dataset_dir=tmp_path)
    item = subjects.items("test")[0]
    named = {tuple(names): found for names, found in measure_agreement.namings(network, subjects, item)}
    files = item["images"]
    swapped = {**item, "images": {"T1": files["T2"], "T2": files["T1"], "FLAIR": files["FLAIR"]}}
    direct = agreement(network, plain(subjects.use()(swapped)["image"])[None], [0, 1, 2])
    turned = named[1, 0, 2][[1, 0, 2]][:, :, [1, 0, 2]]  # rows by name, not by what they are
    torch.testing.assert_close(turned, direct, rtol=0, atol=0.01, equal_nan=True)
    monkeypatch.setattr(measure_agreement, "network_of", lambda *_, **__: (network, subjects))
    measure_agreement.benchmark(str(tmp_path / "subjects.json"), "model.pt")
    told = capsys.readouterr().out
    # PD is the T1 of these subjects to the power of 0.3, so that the two may be taken for each other.
    found = re.search(
        r"wrong names: (\d+) of 46 doubted, the right ones told in (\d+); left: (none|T1 taken for PD 1)", told
    )
    assert found and found[1] == found[2] == ("46" if found[3] == "none" else "45")
    assert "right names: false alarms in 0 of 2 for the name, in 0 for the person" in told
    assert "another person's image: 6 of 6 found; missed: none" in told
