"""Points in space as vectors."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from meshgpt.nn.embedding import fourier_features
from meshgpt.nn.precision import dtype_of


class PointEmbedding(nn.Module):
    """Positions as vectors by sines and cosines of octaves, with what else is known of each point.

    As in 3DShape2VecSet (arXiv:2301.11445, section 5.1): per axis the sines and cosines at pi, 2 pi, 4 pi, ...,
    beside the position itself, then one linear layer. `dim_extra` further columns (normals, say) enter as they are.
    """

    def __init__(self, dim: int, num_frequencies: int = 8, dim_extra: int = 0):
        super().__init__()
        self.num_frequencies = num_frequencies
        self.project = nn.Linear(3 * (2 * num_frequencies + 1) + dim_extra, dim)

    def forward(self, points: Float[Tensor, "*n c"]) -> Float[Tensor, "*n d"]:
        """points: positions in [-1, 1], then the further columns."""
        waves = fourier_features(points[..., :3], self.num_frequencies)  # never in half precision: 2^7 pi x
        features = torch.cat((rearrange(waves, "... a f -> ... (a f)"), points.to(waves.dtype)), dim=-1)
        return self.project(features.to(dtype_of(self)))
