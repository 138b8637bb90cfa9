"""Letters in a disc, as two "sequences": one letter looks alike in both but for its grey, the other one differs.

Fig. 3 of Han et al., "Synthesis-based imaging-differentiation representation learning for multi-sequence 3D/4D MRI"
(MedIA 2024), describes it; font, sizes, places, grey levels and noise are ours. The letter that both have is what the
sequences have in common. The other ones are what the imaging-differentiation maps should show, and are to be told.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import nibabel as nib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..data.series import save_series
from ..data.subjects import write_subjects
from ..files import replacing
from ..progress import bar

SEQUENCES = ("X1", "X2")
LETTERS = string.ascii_uppercase
RADIUS, BOX = 52 / 128, 36 / 128  # of the image's width
DISC, INK = (0.35, 0.75), (0.8, 0.3)  # grey of each sequence's disc, and of its letters
NOISE = 0.02
STACK = 50  # images of a volume: files of one image each would take longer to open than to train on


def glyphs(size: int) -> NDArray:
    """The letters A to Z as shares of ink [26, size, size], in [0, 1]."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    font, drawn = ImageFont.truetype(str(file), size), []
    for letter in LETTERS:
        image = Image.new("L", (size, size))
        ImageDraw.Draw(image).text((size / 2, size / 2), letter, 255, font, anchor="mm")
        drawn.append(np.asarray(image, dtype=np.float32) / 255)
    return np.stack(drawn)


def _corners(rng: Generator, size: int, box: int) -> NDArray:
    """Of two boxes that lie in the disc and not on each other, the upper left pixels [2, 2]."""
    middle, reach = (size - 1) / 2, RADIUS * size - box / 2**0.5
    while True:
        corners = rng.integers(0, size - box + 1, (2, 2))
        away = np.linalg.norm(corners + (box - 1) / 2 - middle, axis=1)
        if (away <= reach).all() and np.abs(corners[0] - corners[1]).max() >= box:
            return corners


def draw_letters(count: int, size: int, rng: Generator) -> tuple[NDArray, NDArray]:
    """Images and what the letters in them are.

    Args:
        count: N.
        size: width and height in pixels.
        rng: source of randomness.

    Returns:
        images [N, 2, size, size], float32 in [0, 1], 0 outside the disc; letters [N, 3], 0 to 25: the differing one of
        each sequence, and the one that both have.
    """
    box = round(BOX * size)
    ink, reach = glyphs(box), np.arange(size) - (size - 1) / 2
    disc = np.hypot(reach[:, None], reach) <= RADIUS * size
    letters = np.stack([rng.permutation(26)[:2] for _ in range(count)] or [np.empty(2)])
    letters = np.column_stack([letters, rng.integers(0, 26, count)]).astype(np.int64)
    share = np.zeros((count, 2, size, size), dtype=np.float32)
    for k, (*differing, common) in enumerate(letters):
        places = [tuple(slice(start, start + box) for start in corner) for corner in _corners(rng, size, box)]
        for sequence, letter in enumerate(differing):
            share[k, sequence][places[0]] = ink[letter]
            share[k, sequence][places[1]] = ink[common]
    grey, letter_grey = (np.array(each, dtype=np.float32)[:, None, None] for each in (DISC, INK))
    images = grey + (letter_grey - grey) * share + NOISE * rng.standard_normal(share.shape, dtype=np.float32)
    return images.clip(1e-3, 1) * disc, letters


def write_letters(folder: Path, size: int, counts: Mapping[str, int], seed: int) -> None:
    """Writes a data set that any bundle trains on as it is: `STACK` images are the slices of a "subject".

    Args:
        folder: for `subjects.json`, `letters.npz` (of each split the letters, see `draw_letters`) and the volumes.
        size: of an image in pixels.
        counts: by split, how many images.
        seed: the same one gives the same images; a split's do not depend on how many another has.
    """
    listed: dict = {"name": f"letters (simulated, seed {seed})", "sequences": list(SEQUENCES)}
    known = {}
    for number, (split, count) in enumerate(counts.items()):
        images, known[split] = draw_letters(count, size, np.random.default_rng([seed, number]))
        stacks = range(0, count, STACK)
        listed[split] = [
            _write_stack(folder, f"{split}_{start // STACK:04d}", images[start : start + STACK])
            for start in bar(stacks, desc=f"drawing {split} letters", unit="stacks")
        ]
    with replacing(folder / "letters.npz") as partial:
        np.savez_compressed(partial, **known)
    write_subjects(folder / "subjects.json", listed)  # last: a folder with a list is whole


def _write_stack(folder: Path, subject: str, images: NDArray) -> dict:
    files = {name: f"{subject}/{subject}_{name}.nii.gz" for name in SEQUENCES}
    for volume, file in zip(np.moveaxis(images, 1, 0), files.values(), strict=True):
        save_series(_turned(np.moveaxis(volume, 0, -1)), np.eye(4), folder / file)
    return {"subject": subject, "images": files}


def _turned(image: NDArray) -> NDArray:
    """Rows and columns to RAS as it is looked at, and back: [rows, columns, ...] to [X, Y, ...]."""
    return image[::-1, ::-1].swapaxes(0, 1)


def read_letters(folder: Path, split: str) -> tuple[NDArray, NDArray]:
    """A split's images [N, 2, size, size] and letters [N, 3], as `draw_letters` gives them."""
    stacks = _stacks(folder, split)
    images = [read_stacks([folder / files[name] for files in stacks]) for name in SEQUENCES]
    with np.load(folder / "letters.npz") as known:
        return np.stack(images, 1), known[split]


def read_maps(folder: Path, maps: Path, split: str) -> NDArray:
    """Of a split, the imaging-differentiation maps [N, 2, size, size] that stand in a folder of their own."""
    subjects = [Path(files[SEQUENCES[0]]).parent.name for files in _stacks(folder, split)]
    return np.stack(
        [read_stacks([maps / name / f"{name}_{s}_differentiation.nii.gz" for name in subjects]) for s in SEQUENCES], 1
    )


def _stacks(folder: Path, split: str) -> list[dict[str, str]]:
    listed = json.loads((folder / "subjects.json").read_text(encoding="utf-8"))
    return [entry["images"] for entry in listed[split]]


def read_stacks(files: list[Path]) -> NDArray:
    """The slices of volumes as images [N, size, size], float32."""
    volumes = [np.asarray(nib.load(file).dataobj, dtype=np.float32) for file in files]
    return np.concatenate([np.moveaxis(_turned(volume), -1, 0) for volume in volumes])
