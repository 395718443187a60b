"""What the coarse stack may know of the faces' geometry: features of a face, and distances between faces."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.nn.geometry import face_geometry
from meshgpt.nn.precision import dtype_of

FACE_FEATURES = ("angles", "area", "normal", "corners")
CORNER_FREQUENCIES = (1, 2, 4, 8, 16, 32)  # half turns over [-1, 1]
SEQUENCE_BUCKETS = 24
SPATIAL_WIDTHS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


class FaceFeatures(nn.Module):
    """A vector for a face from some of its interior angles, area, normal and corners (k of them, in [-1, 1])."""

    def __init__(self, names: tuple[str, ...], corners: int, dim: int):
        super().__init__()
        self.names = names
        sizes = {
            "angles": 2 * corners,
            "area": 2,
            "normal": 3,
            "corners": 3 * corners * (1 + 2 * len(CORNER_FREQUENCIES)),
        }
        self.project = nn.Linear(sum(sizes[name] for name in names), dim)

    def forward(self, corners: Float[Tensor, "f k 3"]) -> Float[Tensor, "f d"]:
        geometry = face_geometry(corners)
        found = {
            "angles": lambda: torch.cat((geometry.angles.sin(), geometry.angles.cos()), dim=-1),
            "area": lambda: torch.stack((geometry.areas.sqrt(), (geometry.areas + 1e-6).log() / math.log(1e6)), dim=-1),
            "normal": lambda: geometry.normals,
            "corners": lambda: _waves(rearrange(corners.float(), "f k c -> f (k c)")),
        }
        return self.project(torch.cat([found[name]() for name in self.names], dim=-1).to(dtype_of(self)))


def _waves(x: Float[Tensor, "f c"]) -> Float[Tensor, "f w"]:
    """x, and sines and cosines of its multiples."""
    turns = x[..., None] * (math.pi * torch.tensor(CORNER_FREQUENCIES, device=x.device))
    return torch.cat(
        (x, rearrange(turns.sin(), "f c w -> f (c w)"), rearrange(turns.cos(), "f c w -> f (c w)")), dim=-1
    )


class DistanceBias(nn.Module):
    """What is added to an attention score because of how far apart two faces are, in the sequence and in space.

    In the sequence: a number a head for each of some buckets, exact up to 8 faces and logarithmic beyond. In space: a
    mixture of Gaussians of the distance between the faces' centres, 0 where one of the two is a start token.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.sequence = nn.Embedding(SEQUENCE_BUCKETS, heads)
        self.space = nn.Linear(len(SPATIAL_WIDTHS), heads, bias=False)
        nn.init.normal_(self.sequence.weight, std=0.1)
        nn.init.normal_(self.space.weight, std=0.1)

    def forward(
        self,
        query_places: Float[Tensor, "b n 3"],
        query_positions: Int[Tensor, "b n"],
        key_places: Float[Tensor, "b m 3"],
        key_positions: Int[Tensor, "b m"],
        num_start_tokens: int,
    ) -> Float[Tensor, "b h n m"]:
        apart = (query_positions[..., None] - key_positions[:, None]).clamp(min=0)
        beyond = (apart.float().clamp(min=8) / 8).log2() * 2
        buckets = torch.where(apart < 8, apart, 8 + beyond.long()).clamp(max=SEQUENCE_BUCKETS - 1)
        squared = (query_places[:, :, None] - key_places[:, None]).square().sum(dim=-1, keepdim=True)
        widths = torch.tensor(SPATIAL_WIDTHS, device=squared.device, dtype=squared.dtype)
        near = (-squared / (2 * widths**2)).exp()
        faces = (query_positions >= num_start_tokens)[..., None] & (key_positions >= num_start_tokens)[:, None]
        weights = self.space.weight
        spatial = F.linear(near.to(weights.dtype), weights).masked_fill(~faces[..., None], 0.0)
        return rearrange(self.sequence(buckets) + spatial, "b n m h -> b h n m")
