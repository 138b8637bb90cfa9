"""From a scanner's files to images that a network takes: the command `prepare`."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from ..data.names import SEQUENCES
from ..data.subjects import LIST_NAME, write_subjects
from ..files import is_alive, prepare_folder, write_text
from ..options import from_caller, words
from ..progress import bar
from .atlas import atlas_grid
from .brains import extractors
from .grids import write_itk
from .native import RECORD
from .pictures import draw_prepared, write_page
from .series import Series, as_lines, choose, table
from .session import Options, Prepared, decided, prepare_session
from .sources import find_sessions

logger = logging.getLogger(__name__)


class LeftOut(ValueError):
    """Some subjects could not be prepared; the list is of the others."""


def prepare(
    session: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    map: str | Mapping[str, str] = "",
    sequences: str | Sequence[str] = "",
    reference: str = "",
    spacing: float | Sequence[float] | None = None,
    atlas: str = "",
    brain: str = "deepbet",
    masks: str = "",
    n4: bool = False,
    register: bool = True,
    pattern: str = "",
    overwrite: bool = False,
) -> Path:
    """Converts, sorts, registers and strips the images of subjects, and makes a list of them.

    Each becomes OUTPUT_DIR/<subject>/<sequence>.nii.gz, on one grid and without skull, with brain masks, transforms, a
    JSON of what was decided and measured, and a picture to look at; OUTPUT_DIR/index.html shows all, worst first.

    Args:
        session: a folder or zip of DICOM series, a folder of NIfTI files, or one with a folder per subject, or BIDS.
        output_dir: folder for what is made.
        map: which series is which sequence, such as T1=series3,FLAIR=series7, where the table is wrong; T2= leaves it
            out.
        sequences: those to take, such as T1,FLAIR; by default all that are found.
        reference: the sequence that the others are registered to; by default that with the thinnest slices.
        spacing: of the grid in mm, such as 1 or 1,1,3; by default the reference's own.
        atlas: mni or brats (240 x 240 x 155 voxels): the grid is one of 1 mm in MNI152's space, into which the brain is
            stretched.
        brain: what makes brain masks, deepbet or hd-bet (where it is installed).
        masks: brain masks that there are, each on the grid of its image, such as {subject}/{sequence}_mask.nii.gz below
            session.
        n4: correct the bias field.
        register: false leaves all as the headers place it.
        pattern: the NIfTI files' paths below session, such as "{subject}/{subject}_{sequence}.nii.gz", where their
            names are not known.
        overwrite: make anew what is there.

    Returns:
        The subject list's path.

    Raises:
        FileNotFoundError, ValueError: what is wrong with the files or the options. One subject's failure does not stop
            the others; it is raised at the end.
    """
    options = Options(str(reference or ""), _spacing(spacing), str(brain), bool(n4), str(atlas or ""), bool(register))
    request = Request(from_caller(session), _mapping(map), words(sequences), str(masks or ""), options)
    return _prepare_all(request, from_caller(output_dir), pattern, overwrite)


class Request(NamedTuple):
    """What subjects are prepared from, and how."""

    source: Path
    map: dict[str, str]
    sequences: list[str]
    masks: str
    options: Options

    def as_record(self, subject: str) -> dict[str, Any]:
        """What a subject's preparation depends on, as JSON has it."""
        asked = {"map": self.map, "sequences": self.sequences, "masks": self.masks, **self.options._asdict()}
        return json.loads(json.dumps({"session": str(self.source), "subject": subject, "asked": asked}))


def _prepare_all(request: Request, out: Path, pattern: str, overwrite: bool) -> Path:
    source, failed, options = request.source, {}, request.options
    if options.atlas:
        atlas_grid(options.atlas)
    if options.atlas and options.spacing:
        raise ValueError("--atlas has a grid of 1 mm: leave out --spacing.")
    if options.brain not in extractors():
        raise ValueError(f"--brain is {options.brain}; it must be {' or '.join(extractors())}.")
    if source == out or source.is_relative_to(out):
        raise ValueError(f"output_dir {out} holds the session; pass another one.")
    prepare_folder(out, "output_dir")
    _remove_leftovers(out)
    with tempfile.TemporaryDirectory(prefix="mri-contrast-") as folder:
        found = find_sessions(source, Path(folder, "unpacked"), pattern)
        if request.map and len(found) > 1:
            raise ValueError(f"--map is for one subject, and {source} has {len(found)}: pass one's folder.")
        for each in bar(found, desc="preparing", unit="subjects"):
            try:
                if not overwrite and _is_done(out / each.subject, request):
                    logger.info(f"{each.subject} was prepared before.")
                    continue
                with tempfile.TemporaryDirectory(dir=folder) as room:
                    _prepare_one(out / each.subject, request, each.series(Path(room)))
            except (ValueError, FileNotFoundError) as error:
                if len(found) == 1:
                    raise
                failed[each.subject] = str(error)
                logger.warning(f"{each.subject} is left out: {error}")
    return _finish(out, failed)


