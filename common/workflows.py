"""The bundles' own workflows, run in this process: what the command `mri-contrast` and its Python functions do.

Nothing heavy is imported before there is work, so that `--help` is quick.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import switch, words

if TYPE_CHECKING:
    from monai.bundle import ConfigParser
    from nibabel.spatialimages import SpatialImage

    from .data.preparation import Subjects
    from .translation import TranslationNetwork

HERE = Path(__file__).resolve().parent
DEFAULT = "mri_seq2seq"
# Options that `SaveVolumes.left` sees by itself, or that are no matter to an image.
ELSEWHERE = ("weights", "pattern", "subject_list", "split", "device")


def bundle_folders() -> dict[str, Path]:
    """By name: of a checkout or an installation, or the one bundle that holds this copy of the code."""
    roots = [HERE.parent / "bundles", HERE / "bundles"]
    metadata = [path for root in roots for path in sorted(root.glob("*/configs/metadata.json"))]
    if (own := HERE.parents[1] / "configs" / "metadata.json").is_file():
        metadata.append(own)
    return {path.parents[1].name if path != own else HERE.parent.name: path.parents[1] for path in metadata}


def bundle_folder(name: str = "") -> Path:
    """Of a bundle by its name; without one, of `mri_seq2seq` or of the only one there is.

    Raises:
        ValueError: there is no such bundle.
    """
    known = bundle_folders()
    name = name or (DEFAULT if DEFAULT in known else next(iter(known), ""))
    if name not in known:
        raise ValueError(f"There is no bundle {name!r}; there are: {', '.join(known) or 'none'}.")
    return known[name]


def run_workflow(bundle: str, run_id: str, configs: Sequence[str], **options: Any) -> None:
    """`python -m monai.bundle run <run_id> --config_file <configs> --<option> ...` for a bundle, from any folder.

    Args:
        bundle: its name.
        run_id: what to run: training, inference, evaluating.
        configs: names in the bundle's configs, or files; the later change the earlier.
        options: of the configurations. None and "" leave what stands there.

    Raises:
        ValueError: no such bundle, configuration or option; what else the run says.
    """
    folder = bundle_folder(bundle)
    files = [str(config_file(folder, name)) for name in configs]
    options = {name: value for name, value in options.items() if value is not None and value != ""}
    named = options.get("sequences")
    if isinstance(named, str) and not named.startswith(("$", "@", "%")):  # fire makes no list of T1,wash-in
        options["sequences"] = words(named)
    _found_by_import(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import create_workflow

        from .ending import root_cause
        from .launch import check_known, how_to_go_on, merged

        for name in ("scripts", "workflows"):  # which list the options, and what they did not find
            logging.getLogger(f"monai.bundle.{name}").setLevel(logging.ERROR)
        check_known(files, {**options, "run_id": run_id})
        options.pop("traceback", None)
        # What is logged, and where, is the caller's: no logging.conf.
        own = {"run_id": run_id, "bundle_root": str(folder), "logging_file": False}
        workflow = create_workflow(config_file=files, **own, **options)
        try:
            workflow.run()
        except KeyboardInterrupt as error:
            error.add_note(how_to_go_on(merged(files, options), run_id))
            raise
        except RuntimeError as error:
            raise root_cause(error)  # noqa: B904 -- of which MONAI's errors tell what it was doing
        workflow.finalize()


def _found_by_import(folder: Path) -> None:
    """A bundle's package lies in its folder, which configurations name things of."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def network_of(bundle: str, weights: str, **options: Any) -> tuple[TranslationNetwork, Subjects]:
    """A bundle's network with its weights, and how subjects are prepared for it, as inference has both.

    Args:
        bundle: its name.
        weights: file of the weights; "" is the bundle's own.
        options: of inference.json, such as dataset_dir.

    Raises:
        FileNotFoundError, ValueError: no such bundle or weights.
    """
    configuration = configuration_of(bundle, ["inference"], weights=weights, **options)
    return configuration.get_parsed_content("network"), configuration.get_parsed_content("subjects")


def configuration_of(bundle: str, configs: Sequence[str], **options: Any) -> ConfigParser:
    """What `run_workflow` would run, of which parts can be taken by `get_parsed_content`.

    Args:
        bundle, configs, options: see `run_workflow`.

    Raises:
        ValueError: no such bundle or configuration.
    """
    folder = bundle_folder(bundle)
    _found_by_import(folder)
    from .launch import merged

    given = {name: value for name, value in options.items() if value is not None and value != ""}
    configuration = merged([str(config_file(folder, name)) for name in configs], given)
    configuration["bundle_root"] = str(folder)
    return configuration


