"""What shows that subjects are being worked on, and how far one is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ignite.engine import Engine, Events
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import Tensor, nn

from ..progress import bar


class SubjectProgress:
    """An ignite handler: one bar over the subjects of an engine, which says whether it loads or works on one.

    Args:
        doing: what the engine does with a subject.
        leave: the bar stays when it is full.
    """

    def __init__(self, doing: str, leave: bool = True) -> None:
        self.doing, self.leave = doing, leave

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, lambda: self.bar.set_description_str("loading"))
        engine.add_event_handler(Events.ITERATION_STARTED, lambda: self.bar.set_description_str(self.doing))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.update)
        engine.add_event_handler(Events.COMPLETED, lambda: self.bar.close())

    def start(self, engine: Engine) -> None:
        self.bar = bar(total=engine.state.epoch_length, desc=self.doing, unit="subjects", leave=self.leave)

    def update(self, engine: Engine) -> None:
        self.bar.update()
        if self.bar.n == self.bar.total:  # what is printed at the end stands below it
            self.bar.close()


def count_windows(size: Sequence[int], roi_size: Sequence[int], overlap: float) -> int:
    """How many windows MONAI's `sliding_window_inference` takes of a size."""
    steps = [max(int(roi * (1 - overlap)), 1) for roi in roi_size]
    return math.prod(
        math.ceil(max(full - roi, 0) / step) + 1 for full, roi, step in zip(size, roi_size, steps, strict=True)
    )


class WindowInferer(SlidingWindowInferer):
    """MONAI's, with a bar that knows what it counts."""

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        total = count_windows(inputs.shape[2:], self.roi_size, self.overlap)
        with bar(total=total, desc="windows", unit="windows", leave=False) as shown:

            def counted(*inputs: Any, **options: Any) -> Tensor:
                made = network(*inputs, **options)
                shown.update()
                return made

            return super().__call__(inputs, counted, *args, **kwargs)


class WholeInferer(SimpleInferer):
    """A whole volume at once, with a bar over what a network does many times for each image.

    Args:
        repeated: the module that is called so often, and how often; None shows nothing.
    """

    def __init__(self, repeated: tuple[nn.Module, int] | None = None) -> None:
        super().__init__()
        self.repeated = repeated

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        if self.repeated is None:
            return super().__call__(inputs, network, *args, **kwargs)
        module, total = self.repeated
        with bar(total=total, desc="an image", unit="steps", leave=False) as shown:

            def count(*_: Any) -> None:
                if shown.n == total:
                    shown.reset()
                shown.update()

            hook = module.register_forward_hook(count)
            try:
                return super().__call__(inputs, network, *args, **kwargs)
            finally:
                hook.remove()
