"""Normalisation."""

from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation (arXiv:1910.07467) in the precision of its input, also under autocast."""

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return nn.functional.rms_norm(x, self.normalized_shape, weight, self.eps)
