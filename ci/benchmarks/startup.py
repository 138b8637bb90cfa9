"""What a command takes before it works: help, and the imports of torch, MONAI and the project's own."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from . import ROOT, Row, Settings

OWN = (
    "import sys; sys.path[:0] = ['bundles/mri_seq2seq']; import mri_seq2seq.network, mri_seq2seq.common.launch, "
    "mri_seq2seq.common.data.preparation, mri_seq2seq.common.inference.engine, mri_seq2seq.common.inference.saving"
)
COMMANDS = {
    "mri-contrast --help": ["-m", "common", "--help"],
    "mri-contrast complete --help": ["-m", "common", "complete", "--help"],
    "import torch": ["-c", "import torch"],
    "import monai.bundle, torch with it": ["-c", "import monai.bundle"],
    "import what an inference needs, both with it": ["-c", "import monai.bundle; " + OWN],
}


def rows(settings: Settings) -> Iterator[Row]:
    for name, words in COMMANDS.items():
        spent = []
        for _ in range(settings.repeats + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
            spent.append(time.perf_counter() - start)
        yield Row(name, statistics.median(spent[1:]), "s")
