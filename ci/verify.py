"""Checks bundles for what the public model zoo demands: `./ci/verify [NAME...] [--changed REF] [--full]`.

One line for each check of a bundle; the exit status is 1 if one failed. The networks that run have random weights, the
size of configs/small.json (with --full the paper's) and the smallest image that metadata.json allows.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ci.packages import named_packages, needed_packages
from common.data.phantom import make_phantom
from common.inference.export import TOLERANCE, smallest_size, trial_image
from common.inference.weights import load_weights
from common.options import run_command

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = ROOT / "tests" / "data" / "meta_schema_20240725.json"
CONFIGS = ("train", "inference", "evaluate", "multi_gpu_train", "small", "export", "metadata")
NEEDED = ("LICENSE", "docs/README.md", "docs/data_license.txt", "configs/logging.conf")
LARGEST = 25 * 2**20  # bytes of a file that the zoo takes
WRITTEN = {"eval", "runs", "models", "__pycache__"}  # by trainings; what a package takes of models has a check
ENDING = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
COMMON = re.compile(r"common/|ci/(verify|packages|constraints)|requirements|LICENSE|tests/data/meta_schema")


class Bundle:
    """A bundle's folder, and another for what its checks write."""

    def __init__(self, folder: Path, scratch: Path, full: bool = False) -> None:
        self.folder, self.name, self.scratch = folder, folder.name, scratch
        self.size = [] if full else ["small"]
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))

    def config(self, name: str) -> dict[str, Any]:
        return json.loads(self.file(name).read_text())

    def file(self, name: str) -> Path:
        return self.folder / "configs" / f"{name}.json"

    def files(self, *names: str) -> list[str]:
        return [str(self.file(name)) for name in names]

    def workflow(self, *names: str, **options: Any) -> Any:
        """Of these configurations; where weights are taken up, they are random ones."""
        from monai.bundle import ConfigWorkflow

        own = self.weights("inference", *names[1:])
        weights = dict.fromkeys(("weights", "autoencoder_weights", "translation_weights"), str(own))
        folders = {"bundle_root": str(self.folder), **dict.fromkeys(("ckpt_dir", "output_dir"), str(self.scratch))}
        kind = "inference" if names[0] == "inference" else "train"
        return ConfigWorkflow(
            self.files(*names), logging_file=False, workflow_type=kind, **{**folders, **weights, **options}
        )

    @functools.cache  # noqa: B019 - a few bundles, for as long as the command runs
    def weights(self, *names: str) -> Path:
        """Random weights of these configurations' network, also where a layer starts at 0 and so would hide others."""
        from monai.bundle import ConfigParser

        path = self.scratch / f"{'_'.join(names)}.pt"
        parser = ConfigParser()
        parser.read_config(self.files(*names))
        parser["weights"] = str(path)  # which has no description yet
        torch.manual_seed(0)
        network = parser.get_parsed_content("network_def")
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        torch.save(network.state_dict(), path)
        return path

    @functools.cached_property
    def phantom(self) -> Path:
        """Three simulated subjects, one for each split, with the sequences of the bundle."""
        folder = self.scratch / "phantom"
        names = self.config("metadata")["network_data_format"]["outputs"]["pred"]["channel_def"]
        make_phantom(folder, 3, sequences=list(names.values()), spacing=8)
        return folder


def check_files(bundle: Bundle) -> str:
    needed = [bundle.folder / name for name in NEEDED] + [bundle.file(name) for name in CONFIGS]
    if missing := [path.relative_to(bundle.folder).as_posix() for path in needed if not path.is_file()]:
        raise ValueError(f"{', '.join(missing)}: no such file; write it")
    paths = {path: path.relative_to(bundle.folder) for path in bundle.folder.rglob("*") if path.is_file()}
    sizes = {name: path.stat().st_size for path, name in paths.items() if not WRITTEN & set(name.parts)}
    if large := [f"{name} ({size / 2**20:.0f} MiB)" for name, size in sizes.items() if size > LARGEST]:
        raise ValueError(f"{', '.join(large)}: larger than 25 MiB; name an address in large_files.yml instead")
    return f"all that the zoo expects, none of {len(sizes)} above 25 MiB"


def check_licence(bundle: Bundle) -> str:
    if (bundle.folder / "LICENSE").read_bytes() != (ROOT / "LICENSE").read_bytes():
        raise ValueError("LICENSE differs from the repository's; copy that")
    if len((bundle.folder / "docs" / "data_license.txt").read_text().split()) < 10:
        raise ValueError("docs/data_license.txt says too little; name the data and their licences")
    return "LICENSE is the repository's, data_license.txt is there"


