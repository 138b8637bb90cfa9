"""From windows that fit into memory to whole subjects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, combinations, pairwise
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from ..data.series import count_frames
from ..distributed import unwrapped
from ..layout import is_available
from ..memory import advising
from ..options import switch, words
from ..progress import bar
from ..translation import TranslationNetwork
from .progress import WholeInferer, WindowInferer

FEWER = ("fewer --targets at a time",)


def slab_starts(depth: int, slices: int, every: int = 1) -> list[int]:
    """Where slabs of a volume begin; of them, counted from the middle one both ways, each `every`-th."""
    middle = depth // 2 // slices
    return [start for k, start in enumerate(range(0, depth, slices)) if (k - middle) % every == 0]


class SlabInferer(Inferer):
    """Slabs of full slices for 2D and 2.5D networks, equal to the whole volume at once.

    Slices are never cut in plane, since that would change what instance normalisation sees. A slab carries the
    neighbours that its outer slices need; their own results are dropped.

    Args:
        slices: slices per slab, which bounds the memory.
        margin: neighbours a slice needs on each side (1 for stacks of 3).
        slice_axis: spatial axis that is sliced, counted from the end.
        device: where the whole result is gathered.
        progress: show a bar.
        every: which of the slabs are made, see `slab_starts`; the others are 0.
    """

    def __init__(
        self,
        slices: int = 16,
        margin: int = 1,
        slice_axis: int = -1,
        device: str = "cpu",
        progress: bool = False,
        every: int = 1,
    ) -> None:
        self.slices = slices
        self.every = every
        self.margin = margin
        self.slice_axis = slice_axis
        self.device = device
        self.progress = progress

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        depth, axis = inputs.shape[self.slice_axis], self.slice_axis
        made = torch.empty(0)
        shown = {} if self.progress else {"disable": True}
        for start in bar(slab_starts(depth, self.slices, self.every), desc="slabs", unit="slabs", leave=False, **shown):
            stop = min(start + self.slices, depth)
            first, last = max(start - self.margin, 0), min(stop + self.margin, depth)
            output = network(inputs.narrow(axis, first, last - first), *args, **kwargs)
            if not made.numel():
                shape = list(output.shape)
                shape[axis] = depth
                made = output.new_zeros(shape, device=self.device)
            made.narrow(axis, start, stop - start).copy_(output.narrow(axis, start - first, stop - start))
        return made


class AdvisingInferer(Inferer):
    """Another inferer; where memory runs out it names `ways` to need less (`common.memory.advising`)."""

    def __init__(self, inferer: Inferer, ways: Sequence[str]) -> None:
        self.inferer, self.ways = inferer, ways

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        with advising(self.ways):
            return self.inferer(inputs, network, *args, **kwargs)


class SubjectInferer(Inferer):
    """Base of what works on a whole subject, by windows that fit its network.

    Args:
        inferer: any of MONAI's; None is that which fits: `SlabInferer` for 2D and 2.5D networks,
            `monai.inferers.SlidingWindowInferer` for 3D ones, or without a `roi_size` the whole volume at once; each
            with a bar.
        roi_size: of a 3D window.
        slab: slices of a slab.
        every: which of the slabs are made, see `slab_starts`.
    """

    def __init__(
        self,
        inferer: Inferer | None = None,
        roi_size: Sequence[int] | None = None,
        slab: int = 16,
        every: int = 1,
    ) -> None:
        self.inferer, self.roi_size, self.slab, self.every = inferer, roi_size, slab, every

    def windows(self, network: TranslationNetwork) -> Inferer:
        """The inferer of a network, which says what to do where memory runs out; volumes are gathered on the CPU."""
        if self.inferer is not None:
            return AdvisingInferer(self.inferer, FEWER)
        if self.roi_size is None:
            return AdvisingInferer(WholeInferer(network.repeated()), getattr(network, "less_memory", FEWER))
        if network.spatial_dims == 2:
            margin = network.slices // 2
            slabs = SlabInferer(self.slab, margin, network.slice_axis, progress=True, every=self.every)
            return AdvisingInferer(slabs, [f"a smaller --slab than {self.slab}"] if self.slab > 1 else FEWER)
        cpu = torch.device("cpu")
        sliding = WindowInferer(self.roi_size, overlap=0.5, mode="gaussian", device=cpu)
        return AdvisingInferer(sliding, [f"a smaller --roi_size than {list(self.roi_size)}"])


def tell_frames(engine: Engine) -> None:
    """Before an engine's subject: a network that is told times and b values is told this one's."""
    network, values = unwrapped(engine.network), engine.state.batch.get("frame_values")
    if values is not None and getattr(network, "is_told", False):
        network.tell(values[0])


class CompletionInferer(SubjectInferer):
    """Completes one subject: decides from its whole image what is there, and computes only what is wanted.

    Args:
        sequences: S names, in the network's order.
        targets: see `split_frames`. All frames of a series are made, whichever are wanted: each follows from the last.
        uncertainty: add S channels with the standard deviations, see `TranslationNetwork.complete`. Where windows
            overlap, theirs are averaged.
        inferer, windows: see `SubjectInferer`.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        targets: str | Sequence[str] | None = None,
        inferer: Inferer | None = None,
        uncertainty: bool | str = False,
        **windows: Any,
    ) -> None:
        super().__init__(inferer, **windows)
        self.targets, _ = split_frames(targets)
        resolve_targets(self.targets, sequences, ())  # unknown names are known before any work is done
        self.sequences = sequences
        self.uncertainty = switch(uncertainty, "uncertainty")

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        network = unwrapped(network)
        available = available_sequences(inputs, network)
        targets = resolve_targets(self.targets, self.sequences, available)
        if not targets:
            return with_meta(torch.zeros(inputs.shape), inputs)
        complete = partial(network.complete, sources=available, targets=targets)
        if self.uncertainty:
            complete = partial(complete, uncertainty=True)
        return with_meta(self.windows(network)(plain(inputs), complete), inputs)


