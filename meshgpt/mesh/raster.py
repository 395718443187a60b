"""A z-buffer in numpy: which triangle is nearest at each pixel, and how far its edges are. No GPU, no display."""

import numpy as np
from jaxtyping import Bool, Float, Int

# Pixels of bounding boxes that are worked on at once: bounds the memory, whatever the number of triangles.
PIXELS_AT_ONCE = 1 << 20
FAR_AWAY = 1e6  # pixels; the distance to an edge that is not drawn
SMALLEST = 1e-9  # twice the area in pixels of a triangle that is too small to be seen
DEPTH_STEPS = 2.0**32 - 1


def rasterize(
    points: Float[np.ndarray, "nt 3 2"], nearness: Float[np.ndarray, "nt 3"], height: int, width: int
) -> Int[np.ndarray, "h w"]:
    """The index of the nearest triangle at each pixel centre, -1 where there is none.

    points: corners in pixels, x to the right and y down; the centre of pixel (row i, column j) is (j + 0.5, i + 0.5).
    nearness: larger is nearer, in [0, 1], and linear over the picture (1 / w in a perspective, not the distance).

    A pixel centre on an edge that two triangles share belongs to exactly one of them: no cracks, none drawn twice.
    Of triangles at equal depth the later one is seen.
    """
    nearest = np.zeros(height * width, dtype=np.uint64)  # depth in the upper 32 bits, triangle + 1 in the lower
    for part in _parts(points, height, width):
        pixels, depth, owner = _fragments(points[part], nearness[part], height, width)
        keys = (depth * DEPTH_STEPS).astype(np.uint64) << np.uint64(32) | (part[owner] + 1).astype(np.uint64)
        np.maximum.at(nearest, pixels, keys)
    triangles = (nearest & np.uint64(0xFFFFFFFF)).astype(np.int64) - 1
    return triangles.reshape(height, width)


