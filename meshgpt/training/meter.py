"""Means of figures over batches and processes, each batch weighed by what its figures are means of.

And shares of what was seen in any of them.
"""

from typing import Any, no_type_check

import torch
from accelerate import Accelerator
from torch import Tensor

from meshgpt.training.objective import Losses
from meshgpt.training.processes import summed


class Meter:
    """Adds up without waiting for the device; `means()` sums over processes, gives the means and starts again."""

    @no_type_check
    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self._sums: dict[str, list[Any]] = {}
        self._seen: dict[str, Tensor] = {}

    @no_type_check
    def add(self, losses: Losses, weight: float) -> None:
        for name, value in {"loss": losses.loss, **losses.metrics}.items():
            count = losses.counts.get(name, weight) if weight else 0.0
            held = self._sums.setdefault(name, [0.0, 0.0])
            if count:  # the figures of an example that only stands in are left out, even where they are NaN
                held[0] = held[0] + value.detach().double() * count
                held[1] += count
        for name, seen in losses.seen.items():
            seen = seen if weight else torch.zeros_like(seen)
            self._seen[name] = seen | self._seen[name] if name in self._seen else seen

    def means(self) -> dict[str, float]:
        shares = {name: self._share(seen) for name, seen in self._seen.items()}
        names, self._seen = list(self._sums), {}
        totals = summed(self.accelerator, [number for name in names for number in self._sums[name]]).tolist()
        self._sums = {}
        pairs = zip(names, totals[::2], totals[1::2], strict=True)
        return {name: total / count for name, total, count in pairs if count} | shares

    def _share(self, seen: Tensor) -> float:
        """The share of what any process has seen."""
        counts = seen.float()
        if self.accelerator.num_processes > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return float((counts > 0).float().mean())