class Route(NamedTuple):
    """One way to a sequence: from one `sources`, from several fused, or from one by way of others made in between."""

    sources: tuple[int, ...]
    via: tuple[int, ...]
    target: int

    def given(self, available: Sequence[int], count: int) -> tuple[int, ...]:
        """Its sources for a subject: of all `count` - 1 others those that are available, else all or none."""
        found = tuple(i for i in self.sources if i in available)
        return found if len(self.sources) in (len(found), count - 1) else ()


class MatrixInferer(SubjectInferer):
    """Every available source to every sequence, [1, C, X, Y, Z] to [1, S * S + ..., X, Y, Z]: a channel per route, of
    routes to a series one for each of its frames.

    First the S * S pairs, rows being sources; each source is encoded once for them. Then, if wanted, S channels of
    each sequence as `complete` makes it from all the others, or also from each several of them, then one channel per
    path. Channels that the subject lacks the sources for are 0.

    Args:
        sequences: S names, in the network's order.
        inferer, windows: see `SubjectInferer`.
        multi_source: add the S channels made from all others; "subsets" adds those made from two or more of them, too.
        paths: multi-step translations, such as ["T1", "T1Gd", "T2"]: T2 from the T1Gd that was made from T1; one, or a
            list of them.

    Attributes:
        routes: what each channel is.

    Raises:
        ValueError: a path is shorter than three sequences, or names one that is not in `sequences`.
    """

    def __init__(
        self,
        sequences: Sequence[str],
        inferer: Inferer | None = None,
        multi_source: bool | str = False,
        paths: Sequence[Sequence[str]] = (),
        **windows: Any,
    ) -> None:
        super().__init__(inferer, **windows)
        every = range(len(sequences))
        self.routes = [Route((i,), (), j) for i in every for j in every]
        others = [[i for i in every if i != j] for j in every]
        several = multi_source == "subsets" or switch(multi_source, 'multi_source (or "subsets")')
        if several and len(sequences) > 2:  # of two, the other one is the pair that there is already
            self.routes += [Route(tuple(others[j]), (), j) for j in every]
        if multi_source == "subsets":
            sizes = range(2, len(sequences) - 1)
            self.routes += [Route(few, (), j) for size in sizes for j in every for few in combinations(others[j], size)]
        paths = words(paths)
        for path in [paths] if paths and all(isinstance(name, str) for name in paths) else paths:
            if len(path) < 3:
                raise ValueError(f"The path {' > '.join(path)} is no multi-step translation: name three or more.")
            first, *via, last = resolve_targets(path, sequences, ())
            self.routes.append(Route((first,), tuple(via), last))

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        network, image = unwrapped(network), plain(inputs)
        available, count = available_sequences(inputs, network), network.sequences
        ends = list(accumulate((network.count(route.target) for route in self.routes), initial=0))
        places = [torch.arange(*pair) for pair in pairwise(ends)]
        made = torch.zeros(1, ends[-1], *image.shape[2:])
        several = {c: r.given(available, count) for c, r in enumerate(self.routes) if len(r.sources) > 1}
        several = {channel: sources for channel, sources in several.items() if sources}
        if several:
            fused = [(sources, self.routes[channel].target) for channel, sources in several.items()]
            every = {"sources": available, "targets": range(count), "fused": fused}
            whole = self.windows(network)(image, partial(network.translate, **every))
            channels = [i * count + j for i in available for j in range(count)]
            made[:, torch.cat([places[channel] for channel in (*channels, *several)])] = whole.to(made)
        else:
            for i in available:  # a row at a time bounds the memory
                row = torch.cat(places[i * count : (i + 1) * count])
                made[:, row] = self._translate(network, image, i, range(count)).to(made)
        for channel, route in enumerate(self.routes):
            if route.via and route.sources[0] in available:
                step = image.clone()
                first = places[route.sources[0] * count + route.via[0]]
                network.channels(step, route.via[0]).copy_(made[:, first])
                for i, j in pairwise((*route.via, route.target)):
                    network.channels(step, j).copy_(self._translate(network, step, i, [j]))
                made[:, places[channel]] = network.channels(step, route.target).to(made)
        return with_meta(made, inputs)

    def _translate(self, network: TranslationNetwork, image: Tensor, source: int, targets: Sequence[int]) -> Tensor:
        return self.windows(network)(image, partial(network.translate, sources=[source], targets=targets))


