"""How well `prepare` places real sessions whose transforms are known, and how long it takes.

    python -m ci.measure_preparation DATA OUT [--reference FLAIR]

DATA holds a folder per session: T1, T2 ... .nii.gz, raw, and beside them T1_to_FLAIR.txt ... (ITK's text, which takes a
place in FLAIR to the same one in T1). A table is printed, with the mean distance in the brain, in mm, between where a
voxel belongs by them and where it is by the headers, by what the registration found, and by what was kept of it.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from common.options import from_caller, run_command
from common.preparing.grids import read_itk
from common.preparing.prepare import RECORD, prepare


def benchmark(data: str, output_dir: str, *, reference: str = "", masks: str = "", brain: str = "deepbet") -> None:
    """Prepares every session of DATA, and prints how far its images are from where they belong.

    Args:
        data: the sessions.
        output_dir: for what is prepared.
        reference, masks, brain: as for `prepare`.
    """
    rows = []
    for session in sorted(path for path in from_caller(data).iterdir() if any(path.glob("*_to_*.txt"))):
        begun = time.monotonic()
        out = from_caller(output_dir) / session.name
        prepare(session, out, reference=reference, masks=masks, brain=brain, overwrite=True)
        seconds = time.monotonic() - begun
        record = json.loads((out / session.name / RECORD).read_text(encoding="utf-8"))
        rows += _rows(session, record, nib.load(out / session.name / "brain_mask.nii.gz"))
        rows[-1] += f" | {seconds:.0f} s in all"
    print("session | image | headers | found | kept | which | Dice by headers | found | mask, s | registration, s")
    print("\n".join(rows))


def _rows(session: Path, record: dict, brain: nib.Nifti1Image) -> list[str]:
    places = apply_affine(brain.affine, np.argwhere(np.asarray(brain.dataobj) > 0)[::97])
    known = {path.stem.split("_to_")[0]: read_itk(path) for path in session.glob("*_to_*.txt")}
    base = np.linalg.inv(known.get(record["reference"], np.eye(4)))
    rows = []
    for name, image in record["images"].items():
        if name == record["reference"]:
            continue
        truth = apply_affine(known.get(name, np.eye(4)) @ base, places)
        found = image["registration"]
        ways = (np.eye(4), np.array(found["found"]), np.array(image["transform"]))
        errors = [np.linalg.norm(apply_affine(way, places) - truth, axis=1).mean() for way in ways]
        dice = f"{found['dice_headers']:.3f} | {found['dice_registered']:.3f}"
        took = f"{image['seconds']['brain_mask']:.0f} | {image['seconds']['registration']:.0f}"
        numbers = " | ".join(f"{error:.2f}" for error in errors)
        rows.append(
            f"{session.name} | {name} onto {record['reference']} | {numbers} | {found['kept']} | {dice} | {took}"
        )
    return rows


if __name__ == "__main__":
    run_command(benchmark)
