"""Real inversion-recovery images at inversion times that training never saw, beside linear interpolation between two
and beside what the signal equation fitted to all the others says.

python -m ci.inversion_times prepare QMRLAB_DIR DIR      # magnitude images at nine TIs, TR 2500 ms; a subject per slice
python -m ci.inversion_times score DIR RESULTS_DIR       # what `run inference` made of the held-out TIs

`prepare` prints the commands to run between the two.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from common.evaluation.conventions import score as measure
from common.evaluation.relaxometry import fit
from common.options import run_command

TR, TE = 2500.0, 10.0  # TE is not known; it is the same for all
HELD_OUT = (800, 1250)


def prepare(source: str, output_dir: str) -> None:
    """Writes each slice, its air made 0 by the brain mask, as a subject of its own, and two subject lists.

    train.json: the first slice trains, the second validates. known.json: both, without the held-out images, for
    `run inference`. With one validation, after the last epoch, the second slice chooses nothing.

    Args:
        source: folder with IR_TI0350.nii.gz ... and mask.nii.gz.
        output_dir: made if need be.
    """
    folder = Path(output_dir).resolve()
    mask = nib.load(Path(source) / "mask.nii.gz").get_fdata() > 0
    files = sorted(Path(source).glob("IR_TI*.nii.gz"))
    if not files:
        raise SystemExit(f"{source} has no IR_TI*.nii.gz.")
    acquisitions = {f"TI{int(file.name[5:9])}": [TR, TE, float(file.name[5:9])] for file in files}
    subjects = [
        {"subject": f"slice{z}", "images": {name: f"slice{z}/slice{z}_{name}.nii.gz" for name in acquisitions}}
        for z in range(mask.shape[2])
    ]
    for z, subject in enumerate(subjects):
        (folder / f"slice{z}").mkdir(parents=True, exist_ok=True)
        for file, path in zip(files, subject["images"].values(), strict=True):
            image = nib.load(file)
            voxels = np.where(mask, np.maximum(image.get_fdata(dtype=np.float32), 0), 0)[:, :, z : z + 1]
            nib.save(nib.Nifti1Image(voxels, image.slicer[:, :, z : z + 1].affine), folder / path)
    held_out = [f"TI{time}" for time in HELD_OUT]
    known = [
        {**subject, "images": {name: path for name, path in subject["images"].items() if name not in held_out}}
        for subject in subjects
    ]
    for file, splits in (("train", (subjects[:1], subjects[1:], [])), ("known", ([], [], known))):
        listing = dict(zip(("training", "validation", "test"), splits, strict=True))
        listing = {"sequences": list(acquisitions), "acquisitions": acquisitions, **listing}
        (folder / f"{file}.json").write_text(json.dumps(listing, indent=1))
    options = f'--dataset_dir {folder} --acquisitions "{acquisitions}"'
    epochs = "--visits_per_epoch 64 --epochs 100 --val_interval 50"
    for run, config, own in (
        ("training", "train", f'{epochs} --held_out "{held_out}" --subject_list {folder}/train.json'),
        ("inference", "inference", f"--subject_list {folder}/known.json --output_dir {folder}/made"),
    ):
        weights = f"--ckpt_dir {folder}/models" if run == "training" else f"--weights {folder}/models/model.pt"
        files = "\"['configs/train.json','configs/small.json']\"" if run == "training" else f"configs/{config}.json"
        print(f"python -m monai.bundle run {run} --config_file {files} {options} {weights} {own}\n")


def score(folder: str, results_dir: str) -> None:
    """Prints, per slice and held-out TI, PSNR, SSIM (`declared`) and NMSE of the network, of the interpolation between
    the two nearest times, of PD, T1 and T2 fitted to all, and of a, b and T1 in |a + b exp(-TI / T1)|.

    Args:
        folder: what `prepare` wrote.
        results_dir: output folder of `run inference` with known.json.
    """
    known = json.loads((Path(folder) / "known.json").read_text())
    names = ("network", "interpolation", "spin echo", "a + b exp(-TI / T1)")
    print(f"{'':16}" + "".join(f"{name:>24}" for name in names) + "\n")
    for subject in known["test"]:
        name = subject["subject"]
        times = sorted(int(each[2:]) for each in subject["images"])

        def load(time: int, name: str = name) -> np.ndarray:
            return nib.load(Path(folder) / name / f"{name}_TI{time}.nii.gz").get_fdata(dtype=np.float32)

        for time in HELD_OUT:
            below, above = max(t for t in times if t < time), min(t for t in times if t > time)
            share = (time - below) / (above - below)
            made = nib.load(Path(results_dir) / name / f"{name}_TI{time}.nii.gz").get_fdata(dtype=np.float32)
            truth = torch.from_numpy(load(time))
            known_images = torch.stack([torch.from_numpy(load(each)) for each in times])
            settings = [(TR, TE, float(each)) for each in times]
            others = [
                (1 - share) * load(below) + share * load(above),
                fit(known_images, settings, (TR, TE, float(time))),
            ]
            texts = []
            for image in (made, *others, recovered(known_images, times, time)):
                with warnings.catch_warnings(action="ignore"):
                    numbers = measure(torch.as_tensor(image), truth, truth > 0, convention="declared")
                texts.append(f"{numbers['psnr']:.2f} {numbers['ssim']:.3f} {numbers['nmse']:.4f}")
            print(f"{name:8}{f'TI{time}':8}" + "".join(f"{text:>24}" for text in texts))


def recovered(images: torch.Tensor, times: Sequence[float], wanted: float) -> torch.Tensor:
    """The magnitude of a + b exp(-TI / T1) at a wanted TI, fitted voxel by voxel to images [K, ...] of TIs in order.

    The sign that a magnitude has lost changes once, at the zero crossing, tried at every place; T1 is one of 200.
    """
    inside = (images > 0).any(0)  # an image may be 0 where it crosses
    voxels, t = images[:, inside].double().numpy(), np.asarray(times, float)
    least, answer = np.full(voxels.shape[1], np.inf), np.zeros(voxels.shape[1])
    for t1 in np.geomspace(100, 6000, 200):
        basis = np.stack([np.ones_like(t), np.exp(-t / t1)], 1)
        solve = np.linalg.pinv(basis)
        for crossing in range(len(t) + 1):
            signed = np.where(np.arange(len(t)) < crossing, -1.0, 1.0)[:, None] * voxels
            a, b = solve @ signed
            residual = ((basis @ [a, b] - signed) ** 2).sum(0)
            better = residual < least
            least[better] = residual[better]
            answer[better] = np.abs(a + b * np.exp(-wanted / t1))[better]
    result = torch.zeros(images.shape[1:])
    result[inside] = torch.from_numpy(answer).float()
    return result


if __name__ == "__main__":
    run_command({"prepare": prepare, "score": score})
