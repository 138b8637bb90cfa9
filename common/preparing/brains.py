"""Brain masks by deepbet, whose weights lie in its wheel: nothing is fetched.

deepbet: Fisch et al. 2024, MIT. Of T2 and FLAIR with thick slices it made good masks, too; of large tumours nothing is
known: look at the picture.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from ..inference.weights import sha256

WEIGHTS = {
    "bbox_model.pt": "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
    "model.pt": "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
}


def extractors() -> dict[str, Callable[[nib.Nifti1Image], np.ndarray]]:
    """What `--brain` may name."""
    return {"deepbet": brain_mask, "hd-bet": brain_mask_by_hd_bet}


def brain_mask(image: nib.Nifti1Image) -> np.ndarray:
    """bool [X, Y, Z], on the image's own grid.

    Raises:
        ModuleNotFoundError: deepbet is not installed.
        ValueError: its weights are not those that were tested, or there is no brain in the image.
    """
    plain = nib.Nifti1Image(np.asarray(image.dataobj, dtype=np.float32), image.affine)
    extractor = _extractor()
    try:
        _, mask, _ = extractor.run(plain)
    except (AssertionError, ValueError) as error:  # of an empty mask
        raise ValueError(f"no brain was found ({error})") from None
    return np.asarray(mask.dataobj) > 0


def brain_mask_by_hd_bet(image: nib.Nifti1Image) -> np.ndarray:
    """The same by the command `hd-bet` of HD-BET 2, which was trained on tumours too, where it is installed.

    Isensee et al. 2019, Apache-2.0. It fetches its weights when it is called for the first time.

    Raises:
        FileNotFoundError: it is not installed.
        ValueError: it failed.
    """
    if not (command := shutil.which("hd-bet")):
        raise FileNotFoundError(
            "--brain hd-bet needs the command hd-bet (pip install hd-bet), or name --brain deepbet."
        )
    device = [] if torch.cuda.is_available() else ["-device", "cpu", "--disable_tta"]
    with tempfile.TemporaryDirectory() as folder:
        nib.save(image, f"{folder}/image.nii.gz")
        asked = [command, "-i", f"{folder}/image.nii.gz", "-o", f"{folder}/brain.nii.gz", "--save_bet_mask", *device]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode or not Path(mask := f"{folder}/brain_bet.nii.gz").is_file():
            lines = (done.stdout + done.stderr).strip().splitlines()
            raise ValueError(f"hd-bet failed: {lines[-1] if lines else f'status {done.returncode}'}")
        return np.asarray(nib.load(mask).dataobj) > 0


@functools.cache
def _extractor() -> Any:
    try:
        from deepbet import utils
        from deepbet.bet import BrainExtraction
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"Brain masks need deepbet: see requirements-prepare.txt ({error}).") from None
    for name, expected in WEIGHTS.items():
        file = Path(utils.DATA_PATH, "models", name)
        if (found := sha256(file)) != expected:
            raise ValueError(f"{file} has the sha256 {found}, not {expected}: install deepbet 1.0.2 again.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.load is deprecated, and the file is a TorchScript
        return BrainExtraction()
