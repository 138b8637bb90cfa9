"""A subject's reference onto the MNI152 template of nilearn, whose file lies in its wheel: affine, by the edges.

The template is ICBM 152 2009a, 1 mm; a brain is about a tenth smaller along each axis, so that a rigid transform is not
enough. Images on it have another size than the patient's: volumes are to be measured on the patient's own grid.
"""

from __future__ import annotations

import functools

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine

from .registration import STAGES, Agreement, overlap

NAMES = ("mni", "brats")
BRATS = (240, 240, 155)  # voxels of 1 mm; BraTS itself has them around another template, SRI24
LEAST_DICE = 0.88  # of a brain's mask and the template's, which takes in more of the fluid around


@functools.cache
def template() -> tuple[nib.Nifti1Image, np.ndarray]:
    """The brain, and its mask."""
    try:
        from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"--atlas needs nilearn: see requirements.txt ({error}).") from None
    image = load_mni152_template(resolution=1)
    return image, np.asarray(load_mni152_brain_mask(resolution=1).dataobj) > 0


def atlas_grid(name: str) -> nib.Nifti1Image:
    """The grid that `--atlas` means, in MNI152's mm.

    Raises:
        ValueError: it is neither mni nor brats.
    """
    if name not in NAMES:
        raise ValueError(f"--atlas is {name}; it must be {' or '.join(NAMES)}.")
    image, brain = template()
    if name == "mni":
        return nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine)
    places = np.argwhere(brain)
    middle = apply_affine(image.affine, (places.min(0) + places.max(0)) / 2).round()
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = middle - affine[:3, :3] @ (np.array(BRATS) // 2)
    return nib.Nifti1Image(np.zeros(BRATS, np.uint8), affine)


def to_atlas(image: nib.Nifti1Image, brain: np.ndarray) -> tuple[np.ndarray, float]:
    """What takes the template's mm to the image's, 4 x 4, and the Dice of their brain masks by it.

    Args:
        image: on its own grid.
        brain: bool, of its shape.
    """
    fixed, mask = template()
    found = _by_masks(fixed, mask, image, brain)
    for blur, count in STAGES:
        found = Agreement(fixed, image, mask, brain, blur, count).maximum(found, affine=True)
    masks = (nib.Nifti1Image(each.astype(np.uint8), of.affine) for each, of in ((mask, fixed), (brain, image)))
    return found, overlap(*masks, found)


def _by_masks(fixed: nib.Nifti1Image, mask: np.ndarray, image: nib.Nifti1Image, brain: np.ndarray) -> np.ndarray:
    """Where to begin: the centres of the masks on each other, and their extents along the body's axes."""
    places = [apply_affine(of.affine, np.argwhere(each)) for each, of in ((mask, fixed), (brain, image))]
    sizes = [each.std(0) for each in places]
    start = np.diag([*(sizes[1] / sizes[0]), 1.0])
    start[:3, 3] = places[1].mean(0) - start[:3, :3] @ places[0].mean(0)
    return start
