"""What a cloud says of the mesh it was taken from, as numbers: where its corners may be, what lies where.

Low-poly meshes have their vertices where planes meet. The tangent planes of a point's neighbours meet in the point that
minimises a quadric (Garland and Heckbert 1997; as in dual contouring, Ju et al. 2002): exact for a clean cloud of a
faceted shape, and as good as the neighbourhood for others. Axes are in the order of coordinates as codes: y, z, x.
"""

import dataclasses

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from meshgpt.nn.embedding import AXES
from meshgpt.transformer.cloud_reader import Cloud

NEIGHBOURS = (6, 14)  # of a point, whose planes are brought together: few for what is small, more against noise
RIDGE = 0.002  # of the quadric, towards the middle of the neighbours: decides where planes do not
RESIDUAL = 0.006  # distance from planes at which a corner is doubted
GRID, REACH = 40, 2  # voxels an axis, and how many beside a point know it
TRAITS = 6
BESIDE = 6  # points by which it is told how much of the surface around a vertex is covered


@dataclasses.dataclass(frozen=True)
class Sketch:
    """Of each row: its points, the places where vertices may be, and which point is nearest to each voxel.

    surface: (b p 6), points and normals, mask: (b p). places: (b k 3) with traits (b k TRAITS), there: (b k), True
    where there is one, beside: (b k BESIDE), the points nearest to it. nearest: (b, GRID^3), number of a point, -1 for
    none near.
    """

    surface: Float[Tensor, "b p 6"]
    mask: Bool[Tensor, "b p"]
    places: Float[Tensor, "b k 3"]
    traits: Float[Tensor, "b k c"]
    there: Bool[Tensor, "b k"]
    beside: Int[Tensor, "b k n"]
    nearest: Int[Tensor, "b v"]

    @staticmethod
    @torch.no_grad()
    def of(cloud: Cloud, count: int, bins: int) -> "Sketch":
        """At most `count` places a row, on a grid of `bins` an axis."""
        rows = len(cloud.points)
        if rows > 1 and all((part == part[:1]).all() for part in (cloud.points, cloud.mask)):  # one shape, many meshes
            one = torch.zeros(1, dtype=torch.long, device=cloud.mask.device)
            return Sketch.of(cloud.select(one), count, bins).select(one.expand(rows))
        short = max(max(NEIGHBOURS) - cloud.points.shape[1], 0)
        points, mask = F.pad(cloud.points.float(), (0, 0, 0, short)), F.pad(cloud.mask, (0, short))
        points, normals = points[..., AXES], points[..., [3 + axis for axis in AXES]]
        places, traits, there = _corners(points, normals, mask, count, bins)
        beside = nearest_points(points, mask, places)
        surface = torch.cat((points, normals), dim=-1)
        return Sketch(surface, mask, places, traits, there, beside, _nearest(points, mask))

    def __len__(self) -> int:
        return len(self.surface)

    def select(self, rows: Int[Tensor, " r"]) -> "Sketch":
        return Sketch(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))

    @property
    def points(self) -> Float[Tensor, "b p 3"]:
        return self.surface[..., :3]

    @property
    def normals(self) -> Float[Tensor, "b p 3"]:
        return self.surface[..., 3:]

    @property
    def has_points(self) -> Bool[Tensor, " b"]:
        return self.mask.any(dim=1)

    @torch.no_grad()
    def look(
        self,
        places: Float[Tensor, "m n 3"],
        rows: Int[Tensor, " m"],
        since: Int[Tensor, "b p"],
        faces: Int[Tensor, " m"],
    ) -> "Nearby":
        """What lies at places of single rows, each after so many faces; `since`: the face that first covers a point."""
        voxel = ((places + 1) / 2 * GRID).floor().long().clamp(0, GRID - 1)
        number = (voxel[..., 0] * GRID + voxel[..., 1]) * GRID + voxel[..., 2]
        found = self.nearest.flatten()[number + rows[:, None] * self.nearest.shape[1]]
        known, flat = found >= 0, found.clamp(min=0) + rows[:, None] * self.surface.shape[1]
        point, normal = F.embedding(flat, rearrange(self.surface, "b p c -> (b p) c")).split(3, dim=-1)
        step = places - point
        distance, off = step.norm(dim=-1), (step * normal).sum(dim=-1).abs()
        off = torch.where((normal != 0).any(dim=-1), off, distance)
        near = (-((distance / 0.15) ** 2)).exp() * known
        about = (-((off / 0.06) ** 2)).exp()
        uncovered = (since.flatten()[flat] >= faces[:, None]) & known
        return Nearby(about**9 * near, about * near, uncovered.float(), normal)


