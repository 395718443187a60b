"""What the coarse stack is told of a cloud at each face: of the points that no face covers yet, the next and nearest.

Attention over a cloud must learn where in it a face lies. That is known: the faces so far have positions. In canonical
order, what comes next begins at the lowest points without a face; and beside a face, the surface goes on where there
are such points. Both are handed to the stack as they are. No paper that we know does this.
"""

import dataclasses

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from meshgpt.nn.fourier import PointEmbedding
from meshgpt.nn.geometry import point_triangle_distances
from meshgpt.nn.precision import dtype_of

COVERED = 0.05  # a point this near to a face belongs to it: more than the noise of a scan, less than a detail
NEXT = 8  # points ahead, from the lowest up
WIDTH = 64  # of the vector of a point
BINS = 128  # an axis: from a table of bins it is a short way to the code of a vertex that lies there
PAIRS_AT_ONCE = 1 << 21  # of faces and points whose distances are computed in one go


@dataclasses.dataclass(frozen=True)
class Cloud:
    """points: (b p 6), positions and normals, each row from its lowest point to its highest. mask: (b p)."""

    points: Float[Tensor, "b p 6"]
    mask: Bool[Tensor, "b p"]

    @staticmethod
    def sorted(points: Float[Tensor, "b p 6"], mask: Bool[Tensor, "b p"]) -> "Cloud":
        """The cloud from the lowest point up (y, then z, then x), points that are none last."""
        order = torch.arange(points.shape[1], device=points.device).expand(len(points), -1)
        for axis in (0, 2, 1):
            heights = points[..., axis].masked_fill(~mask, torch.inf).gather(1, order)
            order = order.gather(1, heights.argsort(dim=1, stable=True))
        return Cloud(points.gather(1, order[..., None].expand_as(points)).float(), mask.gather(1, order))

    def select(self, rows: Tensor) -> "Cloud":
        return Cloud(self.points[rows], self.mask[rows])


