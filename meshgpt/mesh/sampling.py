"""Points on the surface of a mesh, along its sharp edges, near it, and in the box around it."""

import math
from collections.abc import Sequence
from typing import no_type_check

import numpy as np
from jaxtyping import Float

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import Mesh

Points = Float[np.ndarray, "n 3"]
SHARP = math.radians(30)
SPREADS = (0.005, 0.05)
BESIDE = 0.04  # of the way from an edge to the middle of a face
SHORT = 0.3  # of the mean length, which every edge is given besides its own


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
    chosen = _drawn(weights, count, rng)
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


def _drawn(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` numbers of things, each drawn as often as its weight says."""
    ends = np.cumsum(weights)
    return np.searchsorted(ends, rng.random(count) * ends[-1], side="right").clip(max=len(ends) - 1)


@no_type_check
def sample_sharp_edges(
    mesh: Mesh, count: int, rng: np.random.Generator | int, angle: float = SHARP
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """`count` points spread evenly over the length of the sharp edges of a mesh, and unit normals; no points (0, 3)
    where no edge is sharp, as on a sphere of many faces.

    An edge is sharp where its two faces meet at more than `angle`, in radians, whichever way they are wound, and where
    it has one face or three. The normal is the mean of those of its faces. Equal vertices count as one. Coarse meshes
    of round things have sharp edges too. Raises `MeshError` for a mesh without area and for a negative count.
    """
    if count < 0:
        raise MeshError(f"cannot take {count} points, the count must be 0 or more")
    starts, ends, normals = sharp_edges(mesh, angle)
    if not len(starts):
        return np.zeros((0, 3)), np.zeros((0, 3))
    rng = np.random.default_rng(rng)
    chosen = _drawn(np.linalg.norm(ends - starts, axis=1), count, rng)
    along = rng.random((count, 1))
    return (1 - along) * starts[chosen] + along * ends[chosen], normals[chosen]


@no_type_check
def sample_beside_edges(
    mesh: Mesh, count: int, rng: np.random.Generator | int, angle: float = SHARP
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
    """`count` points on the faces beside the sharp edges of a mesh, close to them, and the unit normals of those faces;
    no points (0, 3) where no edge is sharp.

    Where faces meet can be read off such points, which one with a mean normal does not tell: that is what they are for.
    Which edges are sharp, and errors, are as in `sample_sharp_edges`.
    """
    if count < 0:
        raise MeshError(f"cannot take {count} points, the count must be 0 or more")
    mesh, sides, _, owner, sharp, _ = _edges(mesh, angle)
    sides, faces = sides[sharp[owner]], np.flatnonzero(sharp[owner]) // 3
    if not len(sides):
        return np.zeros((0, 3)), np.zeros((0, 3))
    rng, (starts, ends) = np.random.default_rng(rng), mesh.vertices[sides].transpose(1, 0, 2)
    length = np.linalg.norm(ends - starts, axis=1)
    chosen = _drawn(length + SHORT * length.mean(), count, rng)
    along, inward = rng.random((count, 1)), BESIDE * rng.random((count, 1))
    points = (1 - along) * starts[chosen] + along * ends[chosen]
    middles = mesh.vertices[mesh.faces].mean(axis=1)[faces[chosen]]
    return (1 - inward) * points + inward * middles, mesh.face_normals[faces[chosen]]


@no_type_check
def sharp_edges(mesh: Mesh, angle: float = SHARP) -> tuple[Points, Points, Points]:
    """Starts, ends and mean normals (n, 3) of the edges that `sample_sharp_edges` takes points of."""
    mesh, _, edges, _, sharp, mean = _edges(mesh, angle)
    return mesh.vertices[edges[sharp, 0]], mesh.vertices[edges[sharp, 1]], mean[sharp]


@no_type_check
def _edges(mesh: Mesh, angle: float) -> tuple[Mesh, *tuple[np.ndarray, ...]]:
    """The mesh cleaned, its sides (3 nf, 2), edges (n, 2), the edge of each side, which are sharp, and mean normals."""
    mesh = mesh.cleaned().triangulated()
    _with_area(mesh)
    mesh = Mesh(mesh.vertices, mesh.faces[mesh.face_areas > 0])
    sides = np.stack((mesh.faces, np.roll(mesh.faces, -1, axis=1)), axis=2).reshape(-1, 2)
    normals = np.repeat(mesh.face_normals, 3, axis=0)
    edges, owner, count = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True, return_counts=True)
    owner, forward = owner.reshape(-1), sides[:, 0] < sides[:, 1]
    order = np.argsort(owner, kind="stable")
    first = order[np.cumsum(count) - count]
    other = order[np.minimum(np.cumsum(count) - count + 1, len(order) - 1)]
    facing = np.where(forward[first] == forward[other], -1.0, 1.0)[:, None]  # two faces that run along it the same way
    two, other_normals = count == 2, normals[other] * facing
    bent = np.einsum("nd,nd->n", normals[first], other_normals) < math.cos(angle)
    mean = normals[first] + np.where(two[:, None], other_normals, 0.0)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    mean = np.where(length > 1e-6, mean / np.maximum(length, 1e-6), normals[first])  # a sheet that is folded back
    return mesh, sides, edges, owner, ~two | bent, mean


@no_type_check
def sample_volume(count: int, rng: np.random.Generator | int, bound: float = 1.0) -> Points:
    """`count` points (n, 3) spread evenly over the box from -bound to bound, in which normalised meshes lie."""
    return np.random.default_rng(rng).uniform(-bound, bound, (count, 3))


@no_type_check
def sample_near(
    surface: Points, count: int, rng: np.random.Generator | int, spreads: Sequence[float] = SPREADS, bound: float = 1.0
) -> Points:
    """`count` points (n, 3) around points of a surface, moved by normal noise: an equal share by each of `spreads`.

    What comes to lie outside the box from -bound to bound is put on its border. Raises `MeshError` for no points.
    """
    if not len(surface):
        raise MeshError("cannot take points near a surface of which no point is given")
    rng = np.random.default_rng(rng)
    chosen = surface[rng.integers(len(surface), size=count)]
    spread = np.asarray(spreads)[np.arange(count) * len(spreads) // max(count, 1)]
    return np.clip(chosen + spread[:, None] * rng.standard_normal((count, 3)), -bound, bound)
