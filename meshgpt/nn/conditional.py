"""Residual layers over points, some of them steered by a vector."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two linear layers after ReLUs beside a straight path; the second begins at zero, so the block as that path."""

    def __init__(self, dim_in: int, dim_out: int | None = None):
        super().__init__()
        dim_out = dim_out or dim_in
        self.first, self.second = nn.Linear(dim_in, min(dim_in, dim_out)), nn.Linear(min(dim_in, dim_out), dim_out)
        self.straight = nn.Identity() if dim_in == dim_out else nn.Linear(dim_in, dim_out, bias=False)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        return self.straight(x) + self.second(self.first(x.relu()).relu())


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation over all points of all shapes, scaled and shifted by a function of a vector for each shape
    (de Vries et al. 2017); with any vector it begins as plain normalisation."""

    def __init__(self, dim: int, dim_condition: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(dim, affine=False)
        self.to_scale, self.to_shift = nn.Linear(dim_condition, dim), nn.Linear(dim_condition, dim)
        for layer, bias in ((self.to_scale, 1.0), (self.to_shift, 0.0)):
            nn.init.zeros_(layer.weight)
            nn.init.constant_(layer.bias, bias)

    def forward(self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b c"]) -> Float[Tensor, "b n d"]:
        normal = self.norm(x.flatten(0, 1)).view_as(x)
        return self.to_scale(condition)[:, None] * normal + self.to_shift(condition)[:, None]


class ConditionalResidualBlock(nn.Module):
    """A residual block with `ConditionalBatchNorm` before each layer (Occupancy Networks, supplementary, section 1)."""

    def __init__(self, dim: int, dim_condition: int):
        super().__init__()
        self.norms = nn.ModuleList([ConditionalBatchNorm(dim, dim_condition) for _ in range(2)])
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Float[Tensor, "b n d"], condition: Float[Tensor, "b c"]) -> Float[Tensor, "b n d"]:
        inner = self.first(self.norms[0](x, condition).relu())
        return x + self.second(self.norms[1](inner, condition).relu())


class Gaussian:
    """A diagonal normal distribution: what a bottleneck gives, and what is drawn from it. Values (b, ..., c)."""

    def __init__(self, mean: Tensor, log_variance: Tensor):
        self.mean, self.log_variance = mean, log_variance.clamp(-30.0, 20.0)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        noise = torch.randn_like(self.mean) if noise is None else noise
        return self.mean + (0.5 * self.log_variance).exp() * noise

    def kl(self) -> Tensor:
        """The divergence from the standard normal distribution of each number, in nats, (b, ..., c)."""
        return 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance)
