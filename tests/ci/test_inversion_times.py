"""The model that inversion-recovery images are compared with."""

from __future__ import annotations

import pytest
import torch

from ci.inversion_times import recovered

TIMES = [350, 500, 650, 950, 1100, 1400, 1700]


@pytest.mark.parametrize("wanted", [800, 1250])
def test_what_follows_the_model_is_given_back(wanted: float):
    """T1 of fat, white matter and liquor; no inversion is perfect, and a magnitude has lost its sign."""
    t1, a, b = (
        torch.tensor([300.0, 750.0, 2500.0]),
        torch.tensor([90.0, 80.0, 100.0]),
        torch.tensor([-170.0, -150, -180]),
    )

    def signal(time: float) -> torch.Tensor:
        return (a + b * torch.exp(-time / t1)).abs()

    images = torch.stack([torch.cat([signal(time), torch.zeros(1)]) for time in TIMES])
    made = recovered(images, TIMES, wanted)
    torch.testing.assert_close(made[:3], signal(wanted), rtol=0.03, atol=1.0)
    assert made[3] == 0, "where nothing was acquired"
