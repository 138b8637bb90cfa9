"""How much of a codebook is used, for networks with a vector quantiser."""

from __future__ import annotations

import logging

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..blocks.vq import Quantised, VectorQuantiser, codebook_usage
from ..distributed import unwrapped

logger = logging.getLogger(__name__)


class CodebookUse:
    """Adds "codebook_share" and "codebook_perplexity" (`common.blocks.vq.CodebookUsage`) to an evaluator's metrics.

    Counted where what was last encoded has tissue, not in air and padding, over all that the network quantises in an
    evaluation, in every process, and logged. Attach it before the handlers that report metrics. A network without a
    quantiser has none to report.

    What holds the quantiser has the `encoder` beside it, whose images [B, c, *s] are -1 where there is nothing.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.report)

    def start(self, engine: Engine) -> None:
        modules = unwrapped(engine.network).modules()
        found = [each for each in modules if isinstance(getattr(each, "quantiser", None), VectorQuantiser)]
        self.quantiser = found[0].quantiser if found else None
        if self.quantiser is None:
            return
        self.tissue: Tensor | None = None
        self.counts = torch.zeros(len(self.quantiser.codebook), dtype=torch.long)
        hooked = {found[0].encoder: self.see, self.quantiser: self.count}
        self.hooks = [module.register_forward_hook(hook) for module, hook in hooked.items()]

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen = (inputs[0] > -1).any(1, keepdim=True).float()
        pool = F.adaptive_max_pool2d if seen.ndim == 4 else F.adaptive_max_pool3d
        self.tissue = pool(seen, output.shape[2:])[:, 0] > 0

    def count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Quantised) -> None:
        indices = output.indices[self.tissue]
        self.counts += torch.bincount(indices, minlength=len(self.counts)).cpu()

    def report(self, engine: Engine) -> None:
        if self.quantiser is None:
            return
        for hook in self.hooks:
            hook.remove()
        usage = codebook_usage(idist.all_reduce(self.counts.to(idist.device())).cpu())
        engine.state.metrics["codebook_share"] = usage.share
        engine.state.metrics["codebook_perplexity"] = usage.perplexity
        count = len(self.counts)
        logger.info(f"Codebook: {usage.share:.0%} of {count} codes used, perplexity {usage.perplexity:.1f}.")
