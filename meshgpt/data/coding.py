"""Coordinates in 16 bits: half the bytes of float32, the same mesh on the usual grids.

A mesh is stored as whole steps from the centre of its bounding box, 32767 of them to the end of its longest side.
The code is symmetric around 0, so planes of symmetry stay exact; the centre and the step are kept in float64, so that
the original place and size come back.
"""

import numpy as np

from meshgpt.mesh.canonical import quantize
from meshgpt.mesh.mesh import MARGIN, Mesh

CENTRE = 32768  # the code of the centre of the bounding box
REACH = 32767  # steps from there to the end of the longest side
EXACT_GRIDS = (128, 256, 512, 1024)  # numbers of bins on which a stored mesh is to equal its original
_SHIFTS = np.arange(-3, 4)


def encode_coordinates(mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Codes (nv, 3) uint16 and placement (4,) float64: the centre and the length of one step.

    A coordinate moves by half a step at most (1 / 131068 of the longest side); where that would put it into another bin
    of one of `EXACT_GRIDS`, it takes the nearest step within its own bin, at most three away. Where the bins of two
    grids cannot both be kept, the coarser grid decides. Vertices that no face uses and that lie outside the bounding
    box of the others are moved onto that box.
    """
    low, high = mesh.bounds
    longest = float((high - low).max())
    placement = np.array([*(low + high) / 2, longest / 2 / REACH if longest > 0 else 1.0])
    ends = np.rint((high - low) / 2 / placement[3])
    steps = np.clip(np.rint((mesh.vertices - placement[:3]) / placement[3]), -ends, ends)
    if longest > 0:
        steps = _within_bins(steps, ends, mesh.normalized().vertices)
    return (steps + CENTRE).astype(np.uint16), placement


def decode_coordinates(codes: np.ndarray, placement: np.ndarray) -> np.ndarray:
    """Vertices (nv, 3) float64 from codes (nv, 3) and their placement (4,)."""
    return (codes.astype(np.float64) - CENTRE) * placement[3] + placement[:3]


def _within_bins(steps: np.ndarray, ends: np.ndarray, normalized: np.ndarray) -> np.ndarray:
    """Steps (nv, 3) moved so that the bins stay those of the `normalized` vertices.

    The two ends of each axis, `ends` (3,) steps from the centre, move by the same amount: the centre must stay.
    """
    cost = _costs(steps, normalized)
    top, bottom = (steps == ends) & (ends > 0), (steps == -ends) & (ends > 0)
    cost_of_ends = np.where(top, cost, 0).max(axis=1) + np.where(bottom, cost[::-1], 0).max(axis=1)
    ends = ends + _SHIFTS[cost_of_ends.argmin(axis=0)] * top.any(axis=0)
    moved = np.clip(steps + _SHIFTS[cost.argmin(axis=0)], -ends, ends)
    return np.where(top, ends, np.where(bottom, -ends, moved))


def _costs(steps: np.ndarray, normalized: np.ndarray) -> np.ndarray:
    """(shifts, nv, 3): how wrong the bins are after each of `_SHIFTS`; coarse grids weigh most, distance least."""
    cost = np.zeros((len(_SHIFTS), *steps.shape)) + 0.01 * np.abs(_SHIFTS)[:, None, None]
    shifted = (steps + _SHIFTS[:, None, None]) * (MARGIN / REACH)
    for order, bins in enumerate(EXACT_GRIDS):
        cost += 4.0**-order * (quantize(shifted, bins) != quantize(normalized, bins))
    return cost
