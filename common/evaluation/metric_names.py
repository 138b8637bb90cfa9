"""What metrics are called where they are shown, and whether more of one is better."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """How a metric is shown, and whether more of it is better (1) or less (-1)."""

    label: str
    sign: int
    digits: int


METRICS = {
    "psnr": Metric("PSNR (dB)", 1, 2),
    "ssim": Metric("SSIM", 1, 3),
    "nmse": Metric("NMSE", -1, 4),
    "lpips": Metric("LPIPS", -1, 3),
    "spectrum": Metric("spectral distance (dB)", -1, 2),
}
KNOWN = {
    **METRICS,
    "enhancement_rmse": Metric("error of the enhancement", -1, 3),
    "wash_in_error": Metric("error of the wash-in per minute", -1, 3),
    "adc_error": Metric("error of the ADC (1e-3 mm²/s)", -1, 3),
}


def place(metric: str, region: str) -> str:
    """Where a metric of a CSV is measured, in words; `region` is where those without a place in their name are."""
    base = base_of(metric)
    where = metric[len(base) + 1 :]
    if base in ("lpips", "spectrum"):  # which are of the brain alone, or as each convention adds up the slices
        return ""
    if where == "volume":
        return "in the whole volume"
    if where.startswith("outside_"):
        return f"outside the {where[8:]}".replace("_", " ")
    if where.startswith("frame_"):
        return f"{region}, {where}".replace("_", " ")
    return f"in the {where}".replace("_", " ") if where else region


def base_of(metric: str) -> str:
    """A metric's name without the place that it ends in, as of "psnr_outside_lesion"."""
    return max((name for name in KNOWN if metric.startswith(name)), key=len, default=metric.partition("_")[0])


def shown_as(metric: str, region: str = "") -> Metric:
    """How a metric of a CSV is shown, such as "psnr_outside_lesion"."""
    base = base_of(metric)
    known = KNOWN.get(base, Metric(base, 1, 3))
    return known._replace(label=f"{known.label} {place(metric, region)}".strip())


def is_of_region(metric: str, base: str) -> bool:
    """Whether it is a base metric inside a mask, such as "psnr_lesion"."""
    return metric.startswith(f"{base}_") and place(metric, "").startswith("in the ") and not metric.endswith("_volume")
