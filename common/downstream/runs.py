"""The arms of an experiment: each is run once, and its result stands in a file of its own until its settings change."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..description import changes
from ..files import prepare_folder, write_text

logger = logging.getLogger(__name__)
PACKAGES = ("torch", "monai", "numpy")


class Runs:
    """Results by arm, each `<output_dir>/arms/<name>.json`: a second start takes up those that are there.

    Args:
        output_dir: the experiment's folder, made if need be.
        settings: what all arms share and what their results depend on: seed, data, weights' sha256 ... plain values.

    Attributes:
        results: of the arms so far, by name.

    Example:
        >>> runs = Runs("out", {"seed": 0, "epochs": 30})
        >>> runs("1000/maps/0", lambda: {"accuracy": train(...)})
        {'accuracy': 0.5}
    """

    def __init__(self, output_dir: str | Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.settings = Path(output_dir), json.loads(json.dumps(settings))
        self.results: dict[str, dict[str, Any]] = {}
        prepare_folder(self.folder, "output_dir")

    def __call__(self, name: str, run: Callable[[], Mapping[str, Any]], **more: Any) -> dict[str, Any]:
        """An arm's result, as JSON gives it back.

        Args:
            name: of the arm; with "/" in it, in a folder below.
            run: makes the result, of plain values.
            more: settings of this arm alone.

        Raises:
            ValueError: there is a result of other settings; nothing is run or replaced.
        """
        file = self.folder / "arms" / f"{name}.json"
        settings = {**self.settings, **json.loads(json.dumps(more))}
        if file.is_file():
            self.results[name] = self._known(file, settings)["result"]
            logger.info(f"{name}: done before")
        else:
            begun = time.monotonic()
            result = dict(run())
            record = {"settings": settings, "versions": versions(), "seconds": round(time.monotonic() - begun, 1)}
            write_text(file, json.dumps({**record, "result": result}, indent=1) + "\n")
            self.results[name] = json.loads(json.dumps(result))
        return self.results[name]

    @staticmethod
    def _known(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            there = found["settings"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error}). Remove it, and it is made again.") from None
        if changed := changes(there, settings):
            raise ValueError(f"{file} was made with {'; '.join(changed)}. Name another output_dir, or remove the file.")
        return found


def versions() -> dict[str, str]:
    """Of Python and of what computes."""
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in PACKAGES}}
