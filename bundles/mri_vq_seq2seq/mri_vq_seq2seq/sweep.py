"""The sweep over D and K of Sec. 3.2.1: small networks trained on complete subjects, one after the other.

    python -m mri_vq_seq2seq.sweep --dataset_dir DIR --output_dir DIR --dimensions 1,2,3 --codes 64,256,1024

Further options are those of training, such as `--max_epochs 100`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
from matplotlib.figure import Figure
from monai.bundle import create_workflow

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("dimensions", "codes", "psnr", "codebook_share", "codebook_perplexity")


def sweep(
    dataset_dir: str,
    output_dir: str,
    dimensions: Sequence[int] = (1, 2, 3, 4),
    codes: Sequence[int] = (64, 256, 1024),
    **options: Any,
) -> None:
    """Writes `sweep.csv`, a row as soon as it is known, and `sweep.png`.

    Rows that the CSV has are not trained again; a training that was killed goes on.

    Args:
        dataset_dir: folder of the subject list.
        output_dir: for the two files, and a folder with the weights of each network.
        dimensions, codes: the values of D and of K, each with each.
        options: overrides of train.json and small.json.
    """
    file = Path(output_dir) / "sweep.csv"
    done = {(row["dimensions"], row["codes"]) for row in read(file)}
    for d in _several(dimensions):
        for k in _several(codes):
            if (d, k) not in done:
                _append(file, {"dimensions": d, "codes": k, **train(d, k, dataset_dir, output_dir, options)})
    draw(read(file), Path(output_dir) / "sweep.png")


def train(d: int, k: int, dataset_dir: str, output_dir: str, options: dict[str, Any]) -> dict[str, float]:
    """Trains one network; the PSNR of its best validation, and the codebook's use in the last one."""
    folder = Path(output_dir) / f"d{d}_k{k}"
    workflow = create_workflow(
        config_file=[str(ROOT / "configs" / name) for name in ("train.json", "small.json")],
        workflow_type="train",
        logging_file=False,
        bundle_root=str(ROOT),
        dataset_dir=str(dataset_dir),
        ckpt_dir=str(folder),
        output_dir=str(folder),
        **{"network_def#dimensions": d, "network_def#codes": k, **options},
    )
    workflow.run()
    state = workflow.parser.get_parsed_content("validate#evaluator").state
    return {"psnr": state.best_metric, **{name: state.metrics[name] for name in COLUMNS[3:]}}


def read(file: Path) -> list[dict[str, float]]:
    """The rows of `sweep.csv`; none where there is no file."""
    if not file.exists():
        return []
    with open(file, newline="") as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """PSNR and share of used codes over K, a line per D."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, name, label in zip(axes, COLUMNS[2:], ("PSNR in dB", "share of the codes used"), strict=False):
        for d in sorted({row["dimensions"] for row in rows}):
            line = sorted((row["codes"], row[name]) for row in rows if row["dimensions"] == d)
            axis.plot(*zip(*line, strict=True), marker="o", label=f"D = {d:g}")
        axis.set(xscale="log", xlabel="K", ylabel=label)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def _append(file: Path, row: dict[str, float]) -> None:
    new = not file.exists()
    with open(file, "a", newline="") as lines:
        writer = csv.DictWriter(lines, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)


def _several(values: int | Sequence[int]) -> Sequence[int]:
    return values if isinstance(values, Sequence) else [values]


if __name__ == "__main__":
    fire.Fire(sweep)