def available_sequences(inputs: Tensor, network: TranslationNetwork | None = None) -> list[int]:
    """Indices of the network's sequences that the one subject of a batch has, of a series any frame.

    Without a network none is a series.
    """
    if len(inputs) != 1:
        raise ValueError(f"One subject at a time, not a batch of {len(inputs)}: their sequences may differ.")
    found = (network.available if network else is_available)(inputs)[0].nonzero()[:, 0].tolist()
    if not found:
        raise ValueError("The subject has none of the sequences that this network knows.")
    return found


def resolve_targets(
    targets: str | Sequence[str] | None, sequences: Sequence[str], available: Sequence[int]
) -> list[int]:
    """Indices of the sequences to make: None is what the subject lacks, "all" is every one, else one name or several.

    Raises:
        ValueError: a name is not among `sequences`.
    """
    if targets is None or targets == "all":
        return [j for j in range(len(sequences)) if targets == "all" or j not in available]
    names = words(targets)
    unknown = [name for name in names if name not in sequences]
    if unknown:
        raise ValueError(f"targets has {', '.join(unknown)}; this network makes {', '.join(sequences)}.")
    return [list(sequences).index(name) for name in names]


def split_frames(
    targets: str | Sequence[str] | None, frames: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[str | list[str] | None, dict[str, list[int]]]:
    """Targets that may be frames of a series, "DCE:3": what `resolve_targets` takes, and by name which frames, from 0.

    A series that is named alone, too, is wanted whole.

    Raises:
        ValueError: a frame is no number above 0, or is not among the `frames` of the series, where these are given.
    """
    if targets is None or targets == "all":
        return targets, {}
    named = [word.partition(":") for word in words(targets)]
    if bad := ["".join(each) for each in named if each[1] and not (each[2].isdecimal() and int(each[2]))]:
        raise ValueError(f"targets has {', '.join(bad)}; a frame is a number from 1 on, as in DCE:3.")
    counts = {name: count_frames((frames or {}).get(name, {})) for name, _, _ in named} if frames is not None else {}
    if beyond := next((each for each in named if each[2] and int(each[2]) > counts.get(each[0], math.inf)), None):
        raise ValueError(f"targets has {''.join(beyond)}, but this network makes {counts[beyond[0]]} of {beyond[0]}.")
    names = list(dict.fromkeys(name for name, _, _ in named))
    frames = {name: sorted({int(k) - 1 for other, _, k in named if other == name and k}) for name in names}
    return names, {name: ks for name, ks in frames.items() if ks and (name, "", "") not in named}


def sources_of(target: int, available: Sequence[int]) -> list[int]:
    """The sequences that a target is made from: the others, or itself where a subject has nothing else."""
    return [i for i in available if i != target or len(available) == 1]


def plain(image: Tensor) -> Tensor:
    """Without MetaTensor's bookkeeping, which every operation of a network would repeat."""
    return image.as_tensor() if isinstance(image, MetaTensor) else image


def with_meta(result: Tensor, image: Tensor) -> Tensor:
    """The result with the image's affine and history, without which `Invertd` leaves it as it is, and only warns."""
    return MetaTensor(result).copy_meta_from(image) if isinstance(image, MetaTensor) else result
