"""A picture of simulated subjects: what a network would be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..files import replacing
from ..options import words
from .loaders import SeededItems
from .simulation import SimulatedSubjects

HEADING = 14  # pixels


def _tile(image: np.ndarray) -> np.ndarray:
    """A slice [X, Y] of a RAS image, upright with the patient's right on the left, its 99.5th percentile white."""
    tissue = image[image > 0]
    white = np.percentile(tissue, 99.5) if tissue.size else 1.0
    return (255 * np.flip(image, 1).T / white).clip(0, 255).astype(np.uint8)


def simulate(
    picture: str,
    anatomies: str = "",
    subjects: int = 40,
    *,
    sequences: str | Sequence[str] = ("T1", "T1Gd", "T2", "FLAIR"),
    roi_size: Sequence[int] = (128, 160, 1),
    columns: int = 2,
    seed: int = 0,
) -> None:
    """Draws subjects as a training would and shows a slice of each: the images, the truth of each, and the lesions.

    Args:
        picture: PNG file to write.
        anatomies: a folder of label maps with FreeSurfer's numbers; by default MNI152.
        subjects: how many.
        sequences: names, as a list or separated by commas: T1, T1Gd, T2, FLAIR, PD.
        roi_size: of the crops whose middle slice is shown.
        columns: subjects side by side.
        seed: chooses the subjects.

    Raises:
        ValueError: see `SimulatedSubjects`.
    """
    names = words(sequences)
    drawn = SeededItems(SimulatedSubjects(names, anatomies=anatomies, length=subjects, roi_size=roi_size))
    drawn.set_random_state(seed)
    rows = []
    for item in map(drawn.__getitem__, range(subjects)):
        images = torch.cat([item["image"], item["reference"], item["lesion"]])[..., roi_size[2] // 2]
        rows.append(np.concatenate([_tile(image) for image in images.numpy()], axis=1))
    rows += [np.zeros_like(rows[0])] * (-len(rows) % columns)
    lines = [np.concatenate(rows[k : k + columns], axis=1) for k in range(0, len(rows), columns)]
    page = np.concatenate([np.zeros((HEADING, lines[0].shape[1]), np.uint8), *lines])
    shown = Image.fromarray(page)
    headings = [*names, *(f"{name}, truth" for name in names), "lesions"]
    for k, heading in enumerate(headings * columns):
        ImageDraw.Draw(shown).text((k * roi_size[0] + 4, 1), heading, fill=255)
    with replacing(Path(picture)) as partial:
        shown.save(partial, format="PNG")
