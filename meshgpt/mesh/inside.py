"""Inside or outside, and how far from the surface: by libigl where it is installed, else the same by numpy.

Everywhere in this package a field is positive inside a shape and negative outside.
"""

from importlib import import_module
from types import ModuleType
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import Mesh

PAIRS = 1 << 21  # of a point and a triangle that are looked at in one go
PIECES = 4000  # into about so many a surface is cut to find the nearest triangle
MOST_CUTS = 48  # of one side of a triangle


@no_type_check
def winding_numbers(mesh: Mesh, points, exact: bool = False) -> Float[np.ndarray, " n"]:
    """How often the surface goes round each point (n, 3): the solid angle it is seen under, over that of all around.

    1 inside a closed surface and 0 outside, between them near holes, 2 where two bodies overlap, negative inside faces
    wound inwards (generalised winding numbers, Jacobson et al. 2013). libigl's sum over a tree (Barill et al. 2018) is
    within about 0.01 of it; without libigl, and if `exact`, all triangles are summed, in time that grows with their
    number. Raises `MeshError` for points of another shape or not finite.
    """
    points = checked_points(points)
    mesh = mesh.triangulated()
    if not mesh.num_faces or not len(points):
        return np.zeros(len(points))
    igl = None if exact else libigl()
    if igl is not None:
        return np.asarray(igl.fast_winding_number(mesh.vertices, mesh.faces, points))
    triangles, rows = mesh.vertices[mesh.faces], max(PAIRS // mesh.num_faces, 1)
    parts = [_solid_angles(points[i : i + rows], triangles) for i in range(0, len(points), rows)]
    return np.concatenate(parts) / (4 * np.pi)


def _solid_angles(points: Float[np.ndarray, "n 3"], triangles: Float[np.ndarray, "nf 3 3"]) -> Float[np.ndarray, " n"]:
    """The signed solid angle of all triangles from each point (Van Oosterom & Strackee 1983, Equation 8)."""
    a, b, c = (triangles[None, :, corner] - points[:, None] for corner in range(3))
    la, lb, lc = (np.sqrt(_dot(side, side)) for side in (a, b, c))
    volume = _dot(a, np.cross(b, c))
    return 2 * np.arctan2(volume, la * lb * lc + _dot(a, b) * lc + _dot(b, c) * la + _dot(c, a) * lb).sum(axis=1)


@no_type_check
def contains(mesh: Mesh, points) -> Bool[np.ndarray, " n"]:
    """True for points (n, 3) inside a mesh: where its winding number is above a half. Of broken meshes see `solid`."""
    return winding_numbers(mesh, points) > 0.5


@no_type_check
def surface_distances(mesh: Mesh, points) -> Float[np.ndarray, " n"]:
    """The distance from each point (n, 3) to the nearest point of a surface, exact.

    Raises `MeshError` for a mesh without faces, and for points of another shape or not finite.
    """
    points = checked_points(points)
    mesh = mesh.triangulated()
    if not mesh.num_faces:
        raise MeshError("there is no distance to a mesh without faces")
    if not len(points):
        return np.zeros(0)
    igl = libigl()
    if igl is not None:
        squared = igl.point_mesh_squared_distance(points, mesh.vertices, mesh.faces)[0]
        return np.sqrt(np.maximum(squared, 0.0))
    return _nearest_triangle(points, mesh.vertices[mesh.faces])


@no_type_check
def signed_distances(mesh: Mesh, points) -> Float[np.ndarray, " n"]:
    """The distance from each point (n, 3) to the surface of a closed mesh, positive inside and negative outside.

    Raises as `surface_distances` does. What is not closed has no inside: see `solid`.
    """
    distances = surface_distances(mesh, points)
    return np.where(contains(mesh, points), distances, -distances)


def _nearest_triangle(
    points: Float[np.ndarray, "n 3"], triangles: Float[np.ndarray, "nf 3 3"]
) -> Float[np.ndarray, " n"]:
    """Distances to the nearest of some triangles: cut into pieces of `radius` at most, of which the nearest by their
    centres are tried until no other can be nearer, or until all triangles are as quickly tried."""
    centres, owners, radius = _pieces(triangles)
    tree, best = KDTree(centres), np.full(len(points), np.inf)
    left, count = np.arange(len(points)), 8
    while len(left) and count < len(triangles):
        unsure = []
        for rows in np.array_split(left, -(-len(left) * count // PAIRS)):
            reach, nearest = tree.query(points[rows], k=count)
            best[rows] = _triangle_distances(points[rows, None], triangles[owners[nearest]]).min(axis=1)
            unsure.append(rows[best[rows] > reach[:, -1] - radius])
        left, count = np.concatenate(unsure), 4 * count
    for rows in np.array_split(left, -(-len(left) * len(triangles) // PAIRS)) if len(left) else ():
        best[rows] = _triangle_distances(points[rows, None], triangles[None]).min(axis=1)
    return best


def _pieces(triangles: Float[np.ndarray, "nf 3 3"]) -> tuple[np.ndarray, np.ndarray, float]:
    """Centres (m, 3) of equal pieces of each triangle, the triangle each is of, and how far they reach at most."""
    sides = np.linalg.norm(np.roll(triangles, -1, axis=1) - triangles, axis=2).max(axis=1)
    area = np.linalg.norm(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1).sum()
    size = max(np.sqrt(area / PIECES), sides.max() / MOST_CUTS, np.finfo(float).tiny)
    cuts = np.maximum(np.ceil(sides / size), 1).astype(np.int64)
    centres, owners = [], []
    for n in np.unique(cuts):
        members = np.flatnonzero(cuts == n)
        i, j = (axis.ravel() for axis in np.mgrid[:n, :n])
        up, down = i + j < n, i + j < n - 1
        shares = np.concatenate((np.stack((i[up], j[up]), 1) + 1 / 3, np.stack((i[down], j[down]), 1) + 2 / 3)) / n
        shares = np.concatenate((1 - shares.sum(axis=1, keepdims=True), shares), axis=1)
        centres.append(np.einsum("pk,fkd->fpd", shares, triangles[members]).reshape(-1, 3))
        owners.append(np.repeat(members, len(shares)))
    return np.concatenate(centres), np.concatenate(owners), float((sides / cuts).max() * 2 / 3)


def _triangle_distances(
    points: Float[np.ndarray, "n 1 3"], triangles: Float[np.ndarray, "#n k 3 3"]
) -> Float[np.ndarray, "n k"]:
    """The distance from each point to each of its triangles: to the plane above the inside, else to the sides."""
    corners = [triangles[..., corner, :] for corner in range(3)]
    ends = corners[1:] + corners[:1]
    sides = [_segment_distances(points, start, end) for start, end in zip(corners, ends, strict=True)]
    normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
    length = np.sqrt(_dot(normal, normal))
    pairs = zip(corners, ends, strict=True)
    above = np.all([_dot(np.cross(end - start, points - start), normal) >= 0 for start, end in pairs], axis=0)
    height = np.abs(_dot(points - corners[0], normal)) / np.where(length > 0, length, 1.0)
    return np.where(above & (length > 0), height, np.minimum.reduce(sides))


def _segment_distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along, offset = end - start, points - start
    squared = _dot(along, along)
    share = np.clip(_dot(offset, along) / np.where(squared > 0, squared, 1.0), 0.0, 1.0)
    rest = offset - share[..., None] * along
    return np.sqrt(_dot(rest, rest))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


@no_type_check
def checked_points(points: Any) -> Float[np.ndarray, "n 3"]:
    """Points (n, 3) as float64; raises `MeshError` for another shape and for one that is not finite."""
    array = np.asarray(points)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "fiu":
        raise MeshError(f"points must be numbers of shape (n, 3), got shape {array.shape} of {array.dtype}")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise MeshError(f"point {bad[0]} is {array[bad[0]].tolist()}: points must be finite ({len(bad)} are not)")
    return np.ascontiguousarray(array, dtype=np.float64)


def libigl() -> ModuleType | None:
    """The package `igl`, None where the extra 'fields' is not installed."""
    try:
        return import_module("igl")
    except ImportError:
        return None
