"""Points on the surface of a mesh."""

from typing import no_type_check

import numpy as np
from jaxtyping import Float

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import Mesh


@no_type_check
def sample_surface(
    mesh: Mesh, count: int, rng: np.random.Generator | int
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """`count` points spread evenly over the area of a mesh, and the unit normals of the faces they lie on; float64.

    Quads are cut into two triangles first, each with its own normal. rng: a generator, or a seed. What it gives depends
    on the order of the faces. Raises `MeshError` for a mesh without area and for a negative count.
    """
    if count < 0:
        raise MeshError(f"cannot take {count} points, the count must be 0 or more")
    triangles, weights, normals = _with_area(mesh)
    rng = np.random.default_rng(rng)
    ends = np.cumsum(weights)
    chosen = np.searchsorted(ends, rng.random(count) * ends[-1], side="right").clip(max=len(ends) - 1)
    root, along = np.sqrt(rng.random((count, 1))), rng.random((count, 1))  # Osada et al. 2002, Equation 1
    first, second, third = triangles[chosen].transpose(1, 0, 2)
    points = (1 - root) * first + root * (1 - along) * second + root * along * third
    return points, normals[chosen]


def _with_area(mesh: Mesh) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners (n, 3, 3), areas up to a factor, and unit normals of the triangles of a mesh that have an area."""
    if not mesh.num_faces:
        raise MeshError("cannot take points from a mesh without faces: it has no surface")
    mesh = mesh.triangulated()
    low, high = mesh.bounds
    longest = (high - low).max()
    scaled = Mesh((mesh.vertices - low) / longest, mesh.faces) if 0 < longest < np.inf else mesh
    areas = scaled.face_areas  # of a mesh of size 1: areas of tiny and huge ones are not numbers any more
    real = areas > 0
    if not real.any():
        what = f"all {mesh.num_faces} of its triangles are without area"
        raise MeshError(f"cannot take points from a mesh without surface: {what}; remove or repair it")
    return mesh.vertices[mesh.faces[real]], areas[real], scaled.face_normals[real]
