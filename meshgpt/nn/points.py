"""A point cloud as a small set of vectors."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meshgpt.mesh.farthest import farthest_points
from meshgpt.nn.fourier import PointEmbedding
from meshgpt.nn.latents import SetBlock
from meshgpt.nn.normalization import RMSNorm


class PointEncoder(nn.Module):
    """Clouds of any size as `num_latents` vectors, after the encoder of 3DShape2VecSet (arXiv:2301.11445, section 5).

    The farthest points of a cloud look at all of its points by cross-attention; `depth` blocks of self-attention
    follow (the paper has them after its bottleneck). Unlike there, points carry normals, and cross-attention has heads.
    The latents are a set: they have no order, and neither the order of the points nor padding changes them.
    """

    def __init__(self, dim: int, num_latents: int, depth: int, heads: int, dim_head: int, num_frequencies: int = 8):
        super().__init__()
        self.num_latents = num_latents
        self.embed = PointEmbedding(dim, num_frequencies, dim_extra=4)
        self.gather = SetBlock(dim, heads, dim_head, dim_context=dim)
        self.blocks = nn.ModuleList([SetBlock(dim, heads, dim_head) for _ in range(depth)])
        self.norm = RMSNorm(dim)

    def forward(self, points: Float[Tensor, "b p 6"], mask: Bool[Tensor, "b p"]) -> Float[Tensor, "b m d"]:
        """points: positions in [-1, 1], then unit normals, or zeros where those are unknown. mask: True where there is
        a point. A cloud of fewer points than latents repeats its points; a row without points gives the same finite
        latents whatever its padding holds."""
        if points.shape[1] == 0:  # nothing to look at: one point of padding
            points, mask = nn.functional.pad(points, (0, 0, 0, 1)), nn.functional.pad(mask, (0, 1))
        points = torch.where(mask[..., None], points, 0.0)
        known = (points[..., 3:] != 0).any(dim=-1, keepdim=True).to(points.dtype)
        embedded = self.embed(torch.cat((points, known), dim=-1))
        chosen = farthest_points(points, mask, self.num_latents)
        latents = embedded.gather(1, chosen[..., None].expand(-1, -1, embedded.shape[-1]))
        latents = self.gather(latents, embedded, mask)
        for block in self.blocks:
            latents = block(latents)
        return self.norm(latents)
