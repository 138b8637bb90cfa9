"""CRL at paper size, a row each: `.venv/bin/python -m ci.benchmark_crl [--variant gain] [--downsampling 2]`.

Parameters, GMACs, median time and peak memory as in `ci.benchmark`: a 192x192 slice encoded, decoded and both, and a
training step (seven 64x64 crops of one subject, 42 pairs, forward, backward and Adam).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from common.options import run_command

from .benchmark import print_rows

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundles" / "mri_crl"))

from mri_crl.common.data.mr_signal import FSE9

from mri_crl.network import CRL
from mri_crl.objective import CRLObjective


def benchmark(
    variant: str = "attention", downsampling: int = 1, device: str = "cpu", repeats: int = 3, step: bool = True
) -> None:
    """Prints the table.

    Args:
        variant, downsampling: of the network.
        device: "cpu" or "cuda".
        repeats: timed runs of each row of a slice; a training step runs once on the CPU.
        step: also measure a training step.
    """
    settings = [(each.tr, each.te, each.ti) for name, each in FSE9.items() if name not in ("FSE4", "FSE6")]
    network = CRL(settings, variant, downsampling=downsampling).to(device).eval()
    codes = network.codes
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {variant}, 1/{downsampling}")
    print(f"{'':32}{'parameters':>12}{'GMACs':>10}{'median s':>10}{'peak GiB':>10}")
    with torch.inference_mode():
        image = torch.rand(1, 1, 192, 192, device=device)
        z = network.encode(image, codes[:1])
        rows = [
            ("encode 192x192", network.encoder, lambda: network.encode(image, codes[:1])),
            ("decode, one target", network.decoder, lambda: network.decode(z, codes[1:2])),
            ("slice, one target", network, lambda: network.decode(network.encode(image, codes[:1]), codes[1:2])),
        ]
        print_rows(rows, device, repeats)
    if step:
        optimizer, objective = torch.optim.Adam(network.train().parameters()), CRLObjective().to(device)
        batch = {"image": torch.rand(1, 7, 64, 64, 1, device=device), "parameters": codes[None]}

        def train() -> None:
            optimizer.zero_grad()
            sum(objective(network, batch)[0].values()).backward()
            optimizer.step()

        with torch.no_grad():
            print_rows([("42 pairs of 64x64, forward", network, lambda: objective(network, batch))], device, 1)
        print_rows([("42 pairs of 64x64, step", network, train)], device, repeats if device == "cuda" else 1)


if __name__ == "__main__":
    run_command(benchmark)
