"""What cutting a volume into 3D windows changes: subjects completed by windows, beside the same completed whole.

.venv/bin/python -m ci.seams MODEL.pt DATASET_DIR --window 48 --whole 96,112,96
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np

from common.options import run_command
from common.workflows import run_workflow


def seams(
    weights: str,
    dataset_dir: str,
    window: int | tuple[int, ...] = 48,
    whole: tuple[int, ...] = (96, 112, 96),
    target: str = "T2",
    split: str = "test",
) -> None:
    """Prints, per subject, the root mean square difference within the brain in percent of the 99th percentile.

    Args:
        weights: weights of small.json with `--spatial_dims 3`.
        dataset_dir: folder with subjects.json.
        window: size of a window in voxels, one number or three.
        whole: a size that every subject's brain fits in.
        target: what is made, for every subject, from its other sequences.
        split: of the subject list.
    """
    files = {"weights": weights, "dataset_dir": dataset_dir, "split": split}
    options = {"targets": [target]}
    with tempfile.TemporaryDirectory() as folder:
        for name, size in (("windows", np.broadcast_to(window, 3).tolist()), ("whole", list(whole))):
            output = {"roi_size": size, "output_dir": f"{folder}/{name}"}
            run_workflow("mri_seq2seq", "inference", ["inference"], **output, **options, **files)
        changes = []
        for path in sorted(Path(folder, "whole").rglob("*.nii.gz")):
            at_once, by_windows = (
                nib.load(file).get_fdata()
                for file in (path, folder / Path("windows") / path.relative_to(f"{folder}/whole"))
            )
            brain = at_once > 0
            change = np.sqrt(np.mean((by_windows - at_once)[brain] ** 2)) / np.percentile(at_once[brain], 99)
            changes.append(change)
            print(f"{path.name}: {change:.2%}")
    print(f"mean of {len(changes)}: {np.mean(changes):.2%}")


if __name__ == "__main__":
    run_command(seams)
