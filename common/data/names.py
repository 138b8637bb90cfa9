"""What the names of files say: the layouts of the data sets that are known, and patterns for any other.

A layout is a function from a file's path, relative to the root and with POSIX slashes, to a `Match` or to None when
the layout does not know the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_PATTERN = "{subject}/{sequence}.nii.gz"
SEQUENCES = {
    "T1": ("t1", "t1n", "t1w"),
    "T1Gd": ("t1gd", "t1ce", "t1c", "t1post"),
    "T2": ("t2", "t2w"),
    "FLAIR": ("flair", "t2f", "t2_flair", "t2w_flair", "t2flair", "fla"),
    "PD": ("pd", "pdw"),
    "DCE": ("dce",),
    "DWI": ("dwi",),
    "ASL": ("asl",),
    "wash-in": ("wash-in", "wash_in", "washin"),
    "wash-out": ("wash-out", "wash_out", "washout"),
}
MASKS = {
    "brain": ("brain_mask", "brainmask", "brain", "mask"),
    "lesion": ("lesion_mask", "lesion"),
    "tumour": ("seg", "tumour_mask", "tumor_mask", "tumour", "tumor"),
}
BIDS_SUFFIXES = {"anat": ("T1w", "T2w", "FLAIR", "PDw", "mask"), "dwi": ("dwi",), "perf": ("asl", "dce")}
WHOLE_WORDS = ("fla", "seg", "mask", "brain")  # which other words begin with, or hold
# What a lower-case text in a file name means: the entry's field and the name in it.
KNOWN = {
    alias: (field, name)
    for field, kinds in (("images", SEQUENCES), ("masks", MASKS))
    for name, aliases in kinds.items()
    for alias in aliases
}


@dataclass(frozen=True)
class Match:
    """What one file is: `field` is "images" or "masks", `name` the sequence or mask; each visit of a `person` is a
    `subject` of its own. `frame` is the number of its one frame, where its name says it."""

    person: str
    subject: str
    field: str
    name: str
    frame: int | None = None


Layout = Callable[[str], Match | None]


def person_of(subject: str) -> str:
    """Whose visit a subject is, where the names of a data set say so: BraTS 2023 and later (`BraTS-GLI-00001-000`, the
    last number being the visit) and UCSF-PDGM's follow-ups (`UCSF-PDGM-0429_FU001d`)."""
    brats = re.fullmatch(r"(BraTS(?:-[A-Za-z]+)+-\d+)-\d+", subject, re.I)
    return brats[1] if brats else re.sub(r"_FU\d+[a-z]?$", "", subject)


def brats(path: str) -> Match | None:
    """BraTS 2021 (`BraTS2021_00001_t1ce`) and 2023 (`BraTS-GLI-00001-000-t1c`; the last number is the visit)."""
    found = re.fullmatch(r"(brats.+?)[_-](t1ce|t1c|t1n|t1|t2w|t2f|t2|flair|seg)\.nii(\.gz)?", Path(path).name, re.I)
    if not found:
        return None
    subject, name = found[1], found[2].lower()
    return Match(person_of(subject), subject, *KNOWN[name])


def ixi(path: str) -> Match | None:
    """IXI (`IXI-T1/IXI002-Guys-0828-T1.nii.gz`): T1, T2 and PD; its MRA and DTI are no contrasts to translate."""
    found = re.fullmatch(r"((IXI\d+)-\w+-\d+)-(T1|T2|PD)(?i:\.nii(\.gz)?)", Path(path).name)
    return Match(found[2], found[1], "images", found[3]) if found else None


