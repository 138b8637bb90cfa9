"""Requests to a real MONAI Label server."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import nibabel as nib

from common.data.subjects import read_subjects

ROOT = Path(__file__).resolve().parents[2]
OWN = importlib.util.find_spec("monailabel") is not None
PYTHON = Path(sys.executable) if OWN else ROOT / ".venv-label" / "bin" / "python"
NAMES = ["mri_seq2seq", "mri_vq_seq2seq"]


class Server:
    """Requests to the server at `port`, whose studies and output are in two folders."""

    def __init__(self, port: int, studies: Path, work: Path) -> None:
        self.port, self.studies, self.work = port, studies, work

    def ask(
        self, method: str, path: str, body: Any = None, file: Path | None = None, called: str = "", **params: Any
    ) -> tuple[int, bytes]:
        """Status and content. `body` is sent as JSON, else `file`, by its or another name, and `params` as a form."""
        boundary = uuid.uuid4().hex
        parts = (
            [f'Content-Disposition: form-data; name="params"\r\n\r\n{json.dumps(params)}'.encode()] if params else []
        )
        if file:
            field = "label" if path.startswith("/datastore/label") else "file"
            field = "files" if path.startswith("/session") else field
            head = f'Content-Disposition: form-data; name="{field}"; filename="{called or file.name}"\r\n\r\n'
            parts.append(head.encode() + file.read_bytes())
        data = (
            b"".join(b"--%s\r\n%s\r\n" % (boundary.encode(), part) for part in parts) + f"--{boundary}--\r\n".encode()
        )
        kind = f"multipart/form-data; boundary={boundary}"
        if body is not None or not parts:
            data, kind = json.dumps(body or {}).encode(), "application/json"
        return self.raw(method, path, None if method == "GET" else data, {"Content-Type": kind})

    def raw(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        address = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(address, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                self.headers = answer.headers
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            self.headers = error.headers
            return error.code, error.read()

    def infer(self, model: str, image: str, folder: Path, **params: Any) -> nib.Nifti1Image:
        status, content = self.ask("POST", f"/infer/{model}?image={image}&output=image", **params)
        assert status == 200, content
        (folder / f"{image}.nii.gz").write_bytes(content)
        return nib.load(folder / f"{image}.nii.gz")

    def entry(self, subject: str) -> dict[str, Any]:
        subjects = read_subjects(self.studies)
        splits = ("training", "validation", "test")
        return next(entry for split in splits for entry in subjects[split] if entry["subject"] == subject)

    def json(self, method: str, path: str, body: Any = None, **params: Any) -> Any:
        status, content = self.ask(method, path, body, **params)
        assert status == 200, content
        return json.loads(content)

    def refused(
        self, path: str, body: Any = None, method: str = "POST", file: Path | None = None, **params: Any
    ) -> str:
        status, content = self.ask(method, path, body, file, **params)
        assert 400 <= status < 500, (status, content)
        return json.loads(content)["detail"]

    def wait(self, path: str) -> dict[str, Any]:
        """A background task's status at its end."""
        for _ in range(600):
            task = self.json("GET", path)
            if task["status"] not in ("SUBMITTED", "RUNNING"):
                return task
            time.sleep(0.5)
        raise TimeoutError(path)
