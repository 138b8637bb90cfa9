import json
import shutil

import numpy as np
import pytest
import torch

from common.downstream.letter_classifier import read_accuracy
from common.downstream.letter_images import draw_letters
from common.downstream.letters import ARMS, _verdict, letters

OPTIONS = {"steps": 40, "batch_size": 16, "learning_rate": 3e-3, "width": 0.125, "amp": ""}
TINY = {"samples": 50, "validation": 50, "test": 50, "epochs": 1, "size": 32, "width": 0.125, "seeds": 1}


def test_a_classifier_tells_letters_that_it_can_see():
    """Of three letters in fixed places it tells each; of noise none."""
    rng = np.random.default_rng(0)
    told = torch.as_tensor(rng.integers(0, 3, (96, 2)))
    images = torch.zeros(96, 2, 32, 32)
    for k in range(3):
        for c in range(2):
            images[told[:, c] == k, c, 8 * k : 8 * k + 8] = 1
    parts = (images[:64], told[:64]), (images[64:], told[64:])
    found = read_accuracy(*parts, OPTIONS, 0, "cpu")
    assert min(found["accuracy"]) > 0.9
    noise = read_accuracy((torch.rand(64, 2, 32, 32), told[:64]), parts[1], {**OPTIONS, "steps": 8}, 0, "cpu")
    assert max(noise["accuracy"]) < 0.7


def test_letters_from_the_data_to_the_page(tmp_path, monkeypatch, capsys):
    run = {"synthesis_epochs": 1, "device": "cpu", **TINY}
    letters(str(tmp_path), **run)
    page = (tmp_path / "letters.html").read_text()
    assert "letters.csv, letters.json and" in capsys.readouterr().out
    assert "Here: cannot be told." in page and "An order needs three seeds." in page  # one seed alone
    record = json.loads((tmp_path / "letters.json").read_text())
    assert [row["arm"] for row in record["rows"]] == list(ARMS)
    assert len(set(record["settings"]["weights_sha256"].values())) == 2  # each its own network
    seen, unseen = (json.loads((tmp_path / name / "subjects.json").read_text()) for name in ("seen", "unseen"))
    assert seen["name"] != unseen["name"] and unseen["test"] == []
    images = [draw_letters(50, 32, np.random.default_rng([seed, 0]))[0] for seed in (0, 1)]
    assert np.abs(images[0] - images[1]).max() > 0.1
    monkeypatch.setattr("common.downstream.letters.read_accuracy", lambda *_: pytest.fail("it was done before"))
    letters(str(tmp_path), **run)
    assert json.loads((tmp_path / "letters.json").read_text()) == record
    with pytest.raises(ValueError, match=r"width 0\.125, now 0\.25"):
        letters(str(tmp_path), **{**run, "width": 0.25})
    shutil.rmtree(tmp_path / "arms" / "images")
    with pytest.raises(ValueError, match=r"seen\.json was made with .*seed 0, now 1"):  # stopped before any classifier
        letters(str(tmp_path), **{**run, "seed": 1})


def test_an_order_of_three_seeds_must_be_larger_than_their_spread():
    def rows(*gains):
        told = [("maps", gain) for gain in gains] + [("images", 0.0)] * len(gains)
        return [{"arm": arm, "samples": 50, "x1": 0.5 + gain, "x2": 0.5 + gain} for arm, gain in told]

    assert _verdict(rows(0.30, 0.31, 0.29), "maps", "images", 3)[0] is True
    assert _verdict(rows(-0.30, -0.31, -0.29), "maps", "images", 3)[0] is False
    assert _verdict(rows(0.01, 0.30, 0.05), "maps", "images", 3)[0] is None  # all above, and no order
    assert _verdict(rows(0.30, 0.31), "maps", "images", 2)[0] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"samples": 0}, "must be 1 or more"), ({"samples": "50,50"}, "samples"), ({"size": 30}, "size is 30")],
)
def test_options_that_make_no_experiment(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        letters(str(tmp_path), **{**TINY, **options})
