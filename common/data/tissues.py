"""Relaxation of the tissues that simulated subjects consist of, and the settings that hospitals scan them with.

White and grey matter: Stanisz et al., MRM 2005 (1.5 T) and Wansapura et al., JMRI 1999 (3 T). The deep nuclei follow
their water and iron relative to these two, as mapped by Gelman et al., MRM 2001; fluid, blood, fat, muscle and bone are
textbook values (Bottomley et al., Med Phys 1984; Stanisz). Lesions lie between tissue and fluid (Larsson et al., MRM
1989; Oh et al., JMRI 2005). The spreads are ours: wider than a population's, as no table covers all patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import RandomState
from numpy.typing import NDArray

from .mr_signal import Acquisition, GradientEcho, Setting, enhanced_t1, nulling_ti
from .mr_signal import signal as tissue_signal


class Relaxation(NamedTuple):
    """T1 at 1.5 and at 3 T and T2 in ms, relative proton density, texture relative to white matter's, gadolinium that
    is taken up in mmol/l, and the relative spread of T1 and T2 between patients."""

    t1_15: float
    t1_3: float
    t2: float
    pd: float
    texture: float = 1.0
    gadolinium: float = 0.0
    spread: float = 0.04


# The order is that of the numbers in `common.data.anatomies`; what follows "bone" are no parts of a healthy anatomy.
RELAXATION: dict[str, Relaxation] = {
    "air": Relaxation(1000, 1000, 50, 0.0, 0),
    "white_matter": Relaxation(780, 850, 81, 0.70),
    "cortex": Relaxation(1124, 1331, 90, 0.82),
    "csf": Relaxation(4000, 4200, 1500, 1.0, 0),
    "ventricle": Relaxation(4000, 4300, 1800, 1.0, 0),
    "cerebellar_cortex": Relaxation(1100, 1300, 88, 0.81),
    "cerebellar_white_matter": Relaxation(800, 890, 82, 0.71),
    "thalamus": Relaxation(930, 1080, 81, 0.77),
    "caudate": Relaxation(1060, 1230, 85, 0.81),
    "putamen": Relaxation(1000, 1150, 80, 0.81),
    "pallidum": Relaxation(850, 960, 62, 0.75),
    "brain_stem": Relaxation(860, 960, 83, 0.73),
    "hippocampus": Relaxation(1150, 1370, 99, 0.83),
    "choroid_plexus": Relaxation(1500, 1700, 110, 0.88, gadolinium=0.45, spread=0.15),
    "vessel": Relaxation(1450, 1650, 40, 0.6, gadolinium=0.9, spread=0.2),
    "hypointensity": Relaxation(1180, 1380, 125, 0.81, spread=0.1),
    "fat": Relaxation(320, 370, 90, 0.85),
    "muscle": Relaxation(1000, 1300, 42, 0.75, gadolinium=0.08),
    "bone": Relaxation(450, 500, 30, 0.15, gadolinium=0.05),
    "dura": Relaxation(900, 1000, 50, 0.55, gadolinium=0.5, spread=0.15),
    "pituitary": Relaxation(1000, 1200, 85, 0.82, gadolinium=0.6, spread=0.1),
    "plaque": Relaxation(1300, 1520, 150, 0.83, spread=0.1),
    "black_hole": Relaxation(1900, 2100, 220, 0.89, spread=0.15),
    "active_plaque": Relaxation(1300, 1520, 150, 0.83, gadolinium=0.35, spread=0.1),
    "gliosis": Relaxation(1230, 1440, 140, 0.82, spread=0.1),
    "oedema": Relaxation(1300, 1530, 150, 0.83, spread=0.1),
    "tumour": Relaxation(1400, 1650, 145, 0.84, 2.0, spread=0.12),
    "rim": Relaxation(1300, 1550, 120, 0.82, 2.0, gadolinium=0.4, spread=0.1),
    "necrosis": Relaxation(2200, 2500, 300, 0.93, 2.0, spread=0.2),
    "infarct": Relaxation(1400, 1620, 160, 0.86, spread=0.1),
    "cavity": Relaxation(3700, 3900, 900, 0.98, 0, spread=0.05),
}
INDEX = {name: row for row, name in enumerate(RELAXATION)}
PARENCHYMA = [
    *("white_matter", "cortex", "cerebellar_cortex", "cerebellar_white_matter", "thalamus", "caudate", "putamen"),
    *("pallidum", "brain_stem", "hippocampus", "hypointensity"),
]
LESIONS = [
    *("hypointensity", "plaque", "black_hole", "active_plaque", "gliosis", "oedema", "tumour", "rim", "necrosis"),
    *("infarct", "cavity"),
]

# What every simulated truth looks like, whatever the setting of the image that was acquired.
CANONICAL: dict[str, Setting] = {
    "T1": GradientEcho(tr=2000.0, te=3.0, ti=900.0, flip=9.0),
    "T1Gd": GradientEcho(tr=2000.0, te=3.0, ti=900.0, flip=9.0),
    "T2": Acquisition(tr=4500.0, te=100.0),
    "FLAIR": Acquisition(tr=9000.0, te=120.0, ti=2500.0),
    "PD": Acquisition(tr=3000.0, te=15.0),
}


@dataclass(frozen=True, slots=True)
class Patient:
    """Relaxation of one patient's tissues in one scanner, each [tissue] in the order of `RELAXATION`."""

    t1: NDArray
    t2: NDArray
    pd: NDArray
    gadolinium: NDArray
    texture: NDArray

    @classmethod
    def drawn(cls, rng: RandomState) -> Patient:
        """At 1.5 or 3 T; what all tissues share varies beside what each has of its own."""
        table = np.array(list(RELAXATION.values()))
        spread = table[:, 6]
        strength = rng.uniform(0, 1)  # some scanners lie between: 1 T, compressed sensing, old cohorts
        field = float(rng.uniform() < 0.5) * 0.8 + 0.2 * strength
        t1 = (table[:, 0] ** (1 - field)) * (table[:, 1] ** field)
        own = rng.randn(2, len(table)) * spread
        common = rng.randn(2, 1) * 0.05
        t1, t2 = np.stack([t1, table[:, 2]]) * np.exp(own + common)
        pd = table[:, 3] * np.exp(rng.randn(len(table)) * 0.02)
        gadolinium = table[:, 5] * np.exp(rng.randn(len(table)) * 0.3 + rng.randn() * 0.3)
        return cls(t1, t2, pd, gadolinium, table[:, 4])

    def signal(self, setting: Setting, *, gadolinium: bool = False, water: float = 1.0) -> NDArray:
        """Signal [tissue] in units of PD; more `water` is longer T1 and T2 and a little more PD."""
        change = 1 + (water - 1) * self.texture
        t1, t2, pd = self.t1 * change, self.t2 * change, self.pd * change ** (1 / 3)
        if gadolinium:
            t1 = enhanced_t1(t1, self.gadolinium)
        return tissue_signal(pd, t1, t2, setting)


