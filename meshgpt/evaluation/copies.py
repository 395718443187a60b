"""Does a generated mesh copy one of the meshes that the model was trained on?

Training sees every mesh stretched along its axes, turned by quarters about y and mirrored, so a memorised mesh comes
back in any of these forms; all of them count as copies.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import no_type_check

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

from meshgpt.mesh.canonical import canonicalize
from meshgpt.mesh.mesh import Mesh

NEAR = 1 / 64  # mean distance between vertices, in a box of side 2: one of 128 bins


@dataclass(frozen=True)
class Copy:
    """The nearest mesh of the data set. `exact`: the same faces on the grid; else the same up to a stretch or turn."""

    index: int
    exact: bool
    distance: float


class CopyFinder:
    """Finds the mesh of `dataset` (with `mesh(i)` and `face_counts`) that a mesh copies.

    `find(mesh)` compares with the meshes whose number of faces differs by a tenth at most: both are stretched to the
    same box, the mesh is turned and mirrored in all 8 ways, and the mean distance from each vertex to the nearest one
    of the other is taken, in both directions.
    """

    @no_type_check
    def __init__(self, dataset, num_discrete_coors: int = 128, near: float = NEAR):
        self.dataset, self.num_discrete_coors, self.near = dataset, num_discrete_coors, near
        self.face_counts = np.asarray(dataset.face_counts)
        self._tree_of = lru_cache(maxsize=None)(self._tree)

    def find(self, mesh: Mesh) -> Copy | None:
        """The copy at the smallest distance, or None where none is within `near`."""
        if not mesh.num_faces:
            return None
        grid = canonicalize(mesh.normalized(), self.num_discrete_coors)
        forms = [KDTree(points) for points in _all_forms(_stretched(mesh))]
        best = None
        for index in np.flatnonzero(np.abs(self.face_counts - mesh.num_faces) <= 0.1 * mesh.num_faces):
            distance = min(_chamfer(form, self._tree_of(int(index))) for form in forms)
            if distance <= self.near and (best is None or distance < best.distance):
                original = canonicalize(self.dataset.mesh(int(index)).normalized(), self.num_discrete_coors)
                best = Copy(int(index), original == grid, float(distance))
        return best

    def _tree(self, index: int) -> KDTree:
        return KDTree(_stretched(self.dataset.mesh(index)))


def _stretched(mesh: Mesh) -> Float[np.ndarray, "nv 3"]:
    """The vertices that faces use, each axis stretched to [-1, 1]; an axis without extent to 0."""
    points = mesh.vertices[np.unique(mesh.faces[mesh.faces >= 0])]
    low, high = points.min(axis=0), points.max(axis=0)
    half = (high - low) / 2
    return np.divide(points - (low + high) / 2, half, out=np.zeros_like(points), where=half > 1e-9)


def _all_forms(points: Float[np.ndarray, "nv 3"]) -> list[Float[np.ndarray, "nv 3"]]:
    """Four turns about y, each as it is and mirrored in x."""
    turned = points, points[:, [2, 1, 0]] * (1, 1, -1), points * (-1, 1, -1), points[:, [2, 1, 0]] * (-1, 1, 1)
    return [form * mirror for form in turned for mirror in ((1, 1, 1), (-1, 1, 1))]


def _chamfer(one: KDTree, other: KDTree) -> float:
    """The larger of the two mean distances from a point of one to the nearest of the other."""
    return max(float(other.query(one.data)[0].mean()), float(one.query(other.data)[0].mean()))
