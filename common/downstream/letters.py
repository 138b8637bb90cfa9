"""The letters of Seq2Seq's Fig. 3 and 4: what imaging-differentiation maps are worth to a classifier.

Arms, all with the two images as channels: `images` alone; `maps`, the network's maps beside them, from a network that
was trained on the classifier's images, as the paper has it; and two controls that the paper lacks: `unseen maps` from a
network that never saw these, and `intensity map`, what the best map of grey levels leaves in place of the network.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from .. import workflows
from ..evaluation.rivals import IntensityMap
from ..evaluation.significance import holm
from ..evaluation.sprites import sheet
from ..inference.weights import sha256
from ..options import switch, with_defaults, words
from .devices import chosen_device
from .letter_classifier import read_accuracy
from .letter_images import RADIUS, SEQUENCES, STACK, read_letters, read_maps, write_letters
from .pages import Statement, chart, curve_figure, table, write_experiment
from .paired import LEVEL
from .runs import Runs

ARMS = ("images", "maps", "unseen maps", "intensity map")
CHANCE = 1 / 26
READ = "@subjects.items('training') + @subjects.items('test')"  # no classifier sees the others
BATCH = 10  # images of a step of the network's training
NAMES = ("x1", "x2")
FURTHER = {
    **{"overlay": "small", "synthesis_learning_rate": 1e-3, "validation": 1000},
    **{"batch_size": 128, "learning_rate": 1e-3, "width": 1.0, "amp": ""},
}
QUICK = {
    "size": 32,
    "samples": [100, 200],
    "validation": 50,
    "test": 100,
    "epochs": 2,
    "synthesis_epochs": 2,
    "width": 0.25,
}
SHOWN = 9  # examples on the page
PAPER = "Seq2Seq, Sec. 4 and Fig. 4"
SAID = (
    "A ResNet-18 that gets the two maps beside the two images tells the differing letters better, most at 5,000 "
    "samples: by 0.262 (X1) and 0.369 (X2) in accuracy."
)


def letters(
    output_dir: str,
    *,
    size: int = 128,
    samples: int | Sequence[int] = (3000, 5000, 7000, 9000),
    test: int = 10000,
    epochs: int = 30,
    seeds: int = 3,
    bundle: str = "",
    synthesis_epochs: int = 10,
    device: str = "",
    seed: int = 0,
    quick: bool = False,
    **options: Any,
) -> None:
    """Letters in two "sequences": how much better a ResNet-18 tells them with imaging-differentiation maps.

    Draws the data set, trains the bundle's network on it by its own workflow, makes the maps, and trains the classifier
    with and without them, and with two controls. Writes letters.html, letters.csv and letters.json; the same command
    goes on where it was stopped. The defaults are the paper's sizes, for a GPU.

    Args:
        output_dir: folder for all of it.
        size: width and height of an image in pixels.
        samples: numbers of training images, such as 1000,3000; the network trains on as many as the largest.
        test: images that the classifiers are scored on.
        epochs: how often the classifier sees the largest number of images; of fewer it sees each more often.
        seeds: how many classifiers are trained of each kind, each on another draw of the training images.
        bundle: whose network makes the maps, such as mri_seq2seq.
        synthesis_epochs: how often it sees its images.
        device: such as cuda:0 or cpu; by default a GPU where there is one.
        seed: of all of it.
        quick: a small run that shows that all works, and nothing else.
        options: further ones. --overlay small are configurations that change the network's training, by name or file,
            --synthesis_learning_rate 0.001 is its own, --validation 1000 images are those that its weights are chosen
            by. Of the classifier are --batch_size 128, --learning_rate 0.001, --width 1, of its layers, ResNet-18's own
            being 1, and --amp bf16, mixed precision.

    Raises:
        ValueError: options that make no experiment, or a folder with results of others.
    """
    told = {"size": size, "samples": _numbers(samples), "test": test, "epochs": epochs, "seed": seed}
    told |= {"bundle": workflows.bundle_folder(bundle).name, "synthesis_epochs": synthesis_epochs}
    told |= with_defaults(FURTHER, options)
    told["overlay"] = words(told["overlay"])
    told |= QUICK if switch(quick, "quick") else {}
    _check(told, seeds)
    runs, folder, device = Runs(output_dir, told), Path(output_dir), chosen_device(device)
    maps = {arm: _maps(runs, name, told, device) for arm, name in (("maps", "seen"), ("unseen maps", "unseen"))}
    runs.settings["weights_sha256"] = {arm: sha256(file) for arm, (file, _) in maps.items()}
    data = _Data(folder / "seen", {arm: made for arm, (_, made) in maps.items()})
    _run_arms(runs, data, told, seeds, device)
    print(f"letters.csv, letters.json and {_write(folder, runs, data, told, seeds)} are written.")


def _run_arms(runs: Runs, data: _Data, options: Mapping[str, Any], seeds: int, device: str) -> None:
    """All arms of a number of images and a seed have the same images."""
    most = max(options["samples"])
    steps = options["epochs"] * -(-most // options["batch_size"])
    chosen = {**{name: options[name] for name in ("batch_size", "learning_rate", "width", "amp")}, "steps": steps}
    for count, number, arm in itertools.product(options["samples"], range(seeds), ARMS):
        rows = np.random.default_rng([options["seed"], number]).permutation(most)[:count]

        def run(arm: str = arm, rows: NDArray = rows, number: int = number) -> dict[str, Any]:
            parts = data.channels("training", arm, rows), data.channels("test", arm)
            return read_accuracy(*parts, chosen, options["seed"] + number, device)

        runs(_name(arm, count, number), run, arm=arm, samples_used=count, number=number)


def _name(arm: str, count: int, number: int) -> str:
    return f"{arm.replace(' ', '_')}/{count}_{number}"


def _numbers(samples: int | str | Sequence[int]) -> list[int]:
    found = words(samples) if isinstance(samples, str) else np.ravel(samples).tolist()
    return sorted(int(number) for number in found)


def _check(options: Mapping[str, Any], seeds: int) -> None:
    least = min([*options["samples"], options["validation"], options["test"], options["epochs"], seeds], default=0)
    if least < 1 or len(set(options["samples"])) < len(options["samples"]):
        raise ValueError(f"samples ({options['samples']}), test, validation, epochs and seeds must be 1 or more each.")
    if options["size"] < 32 or options["size"] % 4:
        raise ValueError(f"size is {options['size']}; it must be 32 or more, and a multiple of 4.")


def _maps(runs: Runs, name: str, options: Mapping[str, Any], device: str) -> tuple[Path, Path]:
    """The weights of a network, and the maps that it made of the classifier's images.

    It was trained on these, or on as many that are "unseen" by the classifier.
    """
    folder, bundle = runs.folder, options["bundle"]
    data = folder / name
    counts = {"training": max(options["samples"]), "validation": options["validation"], "test": options["test"]}
    if name == "unseen":
        del counts["test"]
    seed = options["seed"] * 2 + (name == "unseen")
    runs(f"data/{name}", lambda: {"images": counts})  # refuses those of other settings
    if not (data / "subjects.json").is_file():
        write_letters(data, options["size"], counts, seed)
    run = folder / f"network_{name}_{sha256(data / 'letters.npz')[:8]}"  # of these letters, and of no others
    epochs = options["synthesis_epochs"] * STACK // BATCH
    disc = -(-round(2 * RADIUS * options["size"]) // 4) * 4  # what is not air, which is cropped
    workflows.train(
        bundle,
        str(data),
        str(run),
        overlay=options["overlay"],
        epochs=epochs,
        sequences=list(SEQUENCES),
        slices=1,
        roi_size=[disc, disc, 1],
        divisible=[4, 4, 1],
        samples_per_subject=BATCH,
        learning_rate=options["synthesis_learning_rate"],
        val_interval=epochs,
        device=f"$torch.device('{device}')",
        seed=options["seed"],
        amp=options["amp"],
    )
    weights, made = run / "models" / "model.pt", folder / f"maps_{run.name.removeprefix('network_')}"
    workflows.run_workflow(
        bundle,
        "differentiation",
        ["inference", "differentiation"],
        dataset_dir=str(folder / "seen"),
        output_dir=str(made),
        weights=str(weights),
        device=f"$torch.device('{device}')",
        **{"dataset#data": f"$@saver.left({READ}, 'maps')", "saver#pictures": False},
    )
    return weights, made


class _Data:
    """The classifier's channels and letters, split by split.

    Args:
        folder: of the letters.
        maps: by arm, the folder of its maps.
    """

    def __init__(self, folder: Path, maps: Mapping[str, Path]) -> None:
        self.images: dict[str, NDArray] = {}
        self.letters: dict[str, NDArray] = {}
        self.further: dict[tuple[str, str], NDArray] = {}
        for split in ("training", "test"):
            self.images[split], self.letters[split] = read_letters(folder, split)
            for arm, made in maps.items():
                self.further[arm, split] = read_maps(folder, made, split)
        rival = IntensityMap(SEQUENCES)
        rival.fit(torch.as_tensor(self.images["training"]).transpose(0, 1), [True, True])
        for split, images in self.images.items():
            pairs = [(i, torch.as_tensor(images[:, 1 - i])) for i in range(2)]
            made = np.stack([rival.predict(source, 1 - i, i).numpy() for i, source in pairs], 1)
            self.further["intensity map", split] = np.abs(made - images) * (images > 0)

    def channels(self, split: str, arm: str, rows: NDArray | slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Half-precision channels [N, 2 or 4, size, size] and letters [N, 2]."""
        parts = [self.images[split][rows]]
        if (arm, split) in self.further:
            parts.append(self.further[arm, split][rows])
        letters = torch.as_tensor(self.letters[split][rows][:, :2])
        return torch.as_tensor(np.concatenate(parts, 1)).half(), letters


