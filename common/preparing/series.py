"""Which contrast a series is, by rules on its sidecar and its description; what no rule is sure of is left out.

>>> told({"SeriesDescription": "ax T2 FLAIR"}, (256, 256, 30))
('FLAIR', 'its description')
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..data.acquisition import BIDS, check_parameters, in_ms, parameters_by_name, said_by
from ..data.grids import as_text

FEWEST = 8  # slices that a volume of a brain has at least
CRITERIA = "original before reformatted, thin slices before thick, small voxels before large, the last before the first"

logger = logging.getLogger(__name__)


@dataclass
class Series:
    """One image as the scanner, or a converter, left it.

    Attributes:
        name: by which `--map` and the table call it.
        file: NIfTI; None where there is none, for the reason `refused`.
        said: the sidecar's fields, by their BIDS names, times in s.
        shape, spacing: voxels, and their size in mm.
        source: what a later run finds it by.
        sequence: which contrast it is, "" if it is left out.
        reason: for that.
        refused: why it cannot be taken, not even by `--map`.
    """

    name: str
    file: Path | None
    said: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)
    sequence: str = ""
    reason: str = ""
    refused: str = ""


class Facts(NamedTuple):
    """What the rules look at: words in lower case, values of ImageType, times in ms (0: not known)."""

    text: str
    kinds: frozenset[str]
    scanning: str
    tr: float
    te: float
    ti: float
    shape: tuple[int, ...]
    agent: str

    def has(self, words: str) -> bool:
        return re.search(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", self.text) is not None


# Words of `Facts.has`: between what is neither letter nor digit.
LOCALISER = r"loc\w*|scout\w*|survey\w*|smartbrain|planning|3-?plane?|aahead\w*|calib\w*|assets?|ref(erence)? scan"
MAP = r"adc|e?adc map|fa|colfa|trace\w?|[ct]bf|cbv|mtt|ttp|tmax|mi?nip|mips?|sub(tract\w*)?|t[12]\*? ?map\w*|b0 ?map\w*"
OTHER = {
    "diffusion": r"dwi|dti|diff\w*|ep2d|b ?\d{3,4}|resolve",
    "susceptibility": r"swi|swan|qsm|t2[ _-]?(?:\*|star)\w*|hemo|me?dic|venobold",
    "an angiography": r"tof\w*|mra|mrv|angio\w*|pc3d|fl_?tof\w*",
    "perfusion or function": r"asl|pasl|pcasl|dsc|perf\w*|dce|bold|fmri|rest\w*",
    "another contrast": r"stir|dir|psir|mt|mtr|mp2rage\w*|ciss|fiesta|mrs|svs|csi|fieldmap\w*|field ?mapping",
}
MAP_KINDS = {"ADC", "FA", "TRACEW", "COLFA", "CBF", "CBV", "MTT", "TTP", "TMAX", "MIP", "MINIP", "SUBTRACTION", "MAP"}
PHASE_KINDS = {"P", "PHASE", "PHASE MAP", "IMAGINARY", "REAL", "I", "R"}


class Rule(NamedTuple):
    """What is left out, and why in words that follow its name."""

    reason: str
    fits: Callable[[Facts], bool]


LEFT_OUT = (
    Rule("made by a network", lambda f: "synthesi" in f.text),
    Rule("a mask", lambda f: f.has(r"\w*mask|seg\w*|labels?|lesions?")),
    Rule("a localiser", lambda f: f.has(LOCALISER) or "LOCALIZER" in f.kinds),
    Rule("a mosaic", lambda f: "MOSAIC" in f.kinds),
    Rule("phase, or a part of a complex image", lambda f: bool(PHASE_KINDS & f.kinds) or f.has("phase|imag|real")),
    Rule("a map, made from other images", lambda f: bool(MAP_KINDS & f.kinds) or f.has(MAP)),
    Rule("a screen shot or a report", lambda f: bool({"SCREEN SAVE", "CSA REPORT", "OTHER"} & f.kinds)),
    Rule("more than one volume", lambda f: len(f.shape) > 3 and f.shape[3] > 1),
    Rule(f"fewer than {FEWEST} slices, no volume", lambda f: min((*f.shape[:3], FEWEST)) < FEWEST),
    *(Rule(what, lambda f, words=words: f.has(words)) for what, words in OTHER.items()),
    Rule("echo-planar", lambda f: "EP" in re.split(r"\W|_", f.scanning)),
)
AGENT = r"\+ ?c|c ?\+|ce|gd|gado?\w*|post\w*|contrast|km|mit km|enhanced|t1ce?|t1gd|t1_?post|t1c\+?"
NO_AGENT = r"pre\w*|without\w*|w/?o|no|non|nativ\w*|ohne\w*|plain"
T1 = r"t1\w*|mp-?rage\w*|bravo|f?spgr\w*|vibe\w*|tfe3d|3d ?tfe"
FLAIR = r"flair\w*|t2_?flair\w*|tirm\w*|dark[ _-]?fluid|da-fl"


def told(said: Mapping[str, Any], shape: Sequence[int], name: str = "") -> tuple[str, str]:
    """A series' sequence and what tells it, or "" and why it is left out.

    Args:
        said: the sidecar's fields.
        shape: [X, Y, Z] or [X, Y, Z, T].
        name: the file's, where nothing else is said.
    """
    facts = facts_of(said, shape, name)
    if reason := next((rule.reason for rule in LEFT_OUT if rule.fits(facts)), ""):
        return "", reason
    named, timed = _by_name(facts), _by_times(facts)
    if named and timed and named not in timed:
        times = f"TR {facts.tr:g}, TE {facts.te:g}, TI {facts.ti:g} ms"
        return "", f"its description says {named}, but {times} are those of {' or '.join(timed)}"
    found = named or (timed[0] if len(timed) == 1 else "")
    if not found:
        return "", "neither description nor times say what it is"
    how = "its description" if named else "its times"
    agent = facts.agent or (facts.has(AGENT) and not facts.has(NO_AGENT))
    return ("T1Gd", f"{how}, with a contrast agent") if found == "T1" and agent else (found, how)


def facts_of(said: Mapping[str, Any], shape: Sequence[int], name: str = "") -> Facts:
    """The facts of a sidecar."""
    fields = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
    words = " ".join(str(said[field]) for field in fields if said.get(field)) or name
    words += " synthesised" if "synthesi" in str(said.get("DerivationDescription", "")).lower() else ""
    times = {key: said.get(key_of) for key, key_of in BIDS.items()}
    tr, te, ti = (round(1000 * value, 3) if isinstance(value, int | float) else 0.0 for value in times.values())
    kinds = said.get("ImageType") or ()
    kinds = kinds.split("\\") if isinstance(kinds, str) else kinds
    agent = str(said.get("ContrastBolusAgent") or said.get("ContrastBolusIngredient") or "")
    agent = "" if re.fullmatch(r"\s*(no\w*|0|-|without.*|ohne.*)?\s*", agent, re.I) else agent
    text = re.sub(r"(?<=[a-z0-9])_(?=[a-z0-9])|[\s/]+", " ", words.lower())
    return Facts(
        text, frozenset(str(kind).upper() for kind in kinds), str(said.get("ScanningSequence", "")).upper(), tr, te, ti,
        tuple(shape), agent,
    )  # fmt: skip


def _by_name(facts: Facts) -> str:
    if facts.has(T1) or facts.has("t1ce|t1c|t1gd"):  # also of a "T1 FLAIR", whose short TI darkens fluid alone
        return "T1"
    if facts.has(FLAIR):
        return "FLAIR"
    if facts.has(r"t2\w*"):
        return "T2"
    return "PD" if facts.has(r"pd\w*|proton\w*") else ""


def _by_times(facts: Facts) -> tuple[str, ...]:
    """The contrasts that go with TR, TE and TI; none where these are not known, several where they do not decide."""
    gradient = "GR" in facts.scanning
    if not facts.tr or not facts.te:
        return ()
    if facts.te >= 60:
        if facts.ti >= 1400:
            return ("FLAIR",)
        known = facts.scanning and "IR" not in facts.scanning
        return ("T2",) if known and not facts.ti else ("T2", "FLAIR")
    if facts.te >= 35:
        return ("PD", "T2", "T1")
    if facts.tr >= 1800 and not facts.ti and not gradient:
        return ("PD",) if facts.scanning else ("PD", "T1")
    return ("T1",)


def choose(series: Sequence[Series], wanted: Mapping[str, str] | None = None) -> dict[str, Series]:
    """One series per sequence; what each one is and why is noted in it.

    Args:
        series: where `sequence` is known already, it stays.
        wanted: by sequence, the name of a series that the user has chosen; "" leaves the sequence out.

    Raises:
        ValueError: there is no such series, or it cannot be taken.
    """
    wanted = dict(wanted or {})
    for each in series:
        if each.refused:
            each.sequence, each.reason = "", each.refused
        elif not each.sequence:
            each.sequence, each.reason = told(each.said, each.shape, each.name)
    for sequence, name in wanted.items():
        _map(series, sequence, name)
    chosen = {}
    for sequence in dict.fromkeys(each.sequence for each in series if each.sequence):
        best, *others = sorted((each for each in series if each.sequence == sequence), key=_rank, reverse=True)
        chosen[sequence] = best
        for each in others:
            each.sequence, each.reason = "", f"{sequence} is taken from {best.name} ({CRITERIA})"
    return chosen


def _map(series: Sequence[Series], sequence: str, name: str) -> None:
    """What the user says a sequence is."""
    for each in series:
        if each.sequence == sequence:
            each.sequence, each.reason = "", f"--map takes {sequence} from {name or 'none'}"
    if not name:
        return
    known = {each.name: each for each in series}
    found = known.get(name) or known.get(f"series{name}")
    if found is None:
        raise ValueError(f"--map {sequence}={name}: there is no such series; there are: {', '.join(known)}.")
    if found.refused:
        raise ValueError(f"--map {sequence}={name}: {found.refused}.")
    found.sequence, found.reason = sequence, "--map"


def _rank(series: Series) -> tuple:
    kinds = facts_of(series.said, series.shape).kinds
    original = not kinds & {"DERIVED", "SECONDARY", "MPR"} or "ORIGINAL" in kinds
    mapped = series.reason == "--map"
    thickness, *others = sorted((round(size, 1) for size in series.spacing[:3]), reverse=True) or (0.0,)
    return mapped, original, -thickness, tuple(-size for size in others), series.name.zfill(12)


def table(series: Iterable[Series]) -> list[tuple[str, ...]]:
    """A row per series: name, description, times in ms, grid, and what it is or why it is left out."""
    rows = [("series", "description", "TR", "TE", "TI", "voxels", "mm", "taken as", "because")]
    for each in series:
        facts = facts_of(each.said, each.shape)
        times = tuple(f"{time:g}" if time else "-" for time in (facts.tr, facts.te, facts.ti))
        grid = (as_text(each.shape) if each.shape else "-", as_text([round(size, 2) for size in each.spacing[:3]]))
        described = str(each.said.get("SeriesDescription") or each.said.get("ProtocolName") or "-")
        rows.append((each.name, described, *times, *grid, each.sequence or "left out", each.reason))
    return rows


def as_lines(rows: Sequence[Sequence[str]]) -> str:
    """A table in columns for a terminal."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def times_of(said: Mapping[str, Any], where: str) -> dict[str, float]:
    """TR, TE, TI and FA for a subject list, of a sidecar that has TR and TE; {}, aloud, of what is not plausible."""
    try:
        values = {name: value for name, value in in_ms(said_by(said, where)).items() if value}
        ti, flip = (values.get(name, 0.0) for name in ("TI", "FA"))
        return parameters_by_name(check_parameters(values["TR"], values["TE"], ti, flip, where=where))
    except KeyError:
        return {}
    except ValueError as error:
        logger.warning(f"The list will not say TR, TE and TI of {where}: {error}")
        return {}
