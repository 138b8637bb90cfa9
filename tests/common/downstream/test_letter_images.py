import json

import numpy as np
import pytest

from common.data.subjects import read_subjects
from common.downstream.letter_images import DISC, INK, NOISE, draw_letters, glyphs, read_letters, write_letters


def test_the_sequences_have_one_letter_in_common_and_one_of_their_own():
    images, letters = draw_letters(60, 64, np.random.default_rng(0))
    assert images.shape == (60, 2, 64, 64) and images.min() == 0 and (letters[:, 0] != letters[:, 1]).all()
    assert images[:, :, 0, 0].max() == 0 and set(np.unique(letters)) <= set(range(26))
    share = (images - np.reshape(DISC, (2, 1, 1))) / np.reshape(np.subtract(INK, DISC), (2, 1, 1)) * (images > 0)
    box = glyphs(18)[letters]  # [60, 3, 18, 18]
    ink = [box[:, [k, 2]].sum((1, 2, 3)) for k in range(2)]
    assert np.abs(share.sum((2, 3)) - np.stack(ink, 1)).max() < 6 * NOISE / 0.4 * 64  # as much ink as both letters have
    differs = np.abs(share[:, 0] - share[:, 1]).sum((1, 2))
    alike = np.abs(box[:, 0] - box[:, 1]).sum((1, 2))
    assert np.corrcoef(differs, alike)[0, 1] > 0.8  # where the letters differ, and nowhere else


def test_letters_are_of_their_seed():
    first, again, other = (draw_letters(5, 32, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], other[0])


def test_what_is_written_is_a_data_set(tmp_path):
    write_letters(tmp_path, 32, {"training": 60, "validation": 5, "test": 10}, seed=3)
    listed = read_subjects(tmp_path)
    assert [len(listed[split]) for split in ("training", "validation", "test")] == [2, 1, 1]
    images, letters = read_letters(tmp_path, "training")
    drawn = draw_letters(60, 32, np.random.default_rng([3, 0]))
    assert images == pytest.approx(drawn[0]) and np.array_equal(letters, drawn[1])
    assert "seed 3" in json.loads((tmp_path / "subjects.json").read_text())["name"]