def _write(folder: Path, runs: Runs, data: _Data, options: Mapping[str, Any], seeds: int) -> Path:
    rows = [
        {"arm": arm, "samples": count, "number": number, "x1": found[0], "x2": found[1]}
        for arm in ARMS
        for count in options["samples"]
        for number in range(seeds)
        for found in [runs.results[_name(arm, count, number)]["accuracy"]]
    ]
    figures = "".join(
        f"<div>{chart(curve_figure(_curves(rows, name), 'training images', f'accuracy, letter of {label}'))}</div>"
        for name, label in (("x1", "X1"), ("x2", "X2"))
    )
    sections = [
        ("Accuracy", f'<div class="grid">{figures}</div>{_table(rows, options["samples"])}'),
        ("Examples", _examples(data)),
    ]
    return write_experiment(
        folder,
        "letters",
        "Letters: what imaging-differentiation maps are worth to a classifier",
        about=(
            f"Simulated letters of {options['size']} x {options['size']} pixels, a network of {options['bundle']}, a "
            f"ResNet-18 (width {options['width']:g}) with two heads of 26 letters, {options['test']} test images, "
            f"{seeds} seed{'s' * (seeds != 1)}: lines are means, bars the least and the largest."
        ),
        statements=_statements(rows, options["samples"], seeds),
        sections=sections,
        rows=rows,
        settings={**runs.settings, "seeds": seeds},
    )


