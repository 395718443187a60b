"""Numbers as vectors: the bits of a bin, sinusoids, and bins of a continuous value."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.nn.precision import dtype_of

AXES = [1, 2, 0]  # positions are read in the order (y, z, x), in which vertices are sorted


def num_bits(size: int) -> int:
    """Bits that number `size` values: 7 for 128, 8 for 129."""
    return max(1, math.ceil(math.log2(size)))


def sign_bits(bins: Int[Tensor, "*shape"], bits: int) -> Float[Tensor, "*shape {bits}"]:
    """The binary digits of `bins` as -1 and +1, highest first."""
    shifts = torch.arange(bits - 1, -1, -1, device=bins.device)
    return ((bins[..., None] >> shifts) & 1).float() * 2 - 1


def fourier_features(values: Float[Tensor, "*shape"], frequencies: int) -> Float[Tensor, "*shape {frequencies*2}"]:
    """Sines and cosines of `values` in [-1, 1] at pi, 2 pi, 4 pi, ... (NeRF, arXiv:2003.08934, Equation 4)."""
    wide = values if values.dtype == torch.float64 else values.float()
    phases = wide[..., None] * 2.0 ** torch.arange(frequencies, device=values.device) * math.pi
    return torch.cat((phases.sin(), phases.cos()), dim=-1)


def to_bins(values: Tensor, low: float, high: float, size: int) -> Tensor:
    """Bins 0 .. size - 1 of values spread evenly over [low, high]; outside values fall into the outermost bins.

    Right angles and axis-aligned normals fall between two bins; a nudge keeps rounding from deciding which.
    """
    return ((values.float() - low) / (high - low) * size + 1e-2).floor().clamp(0, size - 1).long()


class PositionEmbedding(nn.Module):
    """Grid positions as vectors, by a small network of their bits and sinusoids."""

    def __init__(self, num_bins: int, dim: int):
        super().__init__()
        self.num_bins, self.bits = num_bins, num_bits(num_bins)
        self.project_in = nn.Linear(9 * self.bits, dim)
        self.project_out = nn.Linear(dim, dim)

    def forward(self, bins: Int[Tensor, "n 3"]) -> Float[Tensor, "n d"]:
        ordered = bins[:, AXES]
        centres = (ordered + 0.5) / self.num_bins * 2 - 1
        bits = rearrange(sign_bits(ordered, self.bits), "n a f -> n (a f)")
        waves = rearrange(fourier_features(centres, self.bits), "n a f -> n (a f)")
        features = torch.cat((bits, waves), dim=-1).to(self.project_in.weight.dtype)
        return self.project_out(nn.functional.silu(self.project_in(features)))


class TimeEmbedding(nn.Module):
    """One number in [-1, 1] a row, the clock of a diffusion, as a vector: by its sinusoids and a small network."""

    def __init__(self, dim: int, num_frequencies: int = 8):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.project = nn.Sequential(nn.Linear(2 * num_frequencies + 1, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, clock: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        features = torch.cat((fourier_features(clock, self.num_frequencies), clock.float()[:, None]), dim=-1)
        return self.project(features.to(dtype_of(self)))
