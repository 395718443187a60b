"""What is read at most, and the checks that keep a short file from asking for much memory."""

from dataclasses import dataclass

import numpy as np

from meshgpt.errors import MeshFileError, MeshLimitError
from meshgpt.mesh.polygons import Polygons


@dataclass(frozen=True)
class ReadLimits:
    """Limits on a file that is read; what goes beyond raises `MeshLimitError`.

    max_bytes counts the file and its buffers; max_coordinate bounds |x|, |y| and |z| in the units of the file.
    """

    max_bytes: int = 256 * 2**20
    max_vertices: int = 6_000_000
    max_faces: int = 2_000_000
    max_polygon: int = 512
    max_coordinate: float = 1e9

    def check_bytes(self, count: int) -> None:
        self._check("bytes", count, "max_bytes", self.max_bytes)

    def check_vertices(self, count: int) -> None:
        self._check("vertices", count, "max_vertices", self.max_vertices)

    def check_faces(self, count: int) -> None:
        self._check("faces", count, "max_faces", self.max_faces)

    def _check(self, what: str, count: int, field: str, limit: int) -> None:
        if count > limit:
            raise MeshLimitError(f"{count} {what} where {limit} are allowed; raise ReadLimits.{field} to read it")

    def check_polygons(self, polygons: Polygons) -> None:
        """Counts, finite and bounded coordinates, indices in range, and that there is a face at all."""
        vertices, corners, sizes = polygons.vertices, polygons.corners, polygons.sizes
        self.check_vertices(len(vertices))
        self.check_faces(len(sizes))
        if not len(sizes):
            what = f"{len(vertices)} points but no faces: a point cloud (see read_points) is not a mesh"
            raise MeshFileError(f"holds {what if len(vertices) else 'no geometry'}; export it with faces")
        if sizes.max() > self.max_polygon:
            what = f"face {sizes.argmax()} has {sizes.max()} corners where {self.max_polygon} are allowed"
            raise MeshLimitError(f"{what}; raise ReadLimits.max_polygon to read it")
        _check_indices(corners, sizes, len(vertices))
        self._check_coordinates(vertices)

    def check_points(self, points: np.ndarray) -> None:
        """As `check_polygons`, for the points (n, 3) of a cloud."""
        self.check_vertices(len(points))
        if not len(points):
            raise MeshFileError("holds no points")
        self._check_coordinates(points, "point", "points")

    def _check_coordinates(self, vertices: np.ndarray, one: str = "vertex", many: str = "vertices") -> None:
        bad = np.flatnonzero(~np.isfinite(vertices).all(axis=1))
        if len(bad):
            what = f"{one} {bad[0]} is {vertices[bad[0]].tolist()}"
            raise MeshFileError(f"{what}: coordinates must be finite ({len(bad)} {many} are not); export it again")
        bad = np.flatnonzero((np.abs(vertices) > self.max_coordinate).any(axis=1))
        if len(bad):
            what = f"{one} {bad[0]} is {vertices[bad[0]].tolist()}, beyond {self.max_coordinate:g}"
            raise MeshLimitError(f"{what}; scale it down or raise ReadLimits.max_coordinate")


def _check_indices(corners: np.ndarray, sizes: np.ndarray, num_vertices: int) -> None:
    small = np.flatnonzero(sizes < 3)
    if len(small):
        raise MeshFileError(f"face {small[0]} has {sizes[small[0]]} corners, a face needs at least 3")
    bad = np.flatnonzero((corners < 0) | (corners >= num_vertices))
    if len(bad):
        face = np.searchsorted(np.cumsum(sizes), bad[0], side="right")
        what = f"face {face} refers to vertex {corners[bad[0]]}, but there are {num_vertices} vertices"
        raise MeshFileError(f"{what} ({len(bad)} such corners, counted from 0)")
