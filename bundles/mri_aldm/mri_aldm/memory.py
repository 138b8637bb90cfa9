"""How much memory a training step takes, before it is taken, and how to take less of it.

    python -m mri_aldm.memory [--size "[192,192,144]"]

counts parameters, operations and memory at the paper's size, without computing anything.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.networks.blocks import UpSample
from monai.networks.nets.autoencoderkl import AEKLResBlock
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, SpatialTransformer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from .common.blocks.spade import Block
from .common.distributed import unwrapped
from .common.options import run_command, switch
from .network import ALDM

logger = logging.getLogger(__name__)
BLOCKS = (AEKLResBlock, UpSample, Block, DiffusionUNetResnetBlock, SpatialTransformer)
again = functools.partial(checkpoint, use_reentrant=False)
GIB = 2**30


def with_checkpointing(network: ALDM, checkpointing: bool | str = True) -> ALDM:
    """The network, whose blocks keep their input only and are computed again in the backward pass.

    Of the autoencoder's, where the largest would fill half of a GPU, one half at a time.
    """
    for block in network.modules() if switch(checkpointing, "checkpointing") else ():
        if isinstance(block, BLOCKS):
            halves = functools.partial(_by_halves, block)
            block.forward = functools.partial(again, halves if isinstance(block, AEKLResBlock) else block.forward)
    return network


def _by_halves(block: AEKLResBlock, x: Tensor) -> Tensor:
    """What MONAI's block does, either half computed again by itself."""
    h = again(lambda x: block.conv1(F.silu(block.norm1(x))), x)
    h = again(lambda h: block.conv2(F.silu(block.norm2(h))), h)
    return block.nin_shortcut(x) + h


def without_values(network: ALDM, mode: FakeTensorMode, device: str = "cpu") -> ALDM:
    """A copy without checkpointing, whose operations cost nothing in this mode but can be counted."""
    memo: dict[int, Tensor] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        with mode:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        wanted = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if wanted else empty
    forwards = {m: m.__dict__.pop("forward") for m in network.modules() if "forward" in m.__dict__}
    try:
        return copy.deepcopy(network, memo).eval()
    finally:
        for module, forward in forwards.items():
            module.forward = forward


