"""Means of figures over batches and processes, each batch weighed by what its figures are means of."""

from typing import Any, no_type_check

from accelerate import Accelerator

from meshgpt.training.objective import Losses
from meshgpt.training.processes import summed


class Meter:
    """Adds up without waiting for the device; `means()` sums over processes, gives the means and starts again."""

    @no_type_check
    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._sums: dict[str, list[Any]] = {}

    @no_type_check
    def add(self, losses: Losses, weight: float) -> None:
        for name, value in {"loss": losses.loss, **losses.metrics}.items():
            count = losses.counts.get(name, weight) if weight else 0.0
            held = self._sums.setdefault(name, [0.0, 0.0])
            if count:  # the figures of an example that only stands in are left out, even where they are NaN
                held[0] = held[0] + value.detach().double() * count
                held[1] += count

    def means(self) -> dict[str, float]:
        names = list(self._sums)
        totals = summed(self.accelerator, [number for name in names for number in self._sums[name]]).tolist()
        self._sums = {}
        pairs = zip(names, totals[::2], totals[1::2], strict=True)
        return {name: total / count for name, total, count in pairs if count}
