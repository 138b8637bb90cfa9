"""How wrong a network is at parameters that it never saw: of a phantom alone the truth of any TR, TE, TI is known."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from .common.data.acquisition import Parameters, check_parameters
from .common.data.anatomy import Anatomy, make_anatomy, simulate
from .common.data.mr_signal import setting_of
from .common.evaluation.files import write_csv
from .common.files import replacing
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

    Columns: subject, tr, te, ti (ms), `mae`, the mean absolute error in units of the subject's scale, `relative`, the
    same divided by the mean true signal, and `copy`, the relative error of that acquired image, free of noise, which is
    the nearest to the truth. The map shows the subjects' mean of `relative`, a panel per TI; parameters outside the
    trained range are in italics.

    Args:
        seed: of the phantom.
        trained_range: `network.trained_range`.
        others: see `SaveTargets`; scale_per must be "subject", for images of their own scale have no common truth.

    Raises:
        ValueError: a subject that is not of the phantom with this seed, or whose images have a gain each.
    """

    def __init__(self, *, trained_range: Tensor, seed: int = 0, **others: Any) -> None:
        super().__init__(**others)
        if self.scale_per != "subject":
            raise ValueError(f"scale_per is '{self.scale_per}'; the exact signal has the subject's scale only.")
        self.seed = seed
        spin_echoes = trained_range[:, 0] if trained_range.ndim == 3 else trained_range
        self.trained_range = spin_echoes.tolist()
        self.rows: list[dict[str, Any]] = []

    def count(self, available: Sequence[int]) -> int:
        """No volume is written."""
        return 0

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        anatomy, gain = self._anatomy(data)
        unit = gain / float(data["scale"][0])
        acquired = data["parameters"][data["available"]].tolist()
        sources = [simulate(anatomy, setting_of(*timing))[anatomy.brain] * unit for timing in acquired]
        for point, image in zip(self.wanted.further, torch.as_tensor(data["pred"]).numpy(), strict=True):
            truth = simulate(anatomy, setting_of(*point))[anatomy.brain] * unit
            error, *copies = (float(np.abs(made - truth).mean()) for made in (image[anatomy.brain], *sources))
            times, mean = dict(zip(("tr", "te", "ti"), point, strict=True)), float(truth.mean())
            numbers = {"mae": error, "relative": error / mean, "copy": min(copies) / mean}
            self.rows.append({"subject": data["subject"], **times, **numbers})
        write_csv(self.output_dir / "grid.csv", list(self.rows[0]), [list(row.values()) for row in self.rows])
        draw(self.rows, self.output_dir / "grid.png", self.trained_range)
        return data

    def _anatomy(self, data: Mapping[Hashable, Any]) -> tuple[Anatomy, float]:
        """The subject without noise, and the receiver gain of its images."""
        files = {name: Path(file.replace(".nii.gz", "_reference.nii.gz")) for name, file in data["images"].items()}
        number = data["subject"].removeprefix("phantom_")
        if not all(file.exists() for file in files.values()) or not number.isdigit():
            raise ValueError(f"{data['subject']} is no subject of `mri-contrast phantom`.")
        spacing = [float(size) for size in nib.load(next(iter(files.values()))).header.get_zooms()[:3]]
        anatomy = make_anatomy(np.random.default_rng([self.seed, int(number)]), spacing=spacing)
        gains = []
        for name, file in files.items():
            timing = data["parameters"][list(self.wanted.names).index(name)].tolist()
            exact, voxels = simulate(anatomy, setting_of(*timing)), nib.load(file).get_fdata()
            gains.append(float(voxels.sum() / exact.sum()))
            if exact.shape != voxels.shape or not np.allclose(
                voxels, gains[-1] * exact, rtol=1e-3, atol=1e-3 * gains[-1]
            ):
                raise ValueError(f"{data['subject']} is not of the phantom with seed {self.seed}; pass its own --seed.")
        if not np.allclose(gains, gains[0], rtol=1e-3):
            raise ValueError(f"{data['subject']}'s images have gains of their own; simulate it with --one_gain.")
        return anatomy, gains[0]


def draw(rows: Sequence[Mapping[str, Any]], path: Path, trained_range: Sequence[Sequence[float]]) -> None:
    """The map of the mean relative error in %: TE over TR, a panel per TI, to a PNG."""
    from matplotlib.figure import Figure

    errors: dict[tuple[float, ...], list[float]] = {}
    for row in rows:
        errors.setdefault((row["ti"], row["te"], row["tr"]), []).append(100 * row["relative"])
    tis, tes, trs = (sorted(set(values)) for values in zip(*errors, strict=True))
    percent = np.full((len(tis), len(tes), len(trs)), np.nan)
    figure = Figure(figsize=(3 * len(tis) + 1.5, 3.2), layout="constrained")
    panels = figure.subplots(1, len(tis), squeeze=False)[0]
    for (ti, te, tr), values in errors.items():
        i, y, x = tis.index(ti), tes.index(te), trs.index(tr)
        percent[i, y, x] = np.mean(values)
        known = all(low <= time <= high for time, low, high in zip((tr, te, ti), *trained_range, strict=False))
        style = {"style": "normal" if known else "italic", "color": "white", "ha": "center", "va": "center"}
        panels[i].text(x, y, f"{percent[i, y, x]:.0f}", **style)
    for panel, ti, error in zip(panels, tis, percent, strict=True):
        shown = panel.imshow(error, origin="lower", cmap="viridis", vmin=0, vmax=1.3 * float(np.nanmax(percent)))
        panel.set_title(f"TI {ti:g} ms")
        panel.set_xlabel("TR, ms")
        panel.set_xticks(range(len(trs)), [f"{value:g}" for value in trs], rotation=45)
        panel.set_yticks(range(len(tes)), [f"{value:g}" for value in tes])
    panels[0].set_ylabel("TE, ms")
    figure.colorbar(shown, ax=panels, label="error, % of the mean signal")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100)