@dataclasses.dataclass(frozen=True)
class Nearby:
    """How surely places lie on the surface, by a narrow and a wide measure; whether it is uncovered there; normals."""

    on: Tensor
    about: Tensor
    uncovered: Tensor
    normal: Tensor


@torch.no_grad()
def nearest_points(
    points: Float[Tensor, "b p 3"], mask: Bool[Tensor, "b p"], vertices: Float[Tensor, "b n 3"]
) -> Int[Tensor, "b n m"]:
    """Numbers of the `BESIDE` points nearest to each vertex."""
    return _neighbours(points, mask, vertices, BESIDE)[1]


def _neighbours(
    points: Float[Tensor, "b p 3"], mask: Bool[Tensor, "b p"], places: Float[Tensor, "b n 3"], count: int
) -> tuple[Float[Tensor, "b n m"], Int[Tensor, "b n m"]]:
    """Distances, inf for points that are none, and numbers of the `count` points nearest to each place."""
    if points.device.type != "cpu":
        apart = torch.cdist(places, points).masked_fill(~mask[:, None], torch.inf)
        near = apart.topk(count, dim=2, largest=False)
        return near.values, near.indices
    distances = torch.full((*places.shape[:2], count), torch.inf)
    numbers = torch.zeros((*places.shape[:2], count), dtype=torch.long)
    for row, (own, there) in enumerate(zip(points.numpy(), mask.numpy(), strict=True)):
        if there.any() and places.shape[1]:
            found = KDTree(own[there]).query(places[row].numpy(), min(count, int(there.sum())))
            apart, number = (torch.from_numpy(x).reshape(places.shape[1], -1) for x in found)
            distances[row, :, : apart.shape[1]] = apart.float()
            numbers[row, :, : apart.shape[1]] = torch.from_numpy(there.nonzero()[0])[number]
    return distances, numbers


def _corners(
    points: Tensor, normals: Tensor, mask: Tensor, count: int, bins: int
) -> tuple[Float[Tensor, "b k 3"], Float[Tensor, "b k c"], Bool[Tensor, "b k"]]:
    """The likeliest places of vertices, one a voxel of the grid, with what is known of each."""
    distances, near = _neighbours(points, mask, points, max(NEIGHBOURS))
    found = [_meeting(points, normals, distances[..., :n], near[..., :n]) for n in NEIGHBOURS]
    places, traits = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    mask = mask.repeat(1, len(found))
    worth = torch.where(mask, traits[..., 2] * (traits[..., 0] + 0.3 * traits[..., 1] + 0.02) + 1e-3, 0.0)
    voxels = ((places + 1) / 2 * bins + 1e-3).floor().long().clamp(0, bins - 1)
    number = (voxels[..., 0] * bins + voxels[..., 1]) * bins + voxels[..., 2]
    number = torch.where(mask, number, bins**3)
    order = worth.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, number.gather(1, order).argsort(dim=1, stable=True))
    number = number.gather(1, order).contiguous()
    first = F.pad(number[:, 1:] != number[:, :-1], (1, 0), value=True)
    votes = torch.searchsorted(number, number, right=True) - torch.searchsorted(number, number)
    votes = votes.float().log1p()
    worth = torch.where(first, worth.gather(1, order) * votes, 0.0)
    best = worth.topk(min(count, worth.shape[1]), dim=1)
    chosen = order.gather(1, best.indices)
    there = best.values > 0
    traits = torch.cat((_rows(traits, chosen), votes.gather(1, best.indices)[..., None]), dim=-1)
    return _rows(places, chosen) * there[..., None], traits * there[..., None], there


