"""A subject's images at any wanted parameters, each source at the parameters that it was acquired with."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.engines import default_prepare_batch
from monai.inferers import Inferer
from torch import Tensor, nn

from .common.data.acquisition import BIDS
from .common.data.normalisation import unscale
from .common.distributed import unwrapped
from .common.inference.engine import CompletionEvaluator
from .common.inference.inferers import SubjectInferer, available_sequences, plain, sources_of, with_meta
from .common.inference.saving import SaveVolumes
from .common.scales import Scales
from .targets import Targets, warn_outside

logger = logging.getLogger(__name__)


def with_parameters(batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[Tensor, Any, tuple, dict]:
    """MONAI's `prepare_batch` that hands the inferer the "parameters" [B, S, 4] of the images, too."""
    prepared = default_prepare_batch(batch, *args, **kwargs)
    image, label = prepared if isinstance(prepared, tuple) else (prepared, None)
    return image, label, (), {"parameters": batch["parameters"]}


class ParameterEvaluator(CompletionEvaluator):
    """`run inference` whose inferer is handed the images' parameters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(prepare_batch=with_parameters, **options)


class AtParameters(Inferer):
    """Another inferer, with the network's slots at the parameters of this subject's images.

    Needs `prepare_batch=with_parameters`.
    """

    def __init__(self, inferer: Inferer) -> None:
        self.inferer = inferer
        self.routes = getattr(inferer, "routes", [])

    def __call__(self, inputs: Tensor, network: nn.Module, parameters: Tensor) -> Tensor:  # type: ignore[override]
        return self.inferer(inputs, unwrapped(network).at(parameters[0]))


class ParameterInferer(SubjectInferer):
    """One subject [1, S, X, Y, Z] to the wanted images [1, T, X, Y, Z], each source encoded once for all of them.

    Needs `prepare_batch=with_parameters`. Logs a warning where wanted parameters lie outside the trained range.

    Args:
        sequences: S names, in the network's order.
        targets: see `Targets`.
        windows: see `SubjectInferer`.
    """

    def __init__(self, sequences: Sequence[str], targets: Any = None, **windows: Any) -> None:
        super().__init__(**windows)
        self.targets = Targets(targets, sequences)

    def __call__(self, inputs: Tensor, network: nn.Module, parameters: Tensor) -> Tensor:  # type: ignore[override]
        available, network = available_sequences(inputs), unwrapped(network)
        slots = self.targets.slots(available)
        if not slots:
            return with_meta(torch.zeros_like(plain(inputs)[:, :1], device="cpu"), inputs)
        settings = self.targets.settings(parameters[0].cpu())
        warn_outside(settings[slots], network.trained_range)
        network = network.at(settings)

        def complete(window: Tensor) -> Tensor:
            return network.complete(window, sources=available, targets=slots)[:, slots]

        return with_meta(self.windows(network)(plain(inputs), complete), inputs)


class SaveTargets(SaveVolumes):
    """Writes `<subject>_<target>.nii.gz` for each image of "pred" [T, X, Y, Z], with a sidecar (times in s, as BIDS).

    Where the subject's images have one scale, what is made has it too. Where each has its own, a named setting is
    written at the scale that it had in training, and other parameters in normalised units.

    Args:
        scale_per: "subject" or "image", as in `ScaleSequencesd`.
        scales: of the training subjects, `network.scales()`.
        others: see `SaveVolumes`.
    """

    def __init__(
        self,
        output_dir: str,
        sequences: Sequence[str],
        targets: Any,
        scale_per: str,
        scales: Scales,
        weights: str,
        metadata_file: str,
        pictures: bool | str = True,
    ) -> None:
        self.wanted = Targets(targets, sequences)
        super().__init__(output_dir, self.wanted.names, None, weights, metadata_file, pictures=pictures)
        self.scale_per = scale_per
        self.scales = scales

    def planned(self, available: Sequence[int]) -> list[int]:
        """See `SaveVolumes`."""
        return self.wanted.slots(available)

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        available = data["available"].nonzero()[:, 0].tolist()
        slots = self.planned(available)
        if not slots:
            logger.warning(f"{data['subject']} lacks nothing, so nothing is made; name what you want with --targets.")
        settings, made = self.wanted.settings(data["parameters"].cpu()).tolist(), {}
        for image, j in zip(torch.as_tensor(data["pred"]), slots, strict=bool(slots)):
            sources = sources_of(j, available)
            units, scale, offset = self.scale(data, j)
            more = {
                **bids(settings[j]),
                "source_parameters": {self.sequences[i]: bids(settings[i]) for i in sources},
                "units": units,
                "scale": scale,
                "offset": offset,
            }
            volume = unscale(image[None], torch.tensor(scale), torch.tensor(offset))[0]
            self._save(volume[None], data, j, sources, **more)
            made[self.sequences[j]] = [self.sequences[i] for i in sources]
        if made:
            self._draw(data, made=made)
        return data

    def scale(self, data: Mapping[Hashable, Any], j: int) -> tuple[str, float, float]:
        """What the units of image j are, and scale and offset that lead to them."""
        if self.scale_per == "subject":
            return "those of the subject's acquired images", float(data["scale"][0]), 0.0
        if j < len(self.scales.mean) and self.scales.mean[j].isfinite().all():
            scale, offset = self.scales.mean[j].tolist()
            return "normalised * scale + offset of the training subjects", scale, offset
        return "normalised, 0 to 1", 1.0, 0.0


def bids(parameters: Sequence[float]) -> dict[str, Any]:
    """(TR, TE, TI) in ms, and FA in degrees, to the fields of a BIDS sidecar, times in s."""
    fields = {field: round(time / 1000, 8) for field, time in zip(BIDS.values(), parameters, strict=False)}
    echo = {"FlipAngle": round(parameters[3], 4), "ScanningSequence": "GR"} if any(parameters[3:]) else {}
    return {**fields, **echo}
