"""The README's table of methods, from the bundles themselves: `python -m ci.methods` writes it anew."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from common.files import write_text
from common.workflows import bundle_folders

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- methods: written by `python -m ci.methods` -->\n", "<!-- methods end -->\n"
HEADER = """\
| bundle | method | what goes in | images | parameters | GPU | weights with it |
|---|---|---|---|---|---|---|
"""


def table() -> str:
    """A row per bundle: its metadata's "method", the numbers of its network at paper size, and what lies in models/."""
    rows = []
    for name, folder in sorted(bundle_folders().items()):
        said = json.loads((folder / "configs" / "metadata.json").read_text())["method"]
        weights = (folder / "models" / "model.pt").is_file()
        cells = [
            f"[`{name}`](bundles/{name}/docs/README.md)",
            said["name"],
            said["inputs"],
            said["images"],
            f"{_parameters(folder) / 1e6:.1f} M",
            said["gpu"],
            f"[yes](bundles/{name}/docs/model_card.md)" if weights else "no",
        ]
        rows.append("| " + " | ".join(cells) + " |\n")
    return HEADER + "".join(rows)


def _parameters(folder: Path) -> int:
    """Of the network that the bundle's training makes by default; none of it is computed."""
    sys.path.insert(0, str(folder))
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "train.json"))
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    return sum(parameter.numel() for parameter in network.parameters())


def updated(text: str) -> str:
    """The README with its table as it is now."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    write_text(README, updated(README.read_text(encoding="utf-8")))