def example_step(network: ALDM, size: Sequence[int], samples: int = 1) -> dict[str, Tensor]:
    """Inputs of a training step of `network.forward` for volumes of `size`, on the network's device."""
    device = network.codes.device
    image = torch.zeros(samples, 1, *size, device=device)
    code = network.codes[:1].expand(samples, -1)
    if network.method == "autoencoder":
        return {"image": image, "step": "reconstruct"}
    if network.autoencoder.to_latent.weight.requires_grad:
        image = torch.cat([image, image])
        return {"image": image, "step": "reconstruct_and_translate", "source_code": code, "target_code": code}
    factor = 2 ** (len(network.autoencoder.encoder.channels) - 1)
    channels = network.autoencoder.to_latent.out_channels
    latent = torch.zeros(samples, channels, *(n // factor for n in size), device=device)
    if network.denoiser is None:
        return {"image": latent, "step": "translate_latents", "source_code": code, "target_code": code}
    timesteps = torch.zeros(samples, dtype=torch.long, device=device)
    return {"image": latent, "step": "predict", "timesteps": timesteps, "like": latent, "target_code": code}


class SavedTensors:
    """Counts what a forward pass keeps for the backward pass, the blocks that can be checkpointed apart."""

    def __init__(self, network: ALDM) -> None:
        self.seen = {p.untyped_storage()._cdata for p in (*network.parameters(), *network.buffers())}
        self.inside: list[list[int]] = []  # bytes of each block's parts that are computed again one at a time
        self.between: list[int] = []  # bytes of what leads from one of these parts to the next
        self.inputs = self.outside = 0
        self.in_block = False
        for block in network.modules():
            if isinstance(block, BLOCKS):
                block.register_forward_pre_hook(self._enter)
                block.register_forward_hook(self._leave)
            if isinstance(block, AEKLResBlock):
                block.norm2.register_forward_pre_hook(self._second_half)

    def _enter(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.inside.append([0])
        self.between.append(0)
        self.inputs += inputs[0].nbytes
        self.in_block = True

    def _second_half(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.inside[-1].append(0)
        self.between[-1] = inputs[0].nbytes

    def _leave(self, *_: object) -> None:
        self.in_block = False

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            if self.in_block:
                self.inside[-1][-1] += storage.nbytes()
            else:
                self.outside += storage.nbytes()
        return tensor

    def total(self, checkpointing: bool) -> int:
        """Bytes; with checkpointing, blocks keep their input, and a part of one of them at a time is computed again."""
        if checkpointing:
            parts = (max(each) + between for each, between in zip(self.inside, self.between, strict=True))
            return self.outside + self.inputs + max(parts, default=0)
        return self.outside + sum(map(sum, self.inside))


def activation_bytes(
    network: ALDM, size: Sequence[int], samples: int = 1, checkpointing: bool = False, half: bool = False
) -> int:
    """What a training step of volumes of `size` keeps for its backward pass, in full precision or by `half` in bf16.

    That is more than a half, since a GPU normalises in full precision. Counted as for a CPU: elsewhere attention would
    keep its scores, which it does not on a GPU; so what is counted in bf16 is at most what there is in full precision.
    """
    ways = {half} if network.denoiser is None else {half, False}  # attention is the denoiser's
    return min(_counted(network, size, samples, checkpointing, way) for way in ways)


def _counted(network: ALDM, size: Sequence[int], samples: int, checkpointing: bool, half: bool) -> int:
    mode = FakeTensorMode()
    counted = without_values(network, mode, "cuda" if half else "cpu")
    was = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", half)  # `torch.autocast` wants a GPU
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with mode:
            saved = SavedTensors(counted)
            with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
                output = counted(**example_step(counted, size, samples))
                total = saved.total(checkpointing)
            del output
    finally:
        torch.set_autocast_enabled("cuda", was[0])
        torch.set_autocast_dtype("cuda", was[1])
        torch.clear_autocast_cache()
    return total


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


class MemoryEstimate:
    """Before training, logs what a step will need beside what is free, and warns where that is too little.

    Discriminators and the perceptual network are not counted.

    Args:
        network: to be trained.
        size: of the volumes.
        samples: volumes, or pairs, of a step.
        amp, checkpointing, ema_decay: of the training.
        device: where it runs.

    Attributes:
        ways: options that lower it, in words.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int],
        samples: int,
        device: torch.device,
        amp: str = "",
        checkpointing: bool | str = False,
        ema_decay: float = 0.0,
    ) -> None:
        self.network = unwrapped(network)
        self.size = list(size)
        self.samples = max(samples, 1)
        self.device = device
        self.half = bool(amp) and device.type == "cuda"
        self.checkpointing = switch(checkpointing, "checkpointing")
        self.ema = ema_decay > 0
        self.ways = [] if self.checkpointing else ["--checkpointing true"]
        self.ways += [] if self.half else ["--amp bf16 (on CUDA)"]
        self.ways += [f"a smaller --crop_size than {self.size}"]
        self.ways += [f"fewer than {samples} samples a step (--batch_size, --pairs_per_subject)"] if samples > 1 else []

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        weights = sum(p.nbytes for p in self.network.parameters())
        training = 3 * sum(p.nbytes for p in self.network.parameters() if p.requires_grad)  # gradient, two of Adam
        activations = activation_bytes(self.network, self.size, self.samples, self.checkpointing, self.half)
        needed, free = weights * (1 + self.ema) + training + activations, free_bytes(self.device)
        volume = "x".join(map(str, self.size))
        message = (
            f"A step of {self.samples} x {volume} needs about {needed / GIB:.1f} GiB (activations "
            f"{activations / GIB:.1f}, weights, gradients and optimiser {(needed - activations) / GIB:.1f})"
        )
        if free is None or needed <= free:
            logger.info(f"{message}; {'unknown' if free is None else f'{free / GIB:.1f} GiB'} free.")
            return
        logger.warning(f"{message}, and {free / GIB:.1f} GiB are free. To lower it: {', '.join(self.ways)}.")


def gmacs(network: ALDM, method: str, *inputs: Tensor, backward: bool = False) -> float:
    """Billions of multiply-adds (half of the counted operations) of a method, and of its backward pass."""
    counter = FlopCounterMode(display=False)
    with counter, torch.set_grad_enabled(backward):
        output = getattr(network, method)(*inputs)
        if backward:
            output.sum().backward()
    return counter.get_total_flops() / 2e9


def report(size: Sequence[int] = (192, 192, 144)) -> None:
    """Prints what the paper's networks cost for volumes of `size`."""
    print(f"Volumes of {'x'.join(map(str, size))}, full precision; counted, nothing is computed")
    steps = {}
    for method in ("autoencoder", "spade", "aldm"):
        with torch.device("meta"):
            network = ALDM(method=method)
        parts = {"autoencoder": network.autoencoder, "spade": network.translator, "aldm": network.denoiser}
        network.requires_grad_(False)
        parts[method].requires_grad_(True)
        millions = sum(p.numel() for p in parts[method].parameters()) / 1e6
        kept, less = (activation_bytes(network, size, checkpointing=c) / GIB for c in (False, True))
        text = f"{method:12} {millions:8.2f} M, kept for the backward pass {kept:.1f} GiB, checkpointed {less:.1f} GiB"
        if torch.backends.cuda.is_built():
            least = activation_bytes(network, size, checkpointing=True, half=True) / GIB
            every = least + 4 * (sum(p.numel() for p in network.parameters()) + 3e6 * millions) / GIB
            text += f", and in bf16 {least:.1f} GiB (with weights, gradients and AdamW {every:.1f} GiB)"
        print(text)
        steps = example_step(network, size) if method == "aldm" else steps
    image, code = torch.zeros(1, 1, *size, device="meta"), network.codes[:1]
    latent, like, timesteps = steps["image"], steps["like"], steps["timesteps"]
    rows = {
        "encode": gmacs(network.autoencoder, "encode", image),
        "decode": gmacs(network.autoencoder, "decode", latent),
        "MS-SPADE": gmacs(network, "target_like", latent, code, code),
        "UNet": gmacs(network, "predict", latent, timesteps, like, code),
        "UNet, training step": gmacs(network, "predict", latent, timesteps, like, code, backward=True),
    }
    for name, count in rows.items():
        print(f"{name:20} {count:12.1f} GMACs")
    cached = rows["UNet, training step"]
    without = cached + 2 * rows["encode"] + rows["MS-SPADE"]
    print(f"A training step of the diffusion: {cached:.0f} GMACs from the cache, {without:.0f} without")
    for count in (1, 10, 50):
        total = rows["encode"] + rows["MS-SPADE"] + count * rows["UNet"] + rows["decode"]
        print(f"One volume in {count} step{'s' * (count > 1)}: {total:.0f} GMACs")


if __name__ == "__main__":
    run_command(report)
