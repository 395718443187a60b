"""The vertices of a light mesh moved onto a surface; its faces stay as they are."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree

from meshgpt.config import Config
from meshgpt.errors import MeshError
from meshgpt.mesh.clouds import NEIGHBOURS, PointCloud
from meshgpt.mesh.frame import Frame
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import compare_surfaces

SMALLEST_AREA = 1e-7  # of a face, in normalised coordinates
SHORTEST = 0.02  # share of a step; less is none


@dataclass(frozen=True)
class FitConfig(Config):
    """How `fit_to_surface` moves vertices. Lengths are normalised: the longest side of the surface is 1.9.

    steps: at each stiffness, which falls from stage to stage. points: taken of each surface. tangential: what a
    distance along the surface weighs beside one across it. rounding: distances below count by their square, those
    beyond by themselves. turn: the least cosine between the normal of a face and the one it had. thinnest: the least
    height of a face, as a share of what it had. compared: points by which surfaces are compared in the end.
    """

    steps: int = 6
    stiffness: tuple[float, ...] = (10.0, 1.0, 0.1, 0.02, 0.005)
    points: int = 3000
    tangential: float = 0.1
    rounding: float = 0.02
    turn: float = 0.2
    thinnest: float = 0.2
    compared: int = 10_000

    def validate(self) -> None:
        for field in ("steps", "points", "compared"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        self.require(all(value > 0 for value in self.stiffness), "stiffness", "be above 0 at each stage")
        self.require(self.tangential > 0, "tangential", "be above 0")
        self.require(self.rounding > 0, "rounding", "be above 0")
        self.require(0 <= self.turn < 1, "turn", "lie in [0, 1)")
        self.require(0 < self.thinnest < 1, "thinnest", "lie in (0, 1)")


@no_type_check
def fit_to_surface(mesh: Mesh, shape: Mesh | PointCloud, config: FitConfig | None = None) -> Mesh:
    """The mesh with its vertices moved so that the two surfaces, which lie in one place, are nearer in both directions.

    Non-rigid iterative closest points: a stiff mesh first, then ever softer ones (Amberg et al. 2007), each step a
    sparse system of point-to-plane (Chen & Medioni 1992) and point-to-point distances from the mesh to the shape and
    from the shape to the mesh, weighted so that their sum counts and not that of their squares, against changes of the
    edges. A step that turns over a face or makes it thin is shortened around that face. Of the stages the one nearest
    in `SurfaceReport.chamfer` is kept; the mesh itself where none is nearer. Depends on nothing but its arguments.
    Raises `MeshError` for a mesh without area.
    """
    config = config or FitConfig()
    if not mesh.face_areas.sum() > 0:
        raise MeshError(f"{mesh!r} has no area: there is nothing that could be moved onto a surface")
    frame = Frame.of(shape.bounds)
    placed = Mesh(frame.normalize(mesh.vertices), mesh.faces)
    aim = Mesh(frame.normalize(shape.vertices), shape.faces) if isinstance(shape, Mesh) else _normalized(shape, frame)
    best, least = mesh, compare_surfaces(placed, aim, config.compared).chamfer
    for vertices in _stages(placed, aim, config):
        moved = Mesh(vertices, mesh.faces)
        chamfer = compare_surfaces(moved, aim, config.compared).chamfer
        if chamfer < least:
            best, least = frame.restore_mesh(moved), chamfer
    return best


def _normalized(cloud: PointCloud, frame: Frame) -> PointCloud:
    return PointCloud(frame.normalize(cloud.points), cloud.normals)


def _stages(mesh: Mesh, shape: Mesh | PointCloud, config: FitConfig) -> Iterator[np.ndarray]:
    """The vertices after each stage."""
    fit, vertices = _Fit(mesh, shape, config), mesh.vertices
    for stiffness in config.stiffness:
        for _ in range(config.steps):
            vertices = fit.step(vertices, stiffness)
        yield vertices


class _Fit:
    """The surface aimed at, and what the mesh was."""

    def __init__(self, mesh: Mesh, shape: Mesh | PointCloud, config: FitConfig):
        self.config, self.origin = config, mesh.vertices
        self.faces = mesh.triangulated().faces
        self.points, self.normals = _aimed_at(shape, config.points)
        self.tree = KDTree(self.points)
        self.heights, self.directions = _heights_and_normals(mesh.vertices[self.faces])
        self.edges = _edges(self.faces, len(self.origin))

    def step(self, vertices: Float[np.ndarray, "nv 3"], stiffness: float) -> Float[np.ndarray, "nv 3"]:
        """Vertices of which the distances, each to the nearest point it has now, are least."""
        corners, shares = self._samples(vertices)
        points = np.einsum("nk,nkd->nd", shares, vertices[corners])
        near = self.tree.query(points)[1]
        nearest = KDTree(points).query(self.points)[1]
        system = _System(len(vertices), self.config)
        system.add(corners, shares, points, self.points[near], self.normals[near])
        system.add(corners[nearest], shares[nearest], points[nearest], self.points, self.normals)
        return self._legal(vertices, system.solve(vertices, self.origin, self.edges, stiffness))

    def _samples(self, vertices: np.ndarray) -> tuple[Int[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
        """Points spread evenly over the mesh: the corners of the face each lies on, and the share of each."""
        rng = np.random.default_rng(1)
        ends = np.cumsum(Mesh(vertices, self.faces).face_areas)
        places = (np.arange(self.config.points) + rng.random(self.config.points)) / self.config.points
        chosen = np.searchsorted(ends, places * ends[-1], side="right").clip(max=len(ends) - 1)
        root, along = np.sqrt(rng.random(len(chosen))), rng.random(len(chosen))
        return self.faces[chosen], np.stack((1 - root, root * (1 - along), root * along), axis=1)

    def _legal(self, vertices: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """As far towards `moved` as no face is turned over or made thin; vertices around such faces go less far."""
        if not np.isfinite(moved).all():
            return vertices
        share, result = np.ones(len(vertices)), moved
        while (bad := self._spoilt(result)).any():
            share[self.faces[bad]] *= 0.5
            share[share < SHORTEST] = 0.0
            result = vertices + share[:, None] * (moved - vertices)
        return result

    def _spoilt(self, vertices: np.ndarray) -> np.ndarray:
        """(nf,) True for faces that are turned over or thin; those without area to begin with are let be."""
        heights, normals = _heights_and_normals(vertices[self.faces])
        turned = np.einsum("nd,nd->n", normals, self.directions) < self.config.turn
        return (self.heights > 0) & (turned | (heights < self.config.thinnest * self.heights))


class _System:
    """Weighted distances of points on a mesh from where they should be, as a linear system for its vertices."""

    def __init__(self, count: int, config: FitConfig):
        self.count, self.config = count, config
        self.left = sparse.csr_array((3 * count, 3 * count))
        self.right = np.zeros(3 * count)

    def add(
        self,
        corners: Int[np.ndarray, "n 3"],
        shares: Float[np.ndarray, "n 3"],
        points: Float[np.ndarray, "n 3"],
        aims: Float[np.ndarray, "n 3"],
        normals: Float[np.ndarray, "n 3"],
    ) -> None:
        """Mean distances of points, which are `shares` of `corners`, from their aims; where normals are known, across.

        Each is squared and divided by itself, so that the sum is one of distances (iteratively reweighted squares).
        """
        distances = np.linalg.norm(points - aims, axis=1)
        weights = 1 / np.maximum(distances, self.config.rounding) / len(points)
        known = normals.any(axis=1)
        along = sparse.csr_array((shares.ravel(), corners.ravel(), np.arange(0, 3 * len(corners) + 1, 3)))
        along.resize((len(corners), self.count))
        towards = weights * np.where(known, self.config.tangential, 1.0)
        square = along.T @ (along * towards[:, None])
        self.left = self.left + sparse.kron(square, sparse.identity(3))
        self.right += (along.T @ (towards[:, None] * aims)).ravel()
        columns = (3 * corners[:, :, None] + np.arange(3)).reshape(len(corners), 9)
        values = (shares[:, :, None] * normals[:, None]).reshape(len(corners), 9)
        across = sparse.csr_array((values.ravel(), columns.ravel(), np.arange(0, 9 * len(corners) + 1, 9)))
        across.resize((len(corners), 3 * self.count))
        straight = weights * (1 - self.config.tangential)
        self.left = self.left + across.T @ (across * straight[:, None])
        self.right += across.T @ (straight * np.einsum("nd,nd->n", normals, aims))

    def solve(self, vertices: np.ndarray, origin: np.ndarray, edges: np.ndarray, stiffness: float) -> np.ndarray:
        """Vertices with which distances and changes of the edges, by `stiffness`, are least together."""
        rows = np.arange(len(edges))
        ends = (np.tile([1.0, -1.0], len(edges)), (np.repeat(rows, 2), edges.ravel()))
        difference = sparse.csr_array(ends, shape=(len(edges), self.count))
        lengths = np.linalg.norm(difference @ origin, axis=1)
        weights = stiffness / np.maximum(lengths, 1e-3) / max(len(edges), 1)
        stiff = difference.T @ (difference * weights[:, None])
        hold = 1e-6 * sparse.identity(self.count)  # of vertices on which nothing else acts
        left = self.left + sparse.kron(stiff + hold, sparse.identity(3))
        right = self.right + (stiff @ origin + 1e-6 * vertices).ravel()
        return splu(sparse.csc_array(left)).solve(right).reshape(-1, 3)


def _aimed_at(shape: Mesh | PointCloud, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals, zero where unknown, of the surface; those of a bare cloud are estimated."""
    cloud = shape.subsampled(count, 1) if isinstance(shape, PointCloud) else PointCloud.from_mesh(shape, count, 1)
    if cloud.normals is None and len(cloud) >= NEIGHBOURS:
        cloud = cloud.estimated_normals()
    return cloud.points, np.zeros_like(cloud.points) if cloud.normals is None else cloud.normals


def _edges(faces: Int[np.ndarray, "nf 3"], count: int) -> Int[np.ndarray, "e 2"]:
    """Each edge once."""
    ends = np.sort(np.stack((faces, np.roll(faces, -1, axis=1)), axis=2).reshape(-1, 2), axis=1)
    numbers = np.unique(ends[:, 0] * count + ends[:, 1])
    return np.stack((numbers // count, numbers % count), axis=1)


def _heights_and_normals(
    triangles: Float[np.ndarray, "nf 3 3"],
) -> tuple[Float[np.ndarray, " nf"], Float[np.ndarray, "nf 3"]]:
    """The least height of each triangle, and its unit normal; zeros where it has no area."""
    sides = np.roll(triangles, -1, axis=1) - triangles
    vectors = np.cross(sides[:, 0], sides[:, 1])
    doubled, longest = np.linalg.norm(vectors, axis=1), np.linalg.norm(sides, axis=2).max(axis=1)
    solid = doubled > 2 * SMALLEST_AREA
    heights = np.divide(doubled, longest, out=np.zeros(len(triangles)), where=solid)
    return heights, np.divide(vectors, doubled[:, None], out=np.zeros_like(vectors), where=solid[:, None])
