"""A mesh in some eighty numbers, by which made and written ones can be told apart; see `MeshCritic`."""

from typing import no_type_check

import numpy as np
from jaxtyping import Float

from meshgpt.mesh.form import Form
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.symmetry import mirrored_shares

TENTHS = (0.1, 0.5, 0.9)
FLAT, UPRIGHT, ALIGNED, FOLDED = 0.999, 0.02, 0.995, -0.8  # cosines
ON_SIDE = 1 / 128  # of the longest side: so near to a side of the bounding box a vertex lies on it
SHORT = 0.02  # of the longest side: an edge
TINY = 1e-9


@no_type_check
def figures_of(mesh: Mesh) -> Float[np.ndarray, " n"]:
    """Always as many numbers, all finite, which do not depend on place and size; zeros for a mesh without faces.

    In this order, with how many there are where it is not one: ln of the number of faces (1); `Form` and whether it is
    of one part (7); the size (5); how few distinct coordinates (4); edges and the angles there (7); areas, lengths and
    shapes of faces (10); which way they face (6); area and volume beside those of the box, and the middle (7); numbers
    of faces around vertices, short edges (6); vertices on each side of the box (6); the longest edge (1).
    """
    mesh = mesh.triangulated()
    if not mesh.num_faces:
        return np.zeros(NUM_FIGURES)
    mesh = _boxed(mesh)
    size = np.ptp(mesh.bounds, axis=0)
    parts = (
        [np.log(mesh.num_faces)],
        _form(mesh),
        [*size, size.min(), np.sort(size)[1]],
        _coordinates(mesh),
        _edges(mesh),
        _shapes(mesh),
        _directions(mesh),
        _volume(mesh, size),
        _vertices(mesh),
        [(np.abs(mesh.vertices[:, axis] - side[axis]) < ON_SIDE).mean() for axis in range(3) for side in mesh.bounds],
        [_lengths(mesh).max()],
    )
    return np.array([float(value) for part in parts for value in part])


NUM_FIGURES = 60


def _boxed(mesh: Mesh) -> Mesh:
    """Around 0, its longest side 1."""
    low, high = mesh.bounds
    return Mesh((mesh.vertices - (low + high) / 2) / max(float((high - low).max()), TINY), mesh.faces)


def _form(mesh: Mesh) -> list[float]:
    form = Form.of(mesh)
    told = [form.openness, form.boundary, form.symmetry, min(mirrored_shares(mesh))]
    return [*told, np.log(form.parts), form.loose, form.parts == 1]


def _coordinates(mesh: Mesh) -> list[float]:
    """Vertices a face, and the share of distinct coordinates of each axis, on a grid."""
    grid = (mesh.vertices * 128).round().astype(int)
    return [len(grid) / mesh.num_faces, *(len(np.unique(grid[:, axis])) / len(grid) for axis in range(3))]


def _edges(mesh: Mesh) -> list[float]:
    """Of pairs of faces at an edge, the share that is flat, square, folded and convex; tenths of the cosine."""
    faces, normals = mesh.faces, mesh.face_normals
    sides = np.sort(np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]])), axis=1)
    order = np.lexsort(sides.T)
    same = np.flatnonzero((sides[order[1:]] == sides[order[:-1]]).all(axis=1))
    one, two = (order[same + step] % len(faces) for step in (0, 1))
    if not len(one):
        return [0.0] * 7
    cosine, middles = (normals[one] * normals[two]).sum(axis=1), mesh.vertices[faces].mean(axis=1)
    flat, outwards = cosine > FLAT, ((middles[two] - middles[one]) * normals[one]).sum(axis=1) > 1e-4
    shares = flat.mean(), (np.abs(cosine) < UPRIGHT).mean(), (cosine < FOLDED).mean(), (outwards & ~flat).mean()
    return [*shares, *np.quantile(cosine, TENTHS)]


def _shapes(mesh: Mesh) -> list[float]:
    """Tenths of ln area, of ln length, and of how near triangles are to even ones; and how many are slivers."""
    lengths, areas = _lengths(mesh), mesh.face_areas
    even = areas / np.maximum(np.sqrt(3) / 4 * lengths.max(axis=1) ** 2, TINY)
    told = np.log(areas + 1e-6), np.log(lengths.flatten() + 1e-4), even
    return [*(value for each in told for value in np.quantile(each, TENTHS)), (even < 0.05).mean()]


def _directions(mesh: Mesh) -> list[float]:
    """Shares of faces, and of area, along the axes; upright; and of area that looks straight up, and down."""
    normals, areas = mesh.face_normals, mesh.face_areas
    along, upright = np.abs(normals).max(axis=1) > ALIGNED, np.abs(normals[:, 1]) < UPRIGHT
    weights = areas / max(areas.sum(), TINY)
    of_area = [weights @ each for each in (along, upright, normals[:, 1] > 0.98, normals[:, 1] < -0.98)]
    return [along.mean(), upright.mean(), *of_area]


def _volume(mesh: Mesh, size: np.ndarray) -> list[float]:
    """ln of area and volume beside those of the bounding box, and where the middle of the surface is."""
    corners, areas = mesh.vertices[mesh.faces], mesh.face_areas
    volume = abs(float((corners[:, 0] * np.cross(corners[:, 1], corners[:, 2])).sum()) / 6)
    around = 2 * (size[0] * size[1] + size[1] * size[2] + size[0] * size[2]) + TINY
    middle = (corners.mean(axis=1) * areas[:, None]).sum(axis=0) / max(areas.sum(), TINY)
    told = np.log(areas.sum() / around + 1e-3), np.log(volume / (size.prod() + TINY) + 1e-3)
    return [*told, *middle, abs(middle[0]), abs(middle[2])]


def _vertices(mesh: Mesh) -> list[float]:
    """Distinct directions a face; faces around a vertex: mean, deviation, most, how many have three; short edges."""
    around = np.bincount(mesh.faces.flatten(), minlength=1)
    around = around[around > 0]
    directions = len(np.unique((mesh.face_normals * 20).round().astype(int), axis=0)) / mesh.num_faces
    short = (_lengths(mesh) < SHORT).mean()
    return [directions, around.mean(), around.std(), float(around.max()), (around == 3).mean(), short]


def _lengths(mesh: Mesh) -> Float[np.ndarray, "nf 3"]:
    corners = mesh.vertices[mesh.faces]
    return np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=-1)
