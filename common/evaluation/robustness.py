"""How the scores of every source and target fall when the input is disturbed (VQ-Seq2Seq, Table 2)."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

from .disturbances import DISTURBANCES, LEVELS
from .evaluator import MatrixEvaluator
from .files import write_csv
from .scores import ScoreTable


class Robustness:
    """Runs an evaluator undisturbed and under every disturbance and level, and compares what its `ScoreMatrix` found.

    Each run's own scores go into `<output_dir>/<disturbance>_<level>/` (undisturbed: `none/`); `robustness.csv` has a
    line per convention and run: the network's mean PSNR and SSIM where a sequence is made from itself (restored, the
    paper's table) and where it is made from another one (translated).

    Args:
        evaluator: with "disturb" for its data, and "matrix", whose output folder is set for each run.
        output_dir: made if need be.
    """

    def __init__(self, evaluator: MatrixEvaluator, output_dir: str) -> None:
        self.evaluator = evaluator
        self.matrix = evaluator.matrix
        self.output_dir = Path(output_dir)

    def run(self) -> list[dict[str, Any]]:
        """All of it: writes `robustness.csv`, prints it as a table and returns its lines."""
        lines = self._evaluate("none", 1, "none")
        for disturbance in DISTURBANCES:
            for level in LEVELS:
                lines += self._evaluate(disturbance, level, f"{disturbance}_{level}")
        write_csv(self.output_dir / "robustness.csv", list(lines[0]), [list(line.values()) for line in lines])
        print(table(lines))
        return lines

    def _evaluate(self, disturbance: str, level: int, folder: str) -> list[dict[str, Any]]:
        self.evaluator.disturb.choose(disturbance, level)
        self.matrix.output_dir = self.output_dir / folder
        self.matrix.info |= {"disturbance": disturbance, "level": level}
        self.evaluator.run()
        strength = DISTURBANCES[disturbance].strengths[level - 1] if disturbance != "none" else 0.0
        what = {"disturbance": disturbance, "level": level if strength else 0, "strength": strength}
        return [{"convention": name, **what, **means(scores)} for name, scores in self.matrix.tables.items()]


def means(scores: ScoreTable) -> dict[str, float]:
    """The network's mean PSNR and SSIM over subjects and sequences, from itself and from another; nan without any."""
    rows = [row for row in scores.rows if row["method"] == "network"]
    single = {row["target"] for row in rows}  # and not several sources, nor a path
    groups = {
        "restored": [row for row in rows if row["source"] == row["target"]],
        "translated": [row for row in rows if row["source"] in single - {row["target"]}],
    }
    return {f"{group}_{metric}": _mean(rows, metric) for group, rows in groups.items() for metric in ("psnr", "ssim")}


def _mean(rows: list[dict[str, Any]], metric: str) -> float:
    values = [row[metric] for row in rows if math.isfinite(row.get(metric, math.nan))]
    return statistics.fmean(values) if values else math.nan


def table(lines: list[dict[str, Any]]) -> str:
    """The lines of `Robustness.run` as text, a block per convention."""
    text = []
    for convention in dict.fromkeys(line["convention"] for line in lines):
        text += [
            f"Convention {convention}, PSNR (dB) / SSIM of the network, mean over subjects and sequences.",
            f"{'disturbance':<12}{'level':>6}{'strength':>10}{'restored':>18}{'translated':>18}",
        ]
        for line in lines:
            if line["convention"] == convention:
                numbers = [f"{line[f'{of}_psnr']:.2f} / {line[f'{of}_ssim']:.3f}" for of in ("restored", "translated")]
                text.append(
                    f"{line['disturbance']:<12}{line['level']:>6}{line['strength']:>10g}{numbers[0]:>18}{numbers[1]:>18}"
                )
    return "\n".join(text)
