"""How wrong a network is at parameters that it never saw: of a phantom alone the truth of any TR, TE, TI is known."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from .common.data.acquisition import Parameters, check_parameters
from .common.data.mr_signal import Acquisition
from .common.data.phantom import Anatomy, make_anatomy, simulate
from .inference import SaveTargets


def points(tr: Sequence[float], te: Sequence[float], ti: Sequence[float]) -> list[Parameters]:
    """All combinations of the times in ms that are acquisitions (TE and TI below TR).

    Raises:
        ValueError: there is none, or a time's unit is wrong.
    """
    found = [check_parameters(*each, where="grid") for each in product(tr, te, ti) if max(each[1:]) < each[0]]
    if not found:
        raise ValueError(f"No TE and TI below TR: tr={list(tr)}, te={list(te)}, ti={list(ti)}.")
    return found


class ScoreGrid(SaveTargets):
    """Compares "pred" with the exact signal, in the brain, and writes `grid.csv` and the map `grid.png`.

    Columns: subject, tr, te, ti (ms), `mae`, the mean absolute error in units of the subject's scale, and `relative`,
    the same divided by the mean true signal. The map shows the subjects' mean of `relative`, a panel per TI.

    Args:
        seed: of the phantom.
        others: see `SaveTargets`; scale_per must be "subject", for images of their own scale have no common truth.

    Raises:
        ValueError: a subject that is not of the phantom with this seed.
    """

    def __init__(self, *, seed: int = 0, **others: Any) -> None:
        super().__init__(**others)
        if self.scale_per != "subject":
            raise ValueError(f"scale_per is '{self.scale_per}'; the exact signal has the subject's scale only.")
        self.seed = seed
        self.rows: list[dict[str, Any]] = []

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        anatomy, gain = self._anatomy(data)
        scale = float(data["scale"][0])
        for point, image in zip(self.wanted.further, torch.as_tensor(data["pred"]).numpy(), strict=True):
            truth = simulate(anatomy, Acquisition(*point))[anatomy.brain] * gain / scale
            error = float(np.abs(image[anatomy.brain] - truth).mean())
            times = dict(zip(("tr", "te", "ti"), point, strict=True))
            row = {"subject": data["subject"], **times, "mae": error, "relative": error / float(truth.mean())}
            self.rows.append(row)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with open(self.output_dir / "grid.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)
        draw(self.rows, self.output_dir / "grid.png")
        return data

    def _anatomy(self, data: Mapping[Hashable, Any]) -> tuple[Anatomy, float]:
        """The subject without noise, and the receiver gain of its images."""
        name, file = next(iter(data["images"].items()))
        reference = Path(file.replace(".nii.gz", "_reference.nii.gz"))
        number = data["subject"].removeprefix("phantom_")
        if not reference.exists() or not number.isdigit():
            raise ValueError(f"{data['subject']} is no subject of `python -m common.data phantom`.")
        image = nib.load(reference)
        spacing = [float(size) for size in image.header.get_zooms()[:3]]
        anatomy = make_anatomy(np.random.default_rng([self.seed, int(number)]), spacing=spacing)
        timing = data["parameters"][list(self.wanted.names).index(name)].tolist()
        exact, voxels = simulate(anatomy, Acquisition(*timing)), image.get_fdata()
        same = exact.shape == voxels.shape
        gain = float(voxels.sum() / exact.sum())
        if not same or not np.allclose(voxels, gain * exact, rtol=1e-3, atol=1e-3 * gain):
            raise ValueError(f"{data['subject']} is not of the phantom with seed {self.seed}; pass its own --seed.")
        return anatomy, gain


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The map of the mean relative error: TE over TR, a panel per TI, to a PNG."""
    from matplotlib.figure import Figure

    axes = {name: sorted({row[name] for row in rows}) for name in ("tr", "te", "ti")}
    total = np.zeros([len(axes[name]) for name in ("ti", "te", "tr")])
    count = np.zeros_like(total)
    for row in rows:
        place = tuple(axes[name].index(row[name]) for name in ("ti", "te", "tr"))
        total[place] += row["relative"]
        count[place] += 1
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    figure = Figure(figsize=(3 * len(mean) + 1.5, 3.2), layout="constrained")
    panels = figure.subplots(1, len(mean), squeeze=False)[0]
    for panel, ti, error in zip(panels, axes["ti"], mean, strict=True):
        shown = panel.imshow(error, origin="lower", cmap="viridis", vmin=0, vmax=float(np.nanmax(mean)))
        panel.set_title(f"TI {ti:g} ms")
        panel.set_xlabel("TR, ms")
        panel.set_xticks(range(len(axes["tr"])), [f"{value:g}" for value in axes["tr"]], rotation=45)
        panel.set_yticks(range(len(axes["te"])), [f"{value:g}" for value in axes["te"]])
    panels[0].set_ylabel("TE, ms")
    figure.colorbar(shown, ax=panels, label="mean absolute error / mean signal")
    figure.savefig(path, dpi=100)
