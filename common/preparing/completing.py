"""Raw scans in, and out again: what `complete` does besides the inference."""

from __future__ import annotations

import inspect
import logging
import tempfile
from pathlib import Path
from typing import Any

from ..options import from_caller, switch
from ..workflows import complete_folder
from .bids import write_bids
from .derived import write_dicom
from .native import made_images, records, sequence_of_grid, write_on_grid
from .prepare import LeftOut
from .prepare import prepare as prepare_sessions

logger = logging.getLogger(__name__)
PREPARED = "prepared"


def complete_and_write(
    dataset_dir: str,
    output_dir: str,
    prepare: bool,
    on_grid: str,
    dicom: str | bool,
    layout: str,
    options: dict[str, Any],
) -> None:
    """`common.workflows.complete_folder` with --prepare, --on_grid, --dicom or --layout; `options` are the others.

    Raises:
        SystemExit: some subjects failed; all is written of the others.
        ValueError: an option is wrong; with on_grid and dicom also where the scans were not prepared here, or were no
            DICOM, which is known before anything is made.
    """
    if layout not in ("", "bids"):
        raise ValueError(f"--layout is {layout}; it must be bids, or left out.")
    if str(dicom).lower() not in ("true", "false", "marked"):
        raise ValueError(f"--dicom is {dicom}; it must be true, false or marked.")
    wants_dicom = str(dicom).lower() != "false"
    if layout and (on_grid or wants_dicom):
        raise ValueError("--layout bids goes without --on_grid and --dicom: run `complete` once for each.")
    failed: list[str] = []
    scans, out = from_caller(dataset_dir), from_caller(output_dir)
    if switch(prepare, "prepare"):
        taken = inspect.signature(prepare_sessions).parameters
        own = {name: options.pop(name) for name in list(options) if name in taken and options[name] not in (None, "")}
        try:
            prepare_sessions(scans, out / PREPARED, **own)
        except LeftOut as error:  # the others are completed nevertheless
            failed.append(str(error))
        scans = out / PREPARED
    if on_grid or wants_dicom:
        _known_before(scans, on_grid or "native", wants_dicom)
    with tempfile.TemporaryDirectory(prefix="mri-contrast-") as room:
        place = Path(room) if layout else out
        try:
            complete_folder(str(scans), str(place), **options)
        except SystemExit as error:
            failed.append(str(error))
        if layout:
            for path in write_bids(place, out, scans):
                logger.info(f"written: {path}")
    for made in made_images(out, scans) if on_grid or wants_dicom else ():
        if on_grid:
            logger.info(f"written: {write_on_grid(made, on_grid)}")
        if wants_dicom and not made.is_uncertainty:
            logger.info(f"written: {write_dicom(made, on_grid or 'native', mark=str(dicom).lower() == 'marked')}")

    if failed:
        raise SystemExit("\n".join(failed))


def _known_before(scans: Path, wanted: str, dicom: bool) -> None:
    for record in records(scans):
        source = record["images"][sequence_of_grid(record, wanted)]["source"]
        if dicom and "dicom" not in source:
            raise ValueError(f"{record['subject']} was prepared from {source['file']}, no DICOM: leave out --dicom.")