def _curves(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, dict[int, list[float]]]:
    curves: dict[str, dict[int, list[float]]] = {}
    for row in rows:
        curves.setdefault(row["arm"], {}).setdefault(row["samples"], []).append(row[name])
    return curves


def _table(rows: Sequence[Mapping[str, Any]], samples: Sequence[int]) -> str:
    cells = [
        [arm, *(_text(curve[count]) for count in samples for curve in (_curves(rows, name)[arm] for name in NAMES))]
        for arm in ARMS
    ]
    note = f"Mean over the seeds, and the least and the largest of them. Chance is {CHANCE:.3f}."
    header = ["channels", *(f"{count:,}: {name.upper()}" for count in samples for name in NAMES)]
    return f'<p class="note">{note}</p>{table(header, cells)}'


def _text(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def _gains(rows: Sequence[Mapping[str, Any]], arm: str, than: str) -> dict[tuple[int, str], list[float]]:
    """By number of samples and letter, how much more of the seeds' accuracy an arm has than another, seed by seed."""
    gains: dict[tuple[int, str], list[float]] = {}
    for name in NAMES:
        mine, others = _curves(rows, name)[arm], _curves(rows, name)[than]
        for count in mine:
            gains[count, name] = [a - b for a, b in zip(mine[count], others[count], strict=True)]
    return gains


def _statements(rows: Sequence[Mapping[str, Any]], samples: Sequence[int], seeds: int) -> list[Statement]:
    asked = [
        (PAPER, SAID, "maps", "images"),
        (
            "Not in the paper",
            "So do maps of a network that never saw the classifier's images.",
            "unseen maps",
            "images",
        ),
        ("Not in the paper", "The maps do better than what the best intensity map leaves.", "maps", "intensity map"),
    ]
    return [Statement(paper, said, *_verdict(rows, arm, than, seeds)) for paper, said, arm, than in asked]


def _verdict(rows: Sequence[Mapping[str, Any]], arm: str, than: str, seeds: int) -> tuple[bool | None, str]:
    """Whether an arm is above another at some number of samples, by t-tests over the seeds with Holm's correction."""
    gains = _gains(rows, arm, than)
    counts = list(dict.fromkeys(count for count, _ in gains))
    told = "; ".join(
        f"at {count:,} samples {', '.join(f'{np.mean(gains[count, name]):+.3f} ({name.upper()})' for name in NAMES)}"
        for count in counts
    )
    why = f"{arm} against {than}, mean of {seeds} seed{'s' * (seeds != 1)}: {told}."
    if seeds < 3:
        return None, f"{why} An order needs three seeds."
    both = [np.mean([gains[count, name] for name in NAMES], 0) for count in counts]
    chances = holm([float(stats.ttest_1samp(each, 0).pvalue) if np.ptp(each) else 1.0 for each in both])
    signs = {np.sign(each.mean()) for each, p in zip(both, chances, strict=True) if p < LEVEL}
    why += (
        f" Least p of t-tests over the seeds of the classifiers, by Holm: {min(chances):.2g}; of networks there is one."
    )
    return (signs == {1} if len(signs) == 1 else None), why


def _examples(data: _Data) -> str:
    """The same test images of all channels, side by side."""
    shown = {f"X{k + 1}": data.images["test"][:SHOWN, k] for k in range(2)}
    for arm in ARMS[1:]:
        shown |= {f"{arm}, X{k + 1}": data.further[arm, "test"][:SHOWN, k] for k in range(2)}
    pictures = "".join(
        f'<div><img src="data:image/webp;base64,{sheet(tiles)}" alt="{name}" style="width:100%;max-width:18rem"><br>'
        f'<span class="note">{name}</span></div>'
        for name, tiles in shown.items()
    )
    return f'<p class="note">The first test images; black is 0, white is 1.</p><div class="grid">{pictures}</div>'
