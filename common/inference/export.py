"""The deployed network as one file that needs none of this code: TorchScript or ONNX.

TorchScript is compiled as MONAI's `ckpt_export` does it. ONNX comes from `torch.export`: nothing in a network depends
on data but by arithmetic, so that one graph holds for every subject and size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from monai.data import save_net_with_metadata
from torch import Tensor, nn
from torch.export import Dim

from ..blocks.vq import Quantised, VectorQuantiser
from ..data.preparation import Subjects
from ..data.series import channel_names
from ..files import replacing, write_text
from ..layout import MISSING
from ..translation import TranslationNetwork
from .inferers import SubjectInferer, resolve_targets
from .serving import preparation, triton_config
from .weights import origin

SUFFIXES = {"torchscript": ".ts", "onnx": ".onnx"}
TOLERANCE = 1e-4  # images are in [0, 1]
EQUAL_CODES = 0.999  # where rounding decides between two codes that are equally near
OPSET = 18


class Deployed(nn.Module):
    """Image [B, C, X, Y, Z] to `pred` of the same shape; a series has a channel for each of its frames.

    Args:
        network: of a bundle.
        targets: which of the S are made, the others stay 0; None makes all. Of one alone, a network that makes its
            kernels from the target's code (`freeze`) becomes plain convolutions.
    """

    def __init__(self, network: TranslationNetwork, targets: Sequence[int] | None = None) -> None:
        super().__init__()
        self.targets = None if targets is None else list(targets)
        freezes = self.targets is not None and len(self.targets) == 1 and hasattr(network, "freeze")
        self.network = network.freeze(self.targets[0]) if freezes else network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.complete_available(image, self.targets)


class WithCodes(nn.Module):
    """`Deployed` with its quantisers laid open: returns `pred` and the codes of each call, found from the image.

    Codes that are passed are decoded in place of those found, which decides what two runs differ by but for ties.
    """

    def __init__(self, deployed: Deployed) -> None:
        super().__init__()
        self.deployed = deployed

    def forward(self, image: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []

        def lay_open(quantiser: VectorQuantiser, _: tuple[Tensor], output: Quantised) -> Quantised | None:
            found.append(output.indices)
            if not given:
                return None
            values = F.embedding(given[len(found) - 1], quantiser.codebook)
            return output._replace(values=values.movedim(values.ndim - 1, 1))

        hooks = [quantiser.register_forward_hook(lay_open) for quantiser in quantisers(self)]
        made = self.deployed(image)
        for hook in hooks:
            hook.remove()
        return made, *found


def quantisers(network: nn.Module) -> list[VectorQuantiser]:
    return [module for module in network.modules() if isinstance(module, VectorQuantiser)]


def export_network(
    network: TranslationNetwork,
    metadata_file: str,
    sequences: Sequence[str],
    *,
    weights: str,
    format: str = "torchscript",
    targets: str | Sequence[str] | None = None,
    path: str = "",
    subjects: Subjects | None = None,
    inferer: SubjectInferer | None = None,
) -> str:
    """Writes the network as it is deployed, runs the file and compares what both make; returns a sentence on it.

    The file takes any batch and every size that the metadata allow, with a subject's missing sequences -1. Of a series
    it takes and makes as many frames as the network was trained with; missing ones are -1, too.
    `<path>.json` says what it was made from and how its input is; `config.pbtxt` is for Triton.

    Args:
        network: with its weights.
        metadata_file: of the bundle, for the shape.
        sequences: S names.
        weights: the file of the weights, for the record; beside it goes the export.
        format: "torchscript" or "onnx".
        targets: names; see `Deployed`. None or "all" makes all.
        path: of the file. Default: the weights' with another suffix, `_<target>` added for a single one.
        subjects, inferer: how images are prepared and cut into windows, for `common.inference.serving`.

    Raises:
        ValueError: an unknown format or target, another suffix, or file and network differ; such a file is not kept.
        ImportError: "onnx" without onnxruntime, which runs it.
    """
    if format not in SUFFIXES:
        raise ValueError(f"format is '{format}'; choose one of {', '.join(SUFFIXES)}.")
    if format == "onnx":
        _need_onnx()
    wanted = None if targets in (None, "all") else resolve_targets(targets, sequences, ())
    name = Path(weights).stem + (f"_{sequences[wanted[0]]}" if wanted is not None and len(wanted) == 1 else "")
    file = Path(path) if path else Path(weights).with_name(name + SUFFIXES[format])
    if file.suffix != SUFFIXES[format]:
        raise ValueError(f"A {format} file's name ends in {SUFFIXES[format]}, but the path is {file}.")
    metadata = json.loads(Path(metadata_file).read_text())
    shape = (1, sum(network.frames) or len(sequences), *smallest_size(metadata))
    made_from = {
        **origin(metadata_file, weights),
        "sequences": list(sequences),
        "targets": [sequences[j] for j in (range(len(sequences)) if wanted is None else wanted)],
        "channels": channel_names(sequences, dict(zip(sequences, network.frames, strict=False))),
    }
    deployed = Deployed(network, wanted).cpu().eval()
    record = {**made_from}
    with replacing(file) as partial:
        write(deployed, partial, format, [trial_image(shape)], {**metadata, **made_from})
        record["check"] = _check(deployed, partial, format, shape)
    if subjects is not None and inferer is not None:
        record["preparation"] = preparation(subjects, inferer, network)
    write_text(file.with_name(file.name + ".json"), json.dumps(record, indent=4) + "\n")
    write_text(file.with_name("config.pbtxt"), triton_config(file, record))
    return f"{file}: {record['check']}"


def smallest_size(metadata: dict) -> list[int]:
    """The smallest size X, Y, Z of the network's input: of "16*n" 16, of "n" 1."""
    sizes = metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
    return [size if isinstance(size, int) else int(size.split("*")[0]) if "*" in size else 1 for size in sizes]


