"""`ShapeRecognizer`: a small model that says what a mesh is, its category and which of some texts fits it best.

It judges what generators make, so it learns from real meshes alone and knows of no generator. It sees a mesh as points
of its surface on three small pictures, from the side, from above and from the front, on which everything is visible:
the insides of open parts as well. Winding does not matter to it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meshgpt.checkpoint import Pretrained
from meshgpt.config import Config, resolve_config
from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.sampling import sample_surface

CHANNELS = 9  # of a picture: see `pictures`
CHUNK = 64  # meshes at a time where no gradient is wanted


@dataclass(frozen=True)
class RecognizerConfig(Config):
    """`categories`: what it tells apart. `text_encoder`: whose pooled embeddings, `dim_text` wide, its texts are.

    accuracy: how often it is right about the category of meshes that it did not learn from, where that was measured.
    """

    categories: tuple[str, ...] = ()
    text_encoder: str = "minilm"
    dim_text: int = 384
    num_points: int = 2048  # shown of each mesh
    resolution: int = 32  # pixels along a side of a picture
    dim: int = 24  # channels at full resolution; they double with each halving
    dim_hidden: int = 256
    dim_embed: int = 128  # of the space that shapes and texts share
    dropout: float = 0.4
    accuracy: float | None = None

    def validate(self) -> None:
        self.require(len(self.categories) > 0, "categories", "name at least one")
        self.require(len(set(self.categories)) == len(self.categories), "categories", "name each one once")
        self.require(self.resolution >= 8 and self.resolution % 8 == 0, "resolution", "be a multiple of 8")
        for name in ("dim_text", "num_points", "dim", "dim_hidden", "dim_embed"):
            self.require(getattr(self, name) >= 1, name, "be at least 1")
        self.require(0 <= self.dropout < 1, "dropout", "lie in [0, 1)")


@dataclass(frozen=True)
class Recognition:
    """What b meshes look like. `seen` is False for one without a surface, whose other values are 0."""

    logits: Float[Tensor, "b c"]  # of the categories
    embeddings: Float[Tensor, "b d"]  # of length 1: their products with those of texts say how well these fit
    seen: Bool[Tensor, " b"]


class ShapeRecognizer(nn.Module, Pretrained):
    """Points of b meshes to logits of categories and to embeddings in a space that texts share (arXiv:2103.00020).

    A small residual network looks at each of the three pictures. The two from the side are alike to it, as meshes of
    different makers face different ways, and the maximum of what it finds on them counts; so a quarter turn about y
    with a mirror image changes nothing.
    """

    config_class, part = RecognizerConfig, "recognizer"

    @no_type_check
    def __init__(self, config=None, **keywords):
        super().__init__()
        self.config = config = resolve_config(RecognizerConfig, config, keywords)
        widths = [config.dim * 2**level for level in range(4)]
        self.look = nn.Sequential(
            convolution(CHANNELS, widths[0]),
            convolution(widths[0], widths[1], stride=2),
            Residual(widths[1]),
            convolution(widths[1], widths[2], stride=2),
            Residual(widths[2]),
            convolution(widths[2], widths[3], stride=2),
        )
        self.judge = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(4 * widths[3], config.dim_hidden, bias=False),
            nn.BatchNorm1d(config.dim_hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )
        self.to_logits = nn.Linear(config.dim_hidden, len(config.categories))
        self.to_embedding = nn.Linear(config.dim_hidden, config.dim_embed)
        self.read = nn.Linear(config.dim_text, config.dim_embed)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    @property
    def device(self) -> torch.device:
        return self.log_scale.device

    def forward(self, points: Float[Tensor, "b p 6"]) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b d"]]:
        """points: of normalised meshes, with unit normals. Gives logits and embeddings of length 1."""
        found = self.look(rearrange(pictures(points, self.config.resolution), "b a c h w -> (a b) c h w"))
        found = torch.cat((found.amax(dim=(2, 3)), found.mean(dim=(2, 3))), dim=-1)
        side, above, front = found.chunk(3)
        hidden = self.judge(torch.cat((torch.maximum(side, front), above), dim=-1))
        return self.to_logits(hidden), F.normalize(self.to_embedding(hidden), dim=-1)

    def read_texts(self, pooled: Float[Tensor, "t e"]) -> Float[Tensor, "t d"]:
        """Embeddings of length 1 of texts, from what the text encoder says of each of them as a whole."""
        return F.normalize(self.read(F.normalize(pooled.to(self.device), dim=-1)), dim=-1)

    @torch.no_grad()
    @no_type_check
    def recognize(self, meshes: Sequence[Mesh], seed: int = 0) -> Recognition:
        """What meshes of any place and size look like, `CHUNK` at a time, in evaluation mode.

        seed: of the points on each surface, which do not depend on the other meshes.
        """
        was_training = self.training
        self.eval()
        logits = torch.zeros(len(meshes), len(self.config.categories))
        embeddings, seen = torch.zeros(len(meshes), self.config.dim_embed), torch.zeros(len(meshes), dtype=torch.bool)
        for start in range(0, len(meshes), CHUNK):
            clouds, real = surface_points(meshes[start : start + CHUNK], self.config.num_points, seed)
            rows = start + real.nonzero()[:, 0]
            if len(rows):
                logits[rows], embeddings[rows] = (part.cpu() for part in self(clouds[real].to(self.device)))
                seen[rows] = True
        self.train(was_training)
        return Recognition(logits, embeddings, seen)

    @no_type_check
    def relevant(self, categories: Sequence[str]) -> Bool[Tensor, "b c"]:
        """True at the category of each row; all False in a row of another one."""
        return torch.tensor([[name == each for each in self.config.categories] for name in categories]).reshape(
            len(categories), len(self.config.categories)
        )


@no_type_check
def surface_points(
    meshes: Sequence[Mesh], count: int, seed: int
) -> tuple[Float[Tensor, "b {count} 6"], Bool[Tensor, " b"]]:
    """Points of normalised meshes with normals, and True where a mesh has a surface; elsewhere the points are 0."""
    clouds, real = np.zeros((len(meshes), count, 6), dtype=np.float32), np.zeros(len(meshes), dtype=bool)
    for row, mesh in enumerate(meshes):
        try:
            clouds[row] = np.concatenate(sample_surface(mesh.normalized(), count, seed), axis=1)
            real[row] = True
        except MeshError:
            continue
    return torch.from_numpy(clouds), torch.from_numpy(real)


@torch.no_grad()
def pictures(points: Float[Tensor, "b p 6"], size: int) -> Float[Tensor, "b 3 9 {size} {size}"]:
    """Points in [-1, 1] with normals, seen along x, y and z; parts that lie behind others show through.

    Channels: whether a point falls on a pixel; how many, up to 8; their mean depth; the mean squares of their normals
    along the depth, upwards and across; their greatest and least depth; whether the picture is the one from above.
    """
    views = [_picture(points, axes, size) for axes in ((0, 1, 2), (1, 0, 2), (2, 1, 0))]  # depth, up, across
    return torch.stack(views, dim=1)


def _picture(points: Float[Tensor, "b p 6"], axes: tuple[int, int, int], size: int) -> Float[Tensor, "b 9 s s"]:
    positions, normals = points[..., :3][..., axes], points[..., 3:][..., axes]
    pixel = _pixels(positions[..., 1:], size)
    depth = positions[..., 0].flatten()
    places = len(points) * size * size
    told = torch.cat((torch.ones_like(depth)[:, None], depth[:, None], normals.square().flatten(0, 1)), dim=-1)
    sums = depth.new_zeros(places, 5).index_add_(0, pixel, told)
    farthest = [depth.new_full((places,), -sign).scatter_reduce_(0, pixel, depth, how) for sign, how in EXTREMES]
    count = sums[:, :1]
    hit = (count > 0).to(depth.dtype)
    above = torch.full_like(hit, float(axes[0] == 1))
    means, extremes = sums[:, 1:] / count.clamp(min=1), torch.stack(farthest, dim=-1) * hit
    picture = torch.cat((hit, count.clamp(max=8) / 8, means, extremes, above), dim=-1)
    return rearrange(picture, "(b h w) c -> b c h w", h=size, w=size)


EXTREMES = ((1.0, "amax"), (-1.0, "amin"))


def _pixels(positions: Float[Tensor, "b p 2"], size: int) -> Int[Tensor, " n"]:
    """The pixel of each point among those of all pictures of the batch."""
    row, column = ((positions * 0.5 + 0.5) * size).floor().clamp(0, size - 1).long().unbind(dim=-1)
    batch = torch.arange(len(positions), device=positions.device)[:, None]
    return ((batch * size + row) * size + column).flatten()


def convolution(dim_in: int, dim_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim_in, dim_out, 3, stride, 1, bias=False), nn.BatchNorm2d(dim_out), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions on a residual path (arXiv:1512.03385)."""

    def __init__(self, dim: int):
        super().__init__()
        self.first = convolution(dim, dim)
        self.second = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return F.relu(x + self.norm(self.second(self.first(x))))
