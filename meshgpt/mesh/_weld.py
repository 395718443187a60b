"""Vertices that lie in one place but for rounding."""

import numpy as np

TOLERANCE = 1e-6  # of the longest side: several times the rounding of float32, far below any detail


def welded(vertices: np.ndarray) -> np.ndarray:
    """Vertices (nv, 3) with the same position for all that coincide within `TOLERANCE` of the longest side.

    Exporters write one corner once for each part and each normal, and not always with the same last digit. Each group
    takes the position of its first vertex. O(nv log nv); along an axis where vertices lie so dense that they form
    longer runs of near neighbours, only equal coordinates count.
    """
    if not len(vertices):
        return vertices
    tolerance = TOLERANCE * np.ptp(vertices, axis=0).max()
    keys = np.stack([_clusters(column, tolerance) for column in vertices.T])
    order = np.lexsort(keys)
    ordered = keys[:, order]
    new = np.concatenate(([True], (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)))
    positions = np.empty_like(vertices)
    positions[order] = vertices[order[new]][np.cumsum(new) - 1]
    return positions


def _clusters(values: np.ndarray, tolerance: float) -> np.ndarray:
    """A number (n,) for each value, the same for values that a chain of gaps up to the tolerance joins."""
    order = np.argsort(values, kind="stable")
    gaps = np.diff(values[order], prepend=values[order[0]])
    run = np.cumsum(gaps > tolerance)
    starts = np.flatnonzero(np.diff(run, prepend=-1))
    ends = np.append(starts[1:], len(values)) - 1
    long = values[order][ends] - values[order][starts] > 2 * tolerance
    clusters = np.empty(len(values), dtype=np.int64)
    clusters[order] = np.cumsum((gaps > tolerance) | (long[run] & (gaps > 0)))
    return clusters
