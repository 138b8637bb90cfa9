"""What only VQ-Seq2Seq's bundle does: training on pairings, `run encode`, and the sweep over D and K."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from torch import nn

from common.data.subjects import drop_sequences, read_subjects, write_subjects
from common.evaluation.scores import ScoreTable
from mri_vq_seq2seq.latent import coarser_affine
from mri_vq_seq2seq.sweep import sweep

BUNDLE = "mri_vq_seq2seq"
NAMES = ["T1", "T1Gd", "T2", "FLAIR"]
PAIRINGS = [{"T1", "T1Gd"}, {"T1Gd", "T2"}, {"T2", "FLAIR"}]


def test_training_with_the_papers_pairings(workflow, phantom_dir: Path, tmp_path: Path, monkeypatch):
    """Every subject once, the schedule's parts all on: what a step is given and asked for is of one pairing."""
    subjects = read_subjects(phantom_dir)
    everyone = [entry for split in ("training", "validation", "test") for entry in subjects[split]]
    held_out = [{**everyone[0], "subject": "held out"}]
    paired = drop_sequences({**subjects, "training": everyone, "validation": held_out, "test": []}, rule="pairs")
    write_subjects(tmp_path / "pairs.json", paired)
    settings = {"dataset_dir": phantom_dir, "subject_list": tmp_path / "pairs.json", "epochs": 1}
    starts = {"contrastive_start": 0, "sampling_start": 0, "translation_start": 0}
    output = {"ckpt_dir": tmp_path, "output_dir": tmp_path / "eval"}
    training = workflow(BUNDLE, "train.json", batch_size=4, **settings, **starts, **output)
    network, steps = training.parser.get_parsed_content("network"), []
    forward = network.forward

    def spy(image, source=None, rows=None, target=None, subject=None):
        if subject is not None:  # the step, not a translation of what the encoder sees
            steps.append((source.argmax(1), rows, subject))
        return forward(image, source, rows, target, subject)

    monkeypatch.setattr(network, "forward", spy)
    training.run()
    ((source, rows, subject),) = steps
    given = [{NAMES[i] for i in source[subject == g]} for g in range(4)]
    assert sorted(map(sorted, given)) == sorted(sorted(e["images"]) for e in paired["training"])
    assert all(each in PAIRINGS for each in given) and len({frozenset(each) for each in given}) == 3
    for j, each in enumerate(rows):
        for row in each.tolist():  # from an image, or from the sample of a subject
            owner = int(subject[row]) if row < len(source) else row - len(source)
            assert NAMES[j] in given[owner]


OBLIQUE = np.array([[-1.9, 0.3, 0.1, 20], [-0.3, -2.0, 0.4, 30], [0.05, 0.4, 2.5, -11], [0, 0, 0, 1]])


def write_subject(folder: Path, name: str, images: dict[str, np.ndarray]) -> dict:
    files = {}
    for sequence, voxels in images.items():
        files[sequence] = f"{name}_{sequence}.nii.gz"
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), OBLIQUE), folder / files[sequence])
    return {"subject": name, "images": files}


def encode(workflow, folder: Path, entries: list[dict], weights: Path, **overrides) -> Path:
    """The folder of `run encode` for the subjects."""
    content = {"sequences": NAMES, "training": [], "validation": [], "test": entries}
    (folder / "subjects.json").write_text(json.dumps(content))
    output = folder / "latents"
    settings = {"dataset_dir": folder, "output_dir": output, "weights": weights, **overrides}
    workflow(BUNDLE, "inference.json", "encode.json", **settings).run()
    return output


def volume(seed: int = 0) -> np.ndarray:
    """Tissue 21 x 19 x 7 within a margin of air."""
    made = np.zeros((25, 22, 9))
    made[2:23, 1:20, 1:8] = np.random.default_rng(seed).uniform(100, 200, (21, 19, 7))
    return made


