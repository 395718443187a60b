"""One mesh: vertices and faces, checked once, cleaned and normalised on request."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from torch import Tensor

from meshgpt.errors import MeshError
from meshgpt.mesh.polygons import cut_from_second_corner

MARGIN = 0.95  # a normalised mesh reaches from -MARGIN to MARGIN on its longest side


def _as_array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle or quad mesh.

    vertices: (nv, 3) float64, y up.
    faces: (nf, k) int64, k = 3 or 4, counter-clockwise seen from outside. Among quads a triangle is (a, b, c, -1).

    Takes arrays, tensors or lists. Raises `MeshError` for a wrong shape, coordinates that are not finite and indices
    out of range; anything else a mesh may be (open, non-manifold, empty) is accepted.
    """

    vertices: np.ndarray
    faces: np.ndarray

    @no_type_check
    def __init__(self, vertices, faces):
        object.__setattr__(self, "vertices", _checked_vertices(vertices))
        object.__setattr__(self, "faces", _checked_faces(faces, len(self.vertices)))

    def __repr__(self) -> str:
        kind = "triangles" if self.corners == 3 else "quads"
        return f"Mesh({self.num_vertices} vertices, {self.num_faces} {kind})"

    @property
    def num_vertices(self) -> int:
        return len(self.vertices)

    @property
    def num_faces(self) -> int:
        return len(self.faces)

    @property
    def corners(self) -> int:
        """Corners per face: 3, or 4 for a quad mesh."""
        return self.faces.shape[1]

    @property
    def bounds(self) -> np.ndarray:
        """(2, 3): lowest and highest coordinates of the vertices that faces use. Zeros for a mesh without faces."""
        used = self.vertices[np.unique(self.faces[self.faces >= 0])]
        return np.stack((used.min(0), used.max(0))) if len(used) else np.zeros((2, 3))

    @property
    def face_vectors(self) -> np.ndarray:
        """(nf, 3): normals whose length is the area of the face (Newell's formula, right for non-planar quads)."""
        corners = self.vertices[_triangles_as_quads(self.faces)]
        return 0.5 * np.cross(corners, np.roll(corners, -1, axis=1)).sum(axis=1)

    @property
    def face_areas(self) -> np.ndarray:
        return np.linalg.norm(self.face_vectors, axis=1)

    @property
    def face_normals(self) -> np.ndarray:
        """(nf, 3): unit normals; zero where a face has no area."""
        vectors = self.face_vectors
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)

    def normalized(self) -> "Mesh":
        """The mesh with its bounding box centred at 0 and its longest side from -0.95 to 0.95."""
        low, high = self.bounds
        longest = (high - low).max()
        scale = 2 * MARGIN / longest if longest > 0 else 1.0
        return Mesh((self.vertices - (low + high) / 2) * scale, self.faces)

    def grounded(self) -> "Mesh":
        """The mesh moved so that its lowest point has y = 0 and its box is centred over the origin."""
        low, high = self.bounds
        return Mesh(self.vertices - np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2]), self.faces)

    def triangulated(self) -> "Mesh":
        """The mesh with every quad cut along its shorter diagonal, of those that lie inside it."""
        if self.corners == 3:
            return self
        is_quad = self.faces[:, 3] >= 0
        quads = self.faces[is_quad]
        turn = cut_from_second_corner(self.vertices[quads])
        quads = np.where(turn[:, None], np.roll(quads, -1, axis=1), quads)
        order = np.concatenate((np.flatnonzero(~is_quad), np.repeat(np.flatnonzero(is_quad), 2)))
        halves = np.stack((quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]), axis=1).reshape(-1, 3)
        faces = np.concatenate((self.faces[~is_quad, :3], halves))
        return Mesh(self.vertices, faces[np.argsort(order, kind="stable")])

    def cleaned(self) -> "Mesh":
        """Equal vertices merged; faces with a repeated corner, duplicate faces and unused vertices dropped."""
        first, inverse = distinct_rows(self.vertices)
        unique = self.vertices[first] + 0.0  # -0.0 is 0.0
        faces = np.where(self.faces >= 0, inverse[self.faces], -1)
        faces = drop_degenerate_faces(faces)
        faces = faces[first_occurrences(rotate_smallest_first(faces))]
        return Mesh(*drop_unused_vertices(unique, faces))

    def flipped(self) -> "Mesh":
        """The mesh with every face wound the other way round."""
        return Mesh(self.vertices, reverse_winding(self.faces))


def reverse_winding(faces: np.ndarray) -> np.ndarray:
    """Faces (nf, k) wound the other way round; the -1 of a triangle among quads stays last."""
    reversed_triangles = faces[:, [0, 2, 1]]
    if faces.shape[1] == 3:
        return reversed_triangles
    padded = np.concatenate((reversed_triangles, faces[:, 3:]), axis=1)
    return np.where(faces[:, 3:] < 0, padded, faces[:, [0, 3, 2, 1]])


def drop_degenerate_faces(faces: np.ndarray) -> np.ndarray:
    """Faces (nf, k) without those that repeat a vertex; a quad with one pair of equal neighbours becomes a triangle."""
    if faces.shape[1] == 4:
        faces = _collapsed_quads(faces)
    repeated = np.zeros(len(faces), dtype=bool)
    for i in range(faces.shape[1]):
        for j in range(i):
            repeated |= faces[:, i] == faces[:, j]
    return faces[~repeated]