def config_file(folder: Path, name: str) -> Path:
    """A configuration of the bundle in a folder, or any other file.

    Raises:
        ValueError: it is neither.
    """
    own = folder / "configs" / f"{name}.json"
    if own.is_file() or Path(name).is_file():
        return own if own.is_file() else Path(name).absolute()
    known = sorted(path.stem for path in own.parent.glob("*.json") if path.stem != "metadata")
    raise ValueError(f"{folder.name} has no configuration {name!r}, and it is no file; there are: {', '.join(known)}.")


def complete_folder(
    dataset_dir: str,
    output_dir: str,
    *,
    bundle: str = "",
    weights: str = "",
    targets: str | Sequence[str] | None = None,
    grid: str = "",
    pattern: str = "",
    subject_list: str = "",
    prepare: bool = False,
    on_grid: str = "",
    dicom: str | bool = False,
    layout: str = "",
    shard: str = "",
    again: bool = False,
    **options: Any,
) -> None:
    """Makes the sequences that subjects lack, each on its subject's own grid.

    Each becomes OUTPUT_DIR/<subject>/<subject>_<sequence>.nii.gz, with a sidecar that says what it was made from and by
    which weights. The images of a subject must be registered and without skull, or are made so by --prepare. Subjects
    that are done, by the same weights and from the same files, are left as they are.

    Args:
        dataset_dir: a folder with one subject's images (T1.nii.gz, T2.nii.gz ...), or with a folder per subject, or
            BraTS, IXI or BIDS.
        output_dir: folder for what is made.
        bundle: the method, such as mri_seq2seq.
        weights: file of the network's weights; by default the bundle's own, models/model.pt.
        targets: sequences to make, such as FLAIR or T1,T2; by default those that a subject lacks.
        grid: the sequence, such as T1, onto whose grid the others are resampled, where they lie on different ones.
        pattern: the files' paths below dataset_dir, such as "{subject}/{subject}_{sequence}.nii.gz", where their names
            are not known.
        subject_list: a list made by `mri-contrast list`, in place of a search.
        prepare: first bring raw scans (DICOM, or NIfTI with skull or on different grids) to OUTPUT_DIR/prepared, by
            `mri-contrast prepare` and its options, such as --spacing 1.
        on_grid: write it also on an image's grid before the preparation: native (the reference's), or a sequence's, T1.
        dicom: write what is made also as a derived DICOM series of the study, on the grid of --on_grid; "marked" writes
            SYNTHESISED into the pixels, too.
        layout: bids writes a BIDS derivative in place of a folder per subject.
        shard: K/N, such as 3/8, does every N-th subject, from the K-th on: one of N jobs that share an output_dir.
        again: make what is done anew, as for other options.
        options: further ones of the bundle's inference.json, such as --uncertainty true or --device cpu.

    Raises:
        FileNotFoundError, ValueError: no such scans or weights; the message says which.
    """
    if prepare or on_grid or dicom or layout:
        if shard:
            raise ValueError("--shard goes without --prepare, --on_grid, --dicom and --layout: prepare all first.")
        from .preparing.completing import complete_and_write

        what = {"bundle": bundle, "weights": weights, "targets": targets, "grid": grid, "pattern": pattern}
        what |= {"subject_list": subject_list, "again": again, **options}
        complete_and_write(dataset_dir, output_dir, prepare, str(on_grid or ""), dicom, str(layout or ""), what)
        return
    options |= {"weights": weights, "targets": targets, "grid": grid, "pattern": pattern, "subject_list": subject_list}
    options |= {"dataset#data": _items(shard, again, options), "dataset_dir": str(dataset_dir)}
    run_workflow(bundle, "inference", ["inference"], output_dir=str(output_dir), **options)


def _items(shard: str, again: bool, options: Mapping[str, Any]) -> str:
    """What inference.json's items become: a share of the subjects, of these those that are not done."""
    first, _, step = str(shard or "1/1").partition("/")
    if not (first.isdecimal() and step.isdecimal() and 1 <= int(first) <= int(step)):
        raise ValueError(f"--shard is {shard}; it must be K/N with K from 1 to N, such as 3/8.")
    asked = {name: options[name] for name in sorted(options) if name not in ELSEWHERE and options[name]}
    asked = hashlib.sha256(repr(asked).encode()).hexdigest()  # of letters and digits alone: it becomes an expression
    items = f"@subjects.items(@split)[{int(first) - 1}::{int(step)}]"
    return f"${items}" if switch(again, "again") else f"$@saver.left({items}, '{asked}')"