def test_encode_writes_latent_codes_and_their_size(workflow, weights_of, tmp_path: Path, caplog):
    entry = write_subject(tmp_path, "A", {"T1": volume(), "T2": volume(1)})
    with caplog.at_level("INFO"):
        folder = encode(workflow, tmp_path, [entry], weights_of(BUNDLE), roi_size=[32, 32, 1]) / "A"
    assert {path.name for path in folder.iterdir()} == {
        f"A_{name}" for name in ("latent.nii.gz", "codes.nii.gz", "latent.json", "latent.png")
    }
    latent, codes = nib.load(folder / "A_latent.nii.gz"), nib.load(folder / "A_codes.nii.gz")
    sidecar = json.loads((folder / "A_latent.json").read_text())
    assert latent.shape == (*codes.shape, 3) and latent.get_data_dtype() == np.float32
    assert np.array_equal(latent.affine, codes.affine)
    spacing = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    np.testing.assert_allclose(latent.header.get_zooms()[:3], spacing * [2, 2, 1], rtol=1e-5)
    codebook = torch.load(weights_of(BUNDLE), weights_only=True)["quantiser.codebook"]
    distances = torch.cdist(torch.tensor(latent.get_fdata()).flatten(0, 2), codebook.double())
    chosen = distances.gather(1, torch.tensor(codes.get_fdata()).long().flatten()[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.amin(1), atol=1e-5, rtol=0)  # the mean of two codes is near to both
    assert sidecar["coarser"] == [2, 2, 1] and list(sidecar["sources"]) == ["T1", "T2"]
    # The tissue's 21 x 19 x 7 voxels, not the padding: 11 x 10 x 7 positions.
    assert codes.shape == (16, 16, 7) and sidecar["images_bytes"] == 2 * 4 * 21 * 19 * 7
    assert sidecar["latent_bytes"] == 4 * 3 * 11 * 10 * 7 and sidecar["codes_bytes"] == 11 * 10 * 7 / 2, "4 bits each"
    assert sidecar["latent_share"] == 9240 / 22344 and sidecar["codes_share"] == 385 / 22344
    assert "A: of the images' size latent 41.35%, codes 1.72%" in caplog.text


class BlockMeans(nn.AvgPool2d):
    def forward(self, image: torch.Tensor, code: torch.Tensor | None) -> torch.Tensor:
        return super().forward(image)


@pytest.mark.parametrize("axis", [-1, -3])
def test_a_marked_voxel_is_found_at_its_place(workflow, tiny_network, tmp_path: Path, monkeypatch, axis: int):
    """With block means in place of the encoder, it changes the one position whose block it lies in."""
    monkeypatch.setattr("mri_vq_seq2seq.network.Encoder", lambda *arguments: BlockMeans(2))
    torch.save(tiny_network(BUNDLE, quantiser="none").state_dict(), tmp_path / "model.pt")
    plain, marked, voxel = volume(), volume(), (15, 6, 4)
    marked[voxel] = 150 if plain[voxel] < 149 else 100
    entries = [write_subject(tmp_path, "plain", {"T1": plain}), write_subject(tmp_path, "marked", {"T1": marked})]
    sagittal = {"slice_axis": -3, "roi_size": [1, 16, 16], "divisible": [1, 2, 2]}
    folder = encode(
        workflow, tmp_path, entries, tmp_path / "model.pt", quantiser="none", **(sagittal if axis == -3 else {})
    )
    latents = [nib.load(folder / name / f"{name}_latent.nii.gz") for name in ("plain", "marked")]
    assert not list(folder.rglob("*codes*")), "there is no codebook"
    (where,) = np.argwhere(np.abs(latents[0].get_fdata() - latents[1].get_fdata()).sum(-1) > 1e-3)
    offset = apply_affine(latents[1].affine, where) - apply_affine(OBLIQUE, voxel)
    halves = np.abs(np.linalg.solve(OBLIQUE[:3, :3], offset))
    np.testing.assert_allclose(halves, [0.5, 0.5, 0] if axis == -1 else [0, 0.5, 0.5], atol=1e-4)


def test_a_coarser_grid_has_the_same_corners():
    coarse = coarser_affine(OBLIQUE, [4, 4, 1])
    for block in [(0, 0, 0), (2, 1, 5)]:
        voxels = np.stack(
            np.meshgrid(*[np.arange(b * f, b * f + f) for b, f in zip(block, (4, 4, 1), strict=True)]), -1
        )
        centre = apply_affine(OBLIQUE, voxels.reshape(-1, 3)).mean(0)
        np.testing.assert_allclose(apply_affine(coarse, block), centre)


def test_one_bad_subject_does_not_stop_the_others(workflow, weights_of, tmp_path: Path):
    bad = volume()
    bad[5, 5, 5] = np.nan
    entries = [write_subject(tmp_path, name, {"T2": v}) for name, v in (("A", volume()), ("B", bad), ("C", volume(2)))]
    with pytest.raises(SystemExit, match=r"1 of 3 subjects failed:\n  B: .*NaN"):
        encode(workflow, tmp_path, entries, weights_of(BUNDLE))
    assert {path.name for path in (tmp_path / "latents").iterdir()} == {"A", "C"}


def test_volumes_are_encoded_by_windows(workflow, tiny_network, tmp_path: Path):
    torch.save(tiny_network(BUNDLE, spatial_dims=3).state_dict(), tmp_path / "model.pt")
    entry = write_subject(tmp_path, "A", {"T1": volume(), "FLAIR": volume(1)})
    three = {"spatial_dims": 3, "roi_size": [8, 8, 8], "divisible": [2, 2, 2]}
    folder = encode(workflow, tmp_path, [entry], tmp_path / "model.pt", **three)
    assert nib.load(folder / "A" / "A_latent.nii.gz").shape == (11, 10, 4, 3)
    assert json.loads((folder / "A" / "A_latent.json").read_text())["coarser"] == [2, 2, 2]


def test_the_sweep_trains_each_d_with_each_k_once(tiny, phantom_dir: Path, tmp_path: Path):
    options = {key: value for key, value in tiny[BUNDLE].items() if key != "network_def#codes"}
    grid = {"dimensions": [2, 3], "codes": 8, **options, "epochs": 1}
    sweep(str(phantom_dir), str(tmp_path), **grid)
    with open(tmp_path / "sweep.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["dimensions"], row["codes"]) for row in rows] == [("2", "8"), ("3", "8")]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    assert all(1 <= float(row["codebook_perplexity"]) <= 8 * float(row["codebook_share"]) <= 8 for row in rows)
    scores = ScoreTable.read(tmp_path / "d3_k8")
    assert scores.subjects == [entry["subject"] for entry in read_subjects(phantom_dir)["validation"]]
    made = [row["psnr"] for row in scores.rows if row["method"] == "network" and row["source"] != row["target"]]
    assert float(rows[1]["translated_psnr"]) == pytest.approx(np.mean(made), rel=1e-6)
    assert torch.load(tmp_path / "d2_k8" / "model.pt", weights_only=True)["quantiser.codebook"].shape == (8, 2)
    assert (tmp_path / "sweep.png").stat().st_size > 0
    written = (tmp_path / "d2_k8" / "last.pt").stat().st_mtime
    sweep(str(phantom_dir), str(tmp_path), **grid)
    assert (tmp_path / "d2_k8" / "last.pt").stat().st_mtime == written, "what is known is not trained again"
