"""What every method of the collection is: encode, decode, fuse, and a subject completed with them.

    representation = encode(image, source)          # once per available sequence
    image          = decode(representation, target) # once per wanted sequence

A method subclasses `TranslationNetwork` and writes `encode` and `decode` (and `fuse` and `variants`, where it has a
common space).
Data, inference, evaluation and reports know these three verbs and nothing else about a method.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from .data.series import frame_values
from .description import Description
from .layout import Layout
from .scales import Scales

if TYPE_CHECKING:
    from .data.preparation import Subjects


class Translation(NamedTuple):
    """What a training step gets back: predictions [P, c, *spatial] and the representations [N, ...] they came from."""

    prediction: Tensor
    representation: NamedTuple


def select(representation: NamedTuple, rows: Tensor) -> NamedTuple:
    """Rows of a representation's tensors, to decode one encoding to several targets."""
    return type(representation)(*(tensor[rows] for tensor in representation))


class TranslationNetwork(Layout):
    """Any sequence to any other, by 2D slices, 2.5D stacks of slices or 3D volumes.

    Images are in [0, 1] with background 0; a sequence that a subject lacks is -1 everywhere. A series has a channel for
    each of its frames; one that is missing is -1, too. So there are S sequences in C channels, as many where none is a
    series.

    Args:
        sequences: how many sequences there are, S.
        spatial_dims: 2 or 3.
        slices: adjacent slices that form one 2D input: 1 is 2D, 3 is 2.5D. Ignored in 3D.
        slice_axis: the spatial axis that is sliced, counted from the end; the last, -1, is axial in RAS.
        downsampling: what the size of an input must be a multiple of.
        frames: of each sequence, 1 of all that is no series; () if none is. Of a network that takes series `encode` has
            a third argument, how many frames will be decoded at most, and `decode` too, how many are wanted.

    Attributes:
        options: what it was made with, but for what may be chosen anew for trained weights (`CHOSEN_ANEW`).
        chosen: the latter.
    """

    CHOSEN_ANEW: tuple[str, ...] = ()
    ADDED = ("reference_spread",)  # buffers that older weights lack: they stay as they are made
    # Methods that its training calls by `forward(image, step=NAME, ...)`; their arguments have names of their own.
    TRAINING_CALLS: tuple[str, ...] = ()
    has_common_space = False  # a method that overrides `fuse` says True
    spread_alone = False  # whether `variants` say how far an image may vary, and not what it is
    __constants__ = (
        "has_common_space",
        "has_series",
        "spatial_dims",
    )  # by which TorchScript leaves out what is not run

    def __new__(cls, *args: Any, **kwargs: Any) -> TranslationNetwork:
        network = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(network, *args, **kwargs)
        given.apply_defaults()
        options = {name: value for name, value in given.arguments.items() if name != "self"}
        network.__dict__["chosen"] = {name: options.pop(name) for name in cls.CHOSEN_ANEW if name in options}
        network.__dict__["options"] = options
        return network

    @classmethod
    def as_described(cls, described: Description, subjects: Subjects | None = None, **given: Any) -> TranslationNetwork:
        """The network that weights are for, not yet with them; of a new training, the paper's.

        Args:
            described: says the options that are not given; those that it does not know are the class's defaults.
            subjects: have as many sequences and frames as the network; else `given` says it.
            given: have precedence; what contradicts the description is refused when the weights are loaded.
        """
        known = inspect.signature(cls.__init__).parameters
        if unknown := [name for name in described.network if name not in known]:
            raise ValueError(f"The weights' description has {', '.join(unknown)}, which {cls.__name__} does not know.")
        if subjects is not None:
            given |= {"sequences": len(subjects.sequences), "frames": subjects.counts}
            if "frame_values" in known:
                given["frame_values"] = frame_values(subjects.sequences, subjects.frames)
        return cls(**{**described.network, **given})

    def __init__(
        self,
        sequences: int,
        spatial_dims: int = 2,
        slices: int = 1,
        slice_axis: int = -1,
        downsampling: int = 1,
        frames: Sequence[int] = (),
    ) -> None:
        super().__init__(sequences, spatial_dims, slices, slice_axis, downsampling, frames)
        self.register_buffer("codes", torch.eye(sequences), persistent=False)  # (S, C)
        # What the training subjects' images had, for a sequence that has no scale of its own: see `scales`.
        self.register_buffer("reference_scale", torch.full((sequences, 2), float("nan")))
        self.register_buffer("reference_spread", torch.zeros(sequences, sequences))

    def scales(self) -> Scales:
        """Which scales the training's images had, on the CPU."""
        return Scales(self.reference_scale.cpu(), self.reference_spread.cpu())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name in self.ADDED:
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def encode(self, image: Tensor, source: Tensor) -> NamedTuple:
        """Image [B, c, *spatial] in [0, 1] and source code [B or 1, C] to a named tuple of tensors [B, ...]."""
        raise TypeError(f"{type(self).__name__} does not say how it encodes.")

    def decode(self, representation: NamedTuple, target: Tensor) -> Tensor:
        """Representation and target code [B, C], or [1, C] for all alike, to images [B, c, *spatial] in [0, 1]."""
        raise TypeError(f"{type(self).__name__} does not say how it decodes.")

    def fuse(self, representations: Sequence[NamedTuple], tissue: Tensor) -> list[tuple[NamedTuple, Tensor]]:
        """What to decode, each with its weight [B, X, Y, Z], when several sources are at hand.

        The default decodes every source and averages the images. A method with a common space overrides this.

        Args:
            representations: of the S' sources.
            tissue: [B, S', X, Y, Z], 1 where a source counts: what is made of its air, or of what it does not cover,
                is nothing.
        """
        return list(zip(representations, tissue.unbind(1), strict=True))

    def variants(self, representations: Sequence[NamedTuple], tissue: Tensor) -> list[tuple[NamedTuple, Tensor]]:
        """As `fuse`, where it is also asked how far an image may vary: the spread of these images is its uncertainty.

        A method with a distribution overrides this with draws from it, whose mean then is the image; with
        `spread_alone` the image is what `fuse` makes. Fewer than two: no spread.
        """
        return self.fuse(representations, tissue)

    def forward(
        self,
        image: Tensor | Sequence[Tensor],
        source: Tensor | Sequence[Tensor] | None = None,
        rows: Sequence[Tensor] | None = None,
        target: Tensor | Sequence[Tensor] | None = None,
        *,
        step: str = "",
        **inputs: Tensor,
    ) -> Any:
        """Completes a subject: image [B, C, X, Y, Z] to the same shape, each sequence made from the others.

        With `source` [N, C], it is a training step instead: images [N, c, *spatial] are encoded once each, and the
        images `rows[t]` are decoded to `target[t]` (one decoding per target: half the time of a batch of mixed ones).
        With series, `image` and `source` are lists, for each sequence that is encoded the images [n, T, c, *spatial] of
        it and their code [n or 1, C]; `target` has one [P or 1, C] for each of `rows`, and predictions are frames,
        those of an image one after the other.

        With `step`, a name of `TRAINING_CALLS`, it is that method. One entry for all, since distributed training hooks
        only `forward`.
        """
        if step:
            if step not in self.TRAINING_CALLS:
                raise ValueError(f"step is '{step}'; it must be one of {', '.join(self.TRAINING_CALLS) or 'none'}.")
            return getattr(self, step)(image, **inputs)
        if source is None:
            return self.complete_available(image)
        if self.has_series:
            return self._translate_series(image, source, rows, target)
        representation = self.encode(image, source)
        made = [self.decode(select(representation, r), target[t : t + 1]) for t, r in enumerate(rows) if len(r)]
        return Translation(torch.cat(made), representation)

    def _translate_series(
        self, images: Sequence[Tensor], source: Sequence[Tensor], rows: Sequence[Tensor], target: Sequence[Tensor]
    ) -> Translation:
        wanted = {t: self.frames[t] for t, r in enumerate(rows) if len(r)}
        parts = [self.encode(each, code, max(wanted.values())) for each, code in zip(images, source, strict=True)]
        representation = type(parts[0])(*map(torch.cat, zip(*parts, strict=True)))
        made = [self.decode(select(representation, rows[t]), target[t], n) for t, n in wanted.items()]
        return Translation(torch.cat([each.flatten(0, 1) for each in made]), representation)

    def repeated(self) -> tuple[nn.Module, int] | None:
        """What is called many times for an image, and how often, for a bar to show; None where nothing is."""
        return None

    def complete(
        self,
        image: Tensor,
        sources: Sequence[int] | None = None,
        targets: Sequence[int] | None = None,
        uncertainty: bool = False,
    ) -> Tensor:
        """The mean over the available sources of what each makes of a target; the target itself only if alone.

        It is taken voxel by voxel, over the sources that have tissue there: one may cover less than another.

        Args:
            image: [B, C, X, Y, Z].
            sources: sequences to start from, where the caller knows which are available. Default: see
                `complete_available`.
            targets: sequences to make; the others stay 0. Default: all.
            uncertainty: make its standard deviation too; needs `sources`.

        Returns:
            [B, C, X, Y, Z] in [0, 1], 0 where every such source is. With `uncertainty` [B, 2 C, X, Y, Z]: then come the
            unbiased standard deviations over the `variants`, 0 at voxels and nan for targets with fewer than two.
        """
        if sources is None:
            if uncertainty:
                raise ValueError("The uncertainty of an image is known only where its sources are; pass them.")
            return self.complete_available(image, None if targets is None else list(targets))
        self.check_size(image)
        every = self.available(image).to(image.dtype)  # (B, S)
        available = torch.stack([every[:, i] for i in sources], 1)  # (B, sources)
        targets = list(range(self.sequences) if targets is None else targets)
        present = self._present(image, every)
        representations = self._encoded(present, sources, targets)
        tissue = torch.stack([self.tissue(present, i) for i in sources], 1)
        alone = (available.sum(1) < 1.5).to(image.dtype)[:, None, None, None]
        empty = torch.zeros_like(image[:, :1])
        slots = [empty.expand(-1, self.count(j), -1, -1, -1) for j in range(self.sequences)]
        completed = slots * (2 if uncertainty else 1)
        for j in targets:
            others = [k for k, i in enumerate(sources) if i != j] or [0]
            counts = torch.stack([tissue[:, k] * alone if sources[k] == j else tissue[:, k] for k in others], 1)
            made = self._decode_fused([representations[k] for k in others], counts, j, uncertainty)
            for slot, volumes in zip((j, self.sequences + j), made, strict=False):
                completed[slot] = volumes
        return torch.cat(completed, 1)

    def _encoded(self, image: Tensor, sources: Sequence[int], targets: Sequence[int]) -> list[NamedTuple]:
        """Of each source, for those targets."""
        most = (max((self.frames[j] for j in targets), default=1),) if self.has_series else ()
        return [self.encode(self.sequence_input(image, i), self.codes[i : i + 1], *most) for i in sources]

    def complete_available(self, image: Tensor, targets: list[int] | None = None) -> Tensor:
        """`complete` with all sources that there are, told from the voxels, per sample.

        This is what is deployed. It has no branch on data, so that it can be traced, and with all that it calls it is
        written in the part of Python that TorchScript compiles.
        """
        self.check_size(image)
        available = self.available(image).to(image.dtype)  # (B, S)
        slots = list(range(self.sequences))
        present = self._present(image, available)
        tissue = torch.stack([self.tissue(present, i) for i in slots], 1)
        alone = (available.sum(1) < 1.5).to(image.dtype)[:, None, None, None]
        given = [self.sequence_input(present, i) for i in slots]
        if self.has_series:
            representations = [self.encode(given[i], self.codes[i : i + 1], max(self.frames)) for i in slots]
        else:
            representations = [self.encode(given[i], self.codes[i : i + 1]) for i in slots]
        completed = [torch.zeros_like(image[:, : self.count(j)]) for j in slots]
        for j in slots if targets is None else targets:
            counts = torch.stack([tissue[:, i] * alone if i == j else tissue[:, i] for i in slots], 1)
            if self.has_common_space:
                fused = self.fuse(representations, counts)
            else:  # as `fuse` has it, whose type a compiler cannot know before the method's own
                fused = [(representations[i], counts[:, i]) for i in slots]
            total, count = completed[j], torch.zeros_like(counts[:, 0])
            for representation, share in fused:
                if self.has_series:
                    output = self.decode(representation, self.codes[j : j + 1], self.frames[j])
                else:
                    output = self.decode(representation, self.codes[j : j + 1])
                total, count = total + share[:, None] * self.volumes(output, image.shape[0]), count + share
            completed[j] = total / torch.clamp(count, min=1)[:, None]
        return torch.cat(completed, 1)

    def __prepare_scriptable__(self) -> TranslationNetwork:
        """What `torch.jit.script` is to compile: this network as it is deployed, training set apart."""
        deployed = copy.copy(self)
        deployed.forward = self.complete_available
        return deployed

    def _decode_fused(
        self,
        representations: list[NamedTuple],
        tissue: Tensor,
        target: int,
        uncertainty: bool = False,
        known: Mapping[int, Tensor] | None = None,
    ) -> list[Tensor]:
        """What is made of the fused representations and, if wanted, how far it may vary: volumes [B, T, X, Y, Z].

        `known` has, by their ids, what representations were decoded to already.
        """

        def made_of(parts: Sequence[tuple[NamedTuple, Tensor]]) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
            volumes, shares = [], []
            for representation, share in parts:
                made = None if known is None else known.get(id(representation))
                if made is None:
                    made = self._decoded(representation, target, tissue.shape[0])
                volumes.append(made)
                shares.append(share[:, None])
            count = sum(shares)
            total = sum(share * each for share, each in zip(shares, volumes, strict=True))
            return volumes, shares, count, total / torch.clamp(count, min=1)

        if not uncertainty:
            return [made_of(self.fuse(representations, tissue))[-1]]
        volumes, shares, count, mean = made_of(self.variants(representations, tissue))
        image = made_of(self.fuse(representations, tissue))[-1] if self.spread_alone else mean
        if len(volumes) < 2:
            return [image, torch.full_like(mean, torch.nan)]
        squared = sum(share * (each - mean).square() for share, each in zip(shares, volumes, strict=True))
        return [image, (squared / torch.clamp(count - 1, min=1)).sqrt()]

    def _decoded(self, representation: NamedTuple, target: int, batch: int) -> Tensor:
        frames = (self.frames[target],) if self.has_series else ()
        return self.volumes(self.decode(representation, self.codes[target : target + 1], *frames), batch)

    def translate(
        self,
        image: Tensor,
        sources: Sequence[int],
        targets: Sequence[int],
        fused: Sequence[tuple[Sequence[int], int]] = (),
    ) -> Tensor:
        """Every source to every target, each encoded once: [B, C, X, Y, Z] to [B, sources * targets + ..., X, Y, Z], of
        a target that is a series all frames.

        For each of `fused`, several of the sources and one of the targets, a volume follows: the target as `complete`
        makes it of them, which must be available.
        """
        self.check_size(image)
        representations = self._encoded(image, sources, targets)
        tissue = torch.stack([self.tissue(image, i) for i in sources], 1)
        rows: list[list[Tensor]] = [[] for _ in sources]
        several: dict[int, Tensor] = {}
        for j in targets:
            known = {id(each): self._decoded(each, j, image.shape[0]) for each in representations}
            for k, each in enumerate(representations):
                rows[k].append(known[id(each)] * tissue[:, k, None])
            for n, together in ((n, each) for n, (each, target) in enumerate(fused) if target == j):
                k = [list(sources).index(i) for i in together]
                several[n] = self._decode_fused([representations[i] for i in k], tissue[:, k], j, known=known)[0]
        return torch.cat([*(volumes for row in rows for volumes in row), *(several[n] for n in range(len(fused)))], 1)
