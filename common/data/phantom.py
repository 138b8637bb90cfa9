"""Brain phantom: random anatomies made from the MNI152 tissue maps, imaged by the equations of
spin and gradient echoes.

Each subject is the template under a random invertible deformation, with its own ventricles, cortex, lesions, vessels
and relaxation times. Any sequence of it can be computed, with the noise-free truth beside the degraded image:

    mri-contrast phantom data/phantom 20 --sequences T1,T1Gd,T2,FLAIR
    mri-contrast phantom data/phantom 20 --sequences T1,T2,DCE,DWI,wash-in,wash-out
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ..files import write_text
from ..options import words
from ..progress import bar
from .acquisition import parameters_by_name
from .anatomy import make_anatomy, other_texture, simulate, three_sizes
from .mr_signal import FSE9, GradientEcho, Setting, corrupt, draw_acquisition, draw_gradient_echo, resolve
from .phantom_series import ACQUIRED, SERIES, draw_frames, simulate_series
from .series import save_series

MASKS = ("brain", "lesion", "tissue", "tumour")
DRAWN = {"SE": draw_acquisition, "GE": draw_gradient_echo}  # by how such an image is called


def _write_subject(
    folder: Path,
    number: int,
    names: Sequence[str],
    timings: Mapping[str, Setting | None],
    seed: int,
    spacing: tuple,
    one_gain: bool,
    motion: float,
    protocols: float,
    tumours: float,
    mismatch: str,
    **scanner: float,
) -> dict:
    """Writes one subject's files and returns its entry in the subject list; ``scanner`` goes to ``corrupt``."""
    name = f"phantom_{number:03d}"
    entry = {"subject": name, "images": {}, "masks": {}, "reference": {}, "parameters": {}}
    anatomy = make_anatomy(np.random.default_rng([seed, number]), spacing=spacing, tumours=tumours)
    # A stream of its own per image: adding a sequence leaves the others as they were.
    streams = {each: np.random.default_rng([seed, number, crc32(each.encode())]) for each in (*names, "DCE", "DWI")}
    frames = draw_frames(np.random.default_rng([seed, number, 3]), protocols)
    streams["subject"] = np.random.default_rng([seed, number, 2])
    receiver = np.random.default_rng([seed, number, 1])
    drawn = np.random.default_rng([seed, number, 4])
    timings = {each: timing or DRAWN[each[:2]](drawn) for each, timing in timings.items()}
    gains = {each: stream.uniform(800, 1200) for each, stream in streams.items()}
    gains = dict.fromkeys(gains, receiver.uniform(800, 1200)) if one_gain else gains
    anatomies = dict.fromkeys(names, anatomy)
    if mismatch:
        tossed = np.random.default_rng([seed, number, 3])
        entry["labels"] = {"mismatch": int(tossed.random() < 0.5)}
        if entry["labels"]["mismatch"]:
            anatomies[mismatch] = other_texture(anatomy, tossed)

    def save(data: NDArray, suffix: str, **series: Mapping) -> str:
        path = f"{name}/{name}_{suffix}.nii.gz"
        save_series(data, anatomy.affine, folder / path, **series)
        return path

    for mask in MASKS:
        entry["masks"][mask] = save(getattr(anatomy, mask).astype(np.uint8), mask)
    series, maps = simulate_series(anatomy, names, streams, gain=gains, frames=frames, motion=motion, **scanner)
    for sequence in names:
        if sequence in series:
            image, reference = series[sequence]
        else:
            timing, gain = timings[sequence], np.float32(gains[sequence])
            reference = simulate(anatomies[sequence], timing) * gain
            image = corrupt(reference, streams[sequence], **scanner, brain=anatomy.brain)
            flip = timing.flip if isinstance(timing, GradientEcho) else 0.0
            entry["parameters"][sequence] = parameters_by_name((timing.tr, timing.te, timing.ti, flip))
        told = {"frames": frames.get(sequence), "acquired": ACQUIRED.get(sequence)}
        entry["images"][sequence] = save(image, sequence, **told)
        entry["reference"][sequence] = save(reference, f"{sequence}_reference", **told)
    if maps:
        entry["maps"] = {each: save(values, each) for each, values in maps.items()}
        entry["frames"] = {each: frames[each] for each in names if each in frames}
    return entry


def _split(subjects: int, validation: float, test: float) -> tuple[int, int]:
    """Numbers of training and validation subjects; the rest are for testing."""
    if subjects < 1 or min(validation, test) < 0 or validation + test >= 1:
        raise ValueError(
            f"Need subjects >= 1 and fractions that leave some for training: "
            f"subjects={subjects}, validation={validation}, test={test}"
        )
    least = int(subjects >= 3)
    held_out = [max(least, round(part * subjects)) if part else 0 for part in (validation, test)]
    training = subjects - sum(held_out)
    if training < 1:
        raise ValueError(f"No training subject left of {subjects}: validation={validation}, test={test}")
    return training, held_out[0]


