"""The command `mri-contrast`: what a user does, verb by verb.

Installed it is called `mri-contrast`, in a checkout `./mri-contrast`; `python -m common`, and in an unpacked bundle
`python -m <bundle>.common`, are the same.
"""

from __future__ import annotations

import logging
import sys
import warnings
from importlib import import_module
from typing import NamedTuple

from .ending import ended_in_one_line
from .options import nearest, run_command
from .threads import choose_threads, taken
from .usage import usage
from .workflows import HERE

NAME = "mri-contrast"


class Verb(NamedTuple):
    """What is called, in a word or two what it does, and lines to show.

    The module is imported when the verb is called, so that help is quick.
    """

    module: str
    function: str
    what: str
    examples: tuple[str, ...]


VERBS = {
    "complete": Verb(
        "workflows",
        "complete_folder",
        "make the sequences that subjects lack",
        (
            "complete patient/ completed/",
            "complete patient/ completed/ --targets FLAIR --grid T1",
            "complete dicom/ completed/ --prepare --spacing 1 --on_grid T1 --dicom",
            "complete scans/ completed/ --bundle mri_seq2seq --weights run/models/model.pt",
        ),
    ),
    "list": Verb(
        "data.layouts",
        "make_list",
        "find the subjects of a folder, and divide them for training and test",
        ("list BraTS2021/", 'list scans/ --pattern "{subject}/anat/{subject}_{sequence}.nii.gz" --test 0.2'),
    ),
    "check": Verb(
        "data.check", "check", "read every file of a list, and say what is wrong", ("check BraTS2021/ --grid T1",)
    ),
    "prepare": Verb(
        "preparing.prepare",
        "prepare",
        "bring a scanner's DICOM or NIfTI onto one grid, without skull",
        (
            "prepare dicom/ prepared/",
            "prepare session.zip prepared/ --spacing 1 --map T1=series3",
            'prepare raw/ prepared/ --pattern "{subject}/{sequence}.nii.gz" --reference T1',
        ),
    ),
    "phantom": Verb(
        "data.phantom", "make_phantom", "simulate a data set", ("phantom phantom/ 20 --sequences T1,T2 --seed 1",)
    ),
    "simulate": Verb(
        "data.simulated_page",
        "simulate",
        "a picture of subjects that a training can draw as it runs",
        ("simulate page.png --anatomies labels/ --subjects 40",),
    ),
    "train": Verb(
        "workflows",
        "train",
        "train a network, or go on with it",
        ("train mri_seq2seq phantom/ run/ --overlay small --epochs 250", "train mri_aldm BraTS2021/ run/ --amp bf16"),
    ),
    "evaluate": Verb(
        "workflows",
        "evaluate",
        "score a network on the subjects of a test",
        ("evaluate mri_seq2seq phantom/ scores/ --weights run/models/model.pt --truth reference --keep 2",),
    ),
    "report": Verb("evaluation.report", "report", "one HTML page about a run's scores", ("report scores/",)),
    "compare": Verb(
        "evaluation.compare", "compare", "a leaderboard of runs, with paired tests", ("compare scores_a/ scores_b/",)
    ),
    "benchmark": Verb(
        "benchmark",
        "benchmark",
        "train several methods alike, and one page of their quality and cost",
        (
            "benchmark phantom/ contest/ --steps 2000 --bundles mri_seq2seq,mri_vq_seq2seq --truth reference",
            "benchmark BraTS2021/ contest/ --minutes 600 --overlay none --amp bf16",
        ),
    ),
    "expect": Verb(
        "evaluation.expected",
        "expect",
        "store what weights scored beside them, to be told with each image",
        ("expect scores/ --weights run/models/model.pt",),
    ),
    "contribution": Verb(
        "evaluation.contribution", "contribution", "which sequence makes the others best", ("contribution scores/",)
    ),
    "subsets": Verb(
        "downstream.subsets",
        "subsets",
        "which sequences a segmentation needs, and what a synthesised one is worth to it",
        ("subsets phantom/ subsets/ --steps 500", "subsets BraTS2021/ subsets/ --trainer nnUNetTrainer --device cuda"),
    ),
    "oneshot": Verb(
        "downstream.oneshot",
        "oneshot",
        "segmentation from one subject, or a few, on images and on latents",
        ("oneshot phantom/ oneshot/ --vq_weights vq/models/model.pt",),
    ),
    "letters": Verb(
        "downstream.letters",
        "letters",
        "what maps of imaging differentiation are worth to a classifier of letters",
        ("letters out/ --samples 1000,3000 --size 64 --device cpu", "letters out/ --quick"),
    ),
    "classify": Verb(
        "downstream.classify",
        "classify",
        "tell a label of subjects from their images, with and without maps, by nested cross-validation",
        (
            "classify phantom/ out/ --label mismatch --sequences T2,FLAIR --mask brain",
            "classify BraTS2021/ out/ --label MGMT --table labels.csv --weights run/models/model.pt --trained_on "
            "lists/training.json",
        ),
    ),
    "picture": Verb(
        "evaluation.completed", "draw_completed", "a picture of every completed subject", ("picture completed/ scans/",)
    ),
}


def overview() -> str:
    """All verbs, each with a line."""
    lines = [f"  {name:<14}{verb.what}" for name, verb in VERBS.items()]
    shown = [f"  {NAME} {VERBS[name].examples[0]}" for name in ("complete", "phantom", "train", "evaluate", "report")]
    return "\n".join(
        [
            f"{NAME} VERB ...: any MRI sequence from any other. For research only, not for clinical use.",
            "",
            *lines,
            "",
            "For example:",
            *shown,
            "",
            f"{NAME} VERB --help tells what a verb takes.",
        ]
    )


def main() -> None:
    """Runs one verb; what the user can mend is one line on stderr and exit status 2."""
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    asked, name = {"-h", "--help"} & set(sys.argv[1:]), next(iter(sys.argv[1:]), "--help")
    if name in ("-h", "--help", "help"):
        print(overview())
    elif name not in VERBS:
        meant = nearest(name, VERBS)
        hint = f"did you mean {meant}?" if meant else f"there are: {', '.join(VERBS)}."
        print(f"error: There is no verb {name!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    elif asked:
        verb = VERBS[name]
        file = HERE.joinpath(*verb.module.split(".")).with_suffix(".py")
        print(usage(file, verb.function, f"{NAME} {name}", [f"{NAME} {example}" for example in verb.examples]))
    else:
        from .progress import log_above_bars

        verb = VERBS[name]
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        for chatty in ("ignite", "monai", "matplotlib"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        log_above_bars()
        if verb.module.startswith(("workflows", "downstream")):
            with ended_in_one_line():
                sys.argv[1:] = taken(sys.argv[1:])
                choose_threads(say=logging.info)
        run_command({name: getattr(import_module(f".{verb.module}", __package__), verb.function)}, name=NAME)


if __name__ == "__main__":
    main()
