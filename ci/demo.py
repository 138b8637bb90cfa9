"""The demonstration behind `./ci/demo`: a phantom, a small Seq2Seq, a subject completed, and the scores.

Everything lies in demo/. A finished training is used again; remove demo/models to train anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ci.runs import ROOT, run_bundle, simulate, train_bundle
from common.data.layouts import make_list
from common.data.subjects import read_subjects, write_subjects
from common.evaluation.completed import draw_completed
from common.evaluation.report import report
from common.options import from_caller, run_command

BUNDLE = "mri_seq2seq"
DEMO = ROOT / "demo"
MODELS = DEMO / "models"


def train(epochs: int) -> None:
    """Phantom subjects, and a small network trained on them."""
    simulate(DEMO / "phantom", 12, validation=0.1, test=0.2)
    print(f"Training a small Seq2Seq for {epochs} epochs ...", flush=True)
    options = {"ckpt_dir": MODELS, "output_dir": DEMO / "training", "dataset_dir": DEMO / "phantom"}
    train_bundle(BUNDLE, ["train", "small"], epochs=epochs, val_interval=max(1, epochs // 2), **options)


def complete(dataset_dir: Path, output_dir: Path, subject_list: str = "subjects.json") -> None:
    """The subjects of a list, completed and drawn."""
    options = {"subject_list": subject_list, "output_dir": output_dir, "weights": MODELS / "model.pt"}
    run_bundle(BUNDLE, "inference", ["inference"], dataset_dir=dataset_dir, **options)
    for picture in draw_completed(str(output_dir), str(dataset_dir), subject_list=subject_list):
        print(picture)


def complete_held_out() -> None:
    """A test subject without its FLAIR, then the scores of every pair on all test subjects."""
    subjects = read_subjects(DEMO / "phantom")
    patient = subjects["test"][0]
    patient["withheld"] = {"FLAIR": patient["images"].pop("FLAIR")}
    subjects = {**subjects, "training": [], "validation": [], "test": [patient]}
    write_subjects(DEMO / "phantom" / "incomplete.json", subjects)
    complete(DEMO / "phantom", DEMO / "completed", "incomplete.json")
    options = {"ckpt_dir": MODELS, "output_dir": DEMO / "scores", "truth": "reference", "multi_source": True, "keep": 1}
    run_bundle(BUNDLE, "evaluating", ["train", "evaluate"], dataset_dir=DEMO / "phantom", **options)
    report(str(DEMO / "scores"))


def complete_own(folder: Path) -> None:
    """The user's own scans: DIR/<subject>/<sequence>.nii.gz, or one subject's files in DIR."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not a folder.")
    own = DEMO / "own"
    shutil.rmtree(own / "completed", ignore_errors=True)  # earlier patients' images
    if any(folder.glob("*.nii*")):
        shutil.rmtree(own / "scans", ignore_errors=True)  # an earlier patient's link
        (own / "scans").mkdir(parents=True)
        (own / "scans" / folder.name).symlink_to(folder)
        folder = own / "scans"
    make_list(folder, output=own / "subjects.json", validation=0, test=0, overwrite=True)
    complete(own, own / "completed")


def demo(input: str = "", epochs: int = 250) -> None:
    """Trains on a phantom and completes a subject; then, with --input DIR, completes your own scans.

    Args:
        input: folder with one folder per subject (T1.nii.gz, T1Gd.nii.gz, T2.nii.gz, FLAIR.nii.gz, as many as there
            are), or with one subject's files.
        epochs: of training; more is better.
    """
    train(epochs)
    if input:
        complete_own(from_caller(input))
    else:
        complete_held_out()
    shown = DEMO / ("own" if input else "")
    print(f"\nThe completed subjects and their pictures are in {shown / 'completed'}.")
    if not input:
        print(f"The scores as a page to look at: {DEMO / 'scores' / 'report.html'}")
    print("Simulated data, a small network and minutes of training: this shows the way, not the quality to expect.")


if __name__ == "__main__":
    run_command(demo)