def complete(
    images: Mapping[str, str | os.PathLike | SpatialImage], *, bundle: str = "", **options: Any
) -> dict[str, SpatialImage]:
    """The sequences that one subject lacks, as images in memory.

        from mri_contrast import complete
        flair = complete({"T1": "T1.nii.gz", "T2": "T2.nii.gz"}, targets="FLAIR")["FLAIR"]

    Args:
        images: by sequence, a file or an image of nibabel; registered to each other, without skull.
        bundle: the method, such as mri_seq2seq.
        options: weights, targets, grid and so on, see `complete_folder`.

    Returns:
        By sequence, what was made: float32, on the grid of the acquired images.

    Raises:
        FileNotFoundError, ValueError: as `complete_folder`.
    """
    import nibabel as nib
    import numpy as np

    from .data.subjects import write_subjects

    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, image in images.items():
            files[name] = os.path.abspath(image) if isinstance(image, (str, os.PathLike)) else f"{folder}/{name}.nii.gz"
            if not isinstance(image, (str, os.PathLike)):
                nib.save(image, files[name])
        entry = {"subject": "subject", "images": files}
        listed = {"sequences": list(files), "training": [], "validation": [], "test": [entry]}
        subject_list = write_subjects(Path(folder) / "subjects.json", listed)
        out = Path(folder) / "out"
        options["saver#pictures"] = False
        complete_folder(folder, str(out), bundle=bundle, subject_list=str(subject_list), **options)
        made = {path.name[len("subject_") : -len(".nii.gz")]: nib.load(path) for path in out.glob("*/*.nii.gz")}
        return {name: type(each)(np.asarray(each.dataobj), each.affine, each.header) for name, each in made.items()}


def train(
    bundle: str,
    dataset_dir: str,
    output_dir: str = "",
    *,
    overlay: str | Sequence[str] = "",
    epochs: int | None = None,
    ckpt_dir: str = "",
    **options: Any,
) -> None:
    """Trains a bundle's network on the subjects of a list; the same command goes on where it was stopped.

    Args:
        bundle: the method, such as mri_seq2seq.
        dataset_dir: the folder that holds the subject list, see `mri-contrast list`.
        output_dir: folder for curves and pictures; by default one that is called as the bundle is.
        overlay: configurations that change the training's, by name or file: small trains a small network on a CPU.
        epochs: how often the training subjects are seen.
        ckpt_dir: folder for model.pt, the best weights, and last.pt, to go on from; by default output_dir/models.
        options: further ones of the bundle's train.json, such as --batch_size 2.

    Raises:
        ValueError: what is wrong with the options or the data.
    """
    folder = bundle_folder(bundle)
    output_dir = str(output_dir or folder.name)
    options |= {"dataset_dir": str(dataset_dir), "output_dir": output_dir}
    options |= {"ckpt_dir": str(ckpt_dir or f"{output_dir}/models"), **({} if epochs is None else {"epochs": epochs})}
    if (folder / folder.name / "stages.py").is_file():  # a training of several parts
        _found_by_import(folder)
        import_module(f"{folder.name}.stages").train_all(overlay=overlay, **options)
        return
    from .training.checkpoints import is_finished

    configs = [str(config_file(folder, name)) for name in ["train", *words(overlay)]]
    if is_finished(options["ckpt_dir"], configs, **options):
        print(f"Finished before, in {options['ckpt_dir']}: more --epochs go on, another output_dir begins anew.")
    else:
        run_workflow(bundle, "training", configs, **options)


def evaluate(
    bundle: str,
    dataset_dir: str,
    output_dir: str,
    *,
    weights: str = "",
    overlay: str | Sequence[str] = "",
    **options: Any,
) -> None:
    """Scores a network on a list's test subjects, each sequence made from each other, beside two trivial rivals.

    Args:
        bundle: the method, such as mri_seq2seq.
        dataset_dir: the folder that holds the subject list.
        output_dir: folder for the scores, which `report`, `compare` and `contribution` read.
        weights: file of the network's weights; by default the bundle's own, models/model.pt.
        overlay: configurations that change the evaluation's, by name or file.
        options: further ones of the bundle's train.json and evaluate.json, such as --split validation, --truth
            reference, --multi_source true or --keep 2.

    Raises:
        FileNotFoundError, ValueError: no such data or weights.
    """
    configs, paths = ["train", *words(overlay), "evaluate"], {"dataset_dir": dataset_dir, "output_dir": output_dir}
    run_workflow(bundle, "evaluating", configs, **paths, weights=weights, **options)
