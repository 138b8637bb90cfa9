"""Time and memory of all parts as one table: `./ci/benchmark [PART ...] [--size paper] [--against REVISION]`.

Parts are startup, networks, training, epoch, simulation, subject, memory, series, scale and threads. A line has what
was measured and, where there is one, the plain way's value in the same run. With --against it has what another revision
of the project takes, measured in turns by the same code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from common.options import run_command

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("startup", "networks", "training", "epoch", "simulation", "subject", "memory", "series", "scale", "threads")
FASTER_IS_MORE = ("a second", "GB/s")  # units of which more is better


def benchmark(
    *parts: str,
    size: str = "small",
    device: str = "cpu",
    repeats: int = 5,
    anatomies: str = "",
    against: str = "",
    rounds: int = 1,
    output_file: str = "",
) -> None:
    """Measures parts of the project and prints a Markdown table.

    Args:
        parts: by default all.
        size: of the networks: small, or paper.
        device: cpu or cuda.
        repeats: timed runs of each line, of which the median counts.
        anatomies: folder of label maps that subjects are simulated from; by default MNI152.
        against: a git revision to measure beside this tree.
        rounds: turns that both take, of which the median counts.
        output_file: the same lines as JSON.
    """
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"There is no part {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}.")
    if size not in ("small", "paper"):
        raise ValueError(f"size is {size!r}; it must be small or paper.")
    wanted, settings = parts or PARTS, {"size": size, "device": device, "repeats": int(repeats)}
    settings |= {"anatomies": anatomies} if anatomies else {}
    print(_machine(settings) + "\n")
    if against:
        with _tree(against) as other:
            turns = [(_measured(other, wanted, settings), _measured(ROOT, wanted, settings)) for _ in range(rounds)]
        before, here = ({name: _median(each, name) for name in each[0]} for each in zip(*turns, strict=True))
        lines = [{**here[name], "plain": before.get(name, {}).get("value")} for name in here]
        print(_head(against, "here"), *map(_line, lines), sep="\n")
    else:
        print(_head("plain", "here"), flush=True)
        lines = []
        for part in wanted:
            for line in _rows(part, settings):
                lines.append(line)
                print(_line(line), flush=True)
    if output_file:
        Path(output_file).write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")


def _machine(settings: dict[str, object]) -> str:
    import monai
    import torch

    cpus = Path("/proc/cpuinfo")
    found = (
        [line.split(":")[1].strip() for line in cpus.read_text().splitlines() if line.startswith("model name")]
        if (cpus.is_file())
        else [platform.processor()]
    )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    versions = f"torch {torch.__version__}, MONAI {monai.__version__}, Python {platform.python_version()}"
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f"{os.cpu_count()} x {found[0]}{gpu}, load {os.getloadavg()[0]:.1f} before; {versions}; {said}."


def _rows(part: str, settings: dict[str, object]) -> Iterator[dict[str, object]]:
    from .benchmarks import Settings

    logging.disable(logging.INFO)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        rows = import_module(f"ci.benchmarks.{part}").rows(Settings(**settings))
        while True:
            with contextlib.redirect_stdout(nowhere):
                row = next(rows, None)
            if row is None:
                return
            yield row._asdict()


@contextlib.contextmanager
def _tree(revision: str) -> Iterator[Path]:
    """A copy of the project at a revision, with this one's benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", "-q", str(tree), revision], cwd=ROOT, check=True)
        try:
            shutil.copy(ROOT / "ci" / "benchmark.py", tree / "ci")
            shutil.copytree(ROOT / "ci" / "benchmarks", tree / "ci" / "benchmarks", dirs_exist_ok=True)
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)


def _measured(tree: Path, parts: Sequence[str], settings: dict[str, object]) -> dict[str, dict[str, object]]:
    """A tree's lines by name; a part that it cannot run is left out, and that is said."""
    found = {}
    for part in parts:
        file = tree / f".benchmark_{part}.json"
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "ci.benchmark", part, *words, "--output_file", str(file)]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
        if done.returncode:
            print(f"{part} could not be measured in {tree}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
            continue
        found |= {line["name"]: line for line in json.loads(file.read_text(encoding="utf-8"))}
        file.unlink()
    return found


def _median(rounds: Sequence[dict[str, dict[str, object]]], name: str) -> dict[str, object]:
    values = [each[name]["value"] for each in rounds if name in each]
    return {**rounds[0][name], "value": statistics.median(values)}


def _head(plain: str, here: str) -> str:
    return f"| | {plain} | {here} | | ratio |\n|---|---|---|---|---|"


def _line(line: dict[str, object]) -> str:
    value, plain, unit = line["value"], line["plain"], str(line["unit"])
    if plain is None:
        return f"| {line['name']} | | {value:.3g} | {unit} | |"
    ratio = value / plain if unit in FASTER_IS_MORE else plain / value
    return f"| {line['name']} | {plain:.3g} | {value:.3g} | {unit} | {ratio:.2f} |"


if __name__ == "__main__":
    run_command(benchmark)
