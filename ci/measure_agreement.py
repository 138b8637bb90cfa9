"""What `mri-contrast check --weights` finds of wrong names and other people's images, in scans that are named rightly.

    .venv/bin/python -m ci.measure_agreement LIST WEIGHTS [--bundle mri_seq2seq] [--others 1] --threads 1

Every subject's images are given all names that the network's sequences allow: for three or four images and four
sequences, the right ones and 23 wrong ones. Then each image in turn is replaced by another person's of its sequence.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from monai.transforms import Compose, ResizeWithPadOrCrop, Spacing
from torch import Tensor

from common.data.preparation import Subjects
from common.data.subjects import read_subjects
from common.inference.agreement import MARGIN, agreement, best_names, doubts
from common.inference.inferers import plain
from common.options import run_command
from common.progress import bar
from common.translation import TranslationNetwork
from common.workflows import network_of

from .general import people

Item = Mapping[str, Any]


def labels_of(subjects: Subjects, item: Item) -> list[int]:
    """The network's sequences that a subject has."""
    return [i for i, name in enumerate(subjects.sequences) if name in item["images"]]


def namings(network: TranslationNetwork, subjects: Subjects, item: Item) -> Iterator[tuple[list[int], Tensor]]:
    """All names [n] of a subject's n images, and the `agreement` [n, S, n, S] of images that are called so."""
    right, sequences = labels_of(subjects, item), subjects.sequences
    turned = []
    for k in range(len(sequences)):
        names = [(i + k) % len(sequences) for i in right]
        files = {sequences[j]: item["images"][sequences[i]] for i, j in zip(right, names, strict=True)}
        image = plain(subjects.use()({**item, "images": files})["image"])
        turned.append(agreement(network, image[None].to(network.codes.device), names))
    # A name decides how an image is scaled. What is made of it then is made once for all names of the other images,
    # whose own scale changes a correlation with them no more than by what is clipped.
    for names in permutations(range(len(sequences)), len(right)):
        turns = [(j - i) % len(sequences) for i, j in zip(right, names, strict=True)]
        yield list(names), torch.stack([turned[k][a] for a, k in enumerate(turns)])


def swaps(
    network: TranslationNetwork, subjects: Subjects, item: Item, other: Item
) -> Iterator[tuple[str, dict[str, str]]]:
    """Sequences that both have, and codes by sequence of what is said when that image is the other person's, laid over
    the subject's by its centre."""
    labels, sequences = labels_of(subjects, item), subjects.sequences
    own, foreign = (subjects.use()(each)["image"] for each in (item, other))
    fitted = Compose([Spacing(own.pixdim), ResizeWithPadOrCrop(own.shape[1:])])(foreign)
    for i in sorted({*labels} & {*labels_of(subjects, other)}):
        image = plain(own).clone()
        image[i] = plain(fitted)[i]
        found = agreement(network, image[None].to(network.codes.device), labels)
        yield sequences[i], {name: code for name, code, _ in doubts(found, labels, sequences)}


class Tally:
    """What was found, subject by subject."""

    def __init__(self, sequences: list[str]) -> None:
        self.sequences = sequences
        self.wrong, self.right, self.foreign = Counter(), Counter(), Counter()
        self.missed, self.unseen = Counter(), Counter()

    def named(self, right: list[int], names: list[int], found: Tensor) -> None:
        """One naming of one subject's images."""
        best, gain = best_names(found, names)
        told = best if gain > MARGIN else names
        codes = {code for _, code, _ in doubts(found, names, self.sequences)}
        counts = self.right if names == right else self.wrong
        counts.update(["all", *codes, *["mended"] * (told == right)])
        pairs = {
            f"{self.sequences[i]} taken for {self.sequences[j]}" for i, j in zip(right, told, strict=True) if i != j
        }
        self.missed.update(pairs if names != right else ())

    def swapped(self, name: str, said: Mapping[str, str]) -> None:
        """One image that is another person's."""
        is_found = said.get(name) == "OTHER_PERSON"
        beside = any(code == "OTHER_PERSON" for other, code in said.items() if other != name)
        named = "WRONG_NAME" in said.values()
        self.foreign.update(["all", *["found"] * is_found, *["beside"] * beside, *["named"] * named])
        self.unseen.update([] if is_found else [name])

    def __str__(self) -> str:
        wrong, right, foreign = self.wrong, self.right, self.foreign
        missed, unseen = (
            ", ".join(f"{name} {n}" for name, n in each.most_common()) or "none" for each in (self.missed, self.unseen)
        )
        return (
            f"wrong names: {wrong['WRONG_NAME']} of {wrong['all']} doubted, the right ones told in {wrong['mended']}; "
            f"left: {missed}\n"
            f"    OTHER_PERSON is said of {wrong['OTHER_PERSON']} of them\n"
            f"right names: false alarms in {right['all'] - right['mended']} of {right['all']} for the name, "
            f"in {right['OTHER_PERSON']} for the person\n"
            f"another person's image: {foreign['found']} of {foreign['all']} found; missed: {unseen}\n"
            f"    one of the person's own is doubted beside it or instead in {foreign['beside']}, "
            f"a name in {foreign['named']}"
        )


def benchmark(subject_list: str, weights: str, bundle: str = "", others: int = 1) -> None:
    """Prints hits, misses by pair and false alarms, and the time.

    Args:
        subject_list: of scans that are named rightly; "person" of a subject says whose visit it is.
        weights: file of the network's weights.
        bundle: the method that they are of.
        others: how many other persons' images each image is replaced by.
    """
    begun, worked = time.perf_counter(), time.process_time()
    file = Path(subject_list).resolve()
    network, subjects = network_of(bundle, weights, dataset_dir=str(file.parent), subject_list=str(file))
    items = {item["subject"]: item for item in subjects.items("all")}
    persons = [[entry["subject"] for entry in entries] for entries in people(read_subjects(file)).values()]
    tally = Tally(subjects.sequences)
    for name in bar(items, desc="naming", unit="subjects"):
        for names, found in namings(network, subjects, items[name]):
            tally.named(labels_of(subjects, items[name]), names, found)
        k = next(k for k, visits in enumerate(persons) if name in visits)
        for visits in (persons[k + 1 :] + persons[:k])[:others]:
            for sequence, said in swaps(network, subjects, items[name], items[visits[0]]):
                tally.swapped(sequence, said)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {len(items)} subjects, {len(persons)} persons"
    )
    print(tally)
    print(f"{time.perf_counter() - begun:.0f} s, {time.process_time() - worked:.0f} s of processors")


if __name__ == "__main__":
    run_command(benchmark)
