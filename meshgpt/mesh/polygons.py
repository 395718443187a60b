"""Polygons of any size cut into triangles (or kept as quads): concave and non-planar ones too.

Area and winding are kept. Most polygons are a fan from one of their corners, found for all polygons of one size at
once; what is left is cut by ear clipping, also for all polygons of one size at once.
"""

from dataclasses import dataclass

import numpy as np

EPSILON = 1e-10  # twice an area, in a polygon scaled to the unit box, that counts as none
FAN_STARTS = 8  # corners tried as the start of a fan
MAX_PAIRS = 1 << 20  # corner pairs tested at a time


@dataclass(frozen=True)
class Polygons:
    """The faces of a file before triangulation.

    vertices: (nv, 3) float64. corners: (nc,) int64, the corners of all faces one after the other.
    sizes: (nf,) int64, corners per face.
    """

    vertices: np.ndarray
    corners: np.ndarray
    sizes: np.ndarray


def faces_from_polygons(polygons: Polygons, quads: bool = False) -> np.ndarray:
    """Faces (nf, 3), or (nf, 4) with quads, in the order of the polygons; polygons without three corners vanish.

    With `quads`, polygons of four corners are kept, triangles become (a, b, c, -1) and larger polygons triangles.
    """
    corners, sizes = _without_repeats(polygons)
    starts = np.cumsum(sizes) - sizes
    faces, owners = [np.zeros((0, 4 if quads else 3), dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for size in np.unique(sizes):
        group = np.flatnonzero(sizes == size)
        cycles = corners[starts[group][:, None] + np.arange(size)]
        cut = cycles if size == 3 or (quads and size == 4) else _cut(polygons.vertices, cycles)
        if quads and cut.shape[-1] == 3:
            cut = np.concatenate((cut, np.full((*cut.shape[:-1], 1), -1)), axis=-1)
        faces.append(cut.reshape(-1, cut.shape[-1]))
        owners.append(np.repeat(group, len(faces[-1]) // len(group)))
    joined = np.concatenate(faces)[np.argsort(np.concatenate(owners), kind="stable")]
    return joined[~_has_repeats(joined)]


def triangulate_polygon(points: np.ndarray) -> np.ndarray:
    """Cut one polygon (n, 3), n >= 3, into n - 2 triangles of indices into its corners."""
    count = len(points)
    return _cut(np.asarray(points, dtype=np.float64), np.arange(count)[None])[0]


def cut_from_second_corner(quads: np.ndarray) -> np.ndarray:
    """True (m,) where a quad (m, 4, 3) is to be cut from its second to its last corner, not from first to third.

    The shorter diagonal of those that lie inside; the first where they are equal, and where neither does.
    """
    return np.isin(_fan_starts(*_flattened(quads)), (1, 3))


def strip_triangles(indices: np.ndarray) -> np.ndarray:
    """Triangles (n - 2, 3) of a triangle strip (n,), all wound like its first one."""
    triangles = np.stack((indices[:-2], indices[1:-1], indices[2:]), axis=1)
    triangles[1::2] = triangles[1::2][:, [1, 0, 2]]
    return triangles


def fan_triangles(indices: np.ndarray) -> np.ndarray:
    """Triangles (n - 2, 3) of a triangle fan (n,) around its first vertex."""
    first = np.full(max(len(indices) - 2, 0), indices[0] if len(indices) else 0, dtype=indices.dtype)
    return np.stack((first, indices[1:-1], indices[2:]), axis=1)


def _without_repeats(polygons: Polygons) -> tuple[np.ndarray, np.ndarray]:
    """Corners and sizes without corners that lie where the next one lies, and without faces of fewer than three."""
    corners, sizes = polygons.corners, polygons.sizes
    following = np.arange(1, len(corners) + 1)
    filled = sizes > 0
    ends = np.cumsum(sizes)[filled]
    following[ends - 1] = ends - sizes[filled]
    keep = (polygons.vertices[corners] != polygons.vertices[corners[following]]).any(axis=1)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    sizes = np.bincount(owner[keep], minlength=len(sizes))
    keep &= (sizes >= 3)[owner]
    return corners[keep], sizes[sizes >= 3]


def _has_repeats(faces: np.ndarray) -> np.ndarray:
    ordered = np.sort(faces, axis=1)
    return (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)


def _cut(vertices: np.ndarray, cycles: np.ndarray) -> np.ndarray:
    """Triangles (m, n - 2, 3) of m polygons (m, n) of vertex indices."""
    flat, area = _flattened(vertices[cycles])
    start = _fan_starts(flat, area)
    n = cycles.shape[1]
    fan = np.stack((np.zeros(n - 2, dtype=np.int64), np.arange(1, n - 1), np.arange(2, n)), axis=1)
    local = (np.maximum(start, 0)[:, None, None] + fan) % n
    hard = np.flatnonzero((start < 0) & (area > EPSILON))  # without area any cut is as good as another
    step = max(1, MAX_PAIRS // n)
    for i in range(0, len(hard), step):
        local[hard[i : i + step]] = _clip_ears(flat[hard[i : i + step]])
    return np.take_along_axis(cycles[:, None], local, axis=2)


def _flattened(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Polygons (m, n, 3) seen along their normal, as (m, n, 2) counter-clockwise in a unit box, and twice their area.

    The normal is Newell's, so that a polygon need not be planar.
    """
    points = points - points.mean(axis=1, keepdims=True)
    extent = np.abs(points).max(axis=(1, 2))[:, None, None]
    points = np.divide(points, extent, out=np.zeros_like(points), where=extent > 0)
    normal = np.cross(points, np.roll(points, -1, axis=1)).sum(axis=1)
    area = np.linalg.norm(normal, axis=1)
    normal = np.divide(normal, area[:, None], out=np.zeros_like(normal), where=area[:, None] > 0)
    side = np.cross(normal, np.eye(3)[np.abs(normal).argmin(axis=1)])
    length = np.linalg.norm(side, axis=1, keepdims=True)
    side = np.divide(side, length, out=np.zeros_like(side), where=length > 0)
    basis = np.stack((side, np.cross(normal, side)), axis=2)
    return points @ basis, area


def _fan_starts(flat: np.ndarray, area: np.ndarray) -> np.ndarray:
    """The corner (m,) from which a fan covers the polygon with triangles that all have area, or -1.

    A quad takes its shorter diagonal where both lie inside, the one from its first corner when they are equal.
    """
    n = flat.shape[1]
    costs = []
    for start in range(min(n, FAN_STARTS)):
        rays = np.roll(flat, -start, axis=1)
        rays = rays[:, 1:] - rays[:, :1]
        good = (_cross(rays[:, :-1], rays[:, 1:]) > 1e-6 * area[:, None] / n).all(axis=1) & (area > EPSILON)
        cost = np.linalg.norm(rays[:, 1], axis=1) * (1 - 1e-6 * (start == 0)) if n == 4 else float(start)
        costs.append(np.where(good, cost, np.inf))
    stacked = np.stack(costs, axis=1)
    return np.where(np.isfinite(stacked).any(axis=1), stacked.argmin(axis=1), -1)


def _clip_ears(flat: np.ndarray) -> np.ndarray:
    """Triangles (m, n - 2, 3) of counter-clockwise polygons (m, n, 2) by ear clipping, shortest diagonal first.

    Where no ear is left (a polygon that crosses itself) the least bad corner is cut, so that it always ends.
    """
    m, n = flat.shape[:2]
    ring, every = _Ring(flat), np.arange(m)
    triangles = np.empty((m, n - 2, 3), dtype=np.int64)
    for i in range(n - 2):
        ear = ring.cost.argmin(axis=1)
        a, c = ring.before[every, ear], ring.after[every, ear]
        triangles[:, i] = np.stack((a, ear, c), axis=1)
        ring.remove(every, ear)
        ring.measure(np.concatenate((every, every)), np.concatenate((a, c)))
    return triangles


class _Ring:
    """What is left of polygons (m, n, 2) while ears are cut: neighbours, reflex corners, the cost of cutting each."""

    def __init__(self, flat: np.ndarray):
        m, n = flat.shape[:2]
        self.flat = flat
        self.before, self.after = (np.tile(np.roll(np.arange(n), shift), (m, 1)) for shift in (1, -1))
        self.reflex = _cross(flat - np.roll(flat, 1, axis=1), np.roll(flat, -1, axis=1) - flat) <= EPSILON
        self.cost = np.empty((m, n))
        rows, corners = (grid.reshape(-1) for grid in np.indices((m, n)))
        step = max(1, MAX_PAIRS // n)
        for i in range(0, m * n, step):
            self.measure(rows[i : i + step], corners[i : i + step])

    def remove(self, rows: np.ndarray, corners: np.ndarray) -> None:
        a, c = self.before[rows, corners], self.after[rows, corners]
        self.reflex[rows, corners], self.cost[rows, corners] = False, np.inf
        self.after[rows, a], self.before[rows, c] = c, a

    def measure(self, rows: np.ndarray, corners: np.ndarray) -> None:
        """Turn and cost of some corners: the length of the diagonal, and a penalty for what is no ear."""
        a, b, c = (self.flat[rows, i] for i in (self.before[rows, corners], corners, self.after[rows, corners]))
        bends = _cross(b - a, c - b)
        self.reflex[rows, corners] = bends <= EPSILON
        pairs, others = np.nonzero(self.reflex[rows])
        blocked = _contains((a, b, c), self.flat[rows[pairs], others], pairs)
        penalty = np.select([bends < -EPSILON, bends <= EPSILON, blocked], [1e9, 1e6, 1e3], 0.0)
        self.cost[rows, corners] = np.linalg.norm(a - c, axis=1) + penalty


def _contains(triangles: tuple[np.ndarray, ...], points: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Whether each triangle, three corners (p, 2), holds a point (q, 2) that belongs to triangle `owner` (q,).

    Points on the rim count, but not those at a corner of the triangle: a hole joined to the outline by a double edge
    has corners in the same place.
    """
    x, y = points.T
    inside = np.ones(len(points), dtype=bool)
    for start, end in zip(triangles, (*triangles[1:], triangles[0]), strict=True):
        (from_x, from_y), (way_x, way_y) = start[owner].T, (end - start)[owner].T
        inside &= way_x * (y - from_y) - way_y * (x - from_x) >= -EPSILON
        inside &= (x != from_x) | (y != from_y)
    return np.bincount(owner[inside], minlength=len(triangles[0])) > 0


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