def check_metadata(bundle: Bundle) -> str:
    import jsonschema

    metadata = bundle.config("metadata")
    try:
        jsonschema.validate(metadata, json.loads(SCHEMA.read_text()))
    except jsonschema.ValidationError as error:
        where = "#".join(map(str, error.absolute_path)) or "metadata.json"
        raise ValueError(f"{where}: {error.message}; correct metadata.json") from None
    if not metadata["schema"].endswith(SCHEMA.name):
        raise ValueError(f"schema is {metadata['schema']}; the one checked against is {SCHEMA.name}")
    if metadata["name"] != bundle.name:
        raise ValueError(f"name is {metadata['name']}, the folder's is {bundle.name}; make them equal")
    return f"valid by {SCHEMA.name}"


def check_version(bundle: Bundle) -> str:
    metadata = bundle.config("metadata")
    version, newest = metadata["version"], max(metadata["changelog"], key=_numbers)
    if version != newest:
        raise ValueError(f"version is {version}, the changelog's newest {newest}; make them agree")
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "ci" / "constraints.txt").read_text().lower(), re.M))
    named = {name: number for kind in named_packages(metadata) for name, number in kind.items()}
    if other := [f"{name} {number}" for name, number in named.items() if tested.get(name) != number]:
        raise ValueError(f"{', '.join(other)}: not the version in ci/constraints.txt; correct metadata.json")
    return f"{version} heads the changelog; {len(named)} packages at the versions tested together"


def check_packages(bundle: Bundle) -> str:
    named, needed = named_packages(bundle.config("metadata")), needed_packages(bundle.folder)
    for kind, names, imported in zip(("required", "optional"), named, needed, strict=True):
        if missing := imported - names.keys():
            raise ValueError(f"{', '.join(sorted(missing))}: imported; name it in {kind}_packages_version")
        if extra := names.keys() - imported:
            raise ValueError(f"{', '.join(sorted(extra))}: {kind}_packages_version names it, but nothing needs it")
    return f"{len(named[0])} required and {len(named[1])} optional ones are those that are imported"


def check_weights(bundle: Bundle) -> str:
    models = bundle.folder / "models"
    if (bundle.folder / "large_files.yml").is_file():
        return "named in large_files.yml"
    if not (models / "model.pt").is_file():
        return f"none here; a package gets them by ./ci/package {bundle.name} --weights FILE"
    from monai.bundle import ConfigParser

    if not (models / "model.json").is_file():
        return f"your own, not checked; ./ci/package {bundle.name} checks and describes them"
    parser = ConfigParser()
    parser.read_config(bundle.files("inference"))
    parser["bundle_root"] = str(bundle.folder)
    load_weights(parser.get_parsed_content("network_def"), str(models / "model.pt"))
    return "models/model.pt is what model.json says, and configs/inference.json's network takes it"


def check_properties(bundle: Bundle) -> str:
    from monai.utils.enums import BundleProperty

    found = []
    for name in ("train", "inference"):
        workflow = bundle.workflow(name, "small", dataset_dir=str(bundle.phantom))
        workflow.initialize()
        if missing := workflow.check_properties():
            raise ValueError(f"{name}.json lacks what MONAI's tools look for: {', '.join(missing)}")
        found.append(sum(each[BundleProperty.REQUIRED] for each in workflow.properties.values()))
    if not all(found):
        raise ValueError("MONAI looked for nothing; its properties are to be found in monai.bundle.properties")
    apps = ", ".join(bundle.config("metadata").get("supported_apps", {})) or "none"
    return f"{found[0]} of training and {found[1]} of inference, as MONAI's tools need; for the zoo's apps: {apps}"


def check_network(bundle: Bundle) -> str:
    from monai.bundle import verify_net_in_out

    files = bundle.files("inference", *bundle.size, "export")
    verify_net_in_out("network_def", meta_file=str(bundle.file("metadata")), config_file=files, device="cpu")
    return f"input and output as in metadata.json, {'small.json' if bundle.size else 'paper'} size"


def check_torchscript(bundle: Bundle) -> str:
    names = ("inference", *bundle.size, "export")
    file = bundle.scratch / "model.ts"
    workflow = bundle.workflow(*names, output_file=str(file))
    workflow.initialize()
    said = workflow.parser.get_parsed_content("exported")
    file.unlink()
    return said.removeprefix(f"{file}: ")