def _prepare_one(place: Path, request: Request, series: list[Series]) -> None:
    subject, chosen = place.name, choose(series, request.map)
    rows = table(series)
    logger.info(f"{subject}\n{as_lines(rows)}")
    if lacking := [name for name in request.sequences if name not in chosen]:
        raise ValueError(f"{subject}: no series is {', '.join(lacking)}; name it with --map.")
    if not chosen:
        reasons = "; ".join(f"{each.name}: {each.reason}" for each in series)
        raise ValueError(f"{subject}: no series is taken ({reasons}); name them with --map T1=series1.")
    order = [*SEQUENCES, *chosen]
    names = sorted(request.sequences or chosen, key=order.index)
    chosen = {name: chosen[name] for name in names}
    found = prepare_session(subject, chosen, _masks(request, subject, names), request.options)
    for said in found.warnings:
        logger.warning(f"{subject}: {said}")
    _write(place, found, {**request.as_record(subject), **decided(found), "series": rows})


def _write(place: Path, found: Prepared, record: dict) -> None:
    """The folder of a subject, whole or not at all."""
    partial = place.with_name(f".{os.getpid()}.{place.name}")
    try:
        for folder in ("masks", "transforms"):
            (partial / folder).mkdir(parents=True)
        nib.save(found.grid, partial / "brain_mask.nii.gz")
        for name, image in found.images.items():
            prepared = nib.Nifti1Image(image.prepared, found.grid.affine)
            prepared.header.set_xyzt_units("mm")
            nib.save(prepared, partial / f"{name}.nii.gz")
            nib.save(image.mask, partial / "masks" / f"{name}.nii.gz")
            write_itk(
                partial / "transforms" / f"{name}_to_{record['asked']['atlas'] or found.reference}.txt", image.transform
            )
        draw_prepared(partial / "preparation.png", found)
        numbers = re.compile(r"\[\s+([-\d.e,\s]+?)\s+\]")  # a matrix' row is a line
        text = numbers.sub(lambda row: f"[{' '.join(row[1].split())}]", json.dumps(record, indent=1))
        write_text(partial / RECORD, text)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _finish(out: Path, failed: Mapping[str, str]) -> Path:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob(f"*/{RECORD}"))]
    if not records:
        raise ValueError(f"No subject could be prepared: {'; '.join(f'{name}: {why}' for name, why in failed.items())}")
    names = [name for record in records for name in record["images"]]
    order = [name for name in SEQUENCES if name in names]
    order += [name for name in dict.fromkeys(names) if name not in order]
    entries = [
        {
            "subject": record["subject"],
            "images": {name: f"{record['subject']}/{name}.nii.gz" for name in record["images"]},
            "masks": {"brain": f"{record['subject']}/brain_mask.nii.gz"},
            **({"parameters": times} if (times := record["parameters"]) else {}),
        }
        for record in records
    ]
    written = write_subjects(out / LIST_NAME, {"sequences": order, "training": [], "validation": [], "test": entries})
    write_page(out / "index.html", records, failed)
    print(f"{len(records)} subjects in {written}. Look at {out / 'index.html'} before they are used.")
    if failed:
        raise LeftOut(f"{len(failed)} subjects are left out: {'; '.join(f'{n}: {why}' for n, why in failed.items())}")
    return written


def _is_done(place: Path, request: Request) -> bool:
    record = place / RECORD
    if not record.is_file():
        if place.exists():
            raise ValueError(f"{place} exists, and is nothing that was prepared: pass another output_dir.")
        return False
    known, asked = json.loads(record.read_text(encoding="utf-8")), request.as_record(place.name)
    if any(known.get(name) != asked[name] for name in asked):
        raise ValueError(f"{place} was prepared with other options or from another session: pass --overwrite.")
    return True


def _masks(request: Request, subject: str, names: Sequence[str]) -> dict[str, Path]:
    """By sequence, the brain masks that the user has."""
    masks, found = request.masks, {}
    if masks and "{sequence}" not in masks:
        raise ValueError(f"--masks {masks} lacks {{sequence}}: write something like {{sequence}}_mask.nii.gz.")
    for name in names if masks else ():
        found[name] = request.source / masks.replace("{subject}", subject).replace("{sequence}", name)
        if not found[name].is_file():
            raise ValueError(f"{subject}: there is no {found[name]} for {name}, which --masks names.")
    return found


def _mapping(value: str | Mapping[str, str]) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(name): str(series) for name, series in value.items()}
    pairs = [word.partition("=") for word in words(value)]
    if wrong := [name for name, sign, _ in pairs if not sign or not name]:
        raise ValueError(f"--map {value}: {', '.join(wrong)} is no SEQUENCE=SERIES, such as T1=series3.")
    return {name: series for name, _, series in pairs}


def _spacing(value: float | Sequence[float] | None) -> tuple[float, ...]:
    sizes = [] if value in (None, "") else [value] if isinstance(value, int | float) else value
    sizes = words(sizes) if isinstance(sizes, str) else sizes
    try:
        sizes = tuple(float(size) for size in sizes)
    except (TypeError, ValueError):
        raise ValueError(f"--spacing is {value!r}; it must be numbers in mm, such as 1 or 1,1,3.") from None
    if len(sizes) not in (0, 1, 3) or not all(np.isfinite(sizes)) or min(sizes, default=1) < 0.1:
        raise ValueError(f"--spacing is {value!r}; it must be one or three numbers in mm, of 0.1 and more.")
    return sizes


def _remove_leftovers(out: Path) -> None:
    """What a run that was killed has left of a subject."""
    for path in out.glob(".[0-9]*.*"):
        if path.is_dir() and not is_alive(int(path.name.split(".")[1])):
            shutil.rmtree(path)