def bids(path: str) -> Match | None:
    """BIDS (`sub-01/ses-02/anat/sub-01_ses-02_T1w.nii.gz`): magnitude T1w, T2w, FLAIR, PDw; T1w with ce-gadolinium;
    the series `dwi/*_dwi`, `perf/*_asl` and `*_dce`, and runs of T1w with acq-dce or desc-dce, one per frame."""
    found = re.fullmatch(r"(sub-[^/_]+)/(?:(ses-[^/_]+)/)?(anat|dwi|perf)/(sub-[^/]+)_(\w+)(?i:\.nii(\.gz)?)", path)
    if not found or found[5] not in BIDS_SUFFIXES[found[3]]:
        return None
    subject = "_".join(filter(None, found.group(1, 2)))
    entities = dict(part.partition("-")[::2] for part in found[4].split("_"))
    dynamic = "dce" in (entities.get("acq", "").lower(), entities.get("desc", "").lower())
    if dynamic and found[5] == "T1w" and entities.get("run", "").isdigit():
        return Match(found[1], subject, "images", "DCE", int(entities["run"]))
    agent, field, name = entities.get("ce", "").lower(), *KNOWN[found[5].lower()]
    if agent and name == "T1" and agent.startswith(("gad", "gd")):
        name = "T1Gd"
    elif agent or entities.get("part", "mag") != "mag" or (field == "masks" and entities.get("desc") != "brain"):
        return None
    return Match(found[1], subject, field, name)


def from_pattern(pattern: str, names: Mapping[str, str] | None = None) -> Layout:
    """The layout that a pattern such as "{subject}/{subject}_{sequence}.nii.gz" describes (see `make_list`).

    Without {subject} all files that fit are one subject's, whose name is left empty: it is the root's. {frame} is a
    number. Where no text of the names tells the sequence, as in "{subject}_{frame}.nii.gz", `names` has it for "".
    """
    if "{sequence}" not in pattern and "" not in (names or {}):
        raise ValueError(
            f"The pattern {pattern!r} lacks {{sequence}}: write something like {DEFAULT_PATTERN!r}, or say which one "
            """all files are with --names '{"": "DCE"}'"""
        )
    own = {str(text).lower(): ("masks" if name in MASKS else "images", name) for text, name in (names or {}).items()}
    known = {**KNOWN, **own}
    # Only known texts can be {sequence}: so "A_lesion_mask" is subject A, and "BraTS_1_t1" is subject BraTS_1.
    # `T1_brain` is a T1 without its skull, and no mask: so alone "brain" is one.
    masks = [text for text, (field, _) in known.items() if field == "masks" and text != "brain"]
    images = [text for text, (field, _) in known.items() if field == "images"]
    expressions = [_expression(pattern, texts) for texts in (masks, images, ["brain"])]

    def match(path: str) -> Match | None:
        found = next(filter(None, (re.fullmatch(expression, path) for expression in expressions)), None)
        if not found:
            return None
        parts = {"subject": "", **found.groupdict()}
        subject = "_".join(filter(None, (parts["subject"], parts.get("session"))))
        person = parts["subject"] if parts.get("session") else person_of(subject)
        frame = int(parts["frame"]) if parts.get("frame") else None
        return Match(person, subject, *known[parts.get("sequence", "").lower()], frame)

    return match


def _expression(pattern: str, texts: Sequence[str]) -> str:
    """A pattern with some of the texts for {sequence} as a regular expression; longer texts go first."""
    words = (
        rf"(?<![a-z0-9]){re.escape(text)}(?![a-z0-9])" if text in WHOLE_WORDS else re.escape(text)
        for text in sorted(texts, key=len, reverse=True)
    )
    groups = {"subject": "[^/]+?", "session": "[^/]+?", "frame": r"\d+", "sequence": f"(?i:{'|'.join(words)})"}
    expression = re.escape(pattern).replace(r"\*", "[^/]*")
    if pattern.endswith((".nii", ".nii.gz")):
        ending = r"(?i:\.nii(\.gz)?)" if pattern.endswith(".gz") else r"(?i:\.nii)"
        expression = expression.removesuffix(r"\.gz").removesuffix(r"\.nii") + ending
    for name, group in groups.items():
        placeholder = re.escape(f"{{{name}}}")
        expression = expression.replace(placeholder, f"(?P<{name}>{group})", 1).replace(placeholder, f"(?P={name})")
    return expression


LAYOUTS: dict[str, Layout] = {"brats": brats, "ixi": ixi, "bids": bids, "folder": from_pattern("{sequence}.nii.gz")}