def check_ckpt_export(bundle: Bundle) -> str:
    """The zoo's own export, by its own call; and that the file makes what the network makes."""
    from monai.bundle import ConfigParser, ckpt_export

    names = ("inference", *bundle.size)
    weights, files = bundle.weights(*names), bundle.files(*names)
    said = {"weights": str(weights), "bundle_root": str(bundle.folder), "device": "cpu"}
    file = bundle.scratch / "verify_model.ts"
    meta = str(bundle.file("metadata"))
    ckpt_export("network_def", filepath=str(file), ckpt_file=str(weights), meta_file=meta, config_file=files, **said)
    parser = ConfigParser()
    parser.read_config(files)
    parser.update(said)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    image = trial_image((1, network.sequences, *smallest_size(bundle.config("metadata"))), missing=[0])
    with torch.no_grad(), torch.jit.optimized_execution(False):
        worst = float((torch.jit.load(file)(image, [0]) - network.complete_available(image, [0])).abs().max())
    file.unlink()
    if not worst <= TOLERANCE:
        raise ValueError(f"MONAI's ckpt_export makes a file that differs from the network by {worst:.1e}")
    return f"MONAI's own, as the zoo calls it; as the network within {TOLERANCE} (difference {worst:.1e})"


CHECKS: dict[str, Callable[[Bundle], str]] = {
    "files": check_files,
    "licence": check_licence,
    "metadata": check_metadata,
    "version": check_version,
    "packages": check_packages,
    "weights": check_weights,
    "properties": check_properties,
    "network": check_network,
    "ckpt_export": check_ckpt_export,
    "torchscript": check_torchscript,
}


def verify(bundle: Bundle) -> list[str]:
    """Runs every check, prints a line for each, and returns the failures."""
    failed = []
    for name, check in CHECKS.items():
        try:
            with warnings.catch_warnings(record=True, action="always") as raised:
                status, said = "ok", check(bundle)
        except Exception as error:
            causes = [error]
            while causes[-1].__cause__ is not None:
                causes.append(causes[-1].__cause__)
            status, said = "FAIL", " ".join(str(causes[-1] or repr(causes[-1])).split())
            failed.append(f"{name}: {said}")
        print(f"{status:5}{bundle.name:17}{name:13}{said}", flush=True)
        # What will be gone one day is told; MONAI's reminders that a configuration can run any code are not.
        for line in sorted(
            {" ".join(str(each.message).split()) for each in raised if issubclass(each.category, ENDING)}
        ):
            print(f"{'warn':5}{bundle.name:17}{name:13}{line}", file=sys.stderr, flush=True)
    return failed


def bundles() -> dict[str, Path]:
    return {path.parents[1].name: path.parents[1] for path in sorted(ROOT.glob("bundles/*/configs/metadata.json"))}


def touched(since: str, names: list[str]) -> list[str]:
    """Those of the bundles that files changed since a revision belong to; the shared code belongs to all."""

    def git(*words: str) -> list[str]:
        result = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
        if result.returncode:
            raise ValueError(f"--changed {since}: {result.stderr.strip()}. Name a commit, a branch or a tag.")
        return result.stdout.splitlines()

    return selected(
        git("diff", "--no-renames", "--name-only", since, "--") + git("ls-files", "-o", "--exclude-standard"), names
    )


def selected(paths: list[str], names: list[str]) -> list[str]:
    if any(COMMON.match(path) for path in paths):
        return names
    return [name for name in names if any(path.startswith(f"bundles/{name}/") for path in paths)]


def main(*names: str, changed: str = "", full: bool = False) -> None:
    """Checks the named bundles, or all; the exit status is 1 if a check failed.

    Args:
        names: folders of bundles/.
        changed: a revision, such as main: only bundles with files changed since; a change of common concerns all.
        full: networks of the paper's size, which takes minutes and up to 8 GB of memory.
    """
    known = bundles()
    if unknown := set(names) - known.keys():
        sys.exit(f"There is no bundle {', '.join(sorted(unknown))}; there are: {', '.join(known)}.")
    try:
        chosen = touched(changed, list(known)) if changed else list(known)
    except ValueError as error:
        sys.exit(str(error))
    chosen = [name for name in chosen if not names or name in names]
    if not chosen:
        print(f"No bundle has changed since {changed}.")
    failed = {}
    for name in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            failed[name] = verify(Bundle(known[name], Path(scratch), full))
    count = sum(map(len, failed.values()))
    if count:
        sys.exit(f"{count} checks failed, of {', '.join(name for name, each in failed.items() if each)}.")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    run_command(main)
