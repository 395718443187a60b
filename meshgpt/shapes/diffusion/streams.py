"""Noise that belongs to a sample, not to its batch."""

import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.transformer.sampling import Streams


class NoiseStreams(Streams):
    """One stream of normal numbers a sample, float32, drawn on the CPU: a seed gives the same on every device."""

    def normal(self, *shape: int) -> Float[Tensor, "b *shape"]:
        """The next numbers of each sample."""
        draws = [torch.randn(shape, generator=g) for g in self.generators]
        return torch.stack(draws) if draws else torch.zeros(0, *shape)
