"""What shapes are told by: point clouds, voxels, numbers or vectors made elsewhere, each as one vector a shape."""

from typing import no_type_check

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.errors import ConditionError
from meshgpt.nn.conditional import ResidualBlock

KINDS = ("points", "voxels", "index", "embedding", "none")


class PointNetEncoder(nn.Module):
    """A cloud as one vector: residual blocks, after each of which every point is told the maxima of all (Mescheder et
    al. 2019, supplementary, section 1, on Qi et al. 2017). The order of the points does not matter."""

    def __init__(self, dim: int, dim_hidden: int, num_blocks: int = 5):
        super().__init__()
        self.embed = nn.Linear(3, 2 * dim_hidden)
        self.blocks = nn.ModuleList([ResidualBlock(2 * dim_hidden, dim_hidden) for _ in range(num_blocks)])
        self.to_out = nn.Linear(dim_hidden, dim)

    @no_type_check
    def forward(self, clouds: Float[Tensor, "b p c"]) -> Float[Tensor, "b d"]:
        """clouds: places in the first three columns; others are not looked at."""
        _check(
            clouds.ndim == 3 and clouds.shape[-1] >= 3 and clouds.shape[1] > 0, "points (b, p, 3), p above 0", clouds
        )
        x = self.embed(clouds[..., :3])
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number + 1 < len(self.blocks):
                x = torch.cat((x, x.amax(dim=1, keepdim=True).expand_as(x)), dim=-1)
        return self.to_out(x.amax(dim=1).relu())


class VoxelEncoder(nn.Module):
    """A grid of occupied cells as one vector, by convolutions that halve it."""

    def __init__(self, dim: int, resolution: int = 32, dim_hidden: int = 16):
        super().__init__()
        self.resolution = resolution
        dims = [1, *(dim_hidden * 2**level for level in range(resolution.bit_length() - 2))]
        pairs = zip(dims[:-1], dims[1:], strict=True)
        layers = [nn.Sequential(nn.Conv3d(a, b, 3, stride=2, padding=1), nn.ReLU()) for a, b in pairs]
        self.layers, self.to_out = nn.Sequential(*layers), nn.Linear(8 * dims[-1], dim)

    @no_type_check
    def forward(self, voxels: Float[Tensor, "b x y z"]) -> Float[Tensor, "b d"]:
        size = (self.resolution,) * 3
        _check(voxels.ndim == 4 and voxels.shape[1:] == size, f"voxels (b, {', '.join(map(str, size))})", voxels)
        return self.to_out(self.layers(voxels[:, None]).flatten(1))


class IndexEncoder(nn.Module):
    """The number of a shape of the training data as a vector that is learned for it (an auto-decoder)."""

    def __init__(self, dim: int, num_shapes: int):
        super().__init__()
        self.table = nn.Embedding(num_shapes, dim)
        nn.init.normal_(self.table.weight, std=0.1)

    @no_type_check
    def forward(self, index: Int[Tensor, " b"]) -> Float[Tensor, "b d"]:
        _check(index.ndim == 1 and not index.is_floating_point(), "whole numbers (b,)", index)
        size = self.table.num_embeddings
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < size:
            raise ConditionError(f"shapes are numbered 0 to {size - 1}, got {int(index.min())} to {int(index.max())}")
        return self.table(index)


class EmbeddingEncoder(nn.Module):
    """Vectors that were made elsewhere, those of an image encoder, say."""

    def __init__(self, dim: int, dim_embedding: int):
        super().__init__()
        self.dim_embedding = dim_embedding
        self.project = nn.Sequential(nn.Linear(dim_embedding, dim), nn.ReLU(), nn.Linear(dim, dim))

    @no_type_check
    def forward(self, vectors: Float[Tensor, "b e"]) -> Float[Tensor, "b d"]:
        _check(vectors.ndim == 2 and vectors.shape[1] == self.dim_embedding, f"(b, {self.dim_embedding})", vectors)
        return self.project(vectors)


def voxelized(clouds: Float[Tensor, "b p c"], resolution: int) -> Float[Tensor, "b x y z"]:
    """1 for the cells of a grid over [-1, 1]^3 that hold a point, else 0; cell i covers [i, i + 1) 2 / r - 1."""
    cells = ((clouds[..., :3] + 1) * (resolution / 2)).floor().long().clamp(0, resolution - 1)
    keys = (cells[..., 0] * resolution + cells[..., 1]) * resolution + cells[..., 2]
    flat = clouds.new_zeros(len(clouds), resolution**3).scatter_(1, keys, 1.0)
    return rearrange(flat, "b (x y z) -> b x y z", x=resolution, y=resolution)


def _check(fits: bool, wanted: str, got: Tensor) -> None:
    if not fits:
        raise ConditionError(f"this model is told by {wanted}, got {got.dtype} of shape {tuple(got.shape)}")