def coverage(points: Float[np.ndarray, "nt 3 2"], height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """True at the pixels whose centre lies in any of the triangles."""
    return rasterize(points, np.ones(points.shape[:2]), height, width) >= 0


def twice_area(points: Float[np.ndarray, "nt 3 2"]) -> Float[np.ndarray, " nt"]:
    """Twice the signed area of each triangle; positive if its corners go clockwise, seen with y down."""
    (dx1, dy1), (dx2, dy2) = (points[:, 1] - points[:, 0]).T, (points[:, 2] - points[:, 0]).T
    return dx1 * dy2 - dx2 * dy1


def edge_distance(
    points: Float[np.ndarray, "nt 3 2"],
    drawn: Bool[np.ndarray, "nt 3"],
    triangles: Int[np.ndarray, " n"],
    pixels: Int[np.ndarray, " n"],
    width: int,
) -> Float[np.ndarray, " n"]:
    """Distance in pixels from each pixel centre to the nearest drawn edge of the triangle that is seen there.

    drawn: whether the edge from corner i to corner i + 1 is drawn (the diagonals of quads are not).
    triangles, pixels: the triangle that is seen at each pixel (row * width + column), as `rasterize` found it.
    """
    start, end = points, np.roll(points, -1, axis=1)
    along = end - start
    length = np.hypot(along[..., 0], along[..., 1])
    drawn = drawn & (length > 0)
    across = np.stack((-along[..., 1], along[..., 0]), axis=-1) / np.where(length > 0, length, 1.0)[..., None]
    across = np.where(drawn[..., None], across, 0.0)
    offset = np.where(drawn, -(across * start).sum(axis=-1), FAR_AWAY)
    x, y = (pixels % width + 0.5).astype(np.float32), (pixels // width + 0.5).astype(np.float32)
    distance = np.full(len(pixels), FAR_AWAY, dtype=np.float32)
    for edge in range(3):
        a, b, c = (values.astype(np.float32)[triangles] for values in (*across[:, edge].T, offset[:, edge]))
        np.minimum(distance, np.abs(a * x + b * y + c), out=distance)
    return distance


def _parts(points: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Triangles that can be seen, in groups whose bounding boxes hold about `PIXELS_AT_ONCE` pixels together."""
    low = np.clip(points.min(axis=1), 0, (width, height))
    high = np.clip(points.max(axis=1), 0, (width, height))
    sides = np.ceil(high - low)
    seen = np.flatnonzero((sides > 0).all(axis=1) & (np.abs(twice_area(points)) > SMALLEST))
    group = np.cumsum(sides[seen].prod(axis=1)) // PIXELS_AT_ONCE
    return np.split(seen, np.flatnonzero(np.diff(group)) + 1) if len(seen) else []


def _fragments(points: np.ndarray, nearness: np.ndarray, height: int, width: int) -> tuple[np.ndarray, ...]:
    """All (pixel, nearness, triangle) that the triangles cover, one row of pixels ("span") after the other."""
    order = np.lexsort((points[..., 0], points[..., 1]), axis=-1)
    x, y = (np.take_along_axis(points[..., i], order, axis=1) for i in range(2))
    first = _first_centre(y[:, 0], height)
    rows = np.maximum(_first_centre(y[:, 2], height) - first, 0)
    triangle = np.repeat(np.arange(len(points)), rows)
    row = _count(rows) + np.repeat(first, rows)
    left, right = _span_ends(x[triangle], y[triangle], row + 0.5)
    start = _first_centre(left, width)
    columns = np.maximum(_first_centre(right, width) - start, 0)

    slope_x, slope_y, constant = (values[triangle] for values in _planes(points, nearness))
    at_start = slope_x * (start + 0.5) + slope_y * (row + 0.5) + constant
    along = _count(columns)
    depth = np.repeat(at_start, columns) + np.repeat(slope_x, columns) * along
    # No pixel is nearer or farther than the corners, though the planes of slivers are steep and inexact.
    low, high = (np.repeat(limit[triangle], columns) for limit in (nearness.min(axis=1), nearness.max(axis=1)))
    pixel = np.repeat(row * width + start, columns) + along
    return pixel, np.clip(depth, low, high), np.repeat(triangle, columns)


def _first_centre(position: np.ndarray, size: int) -> np.ndarray:
    """The first pixel whose centre is at `position` or beyond it, kept within the picture."""
    return np.clip(np.ceil(position - 0.5), 0, size).astype(np.int64)


def _count(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... up to each of the lengths, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _span_ends(x: np.ndarray, y: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the line y = row enters and leaves each triangle, whose corners are sorted by y.

    An edge is always walked from its upper end, so that the two triangles beside it get the very same number.
    """
    long_side = _crossing(x, y, 0, 2, row)
    short_side = np.where(row < y[:, 1], _crossing(x, y, 0, 1, row), _crossing(x, y, 1, 2, row))
    return np.minimum(long_side, short_side), np.maximum(long_side, short_side)


def _crossing(x: np.ndarray, y: np.ndarray, upper: int, lower: int, row: np.ndarray) -> np.ndarray:
    drop = y[:, lower] - y[:, upper]
    share = (row - y[:, upper]) / np.where(drop > 0, drop, 1.0)
    return x[:, upper] + share * (x[:, lower] - x[:, upper])


def _planes(points: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """value = slope_x * x + slope_y * y + constant through the corners of each triangle, which has an area."""
    (dx1, dy1), (dx2, dy2) = (points[:, 1] - points[:, 0]).T, (points[:, 2] - points[:, 0]).T
    dv1, dv2 = values[:, 1] - values[:, 0], values[:, 2] - values[:, 0]
    area = twice_area(points)
    slope_x = (dv1 * dy2 - dv2 * dy1) / area
    slope_y = (dx1 * dv2 - dx2 * dv1) / area
    return slope_x, slope_y, values[:, 0] - slope_x * points[:, 0, 0] - slope_y * points[:, 0, 1]
