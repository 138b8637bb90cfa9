"""What stands in for MONAI Label's own endpoints where a file or a name of a client is taken."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, File, Form, HTTPException, UploadFile
from monailabel.endpoints import datastore, infer, session
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask

from .datastore import check_name
from .options import INFERENCE, chosen
from .uploads import check_nifti

router = APIRouter()
run_task = AsyncTask.run


@router.post("/infer/{model}")
async def run_inference(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: Annotated[str, Form()] = "{}",
    file: Annotated[UploadFile | None, File()] = None,
    output: infer.ResultType | None = None,
) -> Any:
    """One image of a subject from its others. What it is made of, no option can name: only the address and uploads."""
    if not (file or image or session_id):
        raise HTTPException(
            400, 'Say which image: "?image=" and a name that GET /datastore/?output=all lists, or a file.'
        )
    if session_id and not app_instance().sessions().get_session(session_id):
        raise HTTPException(404, f"There is no session {session_id}, or no more: sessions end by themselves.")
    if output == infer.ResultType.dicom_seg:
        raise HTTPException(400, "DICOM is neither read nor written here; output may be image, json or all.")
    if file:
        _check_file(file)
    options = json.dumps(chosen(_json_object(params or "{}"), INFERENCE))
    return infer.run_inference(background_tasks, model, image, session_id, options, file, None, output)


@router.put("/model/{model}")
async def update_model(model: str, file: UploadFile) -> dict[str, Any]:
    """Puts weights in place, once they are known to fit."""
    bundle = app_instance().bundle(model)
    return bundle.put_weights(file.file, Path(file.filename or "model.pt").suffix)


@router.put("/session/")
async def create_session(
    background_tasks: BackgroundTasks, files: list[UploadFile], uncompress: bool = False, expiry: int = 0
) -> dict[str, Any]:
    """Keeps one image for a while."""
    if uncompress or len(files) != 1:
        raise HTTPException(400, "A session is one NIfTI file (.nii or .nii.gz): nothing is unpacked or put together.")
    _check_file(files[0])
    return session.create_session(background_tasks, False, expiry, files)


def _check_file(file: UploadFile) -> None:
    name = Path(file.filename or "").name
    check_name(name, "a file")
    check_nifti(name, file.file)


def _json_object(text: str) -> dict[str, Any]:
    """Raises a ValueError for what is no JSON object with finite numbers."""
    try:
        found = json.loads(text, parse_constant=float)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{text[:80]!r} is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise ValueError(f'{text[:80]!r} must be a JSON object, such as {{"target": "T2"}}.')
    try:
        json.dumps(found, allow_nan=False)
    except ValueError:
        raise ValueError(f"{text[:80]!r} has a number that is not finite.") from None
    return found


def _run_task(method: str, request: Any = None, params: Any = None, **how: Any) -> Any:
    """Before anything is started in the background, where nobody would hear of it."""
    return run_task(method, app_instance().checked(method, {**(request or {}), **(params or {})}), {}, **how)


def _tidy(function: Callable) -> Callable:
    """Removes what was received also where the request fails; by themselves, background tasks follow success only."""

    @functools.wraps(function)
    def call(background_tasks: BackgroundTasks, *arguments: Any) -> Any:
        try:
            return function(background_tasks, *arguments)
        except BaseException:
            for task in background_tasks.tasks:
                task.func(*task.args)
            raise

    return call


for module, name in ((datastore, "add_image"), (datastore, "save_label"), (infer, "run_inference")):
    setattr(module, name, _tidy(getattr(module, name)))
AsyncTask.run = staticmethod(_run_task)
infer.json = datastore.json = SimpleNamespace(loads=_json_object, dumps=json.dumps)  # they read forms with it
