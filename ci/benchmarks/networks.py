"""Each method's network: operations, and the time of a slice or a volume encoded, decoded, and of a training step."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pydoc import locate
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from . import ROOT, Row, Settings, turns

IN_PLANE = {"small": (96, 112), "paper": (192, 192)}
SPACE = {"small": (32, 32, 32), "paper": (64, 64, 64)}  # of ALDM's volumes
STEP = {"small": 4, "paper": 2}  # sequences of a step
CLASSES = {
    "mri_seq2seq": ("network.Seq2Seq", "objective.Seq2SeqObjective", {}),
    "mri_vq_seq2seq": (
        "network.VQSeq2Seq",
        "objective.VQSeq2SeqObjective",
        {"contrastive_start": 0, "sampling_start": 0, "translation_start": -1},
    ),
}


def small_options(bundle: str) -> dict[str, Any]:
    """What small.json says of the network, of images that are no series."""
    overlay = json.loads((ROOT / "bundles" / bundle / "configs" / "small.json").read_text(encoding="utf-8"))
    found = {key.split("::")[1]: value for key, value in overlay.items() if key.startswith("network_def::")}
    return {name: 0 if str(value).startswith("$1 if @subjects.counts") else value for name, value in found.items()}


def made(bundle: str, name: str, wanted: Settings, **options: Any) -> nn.Module:
    """A network of random weights, in the size that is wanted."""
    sizes = small_options(bundle) if wanted.size == "small" else {}
    torch.manual_seed(0)
    return locate(f"{bundle}.{name}")(**{**sizes, **options}).to(wanted.device)


def training_step(bundle: str, settings: Settings, dtype: torch.dtype | None = None) -> Callable[[], None]:
    """All that one slice or stack of a subject costs, forwards and backwards, without VGG19 and the optimiser."""
    name, objective, options = CLASSES[bundle]
    network = made(bundle, name, settings).train()
    terms = locate(f"{bundle}.{objective}")(4, **options).to(settings.device)
    image = torch.rand(1, 4, *IN_PLANE[settings.size], network.slices, device=settings.device)
    image[:, STEP[settings.size] :] = -1

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(settings.device, dtype=dtype, enabled=dtype is not None):
            loss = torch.stack(list(terms(network, {"image": image})[0].values())).sum()
        loss.backward()

    return step


def gmacs(call: Callable[[], object]) -> float:
    """Billions of multiply-adds, half of the counted operations."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2e9


def rows(settings: Settings) -> Iterator[Row]:
    for bundle in CLASSES:
        step = training_step(bundle, settings)
        yield Row(f"{bundle}, training step of {STEP[settings.size]} sequences", *_cost(step, settings))
        yield from _slices(bundle, made(bundle, CLASSES[bundle][0], settings).eval(), settings)
    yield from _crl(settings)
    yield from _aldm(settings)


def _cost(call: Callable[[], object], settings: Settings) -> tuple[float, str]:
    count = gmacs(call)
    (seconds,) = turns((call,), settings)
    return 1000 * seconds, f"ms, {count:.3g} GMACs"


@torch.inference_mode()
def _slices(bundle: str, network: nn.Module, settings: Settings) -> Iterator[Row]:
    image = torch.rand(1, network.slices, *IN_PLANE[settings.size], device=settings.device)
    codes = [network.codes[j : j + 1] for j in range(4)]
    z = network.encode(image, codes[0])

    def four() -> None:
        found = network.encode(image, codes[0])
        for code in codes:
            network.decode(found, code)

    parts = {"encode": lambda: network.encode(image, codes[0]), "decode": lambda: network.decode(z, codes[0])}
    for name, call in {**parts, "encode once, decode four": four}.items():
        yield Row(f"{bundle}, {name}", *_cost(call, settings))


def crl_step(settings: Settings) -> tuple[nn.Module, Callable[[], None]]:
    """CRL's network, and what seven crops of one subject cost, forwards and backwards."""
    timings = [(each.tr, each.te, each.ti) for each in list(locate("common.data.mr_signal.FSE9").values())[:7]]
    network = made("mri_crl", "network.CRL", settings, settings=timings).eval()
    objective, codes = locate("mri_crl.objective.CRLObjective")().to(settings.device), network.codes
    batch = {"image": torch.rand(1, 7, 64, 64, 1, device=settings.device), "parameters": codes[None]}

    def loss() -> torch.Tensor:
        return torch.stack(list(objective(network.train(), batch)[0].values())).sum()

    return network, lambda: _step(network, loss)


def _crl(settings: Settings) -> Iterator[Row]:
    network, step = crl_step(settings)
    image, codes = torch.rand(1, 1, *IN_PLANE[settings.size], device=settings.device), network.codes
    with torch.inference_mode():
        z = network.encode(image, codes[:1])
        yield Row("mri_crl, encode", *_cost(lambda: network.encode(image, codes[:1]), settings))
        yield Row("mri_crl, decode", *_cost(lambda: network.decode(z, codes[1:2]), settings))
    yield Row("mri_crl, training step of 7 crops", *_cost(step, settings))


def _aldm(settings: Settings) -> Iterator[Row]:
    network = made("mri_aldm", "network.ALDM", settings).eval()
    image = torch.rand(1, 1, *SPACE[settings.size], device=settings.device)
    code, target, noise = network.codes[:1], network.codes[1:2], torch.zeros(1, device=settings.device)
    with torch.no_grad():
        z = network.encode(image, code).latent
    parts = {
        "encode": lambda: network.encode(image, code).latent,
        "decode": lambda: network.autoencoder.decode(z),
        "MS-SPADE": lambda: network.target_like(z, target, code),
        "UNet": lambda: network.predict(z, noise, z, target),
    }
    for name, part in parts.items():
        with torch.no_grad():
            yield Row(f"mri_aldm, {name}", *_cost(part, settings))
    for name in ("MS-SPADE", "UNet"):
        part = parts[name]
        yield Row(
            f"mri_aldm, {name} forwards and backwards",
            *_cost(lambda part=part: _step(network, lambda: part().square().mean()), settings),
        )


def _step(network: nn.Module, loss: Callable[[], torch.Tensor]) -> None:
    network.zero_grad(set_to_none=True)
    loss().backward()
