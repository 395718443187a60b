"""Sets of meshes as sets of points: what distances between sets are measured on."""

from collections.abc import Sequence
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import MARGIN, Mesh
from meshgpt.mesh.sampling import sample_surface

NORMALISATIONS = ("box", "sphere")


@no_type_check
def surface_clouds(
    meshes: Sequence[Mesh], count: int, seed: int | tuple[int, ...] = 0, normalise: str = "box"
) -> Float[Tensor, "n {count} 3"]:
    """`count` points spread evenly over the surface of each mesh.

    normalise: "box", its box in the middle and its longest side 1, or "sphere", see `in_sphere`. Mesh i has a stream of
    its own, of `seed` and i. A mesh without surface is `count` times the middle: far from everything, and not left out.
    float32.
    """
    clouds = np.zeros((len(meshes), count, 3), dtype=np.float32)
    for row, mesh in enumerate(meshes):
        rng = np.random.default_rng((*np.atleast_1d(seed).tolist(), row))
        try:
            clouds[row] = sample_surface(mesh.normalized(), count, rng)[0] / (2 * MARGIN)
        except MeshError:
            continue
    points = torch.from_numpy(clouds)
    return in_sphere(points) if normalise == "sphere" else points


def in_sphere(clouds: Float[Tensor, "n p 3"]) -> Float[Tensor, "n p 3"]:
    """Each cloud moved to its centroid and scaled into the unit sphere, as papers do that take 1,024 points."""
    moved = clouds - clouds.mean(dim=1, keepdim=True)
    reach = moved.norm(dim=-1).amax(dim=1)
    return moved / torch.where(reach > 0, reach, 1.0)[:, None, None]
