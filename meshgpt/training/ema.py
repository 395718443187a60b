"""An average of the weights over the steps of training, which generates better than the last weights alone."""

import torch
from torch import nn


class Ema:
    """Exponential moving average of a model's weights, kept in a second model.

    After update number t (from 1): average = d average + (1 - d) weights, with d = min(decay, t / (9 + t)) where
    `warmup`, else d = decay; the first update with warm-up thus forgets nine tenths of the start. Buffers are copied.
    """

    def __init__(self, model: nn.Module, average: nn.Module, decay: float, warmup: bool = True):
        self.decay, self.warmup, self.updates = decay, warmup, 0
        self.model = average.requires_grad_(False).eval()
        self.weights = list(model.parameters())
        self.averages = list(average.parameters())
        self.buffers = list(zip(average.buffers(), model.buffers(), strict=True))

    def current_decay(self) -> float:
        """The decay of the update with number `updates`."""
        return min(self.decay, self.updates / (9 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        torch._foreach_lerp_(self.averages, self.weights, 1 - self.current_decay())  # pyright: ignore
        for average, buffer in self.buffers:
            average.copy_(buffer)
