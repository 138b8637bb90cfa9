"""Collects the numbers of every subject, pair of sequences and method; writes and prints them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import statistics
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import replacing, what_it_is
from .metric_names import shown_as
from .significance import Interval, interval

METHODS = ("network", "copy", "map")
CURVE = "curve"  # the rival that only series have, see `MeanCurve`
FURTHER = ("fit", "prior", "between", CURVE)  # the others: of settings of TR, TE and TI alone, see `relaxometry`
OTHERS = (csv.Error, zipfile.BadZipFile, zlib.error)  # than Python's own, that a damaged file may cause
KEYS = ("method", "subject", "source", "target")


def is_sequence(source: str) -> bool:
    """Whether a row's source is one sequence, not "others" or several as "T1+T2", nor a path such as "T1>T1Gd"."""
    return source != "others" and not {">", "+"} & {*source}


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _mean(values: Iterable[float]) -> float:
    finite = _finite(values)
    return statistics.fmean(finite) if finite else math.nan


def _shared(means: Mapping[str, Mapping[tuple[str, str], float]]) -> list[tuple[str, str]]:
    """The pairs that every method has a finite mean of: only those compare."""
    first, *_ = [*means.values(), {}]
    return [pair for pair in first if all(math.isfinite(values[pair]) for values in means.values())]


def _strict(value: Any) -> Any:
    """JSON has no nan and no inf: both become null."""
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def evaluated_again(file: Path) -> Iterator[Path]:
    """The file itself; where it cannot be read, what to do.

    Raises:
        FileNotFoundError, ValueError: it is missing, or damaged.
    """
    advice = "Evaluate again (`run evaluating`), or copy the folder again"
    try:
        yield file
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} is missing beside its like. {advice}.") from None
    except (ValueError, LookupError, TypeError, AttributeError, EOFError, *OTHERS) as error:
        reason = f"it is {seen}" if (seen := what_it_is(file)) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} is damaged ({reason}). {advice}.") from None


