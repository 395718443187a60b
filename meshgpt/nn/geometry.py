"""The shape of a face in numbers: interior angles, area, normal."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


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