def _log_uniform(rng: RandomState, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _t1_setting(rng: RandomState) -> Setting:
    """Spin echo, inversion-prepared spin echo, spoiled gradient echo or MPRAGE, as hospitals call "T1"."""
    kind = rng.choice(["spin echo", "inversion", "spoiled", "mprage"], p=[0.3, 0.12, 0.13, 0.45])
    if kind == "spin echo":
        return Acquisition(_log_uniform(rng, 400, 750), _log_uniform(rng, 8, 18))
    if kind == "inversion":
        return Acquisition(_log_uniform(rng, 1800, 2600), _log_uniform(rng, 8, 25), _log_uniform(rng, 750, 1000))
    if kind == "spoiled":
        return GradientEcho(_log_uniform(rng, 150, 280), _log_uniform(rng, 2.5, 5), rng.uniform(65, 90))
    ti = _log_uniform(rng, 750, 1100)
    return GradientEcho(_log_uniform(rng, ti + 700, 2600), _log_uniform(rng, 2, 5), rng.uniform(7, 13), ti)


def draw_setting(sequence: str, rng: RandomState, fluid_t1: float) -> Setting:
    """A clinical setting of a sequence of `CANONICAL`; FLAIR's TI nulls a fluid of this T1 (ms), or nearly."""
    if sequence in ("T1", "T1Gd"):
        return _t1_setting(rng)
    if sequence == "T2":
        return Acquisition(_log_uniform(rng, 3000, 8000), _log_uniform(rng, 75, 125))
    if sequence == "PD":
        return Acquisition(_log_uniform(rng, 2000, 4500), _log_uniform(rng, 10, 35))
    tr = _log_uniform(rng, 6000, 11000)
    return Acquisition(tr, _log_uniform(rng, 80, 140), nulling_ti(tr, fluid_t1) * rng.uniform(0.88, 1.06))


def signal_table(patient: Patient, settings: Sequence[Setting], sequences: Sequence[str]) -> NDArray:
    """Signals [tissue, S] and what a relative rise of water adds to them [tissue, S], side by side: [tissue, 2 S]."""
    columns = [
        [patient.signal(setting, gadolinium=name == "T1Gd", water=water) for water in (1.0, 1.05, 0.95)]
        for setting, name in zip(settings, sequences, strict=True)
    ]
    table = np.array(columns)  # (S, 3, tissue)
    return np.concatenate([table[:, 0], (table[:, 1] - table[:, 2]) / 0.1]).T