def trial_image(shape: Sequence[int], missing: Sequence[int] = (), seed: int = 0) -> Tensor:
    """Smooth random tissue in [0, 1] of a shape [B, S, X, Y, Z], a quarter of it air; `missing` sequences are -1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*shape[:2], 6, 6, 6, generator=generator)
    image = F.interpolate(coarse, size=tuple(shape[2:]), mode="trilinear", align_corners=True)
    image[:, :, : shape[2] // 4] = 0
    image[:, list(missing)] = MISSING
    return image


@torch.no_grad()
def write(model: nn.Module, file: Path, format: str, inputs: Sequence[Tensor], metadata: dict | None = None) -> None:
    """Exports a module by these inputs, whose sizes, channels apart, are free afterwards."""
    model.eval()
    if format == "torchscript":
        traced = len(inputs) > 1  # hooks, which `WithCodes` works by, are not compiled
        made = torch.jit.trace(model, tuple(inputs), check_trace=False) if traced else torch.jit.script(model)
        save_net_with_metadata(made, str(file), include_config_vals=False, meta_values=metadata)
        return
    # torch.export takes a size of 1 for a constant.
    image = inputs[0].repeat([2 if axis != 1 and size == 1 else 1 for axis, size in enumerate(inputs[0].shape)])
    codes = model(image)[1:] if len(inputs) > 1 else ()
    free, *others = ({axis: Dim.DYNAMIC for axis in range(each.ndim)} for each in (image, *codes))
    del free[1]
    shapes = (free, tuple(others)) if codes else (free,)
    program = torch.export.export(model, (image, *codes), dynamic_shapes=shapes)
    names = ["image", *(f"codes_{k}" for k in range(len(codes)))]
    # Constants are folded by what runs the file; here that would take as long again.
    torch.onnx.export(
        program,
        (),
        str(file),
        dynamo=True,
        opset_version=OPSET,
        input_names=names,
        output_names=["pred"],
        optimize=False,
        external_data=False,
        verbose=False,
    )


def runner(file: Path) -> Callable[..., list[Tensor]]:
    """What runs an exported file on the CPU: tensors in, a list of tensors out."""
    if file.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]

        def run(*inputs: Tensor) -> list[Tensor]:
            # What a network does not need, such as codes that are not quantised, is no input of its file.
            values = dict(zip(names, (x.numpy() for x in inputs), strict=False))
            return [torch.from_numpy(each) for each in session.run(None, values)]

        return run
    module = torch.jit.load(str(file), map_location="cpu")

    def run_script(*inputs: Tensor) -> list[Tensor]:
        with torch.no_grad(), torch.jit.optimized_execution(False):  # to optimise takes longer than two runs
            made = module(*inputs)
        return [made] if isinstance(made, Tensor) else list(made)

    return run_script


def difference(deployed: Deployed, run: Callable[..., list[Tensor]], image: Tensor) -> float:
    """The largest, between what the network and its file make of an image."""
    with torch.no_grad():
        return float((run(image)[0] - deployed(image)).abs().nan_to_num(nan=math.inf).max())


def codes_compared(deployed: Deployed, format: str, traced_at: Tensor, image: Tensor) -> tuple[float, float]:
    """The share of an image's codes that an export finds alike, and the difference with the network's codes."""
    model = WithCodes(deployed)
    with TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / f"codes{SUFFIXES[format]}"
        write(model, file, format, [traced_at, *model(traced_at)[1:]])
        expected, *codes = model(image)
        made, *found = runner(file)(image, *codes)
    equal = torch.cat([(a == b).flatten() for a, b in zip(found, codes, strict=True)])
    return float(equal.double().mean()), float((made - expected).abs().nan_to_num(nan=math.inf).max())


def _check(deployed: Deployed, file: Path, format: str, shape: Sequence[int]) -> str:
    """With everything available and with one sequence only, at a size the trace did not see."""
    run, count = runner(file), shape[1]
    larger = [*shape[:-1], 2 * shape[-1]]
    images = [trial_image(larger), trial_image(larger, range(1, count), seed=1)]
    worst, image = max(((difference(deployed, run, image), image) for image in images), key=lambda found: found[0])
    said = f"as the network within {TOLERANCE} (largest difference {worst:.1e})"
    if worst <= TOLERANCE:
        return said
    if quantisers(deployed):
        equal, worst = codes_compared(deployed, format, trial_image(shape), image)
        if equal >= EQUAL_CODES and worst <= TOLERANCE:
            return f"{100 * equal:.2f} % of the codes equal; with the network's codes {said}"
        raise ValueError(f"{file.name} finds {100 * equal:.2f} % of the codes and differs by {worst:.1e} with all.")
    raise ValueError(f"{file.name} differs from the network by {worst:.1e}, more than {TOLERANCE}; it is not kept.")


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"ONNX needs more packages ({error}): pip install onnx onnxruntime onnxscript") from error
