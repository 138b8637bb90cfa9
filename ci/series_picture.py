"""What was made of a phantom's series beside the truth: enhancement in the lesions over time, and ADC.

`.venv/bin/python -m ci.series_picture PHANTOM MADE SUBJECT PICTURE`, after `mri-contrast complete` wrote to MADE.
"""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib import style
from matplotlib.figure import Figure
from numpy.typing import NDArray

from common.data.dynamic import DCE_TIMES, DWI_B_VALUES, apparent_diffusion
from common.files import replacing
from common.options import run_command

ENHANCING = 0.15  # mmol/l at the fourth frame: a tumour's rim and vessels in it
BRIGHTEST = 3.0  # times the brain before the agent
LARGEST_ADC = 3.0  # 1e-3 mm2/s, of free water


def enhancement(series: NDArray, mask: NDArray) -> NDArray:
    """The mean's S(t) / S(0) - 1, [T]."""
    curve = series[mask].mean(0)
    return curve / curve[0] - 1


def series_picture(phantom: str | os.PathLike, made: str | os.PathLike, subject: str, picture: str) -> None:
    """Draws one subject.

    Args:
        phantom: folder of `mri-contrast phantom`.
        made: folder of `mri-contrast complete`, with its DCE and DWI.
        subject: with a tumour.
        picture: PNG to write.

    Raises:
        ValueError: nothing enhances in the subject's lesions.
    """

    def load(folder: str | os.PathLike, name: str) -> NDArray:
        return nib.load(Path(folder) / subject / f"{subject}_{name}.nii.gz").get_fdata(dtype=np.float32)

    lesion, brain = load(phantom, "lesion") > 0, load(phantom, "brain") > 0
    rim = lesion & (load(phantom, "concentration")[..., 3] > ENHANCING)
    if not rim.any():
        raise ValueError(f"No lesion of {subject} enhances: name a subject with a tumour.")
    dce, dwi = ({"truth": load(phantom, f"{name}_reference"), "made": load(made, name)} for name in ("DCE", "DWI"))
    dce = {name: each / np.median(each[brain, 0]) for name, each in dce.items()}  # whose scales are not the same
    adc = {name: 1e3 * apparent_diffusion(series, DWI_B_VALUES) * brain for name, series in dwi.items()}
    depth = int(rim.sum((0, 1)).argmax())
    with style.context("dark_background"):
        figure = Figure(figsize=(11, 4.6), layout="constrained")
        curves, images = figure.subfigures(1, 2, width_ratios=(1, 1.35))
        axes = curves.subplots()
        for place, mask, colour in (("enhancing rim", rim, "tab:orange"), ("other lesion", lesion & ~rim, "tab:cyan")):
            for name, series in dce.items():
                options = {"color": colour, "linestyle": "-" if name == "truth" else "--", "marker": "."}
                axes.plot(DCE_TIMES, 100 * enhancement(series, mask), label=f"{place}, {name}", **options)
        axes.set(xlabel="s", ylabel="enhancement, %", title=f"{subject} (simulated): DCE")
        axes.legend(frameon=False)
        grid = images.subplots(2, 3)
        for row, (title, pair, largest) in enumerate(
            (
                ("DCE, 4th frame", {name: each[..., 3] for name, each in dce.items()}, BRIGHTEST),
                ("ADC, 1e-3 mm2/s", adc, LARGEST_ADC),
            )
        ):
            shown = {name: each[:, :, depth] for name, each in pair.items()}
            shown["difference"] = shown["made"] - shown["truth"]
            for cell, (name, each) in zip(grid[row], shown.items(), strict=True):
                limits = {"vmin": 0, "vmax": largest} if name != "difference" else {"vmin": -largest, "vmax": largest}
                cell.imshow(each.T, origin="lower", cmap="gray" if name != "difference" else "coolwarm", **limits)
                cell.contour(lesion[:, :, depth].T, [0.5], colors="yellow", linewidths=0.6)
                cell.set(title=f"{title}: {name}" if name == "truth" else name, xticks=[], yticks=[])
        with replacing(picture) as partial:
            figure.savefig(partial, dpi=80, format="png")


if __name__ == "__main__":
    run_command(series_picture)
