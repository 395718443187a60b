"""Normalisation."""

from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalisation (arXiv:1910.07467) in the precision of its input, also under autocast."""

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return nn.functional.rms_norm(x, self.normalized_shape, weight, self.eps)


class AdaptiveNorm(nn.Module):
    """Normalisation whose scale and shift, and a gate for what follows it, are said by a vector (AdaLN-zero).

    Scale, shift and gate begin at 0, so that a residual path behind the gate begins as nothing (arXiv:2212.09748,
    section 3.2). Without `gated` the gate is 1.
    """

    def __init__(self, dim: int, dim_vector: int, gated: bool = True):
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.to_modulation = nn.Linear(dim_vector, (3 if gated else 2) * dim)
        nn.init.zeros_(self.to_modulation.weight)
        nn.init.zeros_(self.to_modulation.bias)
        self.gated = gated

    def forward(
        self, x: Float[Tensor, "b n d"], vector: Float[Tensor, "b e"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b 1 d"]]:
        """(normalised, gate)"""
        said = self.to_modulation(nn.functional.silu(vector))[:, None].chunk(3 if self.gated else 2, dim=-1)
        gate = said[2] if self.gated else said[0].new_ones(said[0].shape)
        return self.norm(x) * (1 + said[0]) + said[1], gate
