"""Weights from a file, or an error that says what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..description import Description, check_trained_alike, description_file, read
from ..files import what_it_is

AGAIN = "Copy or download it again"


class Weights(Description):
    """The file of a network's weights, and what their description says.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self.path = path

    def __call__(self, name: str, own: Any) -> Any:
        if self.found and name not in self.found and name not in self.network:  # of an older version, or by hand
            what = f"{description_file(self.path)} does not say {name}: {own!r} is taken."
            warnings.warn(f"{what} Pass --{name} if it was another.", stacklevel=2)
        return super().__call__(name, own)

    def load(self, network: nn.Module, device: torch.device, settings: Mapping[str, Any]) -> nn.Module:
        """See `load_weights`."""
        return load_weights(network, str(self.path), device, settings=settings)


def load_weights(
    network: nn.Module,
    path: str,
    device: torch.device | str = "cpu",
    *,
    prefix: str = "",
    command: str = "run training ...",
    option: str = "weights",
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The network with the weights of a state dict file, on `device`. Nothing is ever left at random.

    A description beside the file (model.json of model.pt) says its sha256 and how it was trained, as far as no shape
    would show it.

    Args:
        network: the module they are for.
        path: the file.
        device: where it goes.
        prefix: of the names in the file that are meant; the others are passed over.
        command, option: what makes the file, and what names another, for the message.
        settings: what else of the configuration must be as in training, such as {"normalisation": "p99"}.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or not the described one, was trained with other options, or its tensors are
            not the network's; some of the differences are named with both values.
    """
    if not Path(path).is_file():
        make = f"Train first (python -m monai.bundle {command})"
        bundle = Path(path).parent.parent
        if (bundle / "large_files.yml").is_file():
            make = f"Fetch them first (python -m monai.bundle download_large_files --bundle_path {bundle})"
        raise FileNotFoundError(f"No weights at {path}. {make}, or pass --{option} FILE.")
    found = check_sha256(path)
    check_trained_alike(path, found, getattr(network, "options", {}), settings or {})
    found = read_state(path, f"{AGAIN}, or pass another --{option}.")
    if not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ValueError(f"{path} holds {', '.join(found)}, not a network's weights: pass model.pt, not last.pt.")
    found = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    added = {name: value for name, value in network.state_dict().items() if name in getattr(network, "ADDED", ())}
    found = {**added, **found}
    _check_shapes(path, found, network.state_dict())
    network.load_state_dict(found)
    return network.to(device).eval()


def check_sha256(path: str | Path) -> dict[str, Any]:
    """The description of a weights file, which is the described one.

    Raises:
        ValueError: it is another.
    """
    found = read(path)
    wanted = found.get("sha256")
    if wanted and wanted != sha256(path):
        description = description_file(path)
        raise ValueError(
            f"{path} has the sha256 {sha256(path)}, but {description} says {wanted}. Download it again, or remove "
            f"{description.name} if the weights are your own."
        )
    return found


def read_state(path: str | Path, advice: str = f"{AGAIN}.", *, whole: bool = True) -> dict[str, Any]:
    """What `torch.save` wrote of a dict by name, on the CPU; nothing but tensors and plain values is ever loaded.

    Args:
        path: the file.
        advice: what to do where it is damaged.
        whole: all of it is read and its checksums compared, which PyTorch does not; else what is looked at is read.

    Raises:
        ValueError: it is damaged; the message says how.
    """
    archive = zipfile.is_zipfile(path)
    try:
        if whole and archive and (damaged := zipfile.ZipFile(path).testzip()):
            raise zipfile.BadZipFile(f"the checksum of {damaged} in it is wrong")
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=archive and not whole)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged file makes its readers say
        raise ValueError(f"{path} cannot be read: {_reason(path, error)}. {advice}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{path} holds no tensors by name, but a {type(found).__name__}. {advice}")
    return found


def _reason(path: str | Path, error: Exception) -> str:
    """Why a file of tensors cannot be read, without PyTorch's advice to load whatever it holds."""
    if isinstance(error, PermissionError | IsADirectoryError):
        return str(error.strerror)
    if seen := what_it_is(path):
        return f"it is {seen}"
    if isinstance(error, zipfile.BadZipFile):
        return str(error)
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(path):
            return f"it ends after {Path(path).stat().st_size} bytes, in the middle"
    return "it is no file of PyTorch's, or holds Python objects, which are never loaded"


def _check_shapes(path: str, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    if differences := differing_shapes(found, wanted):
        shown = "; ".join(differences[:3])
        raise ValueError(
            f"{path} does not fit the network in {len(differences)} tensors ({shown}). It has no description, "
            "or another one's: give the options and overlays of its training, for example small.json."
        )


def differing_shapes(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> list[str]:
    """Tensors that a file and a network do not both have in one shape, each with its name and both shapes."""
    return [
        f"{name}: {_shape(found, name)} in the file, {_shape(wanted, name)} in the network"
        for name in sorted(found.keys() | wanted.keys())
        if _shape(found, name) != _shape(wanted, name)
    ]


def pretrained_file(weights: str | Path, url: str, option: str) -> Path:
    """A file of torchvision's weights: `weights` itself or, for "download", what `url` has, in torch hub's cache.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: the download failed.
    """
    path, name = Path(weights), url.split("/")[-1]
    if str(weights) != "download":
        if not path.is_file():
            raise FileNotFoundError(
                f"{option} is '{weights}', which is no file. Give the path of {name}, 'download' to fetch it, or "
                "'none' to do without."
            )
        return path
    path = Path(torch.hub.get_dir(), "checkpoints", name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # torchvision's files end in the first digits of their sha256
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.split("-")[-1], progress=False)
        except (OSError, RuntimeError) as error:
            raise RuntimeError(
                f"Could not download {url} ({error}). Give {option} the path of that file, or 'none' to do without."
            ) from error
    return path


def origin(metadata_file: str | Path, weights: str | Path) -> dict[str, str]:
    """What everything that is written says about the network: bundle, version, the weights' file, its sha256 and what
    they were trained on, as far as their description says it.
    """
    metadata = json.loads(Path(metadata_file).read_text())
    return {
        "bundle": metadata["name"],
        "bundle_version": metadata["version"],
        "weights": Path(weights).name,
        "weights_sha256": sha256(weights),
        "trained_on": read(weights).get("trained_on", "not stated"),
    }


def sha256(path: str | Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shape(state: dict[str, torch.Tensor], name: str) -> str:
    return "x".join(map(str, state[name].shape)) or "scalar" if name in state else "absent"
