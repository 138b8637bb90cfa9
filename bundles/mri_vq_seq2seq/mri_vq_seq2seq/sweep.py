"""The sweep over D and K of Sec. 3.2.1: small networks trained on complete subjects, one after the other.

    python -m mri_vq_seq2seq.sweep --dataset_dir DIR --output_dir DIR --dimensions 1,2,3 --codes 64,256,1024

Further options are those of training, such as `--epochs 100`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from monai.bundle import ConfigWorkflow, create_workflow

from .common.evaluation.files import write_csv
from .common.evaluation.robustness import means
from .common.files import replacing
from .common.options import run_command
from .common.training.checkpoints import is_finished

ROOT = Path(__file__).resolve().parents[1]
PANELS = {"translated_psnr": "PSNR in dB", "translated_ssim": "SSIM", "codebook_share": "share of the codes used"}
COLUMNS = ("dimensions", "codes", *PANELS, "codebook_perplexity", "restored_psnr", "restored_ssim")


def sweep(
    dataset_dir: str,
    output_dir: str,
    dimensions: Sequence[int] = (1, 2, 3, 4),
    codes: Sequence[int] = (64, 256, 1024),
    split: str = "validation",
    **options: Any,
) -> None:
    """Writes `sweep.csv`, a row as soon as it is known, and `sweep.png`.

    Each network is scored by `run evaluating`, under the convention `declared`: PSNR and SSIM are means over subjects
    and pairs, of sequences made from another ("translated") and from themselves ("restored"). Rows that the CSV has are
    not trained again; a training that was killed goes on.

    Args:
        dataset_dir: folder of the subject list.
        output_dir: for the two files, and a folder with weights and scores of each network.
        dimensions, codes: the values of D and of K, each with each.
        split: whose subjects the networks are scored on.
        options: overrides of train.json and small.json.
    """
    file = Path(output_dir) / "sweep.csv"
    rows = read(file)
    for d in _several(dimensions):
        for k in _several(codes):
            if (d, k) not in {(row["dimensions"], row["codes"]) for row in rows}:
                folder = Path(output_dir) / f"d{d}_k{k}"
                overrides = {"dataset_dir": str(dataset_dir), **options, "ckpt_dir": str(folder)}
                overrides |= {"network_def#dimensions": d, "network_def#codes": k}
                rows.append({"dimensions": d, "codes": k, **measure(folder, split, overrides)})
                write_csv(file, COLUMNS, [[row[name] for name in COLUMNS] for row in rows])
    draw(rows, Path(output_dir) / "sweep.png")


def measure(folder: Path, split: str, overrides: dict[str, Any]) -> dict[str, float]:
    """Trains one network and evaluates it: its scores, and the codebook's use on the same subjects."""
    configs = [ROOT / "configs" / name for name in ("train.json", "small.json")]
    if not is_finished(folder, configs, **overrides):
        _run("train.json", "small.json", output_dir=str(folder), **overrides)
    evaluation = _run("train.json", "small.json", "evaluate.json", output_dir=str(folder), split=split, **overrides)
    evaluator = evaluation.parser.get_parsed_content("validate#evaluator")
    used, scores = evaluator.state.metrics, evaluator.matrix.tables["declared"]
    return {**means(scores), **{name: used[name] for name in ("codebook_share", "codebook_perplexity")}}


def _run(*files: str, **overrides: Any) -> ConfigWorkflow:
    configs = [str(ROOT / "configs" / name) for name in files]
    workflow = create_workflow(
        config_file=configs, workflow_type="train", logging_file=False, bundle_root=str(ROOT), **overrides
    )
    workflow.run()
    return workflow


def read(file: Path) -> list[dict[str, float]]:
    """The rows of `sweep.csv`; none where there is no file."""
    if not file.exists():
        return []
    with open(file, newline="") as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


def draw(rows: list[dict[str, float]], path: Path) -> None:
    """Translations' PSNR and SSIM and the share of used codes over K, a line per D."""
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axis, (name, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for d in sorted({row["dimensions"] for row in rows}):
            line = sorted((row["codes"], row[name]) for row in rows if row["dimensions"] == d)
            axis.plot(*zip(*line, strict=True), marker="o", label=f"D = {d:g}")
        axis.set_xscale("log", base=2)
        axis.set(xlabel="K", ylabel=label)
    axis.legend()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def _several(values: int | Sequence[int]) -> Sequence[int]:
    return values if isinstance(values, Sequence) else [values]


if __name__ == "__main__":
    run_command(sweep)
