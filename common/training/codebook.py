"""How much of a codebook is used, for networks with a vector quantiser."""

from __future__ import annotations

import logging

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from ..blocks.vq import Quantised, VectorQuantiser, codebook_usage
from ..distributed import unwrapped

logger = logging.getLogger(__name__)


class CodebookUse:
    """Adds "codebook_share" and "codebook_perplexity" (`common.blocks.vq.CodebookUsage`) to an evaluator's metrics.

    Counted over all that the network encodes in an evaluation, in every process, and logged. Attach it before the
    handlers that report metrics. A network without a quantiser has none to report.
    """

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.report)

    def start(self, engine: Engine) -> None:
        found = [module for module in unwrapped(engine.network).modules() if isinstance(module, VectorQuantiser)]
        self.quantiser = found[0] if found else None
        if self.quantiser is None:
            return
        self.counts = torch.zeros(len(self.quantiser.codebook), dtype=torch.long)
        self.hook = self.quantiser.register_forward_hook(self.count)

    def count(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Quantised) -> None:
        self.counts += torch.bincount(output.indices.flatten(), minlength=len(self.counts)).cpu()

    def report(self, engine: Engine) -> None:
        if self.quantiser is None:
            return
        self.hook.remove()
        usage = codebook_usage(idist.all_reduce(self.counts.to(idist.device())).cpu())
        engine.state.metrics["codebook_share"] = usage.share
        engine.state.metrics["codebook_perplexity"] = usage.perplexity
        count = len(self.counts)
        logger.info(f"Codebook: {usage.share:.0%} of {count} codes used, perplexity {usage.perplexity:.1f}.")
