"""How far a mesh is its own mirror image, as most made things are."""

from typing import no_type_check

import numpy as np

from meshgpt.mesh.mesh import Mesh

STEPS = 64  # of the longest side, within one of which a vertex and the image of another are one


@no_type_check
def mirrored_share(mesh: Mesh) -> float:
    """The share of vertices that have a mirror image, across the middle of the bounding box along x or, if more, z.

    In [0, 1]; 0 for a mesh without faces. Up and down are never alike to it: things stand.
    """
    return max(mirrored_shares(mesh))


@no_type_check
def mirrored_shares(mesh: Mesh) -> tuple[float, float]:
    """The same along x and along z."""
    if not mesh.num_faces:
        return 0.0, 0.0
    low, high = mesh.bounds
    step = max(float((high - low).max()) / STEPS, np.finfo(float).tiny)
    along_x, along_z = (_share(mesh.vertices - (low + high) / 2, axis, step) for axis in (0, 2))
    return along_x, along_z


def _share(vertices: np.ndarray, axis: int, step: float) -> float:
    """Of vertices around 0."""
    mirrored = vertices.copy()
    mirrored[:, axis] *= -1
    there, image = (np.floor(each / step + 0.5).astype(np.int64) for each in (vertices, mirrored))
    beside = np.eye(3, dtype=np.int64)[axis]
    return float(np.logical_or.reduce([np.isin(_keys(image + by * beside), _keys(there)) for by in (-1, 0, 1)]).mean())


def _keys(cells: np.ndarray) -> np.ndarray:
    """A number for each cell."""
    return ((cells[:, 0] + STEPS) * 4 * STEPS + cells[:, 1] + STEPS) * 4 * STEPS + cells[:, 2] + STEPS
