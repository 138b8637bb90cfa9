"""Which packages a bundle needs, told from what its files import."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

COMMON = Path(__file__).resolve().parents[1] / "common"
BASE = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
# What a user of a package runs: these configurations, and the commands on data. All else is extra.
CONFIGS = ("inference.json", "train*.json")
COMMANDS = ("common.__main__", "common.workflows", "common.data.layouts", "common.data.check")
# Needed without an import here, by the word that makes MONAI ask for it.
ASKED_FOR = {"DiffusionModelUNet": "einops", "TransformerBlock": "einops", "TensorBoardStatsHandler": "tensorboard"}
ASKED_FOR |= {"download_large_files": "pyyaml"}
MONAI_BUNDLE = "fire"  # and `python -m monai.bundle` itself


def named_packages(metadata: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """The versions of the packages that a metadata.json names, those that are required and the optional ones."""
    base = {name: metadata[key] for name, key in BASE.items()}
    return base | metadata["required_packages_version"], metadata.get("optional_packages_version", {})


def needed_packages(bundle: Path) -> tuple[set[str], set[str]]:
    """Distributions, in lower case: those without which a bundle cannot be used, and those of some of its options only.

    The first are what the modules import that its configurations name and its commands on data run, and what those
    import; within a function it counts as an option, as does all that any other module imports.
    """
    modules = _modules(bundle)
    reached: set[str] = set()
    waiting = ({f"{bundle.name}.{each}" for each in COMMANDS} & modules.keys()) | _named(bundle, modules)
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= (_imported(name, modules[name]) & modules.keys()) - reached
    required, every = {MONAI_BUNDLE}, set()
    for name, path in modules.items():
        every |= _distributions(_imported(name, path, within_functions=True), bundle.name)
        if name in reached:
            required |= _distributions(_imported(name, path), bundle.name)
            required |= {package for word, package in ASKED_FOR.items() if word in path.read_text()}
    return required, every - required


def _modules(bundle: Path) -> dict[str, Path]:
    """By full name, the modules of a bundle's package with its copy of the shared code."""
    found = {}
    for package, folder in {bundle.name: bundle / bundle.name, f"{bundle.name}.common": COMMON}.items():
        for path in folder.rglob("*.py"):
            words = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(words).removesuffix(".__init__")] = path
    return found


def _named(bundle: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of which the configurations name a class, one of its methods, or a function."""
    text = "".join(path.read_text() for each in CONFIGS for path in bundle.glob(f"configs/{each}"))
    names = re.findall(rf"\b{bundle.name}(?:\.\w+)+", text)
    return {name.rsplit(".", k)[0] for name in names for k in (1, 2)} & modules.keys()


def _imported(name: str, path: Path, within_functions: bool = False) -> set[str]:
    """Full names of what a module imports."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in _statements(ast.parse(path.read_text()), within_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            origin = resolve_name("." * node.level + (node.module or ""), package)
            found |= {origin, *(f"{origin}.{alias.name}" for alias in node.names)}
    return found


def _statements(node: ast.AST, within_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif within_functions or not isinstance(child, ast.FunctionDef):
            yield from _statements(child, within_functions)


def _distributions(names: Iterable[str], own: str) -> set[str]:
    outside = {name.split(".")[0] for name in names} - {own} - sys.stdlib_module_names
    return {_installed().get(name, [name])[0].lower() for name in outside}


_installed = functools.cache(packages_distributions)  # which reads hundreds of files
