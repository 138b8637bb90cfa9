"""The demonstration behind `./ci/demo`: a phantom, a small Seq2Seq, a subject completed, and the scores.

Everything lies in demo/. A finished training is used again; remove demo/models to train anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ci.runs import ROOT, simulate
from common import workflows
from common.data.subjects import read_subjects, write_subjects
from common.evaluation.completed import draw_completed
from common.evaluation.report import report
from common.options import from_caller, run_command

BUNDLE = "mri_seq2seq"
DEMO = ROOT / "demo"
MODELS = DEMO / "models"
WEIGHTS = str(MODELS / "model.pt")


def train(epochs: int) -> None:
    """Phantom subjects, and a small network trained on them."""
    simulate(DEMO / "phantom", 12, validation=0.1, test=0.2)
    print(f"Training a small Seq2Seq for {epochs} epochs ...", flush=True)
    options = {"epochs": epochs, "val_interval": max(1, epochs // 2), "ckpt_dir": str(MODELS)}
    workflows.train(BUNDLE, str(DEMO / "phantom"), str(DEMO / "training"), overlay="small", **options)


def complete(dataset_dir: Path, output_dir: Path, **options: object) -> None:
    """A folder's subjects, completed; a picture of each lies beside its images."""
    workflows.complete_folder(str(dataset_dir), str(output_dir), bundle=BUNDLE, weights=WEIGHTS, **options)
    for picture in sorted(output_dir.glob("*/*.png")):
        print(picture)


def complete_held_out() -> None:
    """A test subject without its FLAIR, then the scores of every pair on all test subjects."""
    subjects = read_subjects(DEMO / "phantom")
    patient = subjects["test"][0]
    patient["withheld"] = {"FLAIR": patient["images"].pop("FLAIR")}
    subjects = {**subjects, "training": [], "validation": [], "test": [patient]}
    write_subjects(DEMO / "phantom" / "incomplete.json", subjects)
    complete(DEMO / "phantom", DEMO / "completed", subject_list="incomplete.json")
    draw_completed(str(DEMO / "completed"), str(DEMO / "phantom"), subject_list="incomplete.json")  # beside the truth
    options = {"ckpt_dir": str(MODELS), "truth": "reference", "multi_source": True, "keep": 1}
    workflows.evaluate(BUNDLE, str(DEMO / "phantom"), str(DEMO / "scores"), weights=WEIGHTS, **options)
    report(str(DEMO / "scores"))


def demo(dataset_dir: str = "", *, epochs: int = 250, grid: str = "", pattern: str = "") -> None:
    """Trains on a phantom and completes a subject; then, with a folder, completes your own scans.

    Args:
        dataset_dir: folder with one subject's images (T1.nii.gz, T1Gd.nii.gz, T2.nii.gz, FLAIR.nii.gz, as many as there
            are), or with a folder per subject.
        epochs: of training; more is better.
        grid: the sequence, such as T1, onto whose grid your others are resampled.
        pattern: how your files are named, see `mri-contrast complete --help`.
    """
    train(epochs)
    shown = DEMO / ("own" if dataset_dir else "")
    if dataset_dir:
        shutil.rmtree(shown / "completed", ignore_errors=True)  # earlier patients' images
        complete(from_caller(dataset_dir), shown / "completed", grid=grid, pattern=pattern)
    else:
        complete_held_out()
    print(f"\nThe completed subjects and their pictures are in {shown / 'completed'}.")
    if not dataset_dir:
        print(f"The scores as a page to look at: {DEMO / 'scores' / 'report.html'}")
    print("Simulated data, a small network and minutes of training: this shows the way, not the quality to expect.")


if __name__ == "__main__":
    run_command(demo)
