"""Command line of the evaluation tools: `python -m common.evaluation picture COMPLETED_DIR DATASET_DIR`."""

from __future__ import annotations

import fire

from .completed import draw_completed

if __name__ == "__main__":
    fire.Fire({"picture": draw_completed}, name="common.evaluation")