def _collapsed_quads(faces: np.ndarray) -> np.ndarray:
    equals_next = (faces == np.roll(faces, -1, axis=1)) & (faces[:, 3:] >= 0)
    once = equals_next.sum(axis=1) == 1
    start = np.argmax(equals_next[once], axis=1)  # turn each so that its repeated corner comes last, then drop that
    turned = np.take_along_axis(faces[once], (start[:, None] + 1 + np.arange(4)) % 4, axis=1)
    turned[:, 3] = -1
    faces = faces.copy()
    faces[once] = turned
    return faces


def rotate_smallest_first(faces: np.ndarray) -> np.ndarray:
    """Faces (nf, k) turned cyclically so that the smallest index comes first; winding is kept."""
    k = faces.shape[1]
    start = np.argmin(np.where(faces < 0, np.iinfo(np.int64).max, faces), axis=1)[:, None]
    turned = np.take_along_axis(faces, (start + np.arange(k)) % k, axis=1)
    if k == 3:
        return turned
    triangle = np.concatenate((np.take_along_axis(faces[:, :3], (start + np.arange(3)) % 3, axis=1), faces[:, 3:]), 1)
    return np.where(faces[:, 3:] < 0, triangle, turned)


def sort_faces(faces: np.ndarray) -> np.ndarray:
    """The order (nf,) in which the rows of `faces` are lexicographically ascending; of equal ones the first is first.

    Where a row fits into one number, numbers are sorted: in a third of the time.
    """
    base = int(faces.max(initial=0)) + 2  # -1 stands in triangles among quads
    if faces.min(initial=0) < -1 or base ** faces.shape[1] > np.iinfo(np.int64).max:
        return np.lexsort(faces.T[::-1])
    key = np.zeros(len(faces), dtype=np.int64)
    for column in faces.T:
        key = key * base + (column + 1)
    return np.argsort(key, kind="stable")


def first_occurrences(faces: np.ndarray) -> np.ndarray:
    """Indices, ascending, of the first of each group of equal faces."""
    order = sort_faces(faces)
    return np.sort(order[differs_from_previous(faces[order])])


def distinct_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first, inverse) with `rows[first]` the different rows, lexicographically ascending, and `rows` those[inverse].

    `np.unique(axis=0)` gives the same in five times the time.
    """
    order = np.lexsort(rows.T[::-1])
    new = differs_from_previous(rows[order])
    inverse = np.empty(len(rows), dtype=np.int64)
    inverse[order] = np.cumsum(new) - 1
    return order[new], inverse


def differs_from_previous(rows: np.ndarray) -> np.ndarray:
    """(n,) True for rows that are not equal to the one before them."""
    return np.concatenate((np.ones(min(len(rows), 1), dtype=bool), (rows[1:] != rows[:-1]).any(axis=1)))


def drop_unused_vertices(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices that some face uses, in their order, and the faces renumbered."""
    used = np.zeros(len(vertices), dtype=bool)
    used[faces[faces >= 0]] = True
    renumbered = np.cumsum(used) - 1
    return vertices[used], np.where(faces >= 0, renumbered[faces], -1)


def _triangles_as_quads(faces: np.ndarray) -> np.ndarray:
    """Triangles among quads with their third corner repeated, so that every index is valid."""
    return faces if faces.shape[1] == 3 else np.where(faces < 0, faces[:, 2:3], faces)


@no_type_check
def _checked_vertices(vertices):
    array = _as_array(vertices)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "fiu":
        if array.size:
            raise MeshError(f"vertices must be numbers of shape (nv, 3), got shape {array.shape} of {array.dtype}")
        array = np.zeros((0, 3))
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise MeshError(f"vertex {bad[0]} is {array[bad[0]].tolist()}: coordinates must be finite ({len(bad)} are not)")
    return array


@no_type_check
def _checked_faces(faces, num_vertices):
    array = _as_array(faces)
    if array.size == 0:
        return np.zeros((0, array.shape[1] if array.ndim == 2 and array.shape[1] in (3, 4) else 3), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] not in (3, 4) or array.dtype.kind not in "iu":
        raise MeshError(f"faces must be integers of shape (nf, 3) or (nf, 4), got shape {array.shape} of {array.dtype}")
    array = array.astype(np.int64)
    low = np.zeros(array.shape[1], dtype=np.int64)
    low[3:] = -1  # the last corner of a quad may be missing
    bad = np.argwhere((array < low) | (array >= num_vertices))
    if len(bad):
        face, corner = bad[0]
        what = f"face {face} refers to vertex {array[face, corner]}, but the mesh has {num_vertices} vertices"
        raise MeshError(f"{what} ({len(bad)} such corners; padding must be removed first)")
    return array


def join(meshes: Sequence[Mesh]) -> Mesh:
    """One mesh of all the parts; with quads if any part has them."""
    k = max((mesh.corners for mesh in meshes), default=3)
    offsets = np.cumsum([0, *(mesh.num_vertices for mesh in meshes)])
    vertices = [np.zeros((0, 3)), *(mesh.vertices for mesh in meshes)]
    faces = [np.zeros((0, k), dtype=np.int64)]
    for mesh, offset in zip(meshes, offsets, strict=False):
        padded = np.pad(mesh.faces, ((0, 0), (0, k - mesh.corners)), constant_values=-1)
        faces.append(np.where(padded >= 0, padded + offset, -1))
    return Mesh(np.concatenate(vertices), np.concatenate(faces))


def mesh_tensors(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Vertices (nv, 3) float32 and faces (nf, k) int64 as tensors."""
    return torch.from_numpy(mesh.vertices.astype(np.float32)), torch.from_numpy(mesh.faces.copy())
