"""The studies folder: whose scans are in it."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from common.data.layouts import make_list
from common.data.series import files_of
from common.data.subjects import LIST_NAME, SPLITS, read_subjects, some, write_subjects

from .uploads import ADVICE, first_dicom

logger = logging.getLogger(__name__)


class Scan(NamedTuple):
    """One image of a subject; its name over HTTP is `<subject>_<sequence>`."""

    subject: str
    sequence: str
    file: str


class Studies:
    """The subjects of a folder: those of its subjects.json, or else those that the known layouts find in it, or
    those that `prepare` makes of DICOM.

    Args:
        folder: holds the scans.
        work_dir: what the server makes goes there: the list, in which a subject once found stays in its split, weights,
            completed images.

    Raises:
        ValueError: nothing in the folder fits a layout, or its subjects.json is malformed.
    """

    def __init__(self, folder: Path, work_dir: Path) -> None:
        self.folder, self.list = folder, folder / LIST_NAME
        if not self.list.exists():
            try:
                self.list = make_list(folder, subject_list=work_dir / LIST_NAME, extend=True)
            except ValueError:
                if not (file := first_dicom(folder)):
                    raise
                self.list = _prepared(folder, work_dir / "prepared", file)
        self.subjects = read_subjects(self.list)

    @functools.cached_property
    def entries(self) -> dict[str, dict]:
        """The subjects' entries by name, in the list's order."""
        return {entry["subject"]: entry for split in SPLITS for entry in self.subjects[split]}

    @functools.cached_property
    def scans(self) -> dict[str, Scan]:
        """Every image by the name that it has over HTTP; a series in files of one frame each is its first one."""
        return {
            f"{subject}_{sequence}": Scan(subject, sequence, files_of(files)[0])
            for subject, entry in self.entries.items()
            for sequence, files in entry["images"].items()
        }

    def find(self, file: str) -> Scan | None:
        """The scan that a file is, if it is one."""
        wanted = os.path.realpath(file)
        return next((scan for scan in self.scans.values() if os.path.realpath(scan.file) == wanted), None)

    def write_one(self, entry: Mapping[str, Any], path: Path) -> Path:
        """A list of one subject, in the split "test"."""
        sequences = list(dict.fromkeys([*self.subjects["sequences"], *entry["images"]]))
        splits = {**{split: [] for split in SPLITS}, "test": [dict(entry)]}
        return write_subjects(path, {**self.subjects, "sequences": sequences, **splits})


def _prepared(folder: Path, out: Path, file: Path) -> Path:
    """The list of what `prepare` makes of DICOM; what was prepared before is not prepared again.

    Raises:
        ValueError: its packages are not installed, or nothing could be prepared.
    """
    from common.preparing.prepare import LeftOut, prepare

    logger.info(f"{folder} holds DICOM, which is prepared in {out}: converted, registered and without skull.")
    reason = f"{folder} holds DICOM, such as {file.relative_to(folder)}."
    try:
        return prepare(folder, out)
    except ModuleNotFoundError as error:
        raise ValueError(f"{reason} {ADVICE} Or install what lacks, and it is done here ({error})") from None
    except LeftOut as error:
        logger.warning(str(error))
        return out / LIST_NAME
    except ValueError as error:
        raise ValueError(f"{reason} {error}") from None


def unknown_image(name: str, known: Mapping[str, Any]) -> FileNotFoundError:
    """The error for an image that is not in the studies."""
    return FileNotFoundError(
        f"There is no image '{name}' in the studies. They have {some(list(known))}; GET /datastore/?output=all lists "
        "all. Scans that were added since the start are found after POST /reload."
    )