def _meeting(points: Tensor, normals: Tensor, distances: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Where the tangent planes of neighbours meet (b p 3), and of each place (b p TRAITS - 1): how much like a corner,
    like an edge, how surely, and the first two by the last."""
    known = distances.isfinite()
    reach = distances.masked_fill(~known, 0.0).amax(dim=2).clamp(min=1e-6)
    weight = (torch.where(known, -((distances / reach[..., None]) ** 2), -torch.inf)).exp()
    weight = weight / weight.sum(dim=2, keepdim=True).clamp(min=1e-9)
    beside = rearrange(_rows(points, near.flatten(1)), "b (p n) c -> b p n c", n=near.shape[2])
    upright = rearrange(_rows(normals, near.flatten(1)), "b (p n) c -> b p n c", n=near.shape[2])
    middle = torch.einsum("bpn,bpnc->bpc", weight, beside)
    quadric = torch.einsum("bpn,bpni,bpnj->bpij", weight, upright, upright)
    height = ((beside - middle[:, :, None]) * upright).sum(dim=-1)
    target = torch.einsum("bpn,bpni,bpn->bpi", weight, upright, height)
    place = middle + torch.linalg.solve(quadric + RIDGE * torch.eye(3, device=points.device), target)
    went_astray = (place - points).norm(dim=-1) > 2 * reach
    place = torch.where(went_astray[..., None], middle, place)
    residual = torch.einsum("bpn,bpn->bp", weight, ((place[:, :, None] - beside) * upright).sum(dim=-1) ** 2)
    surely = (-residual / RESIDUAL**2).exp() * (upright != 0).any(dim=-1).float().mean(dim=-1)
    corner = torch.where(went_astray, 0.0, (27 * torch.linalg.det(quadric)).clamp(min=0)).sqrt()
    edge = (1.5 * (1 - (quadric**2).sum(dim=(-2, -1)))).clamp(min=0).sqrt()
    return place, torch.stack((corner, edge, surely, corner * surely, edge * surely), dim=-1)


def _nearest(points: Tensor, mask: Tensor) -> Int[Tensor, "b v"]:
    """The point nearest to the centre of each voxel, of those within `REACH` voxels an axis; -1 where none is."""
    rows, count = mask.shape
    steps = torch.arange(-REACH, REACH + 1, device=points.device)
    steps = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1).reshape(-1, 3)
    own = ((points + 1) / 2 * GRID).floor().long().clamp(0, GRID - 1)
    voxels = own[:, :, None] + steps
    centres = (voxels + 0.5) / GRID * 2 - 1
    squared = ((centres - points[:, :, None]).square().sum(dim=-1) * 2**20).long()
    ranked = squared * count + torch.arange(count, device=points.device)[:, None]  # of equally near ones the first
    inside = ((voxels >= 0) & (voxels < GRID)).all(dim=-1) & mask[..., None]
    number = torch.where(inside, (voxels[..., 0] * GRID + voxels[..., 1]) * GRID + voxels[..., 2], GRID**3)
    none = torch.iinfo(torch.long).max
    grid = torch.full((rows, GRID**3 + 1), none, device=points.device)
    grid = grid.scatter_reduce(1, number.flatten(1), ranked.flatten(1), "amin")[:, :-1]
    return torch.where(grid < none, grid % count, -1)


def _rows(values: Float[Tensor, "b n c"], chosen: Int[Tensor, "b m"]) -> Float[Tensor, "b m c"]:
    return values.gather(1, repeat(chosen, "b m -> b m c", c=values.shape[-1]))
