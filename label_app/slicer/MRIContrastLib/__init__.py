"""What the module asks a label server. It needs MONAI Label's client and nothing of Slicer, Python 3.9 or later."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from typing import Any

try:
    from MONAILabelLib import MONAILabelClient  # Slicer's extension MONAILabel brings it
except ImportError:
    from monailabel.client import MONAILabelClient  # the same class, from the package


class ServerError(Exception):
    """What the server, or the way to it, says against a request."""


class LabelServer:
    """A server that `./ci/label` started.

    Args:
        address: such as http://127.0.0.1:8000.
        folder: for the images that it makes; by default a new temporary one.

    Example:
        >>> server = LabelServer("http://127.0.0.1:8000")
        >>> file, made_of = server.synthesise("mri_seq2seq", "phantom_003_T1", "FLAIR")
    """

    def __init__(self, address: str, folder: str | None = None) -> None:
        self.address = address.strip().rstrip("/")
        self.client = MONAILabelClient(self.address, folder or tempfile.mkdtemp(prefix="MRIContrast_"))

    def bundles(self) -> dict[str, list[str]]:
        """The targets of each bundle; "missing" is the one that a subject lacks."""
        models = self._ask(self.client.info).get("models", {})
        return {name: model["config"]["target"] for name, model in models.items() if "target" in model["config"]}

    def images(self) -> list[str]:
        """The scans' names, <subject>_<sequence>."""
        return sorted(self._ask(self.client.datastore).get("objects", {}))

    def synthesise(self, bundle: str, image: str, target: str, **options: Any) -> tuple[str, dict]:
        """An image on the grid of another.

        Args:
            bundle: that makes it.
            image: a scan of the subject.
            target: the sequence to make, or "missing".
            options: "source", "resample" and others, see docs/label.md.

        Returns:
            A new file, .nii.gz, and what it was made of.

        Raises:
            ServerError: there is no answer, or one that says why not.
        """
        file, made_of = self._ask(self.client.infer, bundle, image, {"target": target, **options})
        if not file:
            raise ServerError(f"{self.address} sent no image.")
        return file, made_of

    def _ask(self, method: Callable, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError as error:
            raise ServerError(
                f"No label server answers at {self.address} ({error}). Start one with ./ci/label STUDIES."
            ) from error
        except Exception as error:  # the client's own has its text in `msg` only
            raise ServerError(_text(getattr(error, "msg", None) or f"{self.address}: {error}")) from error


def _text(said: str) -> str:
    """The server's words, out of the client's 'Status: 400; Response: {"detail": ...}'."""
    try:
        return str(json.loads(said.partition("Response: ")[2])["detail"])
    except (ValueError, KeyError, TypeError):
        return said