class CloudReader(nn.Module):
    """`near`: how many uncovered points around each corner of a face are told."""

    def __init__(self, dim: int, corners: int, near: int):
        super().__init__()
        self.near, self.corners = near, corners
        self.ahead = PointEmbedding(WIDTH, dim_extra=8)  # normal, whether known, step from the face, whether there
        self.around = nn.Linear(12, WIDTH)
        self.bins = nn.Embedding(3 * BINS, WIDTH)
        nn.init.normal_(self.bins.weight, std=0.3)
        self.mix = nn.Sequential(nn.Linear((NEXT + corners) * WIDTH + 2, 2 * dim), nn.SiLU())
        self.out = nn.Linear(2 * dim, dim)

    def forward(
        self,
        cloud: Cloud,
        corners: Float[Tensor, "b n k 3"],
        whole: Bool[Tensor, "b n"],
        covered: Bool[Tensor, "b p"],
    ) -> tuple[Float[Tensor, "b n d"], Bool[Tensor, "b p"]]:
        """What is told after each of n faces, and which points are covered after all of them.

        `whole`: True where there is a face. `covered`: by earlier faces. Rows without a cloud are told nothing.
        """
        with torch.no_grad():
            by_each = self._covers(cloud, corners, whole)
            after = by_each.cummax(dim=1).values | covered[:, None]
            missing = ~after & cloud.mask[:, None]
            told = self._told(cloud, corners, whole, missing)
        dtype = dtype_of(self)
        ahead = nn.functional.silu(self.ahead(told.ahead) + self._binned(told.ahead[..., :3]))
        ahead = ahead * told.ahead[..., -1:].to(dtype)
        around = nn.functional.silu(self.around(told.around.to(dtype)) + self._binned(told.places))
        around = (around * told.around[..., -1:].to(dtype)).amax(dim=3)
        parts = (ahead, around, told.shares.to(dtype)[:, :, None])
        flat = torch.cat([rearrange(part, "b n m d -> b n (m d)") for part in parts], dim=-1)
        return self.out(self.mix(flat)) * cloud.mask.any(dim=1)[:, None, None], after[:, -1]

    def _binned(self, places: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n d"]:
        """The sum of a vector for the bin on each axis."""
        bins = ((places + 1) / 2 * BINS).floor().long().clamp(0, BINS - 1)
        return self.bins(bins + BINS * torch.arange(3, device=bins.device)).sum(dim=-2)

    def _covers(self, cloud: Cloud, corners: Tensor, whole: Tensor) -> Bool[Tensor, "b n p"]:
        """Whether each face lies at each point."""
        corners = torch.where(whole[..., None, None], corners.float(), 1e3)
        step = max(1, PAIRS_AT_ONCE // max(cloud.mask.numel(), 1))
        pieces = []
        for part in corners.split(step, dim=1):
            distances = point_triangle_distances(cloud.points[..., :3], part[:, :, :3])
            if self.corners == 4:
                distances = distances.minimum(point_triangle_distances(cloud.points[..., :3], part[:, :, [0, 2, 3]]))
            pieces.append(distances <= COVERED)
        return torch.cat(pieces, dim=1)

    def _told(self, cloud: Cloud, corners: Tensor, whole: Tensor, missing: Bool[Tensor, "b n p"]) -> "_Told":
        points, shown = cloud.points, min(NEXT, missing.shape[2])
        rank = torch.arange(missing.shape[2], 0, -1, device=missing.device)
        found = (missing * rank).topk(shown, dim=2)
        ahead = self._points(points, found.indices)
        first = torch.where(whole[..., None], corners[:, :, 0].float(), 0.0)
        there = (found.values > 0)[..., None].float()
        step = ahead[..., :3] - first[:, :, None]
        ahead = torch.cat((ahead, known(ahead[..., 3:6]), step, there), dim=-1) * there
        ahead = nn.functional.pad(ahead, (0, 0, 0, NEXT - shown))
        around, places = self._around(points, corners.float(), missing & whole[..., None])
        share = missing.sum(dim=2) / cloud.mask.sum(dim=1).clamp(min=1)[:, None]
        return _Told(ahead, around, places, torch.stack((share, share.sqrt()), dim=-1))

    def _around(self, points: Tensor, corners: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest uncovered points of each corner: steps to them, normals, what is known; places."""
        shown = min(self.near, missing.shape[2])
        flat = rearrange(corners, "b n k c -> b (n k) c")
        distances = rearrange(torch.cdist(flat, points[..., :3]), "b (n k) p -> b n k p", k=corners.shape[2])
        near = distances.masked_fill(~missing[:, :, None], torch.inf).topk(shown, dim=3, largest=False)
        chosen = self._points(points, near.indices)
        step = chosen[..., :3] - corners[:, :, :, None]
        there = near.values.isfinite()[..., None].float()
        length = step.norm(dim=-1, keepdim=True)
        unit = step / length.clamp(min=1e-6)
        features = torch.cat((step, unit, length, chosen[..., 3:6], known(chosen[..., 3:6]), there), dim=-1)
        return torch.where(there > 0, features, 0.0), chosen[..., :3]

    @staticmethod
    def _points(points: Float[Tensor, "b p 6"], indices: Tensor) -> Tensor:
        """(b ... 6): chosen points of each row."""
        flat = indices.flatten(1)
        chosen = points.gather(1, repeat(flat, "b m -> b m c", c=6))
        return chosen.reshape(*indices.shape, 6)


@dataclasses.dataclass(frozen=True)
class _Told:
    """ahead: (b n NEXT 11). around: (b n k s 12), of points at places (b n k s 3). shares: (b n 2)."""

    ahead: Tensor
    around: Tensor
    places: Tensor
    shares: Tensor


def known(normals: Tensor) -> Tensor:
    """(..., 1): 1 where a normal is not zero."""
    return (normals != 0).any(dim=-1, keepdim=True).to(normals.dtype)
