"""What the demonstration and the making of weights share: a phantom, a bundle's runs, each done once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common.data.phantom import make_phantom
from common.ending import end_with
from common.training.checkpoints import is_finished

ROOT = Path(__file__).resolve().parents[1]


def bundle_folder(name: str) -> Path:
    """Of bundles/.

    Raises:
        ValueError: there is no such bundle.
    """
    known = {path.parents[1].name: path.parents[1] for path in sorted(ROOT.glob("bundles/*/configs/metadata.json"))}
    if name not in known:
        raise ValueError(f"There is no bundle {name}; there are: {', '.join(known)}.")
    return known[name]


def simulate(folder: Path, subjects: int, **options: object) -> None:
    """A phantom, where the folder has none yet."""
    if not (folder / "subjects.json").exists():
        print(f"Simulating {subjects} phantom subjects ...", flush=True)
        make_phantom(folder, subjects, **options)


def run_bundle(name: str, command: str, configs: list[str], **options: object) -> None:
    """`python -m monai.bundle run <command>` in a bundle's folder; a failure ends the program."""
    files = str([f"configs/{config}.json" for config in configs])
    run_module(name, "monai.bundle", "run", command, "--config_file", files, **options)


def train_bundle(name: str, configs: list[str], *, ckpt_dir: Path, **options: object) -> None:
    """`run_bundle` of a training, where it is not finished."""
    files = [bundle_folder(name) / "configs" / f"{config}.json" for config in configs]
    if is_finished(ckpt_dir, files, **options):
        print(f"Finished before, in {ckpt_dir}.", flush=True)
    else:
        run_bundle(name, "training", configs, ckpt_dir=ckpt_dir, **options)


def run_module(name: str, module: str, *words: str, **options: object) -> None:
    """`python -m <module> <words> --<option> <value> ...` in a bundle's folder.

    Raises:
        SystemExit: it failed; its own last line is the reason.
    """
    extra = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    line = [sys.executable, "-W", "ignore", "-m", module, *words, *extra]
    end_with(subprocess.run(line, cwd=bundle_folder(name)).returncode, " ".join([module, *words[:2]]))
