"""Brain masks by deepbet, whose weights lie in its wheel: nothing is fetched.

deepbet: Fisch et al. 2024, MIT. Of T2 and FLAIR with thick slices it made good masks, too; of large tumours nothing is
known: look at the picture.
"""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ..inference.weights import sha256

WEIGHTS = {
    "bbox_model.pt": "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa",
    "model.pt": "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd",
}


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
