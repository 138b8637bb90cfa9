"""What the demonstration and the making of weights share."""

from __future__ import annotations

from pathlib import Path

from common.data.phantom import make_phantom

ROOT = Path(__file__).resolve().parents[1]


def simulate(folder: Path, subjects: int, **options: object) -> None:
    """A phantom, where the folder has none yet."""
    if not (folder / "subjects.json").exists():
        print(f"Simulating {subjects} phantom subjects ...", flush=True)
        make_phantom(folder, subjects, **options)
