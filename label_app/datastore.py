"""MONAI Label's view of the studies, as single images with labels."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.exception import LabelNotFoundException

from .studies import Studies
from .uploads import check_nifti


class Scans(LocalDatastore):
    """MONAI Label's flat folder of images, made of links to the scans, in the work folder; the scans are only read.

    Raises:
        HTTPException: on the attempt to replace or to remove a scan, or at a name that leads out of the folder.
    """

    def __init__(self, studies: Studies, work_dir: Path) -> None:
        self.scans = studies.scans
        folder = work_dir / "images"
        folder.mkdir(parents=True, exist_ok=True)
        links = {
            f"{name}{'.nii.gz' if scan.file.endswith('.gz') else '.nii'}": scan.file
            for name, scan in self.scans.items()
        }
        for link in folder.iterdir():
            if link.is_symlink() and os.path.realpath(link) != os.path.realpath(links.get(link.name, "")):
                link.unlink()
        for name, file in links.items():
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(file)
        super().__init__(str(work_dir), images_dir="images", extensions=("*.nii.gz", "*.nii"))

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        self._protect(image_id, self._to_id(Path(image_filename).name)[1])
        with open(image_filename, "rb") as file:
            check_nifti(Path(image_filename).name, file)
        return super().add_image(image_id, image_filename, image_info)

    def remove_image(self, image_id: str) -> None:
        found = self._datastore.objects.get(image_id)
        self._protect(image_id, found.image.ext if found else "")
        super().remove_image(image_id)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        check_name(label_tag, "a tag")
        return super().save_label(image_id, label_filename, label_tag, label_info)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        check_name(label_tag, "a tag")
        if not self.get_label_uri(label_id, label_tag):
            raise LabelNotFoundException(f"There is no label '{label_tag}' of an image '{label_id}'.")
        super().remove_label(label_id, label_tag)

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        if not self.datalist():
            raise LabelNotFoundException("No image has a label with the tag final, so there is nothing to pack.")
        return super().get_dataset_archive(limit_cases)

    def _protect(self, image_id: str, extension: str) -> None:
        """Nothing is written or removed through a link, whatever is taken for the name and for its extension."""
        if image_id:
            check_name(image_id, "an image")
        file = Path(self._datastore.image_path()) / self._filename(image_id, extension)
        if _stem(image_id) in self.scans or file.is_symlink():
            raise HTTPException(409, f"{image_id} is a scan of the studies, which are only read; choose another name.")


def _stem(image_id: str) -> str:
    return re.sub(r"(\.nii)?(\.gz)?$", "", image_id, flags=re.I)


def check_name(text: str, kind: str) -> None:
    """Refuses what would lead to another folder, or is no file's name."""
    if text in (".", "..") or set(text) & set("/\\") or (text and not text.isprintable()) or len(text.encode()) > 200:
        raise HTTPException(400, f"{text!r} is no name of {kind}: leave out the slashes and dots, 200 letters at most.")
