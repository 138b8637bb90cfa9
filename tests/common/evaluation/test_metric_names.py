"""How metrics are called on the report."""

from __future__ import annotations

import pytest

from common.evaluation.metric_names import is_of_region, shown_as


@pytest.mark.parametrize(
    ("metric", "label", "sign"),
    [
        ("psnr", "PSNR (dB) in the brain", 1),
        ("psnr_outside_lesion", "PSNR (dB) outside the lesion", 1),
        ("psnr_frame_2", "PSNR (dB) in the brain, frame 2", 1),
        ("nmse_volume", "NMSE in the whole volume", -1),
        ("enhancement_rmse_lesion", "error of the enhancement in the lesion", -1),
        ("wash_in_error", "error of the wash-in per minute in the brain", -1),
        ("adc_error", "error of the ADC (1e-3 mm²/s) in the brain", -1),
    ],
)
def test_a_metric_s_name_says_what_and_where(metric: str, label: str, sign: int):
    shown = shown_as(metric, "in the brain")
    assert (shown.label, shown.sign) == (label, sign)


def test_what_lies_in_a_mask():
    inside = ["psnr_lesion", "psnr_volume", "psnr_outside_lesion", "psnr_frame_2", "psnr", "ssim_lesion"]
    assert [name for name in inside if is_of_region(name, "psnr")] == ["psnr_lesion"]