class ScoreTable:
    """The scores of a test set under one convention.

    A source is a sequence, "others" (all that the subject has but the target), several such as "T1+T2", or a path such
    as "T1>T1Gd".

    Args:
        convention: its name; it stands in everything that is written or printed.
        region: where the main numbers are measured, in words that can follow "PSNR".

    Attributes:
        info: what was written or read beside the numbers: weights' sha256, versions, seed, subjects ... Of these
            `held_out` names sequences never seen in training, and `translations` pairs to be listed by themselves.

    Example:
        >>> table = ScoreTable("declared")
        >>> table.add("sub-01", "network", "T1", "T2", score(pred, target, brain))
        >>> table.write(folder, info={"seed": 0})  # scores_declared.csv and scores_declared.json
        >>> table.print_table()
        >>> ScoreTable.read(folder, "declared").rows
    """

    def __init__(self, convention: str = "declared", region: str = "") -> None:
        self.convention = convention
        self.region = region
        self.info: dict[str, Any] = {}
        self._rows: dict[tuple[str, str, str, str], dict[str, float]] = {}

    @classmethod
    def read(cls, folder: str | Path, convention: str = "declared") -> ScoreTable:
        """What `write` wrote.

        Raises:
            FileNotFoundError: the folder has no scores under this convention; the message names those it has.
            ValueError: the CSV is not of the JSON's subjects, or one of them is damaged.
        """
        folder = Path(folder)
        if not (folder / f"scores_{convention}.json").exists():
            found = sorted(path.stem.removeprefix("scores_") for path in folder.glob("scores_*.json"))
            raise FileNotFoundError(
                f"{folder} has no scores under the convention '{convention}', only {', '.join(found) or 'none'}. "
                f"Make them with `run evaluating --conventions \"['{convention}']\"`."
            )
        table = cls(convention)
        with evaluated_again(folder / f"scores_{convention}.json") as file:
            table.info = json.loads(file.read_text(encoding="utf-8"))
            named, table.region = list(table.info["subjects"]), table.info.get("region", "")
        with evaluated_again(folder / f"scores_{convention}.csv") as file:
            lines = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline=""), strict=True)
            if lacking := {*KEYS} - {*(lines.fieldnames or ())}:
                raise ValueError(f"it has no column {', '.join(sorted(lacking))}")
            for line in lines:
                key = [line.pop(name) for name in ("subject", "method", "source", "target")]
                table.add(*key, {name: float(value) for name, value in line.items() if value})
        if table.subjects != named:
            raise ValueError(f"scores_{convention}.csv and .json in {folder} name different subjects; evaluate again.")
        return table

    @property
    def subjects(self) -> list[str]:
        """In order of appearance."""
        return list(dict.fromkeys(subject for _, subject, _, _ in self._rows))

    def add(self, subject: str, method: str, source: str, target: str, numbers: Mapping[str, float]) -> None:
        """Adds one row; `numbers` are those of `score`.

        Raises:
            ValueError: an unknown method, or the row is there already.
        """
        if method not in (*METHODS, *FURTHER):
            raise ValueError(f"Unknown method {method!r}; there are: {', '.join((*METHODS, *FURTHER))}")
        key = (method, subject, source, target)
        if key in self._rows:
            raise ValueError(f"Scored twice: {dict(zip(KEYS, key, strict=True))}")
        self._rows[key] = dict(numbers)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One dict per subject, pair and method: subject, method, source, target and the numbers."""
        return [dict(zip(KEYS, key, strict=True)) | numbers for key, numbers in self._rows.items()]

    @property
    def metrics(self) -> list[str]:
        """Every metric's name, in order of appearance."""
        return list(dict.fromkeys(name for numbers in self._rows.values() for name in numbers))

    def _values(self, metric: str, method: str, source: str, target: str) -> list[float]:
        pair = (method, source, target)
        return [n[metric] for (m, _, s, t), n in self._rows.items() if (m, s, t) == pair and metric in n]

    def gain(self, pairs: Iterable[tuple[str, str]]) -> Interval | None:
        """By how much PSNR the network is ahead of the intensity map: of each subject the mean over these pairs."""
        gains: dict[str, list[float]] = {}
        for (method, subject, *pair), numbers in self._rows.items():
            rival = self._rows.get(("map", subject, *pair), {})
            gain = numbers.get("psnr", math.nan) - rival.get("psnr", math.nan)
            if method == "network" and tuple(pair) in {*pairs} and math.isfinite(gain):
                gains.setdefault(subject, []).append(gain)
        return interval([statistics.fmean(values) for values in gains.values()]) if gains else None

    def summary(self) -> list[dict[str, Any]]:
        """Mean and sample standard deviation over subjects, one dict per method, source and target.

        nan (not measurable) and inf (PSNR of identical images) stay out of both; each metric says how many values
        it used, `n`, and how many it left out, `left_out`. The deviation of fewer than two values is nan.
        """
        result = []
        for method, source, target in dict.fromkeys((m, s, t) for m, _, s, t in self._rows):
            entry: dict[str, Any] = {"method": method, "source": source, "target": target}
            for metric in self.metrics:
                values = self._values(metric, method, source, target)
                finite = _finite(values)
                std = statistics.stdev(finite) if len(finite) > 1 else math.nan
                left_out = len(values) - len(finite)
                entry[metric] = {"mean": _mean(finite), "std": std, "n": len(finite), "left_out": left_out}
            result.append(entry)
        return result

    def write(self, folder: str | Path, info: Mapping[str, Any] | None = None) -> None:
        """Writes `scores_<convention>.csv`, a line per subject, pair and method, and `.json`, information and summary.

        Args:
            folder: made if it is not there.
            info: what a reader needs to trust the numbers: the weights' sha256, versions, seed, origin of the masks.
        """
        folder = Path(folder)
        lines = io.StringIO()
        writer = csv.DictWriter(lines, ["subject", "method", "source", "target", *self.metrics], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        head = {"convention": self.convention, "region": self.region, "subjects": self.subjects}
        self.info = {**(info or {}), **head, "summary": self.summary()}
        text = json.dumps(_strict(self.info), indent=2, allow_nan=False)
        texts = {f"scores_{self.convention}.csv": lines.getvalue(), f"scores_{self.convention}.json": text + "\n"}
        with contextlib.ExitStack() as together:  # neither is replaced without the other
            for name, content in texts.items():
                partial = together.enter_context(replacing(folder / name))
                partial.write_text(content, encoding="utf-8", newline="")

    def print_table(self) -> None:
        """Prints `table`."""
        print(self.table())

    def table(self) -> str:
        """The means as text: a matrix source x target, then the reconstructions, then averages over pairs."""
        pairs = dict.fromkeys((s, t) for _, _, s, t in self._rows)
        sources, targets = (list(dict.fromkeys(names)) for names in zip(*pairs, strict=True)) if pairs else ([], [])
        subjects = len({subject for _, subject, _, _ in self._rows})
        head = max([len("source"), *map(len, sources)]) + 2
        region = f", {self.region}" if self.region else ""
        ceiling = "ceiling_psnr" in self.metrics
        width, last = (24, " | reconstruction of the target") if ceiling else (16, "")
        lines = [
            f"Convention {self.convention}{region}, mean over {subjects} subject{'s' * (subjects != 1)}.",
            f"Network: PSNR (dB) / SSIM; below it the rivals' PSNR: copy | map{last}. Rows: source, columns: target.",
            "",
            "source".ljust(head) + "".join(self.marked(target).rjust(width) for target in targets),
        ]
        for source in sources:
            cells = [self._cell(source, target) for target in targets]
            for k, label in enumerate((self.marked(source), "")):
                lines.append((label.ljust(head) + "".join(cell[k].rjust(width) for cell in cells)).rstrip())
        same = [f"{s} {self._cell(s, t, True)[0]}" for s, t in pairs if s == t]
        if same:
            lines += ["", "Reconstruction (source = target): " + ", ".join(same)]
        if chosen := self.chosen():
            lines += ["", "PSNR (dB) / SSIM, mean ± standard deviation over subjects:"]
            for row in (["source", "target", *METHODS], *chosen):
                lines.append(row[0].ljust(head) + row[1].ljust(head) + "".join(cell.rjust(30) for cell in row[2:]))
        return "\n".join([*lines, "", *(self._verdict(what, of) for what, of in self.groups().items())])

    @property
    def further(self) -> list[str]:
        """The rivals that not every pair has, and that were scored."""
        return [name for name in FURTHER if any(method == name for method, *_ in self._rows)]

    def groups(self) -> dict[str, list[tuple[str, str]]]:
        """The pairs that averages are taken over, by what they are; all but the first are there only with pairs."""
        pairs = dict.fromkeys((s, t) for _, _, s, t in self._rows)
        plain = [(s, t) for s, t in pairs if is_sequence(s) and s != t]
        others = {
            "pairs to one never seen in training (*)": [(s, t) for s, t in plain if t in self.held_out],
            "pairs from one never seen (*) to a seen one": [
                (s, t) for s, t in plain if s in self.held_out and t not in self.held_out
            ],
            "sequences, each from all the others": [(s, t) for s, t in pairs if s == "others"],
        }
        seen = [(s, t) for s, t in plain if not {s, t} & {*self.held_out}]
        to_series = [pair for pair in seen if self._values("psnr", CURVE, *pair)]
        if 0 < len(to_series) < len(seen):
            others = {"pairs to a series": to_series, **others}
        return {"pairs, source != target": seen, **{what: of for what, of in others.items() if of}}

    def compared(self, pairs: Iterable[tuple[str, str]]) -> tuple[dict[str, float], int]:
        """By method that scored any, the mean PSNR over the pairs that each of them scored, and how many these are."""
        means = self._means(pairs)
        shared = _shared(means)
        return {method: _mean(values[pair] for pair in shared) for method, values in means.items()}, len(shared)

    @property
    def held_out(self) -> list[str]:
        """Sequences that training never saw, marked * as in Table 3 of the CRL paper."""
        return self.info.get("held_out", [])

    def marked(self, name: str) -> str:
        """A sequence's name, with a star if training never saw it."""
        return name + "*" * (name in self.held_out)

    def unseen_verdicts(self) -> list[str]:
        """A sentence about the pairs to, and one about those from, sequences that training never saw."""
        return [self._verdict(what, of) for what, of in self.groups().items() if "never seen" in what]

    def chosen(self) -> list[list[str]]:
        """A row per scored pair of `info["translations"]`: source, target, by method PSNR / SSIM, mean ± SD."""
        rows = []
        for source, target in self.info.get("translations", []):
            texts = [self._spread(method, source, target) for method in METHODS]
            rows += [[self.marked(source), self.marked(target), *texts]] if any(texts) else []
        return rows

    def _spread(self, method: str, source: str, target: str) -> str:
        texts = []
        for metric, digits in (("psnr", 2), ("ssim", 3)):
            if values := _finite(self._values(metric, method, source, target)):
                std = f"{statistics.stdev(values):.{digits}f}" if len(values) > 1 else "-"
                texts.append(f"{statistics.fmean(values):.{digits}f} ± {std}")
        return " / ".join(texts)

    def _cell(self, source: str, target: str, diagonal: bool = False) -> tuple[str, str]:
        """A pair's two lines: the network's PSNR / SSIM, and the rivals' PSNR; the matrix leaves the diagonal open."""
        if source == target and not diagonal:
            return "--", ""
        if not self._values("psnr", "network", source, target):
            return "", ""
        psnr = [_mean(self._values("psnr", method, source, target)) for method in METHODS]
        ssim = _mean(self._values("ssim", "network", source, target))
        if ceiling := self._values("ceiling_psnr", "network", source, target):
            psnr.append(_mean(ceiling))
        network, *others = ("-" if math.isnan(value) else f"{value:.2f}" for value in psnr)
        return f"{network} / {'-' if math.isnan(ssim) else f'{ssim:.3f}'}", " | ".join(others)

    def _means(self, pairs: Iterable[tuple[str, str]]) -> dict[str, dict[tuple[str, str], float]]:
        """By method that scored any of these pairs, its mean PSNR of each."""
        of_each = all(self._values("psnr", CURVE, *pair) for pair in pairs)  # else the others' pairs would be fewer
        methods = [method for method in (*METHODS, *self.further) if method != CURVE or of_each]
        means = {m: {pair: _mean(self._values("psnr", m, *pair)) for pair in pairs} for m in methods}
        return {method: values for method, values in means.items() if _finite(values.values())}

    def _verdict(self, what: str, pairs: list[tuple[str, str]]) -> str:
        """Averages over the pairs that every method scored: only those compare."""
        means = self._means(pairs)
        shared = _shared(means)
        if not means or not shared:
            return f"None of the {what}, that every method scored."
        averages = ", ".join(f"{method} {_mean(values[p] for p in shared):.2f}" for method, values in means.items())
        line = f"Mean over {len(shared)} of {len(pairs)} {what}: {averages} dB"
        if {"network", "map"} <= means.keys():
            wins = sum(means["network"][pair] > means["map"][pair] for pair in shared)
            line += f"; network ahead of the map for {wins}"
        gain = self.gain(shared)
        texts = [f"network - map by subject: {gain}"] if gain else []
        for metric in [name for name in ("ssim", "nmse", "lpips", "spectrum") if name in self.metrics]:
            values = {m: _mean(_mean(self._values(metric, m, *pair)) for pair in shared) for m in means}
            texts.append(f"{shown_as(metric).label} " + ", ".join(f"{m} {value:.3f}" for m, value in values.items()))
        return "\n  ".join([line + ".", *texts])
