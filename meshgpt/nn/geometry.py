"""The shape of a face in numbers: interior angles, area, normal."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class FaceGeometry:
    """angles: (nf, k) interior angles in radians. areas: (nf,). normals: (nf, 3), zero where there is no area."""

    angles: Float[Tensor, "nf k"]
    areas: Float[Tensor, " nf"]
    normals: Float[Tensor, "nf 3"]


def face_geometry(corners: Float[Tensor, "nf k 3"]) -> FaceGeometry:
    """Geometry of faces given by the positions of their corners; a translation changes nothing in it.

    A triangle among quads repeats its third corner; the fourth then has angle 0.
    """
    corners = corners.float()
    following, before = corners.roll(-1, dims=1), corners.roll(1, dims=1)
    if corners.shape[1] == 4:
        triangle = (corners[:, 3] == corners[:, 2]).all(dim=-1)[:, None]
        following[:, 2] = torch.where(triangle, corners[:, 0], following[:, 2])
        before[:, 0] = torch.where(triangle, corners[:, 2], before[:, 0])
        before[:, 3] = torch.where(triangle, corners[:, 3], before[:, 3])
    one, two = following - corners, before - corners
    angles = torch.atan2(torch.linalg.cross(one, two).norm(dim=-1), (one * two).sum(dim=-1))
    anchored = corners - corners[:, :1]  # Newell's formula, about a corner of the face so that nothing large cancels
    vectors = 0.5 * torch.linalg.cross(anchored, anchored.roll(-1, dims=1)).sum(dim=1)
    areas = vectors.norm(dim=-1)
    normals = torch.where(areas[:, None] > 0, vectors / areas[:, None].clamp(min=1e-20), 0.0)
    return FaceGeometry(angles, areas, normals)


def point_triangle_distances(
    points: Float[Tensor, "b p 3"], triangles: Float[Tensor, "b n 3 3"]
) -> Float[Tensor, "b n p"]:
    """The distance of each point from each triangle of its row, edges and corners included; of a degenerate one too.

    Inside the triangle's prism it is that from the plane, elsewhere that from the nearest edge (Ericson, Real-Time
    Collision Detection, section 5.1.5); all by products of matrices, nothing of shape (n, p, 3) is made.
    """
    origin, to_b, to_c = (
        triangles[:, :, 0],
        triangles[:, :, 1] - triangles[:, :, 0],
        triangles[:, :, 2] - triangles[:, :, 0],
    )
    from_b, opposite = triangles[:, :, 1], triangles[:, :, 2] - triangles[:, :, 1]
    squared = torch.stack(
        [
            _squared_to_segment(points, start, step)
            for start, step in ((origin, to_b), (origin, to_c), (from_b, opposite))
        ]
    ).amin(dim=0)
    along_b, along_c = _along(points, origin, to_b), _along(points, origin, to_c)
    bb, bc, cc = ((x * y).sum(dim=-1)[..., None] for x, y in ((to_b, to_b), (to_b, to_c), (to_c, to_c)))
    area = bb * cc - bc * bc  # the square of twice it
    solid = area > 1e-12
    area = torch.where(solid, area, 1.0)
    v, w = (cc * along_b - bc * along_c) / area, (bb * along_c - bc * along_b) / area
    normal = nn.functional.normalize(torch.linalg.cross(to_b, to_c), dim=-1)
    height = _along(points, origin, normal).square()
    return torch.where(solid & (v >= 0) & (w >= 0) & (v + w <= 1), height.minimum(squared), squared).sqrt()


def _along(points: Tensor, origin: Tensor, direction: Tensor) -> Float[Tensor, "b n p"]:
    """(point - origin) . direction."""
    return torch.einsum("bnc,bpc->bnp", direction, points) - (origin * direction).sum(dim=-1)[..., None]


def _squared_to_segment(points: Tensor, start: Tensor, step: Tensor) -> Float[Tensor, "b n p"]:
    length, along = step.square().sum(dim=-1)[..., None], _along(points, start, step)
    t = (along / length.clamp(min=1e-12)).clamp(0, 1)
    from_start = torch.cdist(start, points, compute_mode="donot_use_mm_for_euclid_dist").square()
    return (from_start - 2 * t * along + t * t * length).clamp(min=0)
