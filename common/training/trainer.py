"""The Ignite engine that trains every method of the collection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from ..distributed import unwrapped, wrapped
from ..memory import advising
from ..options import switch
from .optimizers import gradient_norm

NORM, NORM_OF_DISCRIMINATORS = "gradient's norm", "norm of the discriminators' gradient"
HOST = ("available", "parameters")  # what a step consists of depends on them
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def has_fast(kind: torch.dtype, device: torch.device) -> bool:
    """Whether mixed precision saves time there."""
    return device.type == "cuda" or (kind is torch.bfloat16 and torch.cpu._is_avx512_bf16_supported())


class TranslationTrainer(SupervisedTrainer):
    """A `SupervisedTrainer` whose objective calls the network itself.

    `objective(network, batch)` returns the weighted loss terms by name, and what an adversary is to be shown. The
    network is only ever called through `network(...)`, so that distributed training sees every step.

    Args:
        objective: returns `(terms, samples)`: a dict of scalars, and the keyword arguments of `adversary.backward`.
            What is not an image, `HOST`, it gets on the CPU, so that looking at it does not wait for the device.
        adversary: discriminators with an optimiser of their own (`common.training.adversary`); None is without. They
            rest while the objective has no samples for them.
        amp: mixed precision: "bf16", "fp16" or "" for none. On a CPU "bf16" counts where it has such instructions.
        clip_grad: largest norm of the gradient; 0 does not clip.
        less_memory: options that lower what a step needs, in words, for the message when there is too little.
        network: not yet wrapped for several processes, if there are any.
        compile, kwargs: as for `SupervisedTrainer`.

    Attributes:
        weights_given: whether the network's weights were set since it was made, as a federated server does.

    Raises:
        FloatingPointError: a loss or its gradient is NaN or infinite. The last checkpoint stays good.
        MemoryError: a step needs more memory than there is.
    """

    def __init__(
        self,
        *,
        objective: Any,
        network: nn.Module,
        adversary: Any = None,
        amp: str = "",
        clip_grad: float = 0.0,
        compile: bool | str = False,
        less_memory: Sequence[str] = ("a smaller --batch_size", "a smaller --roi_size"),
        **kwargs: Any,
    ) -> None:
        if amp and amp not in AMP_TYPES:
            raise ValueError(f"amp is '{amp}'; choose one of {', '.join(AMP_TYPES)}, or '' for full precision.")
        compiled = switch(compile, "compile")
        super().__init__(network=wrapped(network), loss_function=objective, compile=compiled, **kwargs)
        self.objective = objective
        self.adversary = adversary
        self.clip_grad = clip_grad
        self.amp_type = AMP_TYPES[amp] if amp and has_fast(AMP_TYPES[amp], self.state.device) else None
        # bf16 has fp32's range: only fp16 needs its gradients scaled.
        self.grad_scaler = torch.amp.GradScaler(self.state.device.type, enabled=self.amp_type is torch.float16)
        self.less_memory = less_memory
        self.weights_given = False
        self._as_made = self._version()

    def run(self) -> None:  # type: ignore[override]
        """Trains; before handlers have loaded anything it is seen whether somebody else has."""
        self.weights_given = self._version() != self._as_made
        super().run()

    def _version(self) -> int:
        """Rises whenever a parameter is written to."""
        return sum(parameter._version for parameter in unwrapped(self.network).parameters())

    def _iteration(self, engine: TranslationTrainer, batchdata: dict[str, Any]) -> list[dict[str, float]]:
        with advising(self.less_memory):
            return self._step(engine, batchdata)

    def _step(self, engine: TranslationTrainer, batchdata: dict[str, Any]) -> list[dict[str, float]]:
        device = engine.state.device
        batch = {
            k: v if k in HOST else v.to(device, non_blocking=engine.non_blocking)
            for k, v in batchdata.items()
            if isinstance(v, Tensor)
        }
        engine.network.train()
        self.objective.epoch = engine.state.epoch  # for those that change as training goes on
        self.objective.iteration = engine.state.iteration
        engine.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=self.amp_type, enabled=self.amp_type is not None):
            terms, samples = self.objective(engine.network, batch)
            loss = torch.stack(list(terms.values())).sum()
        self.grad_scaler.scale(loss).backward()
        self.grad_scaler.unscale_(engine.optimizer)
        output = {Keys.LOSS: loss, **terms}
        norms = {NORM: gradient_norm(engine.network, self.clip_grad)}
        adversary = self.adversary if samples else None  # none until it begins
        if adversary is not None:
            output["discriminator"], norms[NORM_OF_DISCRIMINATORS] = adversary.backward(**samples)
        found = torch.stack([value.detach().float() for value in {**output, **norms}.values()])
        values = dict(zip([*output, *norms], found.tolist(), strict=True))  # the one wait for the device in a step
        self._check_finite(values, terms)
        self.grad_scaler.step(engine.optimizer)
        self.grad_scaler.update()
        if adversary is not None:
            adversary.optimizer.step()
        engine.state.output = [{name: values[name] for name in output}]  # a list, as MONAI's handlers expect
        return engine.state.output

    def _check_finite(self, values: dict[str, float], terms: dict[str, Tensor]) -> None:
        checked = [Keys.LOSS, NORM, "discriminator", NORM_OF_DISCRIMINATORS]
        if self.amp_type is torch.float16:  # whose scaler leaves out such steps by itself
            checked.remove(NORM)
        for name in (name for name in checked if not math.isfinite(values.get(name, 0.0))):
            said = ", ".join(f"{term} {values[term]:g}" for term in terms)
            raise FloatingPointError(
                f"The {name} is {values[name]} at epoch {self.state.epoch}, iteration {self.state.iteration} "
                f"({said}). Training stops before the weights are touched; the last checkpoint is good. Lower the "
                "learning rate, set clip_grad, or use amp 'bf16' in place of 'fp16'."
            )
