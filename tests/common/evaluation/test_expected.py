"""What score to expect, from scores to a sidecar."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from common.description import expected, read
from common.evaluation.expected import expect
from common.evaluation.scores import ScoreTable
from common.inference.weights import sha256


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Path]:
    """Two subjects' scores, the second without T1Gd, and the weights' file."""
    weights = tmp_path / "model.pt"
    torch.save({}, weights)
    table = ScoreTable("declared", "in the brain")
    for subject, psnr, lacking in (("one", 20.0, ""), ("two", 23.0, "T1Gd")):
        for source in (name for name in ("T1", "T1Gd", "T2", "T1+T2", "others", "T1>T2") if name != lacking):
            if (subject, source) != ("two", "T1+T2"):
                table.add(subject, "network", source, "FLAIR", {"psnr": psnr + len(source), "ssim": 0.5})
                table.add(subject, "copy", source, "FLAIR", {"psnr": 5.0, "ssim": 0.1})
        table.add(subject, "network", "T2", "FLAIR>", {"psnr": math.nan, "ssim": 0.5})
    info = {"weights_sha256": sha256(weights), "split": "test", "dataset_dir": "scans", "disturbance": "none"}
    table.write(tmp_path / "scores", info)
    return tmp_path / "scores", weights


def test_each_subset_has_its_mean_deviation_and_number(scored):
    folder, weights = scored
    weights.with_suffix(".json").write_text(json.dumps({"sequences": ["T1"]}))
    expect(str(folder), weights=str(weights))
    found = read(weights)
    assert found["sequences"] == ["T1"] and found["sha256"] == sha256(weights), "what was said before stays"
    told = {"convention": "declared", "region": "in the brain", "of": "scans, test subjects"}
    alone = {"psnr": [23.5, 2.1213], "ssim": [0.5, 0.0], "subjects": 2}
    assert expected(found, "FLAIR", ["T1"]) == {**alone, **told}
    # "others" of the second subject are T1 and T2, for it lacks T1Gd
    assert expected(found, "FLAIR", ["T1", "T2"])["psnr"] == [27.0, 2.8284]
    assert expected(found, "FLAIR", ["T1", "T1Gd", "T2"]) == {
        "psnr": [26.0, None],
        "ssim": [0.5, None],
        "subjects": 1,
        **told,
    }
    assert expected(found, "FLAIR", ["T2", "T1Gd"]) == expected({}, "FLAIR", ["T1"]) == {}


def test_kept_volumes_tell_how_far_images_were_off(scored):
    folder, weights = scored
    (folder / "volumes").mkdir()
    label = np.zeros((4, 3, 3, 3), np.float16)
    volumes = {"label": label, "pred": np.stack([label + 0.25] * 4), "brain": np.ones((3, 3, 3), bool)}
    names = {"sequences": np.array(["T1", "T1Gd", "T2", "FLAIR"]), "available": np.ones(4, bool)}
    np.savez(folder / "volumes" / "one.npz", **names, **volumes)
    expect(str(folder), weights=str(weights))
    found = read(weights)["uncertainty"]
    assert found["of"] == "scans, test subjects" and found["bounds"]["FLAIR"] == {"one": 0.25, "several": [0.25, 0.0]}


def test_scores_of_other_weights_or_of_disturbed_images_are_refused(scored):
    folder, weights = scored
    file = folder / "scores_declared.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps({**said, "disturbance": "noise"}))
    with pytest.raises(ValueError, match=r"scored disturbed images \(noise\)"):
        expect(str(folder), weights=str(weights))
    file.write_text(json.dumps({**said, "weights_sha256": "ab12"}))
    with pytest.raises(ValueError, match=r"sha256 ab12, .*model.pt has [0-9a-f]{64}; evaluate these"):
        expect(str(folder), weights=str(weights))
    assert not weights.with_suffix(".json").exists()
