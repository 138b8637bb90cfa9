"""Subjects drawn for a training, from a label map that is made here; with MRI_DATA set also from real ones."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from numpy.random import RandomState
from PIL import Image
from torch import Tensor

from common.__main__ import main
from common.data import simulated_lesions, simulation
from common.data.anatomies import read_anatomies, read_anatomy
from common.data.loaders import SeededItems, training_loader
from common.data.normalisation import RULES
from common.data.simulated_head import Head, SmoothField, Waves
from common.data.simulated_lesions import DISEASES, draw_layers
from common.data.simulation import SimulatedSubjects
from common.data.tissues import INDEX, LESIONS

SEQUENCES = ["T1", "T1Gd", "T2", "FLAIR"]


def ball(path: Path, **header) -> Path:
    """A head of shells: ventricle, white matter, cortex, fluid, bone, fat; FreeSurfer's numbers, 1 mm, LIA axes."""
    axes = [np.arange(n) - (n - 1) / 2 for n in (130, 120, 140)]
    radius = np.sqrt(sum(a**2 for a in np.meshgrid(*axes, indexing="ij")))
    numbers = np.select([radius < r for r in (10, 36, 41, 45, 50, 56)], [4, 2, 3, 24, 516, 515], 0)
    affine = np.array([[-1.0, 0, 0, 65], [0, 0, 1, -60], [0, -1, 0, 70], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(numbers.astype(np.int16), affine), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("anatomies")
    ball(place / "ball.nii.gz")
    return str(place)


def drawn(folder: str, seed: int = 0, **options) -> SeededItems:
    options = {"roi_size": (64, 64, 3), "length": 8, **options}
    return SeededItems(SimulatedSubjects(SEQUENCES, anatomies=folder, **options)).set_random_state(seed)


def equal(one: dict, other: dict) -> bool:
    return all(torch.equal(one[key], other[key]) for key in ("image", "reference", "lesion", "scale"))


def test_an_item(folder: str):
    items = drawn(folder)
    assert len(items) == 8
    for k in range(8):
        item = items[k]
        image, reference, lesion = item["image"], item["reference"], item["lesion"]
        assert item["subject"] == f"simulated_{k}"
        assert image.shape == reference.shape == (4, 64, 64, 3) and lesion.shape == (1, 64, 64, 3)
        for name in ("image", "reference"):
            assert item[name].dtype == torch.float32 and item[name].isfinite().all()
            assert item[name].min() >= 0 and item[name].max() <= 1
        inside = image > 0
        assert (inside == inside[:1]).all() and torch.equal(inside, reference > 0), "one mask for all"
        assert set(lesion.unique().tolist()) <= {0.0, 1.0} and not (lesion.bool() & ~inside[:1]).any()
        assert item["available"].all() and (item["scale"] > 0).all() and item["offset"].shape == (4,)


def test_replay_is_equal_to_the_bit(folder: str):
    first = [drawn(folder)[k] for k in range(3)]
    again = drawn(folder)
    assert all(equal(again[k], first[k]) for k in (2, 0, 1)), "whatever was drawn before"
    assert not equal(first[0], first[1]) and not equal(first[0], drawn(folder, seed=1)[0])


def test_loading_in_other_processes_draws_the_same(folder: str):
    data = SimulatedSubjects(SEQUENCES, anatomies=folder, roi_size=(32, 32, 1), length=4)

    def batches(workers: int) -> list[Tensor]:
        loader = training_loader(data, batch_size=2, num_workers=workers)
        assert isinstance(loader, DataLoader)
        loader.dataset.set_random_state(3)
        torch.manual_seed(0)
        return [batch["image"] for batch in loader]

    for here, there in zip(batches(0), batches(2), strict=True):
        assert here.shape == (2, 4, 32, 32, 1) and torch.equal(here, there)


def heads(folder: str, count: int = 12) -> list[Head]:
    anatomy = read_anatomies(folder)[0]
    return [Head(RandomState(seed), anatomy, SEQUENCES) for seed in range(count)]


def signals(head: Head, spacing: float = 1.5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Acquired and true signals, lesion and tissue on a grid over the whole ball."""
    axis = torch.arange(-60.0, 60.0, spacing)
    points = head.warp([axis, axis, torch.arange(-60.0, 60.0, 6.0)]).reshape(3, -1)
    distances = head.anatomy.distance(points)
    points, distances = points[:, distances[0] < 0], distances[:, distances[0] < 0]
    found = head.signals(points, distances, torch.full((3,), spacing), torch.zeros(points.shape[1]))
    return *found, head.anatomy.nearest_tissue(points, torch.zeros(3, 1))[:, 0]


def test_lesions_are_bright_and_dark_where_physics_says(folder: str):
    contrast = []
    for head in heads(folder, 24):
        if not any(name == "plaque" for name, _ in head.layers):
            continue
        _, truth, lesion, tissue = signals(head)
        white = truth[:, (tissue == INDEX["white_matter"]) & (lesion == 0)].median(1).values
        contrast.append(truth[:, lesion > 0.9].median(1).values / white)
    t1, _, t2, flair = torch.stack(contrast).T
    assert len(t1) > 3 and (t1 < 1).all() and (t2 > 1.3).all() and (flair > 1.2).all()


def test_gadolinium_changes_only_what_enhances(folder: str):
    for head in heads(folder, 4):
        _, truth, _, _ = signals(head)
        differs = (truth[0] - truth[1]).abs() > 1e-5
        assert 0 < differs.float().mean() < 0.35
        assert (truth[1] >= truth[0] - 1e-6)[differs].float().mean() > 0.95


@pytest.mark.parametrize("disease", list(DISEASES), ids=lambda disease: disease.__name__)
def test_every_disease_leaves_lesions(folder: str, disease, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(simulated_lesions, "DISEASES", {disease: 1.0})
    head = heads(folder, 1)[0]
    assert {name for name, _ in head.layers} & set(LESIONS)
    assert (signals(head)[2] > 0.5).sum() > 3


def test_a_layer_is_the_same_for_any_points(folder: str):
    head = heads(folder, 1)[0]
    points = 60 + 15 * torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    size = torch.full((3,), 1.5)
    whole = head.signals(points, head.anatomy.distance(points), size, torch.zeros(400))
    few = head.signals(points[:, :50], head.anatomy.distance(points[:, :50]), size, torch.zeros(50))
    for one, other in zip(whole, few, strict=True):
        torch.testing.assert_close(one[..., :50], other, rtol=1e-4, atol=1e-5)


def test_the_scale_is_that_of_the_whole_head(folder: str):
    ratios = []
    for seed, head in enumerate(heads(folder, 5)):
        size, generator = torch.full((3,), 1.6), torch.Generator().manual_seed(seed)
        low, high = head.warp.box(head.anatomy)
        coarse = simulation._whole(head, low, high, size, generator)
        axes = [torch.arange(float(a) - 14, float(b) + 14, 1.6) for a, b in zip(low, high, strict=True)]
        _, truth, _, inside = simulation._crop(head, axes, size, generator, coarse.median)
        scales = [[RULES["trimmed_mean"](x.numpy())[0] for x in part] for part in (coarse.truth, truth * inside)]
        ratios.append(np.divide(*scales))
    assert np.sqrt(np.mean((np.array(ratios) - 1) ** 2)) < 0.02


def test_smooth_field_is_smooth_and_of_its_deviation():
    field = SmoothField(RandomState(0), 2, 20.0, 3.0)
    axis = torch.arange(-100.0, 100.0, 2.0)
    value = field([axis, axis, axis[:5]])
    assert value.shape == (2, 100, 100, 5)
    assert 2 < value.std() < 4 and value.diff(dim=1).abs().max() < 2.5
    lower = field([axis, axis[:50], axis[:5]])
    torch.testing.assert_close(value[:, :, :50], lower), "whatever grid it is seen on"


def test_waves_have_unit_variance():
    points = 200 * torch.rand(3, 20000, generator=torch.Generator().manual_seed(0))
    spread = torch.stack([Waves(RandomState(k), 8)(points).std() for k in range(20)])
    assert spread.mean() == pytest.approx(1, abs=0.05)


def test_reading_turns_maps_to_ras_and_resamples(tmp_path: Path):
    one = read_anatomy(ball(tmp_path / "ball.nii.gz"))
    image = nib.load(tmp_path / "ball.nii.gz")
    coarse = np.asarray(image.dataobj)[::2, ::2, ::2]
    nib.save(nib.Nifti1Image(coarse, image.affine @ np.diag([2, 2, 2, 1])), tmp_path / "coarse.nii.gz")
    other = read_anatomy(tmp_path / "coarse.nii.gz")
    white = [int((each.tissue == INDEX["white_matter"]).sum()) for each in (one, other)]
    assert white[0] == pytest.approx(4 / 3 * np.pi * (36**3 - 10**3), rel=0.01)
    assert white[1] == pytest.approx(white[0], rel=0.05)
    middle = torch.tensor(one.white.mean(0), dtype=torch.float32)[:, None]
    outside, hull, ventricles = one.distance(middle + torch.tensor([[0.0], [0.0], [30.0]]))[:, 0].tolist()
    assert outside == pytest.approx(-15, abs=1.5) and hull == pytest.approx(-11, abs=1.5)
    assert ventricles == pytest.approx(20, abs=1.5)


def test_what_is_refused(folder: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r"anatomies is .*nowhere, where there is no NIfTI file"):
        SimulatedSubjects(SEQUENCES, anatomies=str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="Cannot simulate DWI; there are T1, T1Gd, T2, FLAIR, PD"):
        SimulatedSubjects(["T1", "DWI"], anatomies=folder)
    with pytest.raises(ValueError, match="normalisation is 'none'"):
        SimulatedSubjects(SEQUENCES, anatomies=folder, normalisation="none")
    with pytest.raises(ValueError, match="roi_size="):
        SimulatedSubjects(SEQUENCES, anatomies=folder, roi_size=(64, 64))
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), 7, np.int16), np.eye(4)), tmp_path / "no_brain.nii.gz")
    with pytest.raises(ValueError, match=r"no_brain.nii.gz has no white matter \(2, 41\)"):
        SimulatedSubjects(SEQUENCES, anatomies=str(tmp_path))
    (tmp_path / "no_brain.nii.gz").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"no_brain.nii.gz cannot be read"):
        SimulatedSubjects(SEQUENCES, anatomies=str(tmp_path))


def test_the_page(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    picture = tmp_path / "page.png"
    command = ["mri-contrast", "simulate", str(picture), "--subjects", "3", "--roi_size", "[32,40,1]", "--anatomies"]
    monkeypatch.setattr(sys, "argv", [*command, folder])
    main()
    page = Image.open(picture)
    assert page.size == (2 * 9 * 32, 14 + 2 * 40) and np.asarray(page).std() > 10
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match="2"):
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert "anatomies is" in line and "no NIfTI file" in line


def test_without_a_folder_the_anatomy_is_mni152():
    anatomy = read_anatomies("")[0]
    shares = [float((anatomy.tissue == INDEX[name]).float().mean()) for name in ("white_matter", "cortex", "ventricle")]
    assert shares[0] > 0.1 and shares[1] > 0.1 and 0.001 < shares[2] < 0.05
    layers = draw_layers(RandomState(0), anatomy)
    assert [name for name, _ in layers][:3] == ["vessel", "dura", "vessel"]


def test_real_label_maps(mri_data: Path, tmp_path: Path):
    """Relations of the medians in the truth of real anatomies, and that they are varied."""
    for name in ("labels_05.nii.gz", "labels_13.nii.gz"):
        (tmp_path / name).symlink_to(mri_data / "anat_synthseg-labels" / name)
    items = drawn(str(tmp_path), roi_size=(128, 160, 3), length=12)
    drawn_items = [items[k] for k in range(12)]
    filled = [float((item["image"][0] > 0).float().mean()) for item in drawn_items]
    assert max(filled) > 0.25 and np.std(filled) > 0.02
    assert sum(float(item["lesion"].sum()) > 20 for item in drawn_items) > 3
    full = drawn_items[int(np.argmax(filled))]["reference"]
    inside = full[0] > 0
    assert np.corrcoef(full[0][inside], full[2][inside])[0, 1] < -0.4, "T1 and T2 are each other's reverse"