def _timings(
    sequences: str | int | Sequence[str], acquisitions: Mapping | None, gradient_echoes: int
) -> tuple[list[str], dict[str, Setting | None]]:
    """The sequences asked for, and the acquisition of each that is no series; None is drawn for each subject."""
    if isinstance(sequences, int):
        if isinstance(sequences, bool) or sequences < 1 or acquisitions:
            raise ValueError(f"sequences is {sequences!r}; a number is 1 or more, and has no acquisitions of its own.")
        if isinstance(gradient_echoes, bool) or not isinstance(gradient_echoes, int):
            raise ValueError(f"gradient_echoes is {gradient_echoes!r}; it is a number of images.")
        counts = {"SE": sequences - gradient_echoes, "GE": gradient_echoes}
        if min(counts.values()) < 0:
            raise ValueError(f"gradient_echoes is {gradient_echoes}; it lies between 0 and sequences, {sequences}.")
        drawn = {f"{kind}{k + 1}": None for kind, count in counts.items() for k in range(count)}
        return list(drawn), drawn
    if gradient_echoes:
        raise ValueError("gradient_echoes go with a number of sequences, each drawn; name others by --acquisitions.")
    names = words(list(FSE9) if sequences == "fse9" else sequences)
    bad = [name for name in names if name not in SERIES and (not name.isalnum() or name in MASKS)]
    if bad or not names or len(set(names)) < len(names):
        raise ValueError(f"sequences must be different words of letters and digits, none of {MASKS}: got {names}")
    if unused := set(acquisitions or {}) - set(names):
        raise ValueError(f"acquisitions has {sorted(unused)}, which are not among sequences={names}")
    return names, {name: resolve(name, acquisitions) for name in names if name not in SERIES}


def _check_simulation(bias: float, tumours: float, **others: float) -> None:
    if not 0 <= bias < 1 or not 0 <= tumours <= 1 or not min(others.values()) >= 0:
        given = ", ".join(f"{name}={value}" for name, value in {"bias": bias, "tumours": tumours, **others}.items())
        raise ValueError(f"Need 0 <= bias < 1, 0 <= tumours <= 1 and the others >= 0: {given}")


def _check_mismatch(mismatch: str, timings: Mapping[str, Setting | None], protocols: float) -> None:
    if mismatch and protocols:  # one stream of randomness draws both
        raise ValueError("mismatch and protocols go one at a time: leave out one of them.")
    if mismatch and mismatch not in timings:
        raise ValueError(f"mismatch is {mismatch!r}; it must be one of {', '.join(timings)}, and no series.")


def _listing(names: Sequence[str], entries: Sequence[dict], training: int, validating: int) -> dict:
    return {
        "name": "phantom (simulated)",
        "sequences": names,
        "training": entries[:training],
        "validation": entries[training : training + validating],
        "test": entries[training + validating :],
    }


def make_phantom(
    output_dir: str | Path,
    subjects: int = 20,
    *,
    sequences: str | int | Sequence[str] = ("T1", "T1Gd", "T2", "FLAIR"),
    spacing: float | Sequence[float] = 2.0,
    seed: int = 0,
    noise: float = 0.03,
    bias: float = 0.1,
    validation: float = 0.2,
    test: float = 0.2,
    acquisitions: Mapping[str, Sequence[float]] | None = None,
    one_gain: bool = False,
    motion: float = 0.0,
    protocols: float = 0.0,
    tumours: float = 0.5,
    mismatch: str = "",
    gradient_echoes: int = 0,
) -> None:
    """Writes a data set of random brains as NIfTI files, with its subject list ``subjects.json``.

    Per subject: each sequence (float32), without bias and noise, too (``_reference``), and the masks brain, lesion,
    tissue (uint8; 1 CSF, 2 grey matter, 3 white matter, 4 lesion) and tumour (1 necrosis, 2 oedema, 3 enhancing rim).
    Subject k of a seed does not depend on how many are asked for, or of what. Files of the same names are replaced.

    Args:
        output_dir: folder to write to, made if missing.
        subjects: how many.
        sequences: names, as a list or separated by commas: T1, T1Gd, T2, FLAIR, PD, FSE1 to FSE9 (``fse9`` is all
            nine), keys of ``acquisitions``, or series and their truth (`common.data.phantom_series`). A number is of
            spin echoes SE1, SE2 ... whose TR, TE and TI are each subject's own, log-uniform over clinical ones.
        spacing: voxel size in mm, one number or three.
        seed: chooses the population.
        noise: Rician noise relative to the 99th percentile of each image.
        bias: largest relative deviation of the bias field.
        validation: fraction of the subjects, at least one of three or more; 0 for none. Training comes first.
        test: likewise.
        acquisitions: name to (TR, TE, TI) in ms, TI = 0 being no inversion, of a gradient echo with its flip angle, for
            what is no preset or differs from it; names that end in Gd are acquired after gadolinium.
        one_gain: one receiver gain for all images of a subject, so that what TR, TE and TI do can be compared.
        motion: of the patient between the frames of a series, standard deviation in mm and degrees.
        protocols: relative spread, between subjects, of the steps between a series' times or b values.
        tumours: share of the subjects that have a tumour, beside plaques, which all have; 1 is every subject.
        mismatch: a sequence, such as FLAIR, whose tissue has in half of the subjects another texture than the other
            sequences show: each image alone says nothing of it, two together do. "labels" in the list say which.
        gradient_echoes: of a number of ``sequences`` so many are gradient echoes GE1, GE2 ..., half of them MPRAGE.

    Raises:
        ValueError: for arguments that make no data set; nothing is written then.
    """
    (names, timings), spacing = _timings(sequences, acquisitions, gradient_echoes), three_sizes(spacing)
    training, validating = _split(subjects, validation, test)
    _check_simulation(bias=bias, noise=noise, motion=motion, protocols=protocols, seed=seed, tumours=tumours)
    _check_mismatch(mismatch, timings, protocols)
    folder, more = Path(output_dir), (one_gain, motion, protocols, tumours, mismatch)
    entries = [
        _write_subject(folder, number, names, timings, seed, spacing, *more, bias=bias, noise=noise)
        for number in bar(range(subjects), desc="simulating", unit="subjects")
    ]
    write_text(folder / "subjects.json", json.dumps(_listing(names, entries, training, validating), indent=2) + "\n")
