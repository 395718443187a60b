"""The grid, and the one order in which every mesh is written.

A coordinate of [low, high] falls into one of R bins; a bin is read back as its centre. After the grid, vertices are
sorted by (y, z, x), every face starts with its smallest vertex and faces are sorted, so that equal surfaces give equal
sequences. Winding is never touched.
"""

from dataclasses import dataclass
from typing import no_type_check, overload

import numpy as np
import torch
from torch import Tensor

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import (
    Mesh,
    differs_from_previous,
    drop_degenerate_faces,
    drop_unused_vertices,
    rotate_smallest_first,
    sort_faces,
)

# Planes of symmetry fall between two bins; this nudge keeps rounding from deciding on which side.
NUDGE = 1e-3


@overload
def quantize(coordinates: Tensor, num_discrete_coors: int = ..., low: float = ..., high: float = ...) -> Tensor: ...
@overload
def quantize(
    coordinates: np.ndarray, num_discrete_coors: int = ..., low: float = ..., high: float = ...
) -> np.ndarray: ...
@no_type_check
def quantize(coordinates, num_discrete_coors=128, low=-1.0, high=1.0):
    """Bins (int64, 0 .. R - 1) of coordinates; those outside [low, high] fall into the outermost bins.

    q = clip(floor((x - low) / (high - low) * R + 1e-3), 0, R - 1), in float64. Takes arrays and tensors of any shape.
    """
    if isinstance(coordinates, Tensor):
        scaled = (coordinates.double() - low) / (high - low) * num_discrete_coors + NUDGE
        return scaled.floor().clamp(0, num_discrete_coors - 1).long()
    scaled = (np.asarray(coordinates, dtype=np.float64) - low) / (high - low) * num_discrete_coors + NUDGE
    return np.clip(np.floor(scaled), 0, num_discrete_coors - 1).astype(np.int64)


@overload
def dequantize(bins: Tensor, num_discrete_coors: int = ..., low: float = ..., high: float = ...) -> Tensor: ...
@overload
def dequantize(bins: np.ndarray, num_discrete_coors: int = ..., low: float = ..., high: float = ...) -> np.ndarray: ...
@no_type_check
def dequantize(bins, num_discrete_coors=128, low=-1.0, high=1.0):
    """Centres of bins: (q + 0.5) / R scaled to [low, high]; float64 for arrays, float32 for tensors."""
    values = bins.to(torch.float32) if isinstance(bins, Tensor) else np.asarray(bins, dtype=np.float64)
    return (values + 0.5) / num_discrete_coors * (high - low) + low


@dataclass(frozen=True, eq=False)
class GridMesh:
    """A mesh on the grid in canonical order.

    vertices: (nv, 3) int64 bins in 0 .. num_discrete_coors - 1, distinct, ascending by (y, z, x).
    faces: (nf, k) int64, each with its smallest vertex first, ascending.
    """

    vertices: np.ndarray
    faces: np.ndarray
    num_discrete_coors: int = 128

    def mesh(self) -> Mesh:
        """The mesh of bin centres, in [-1, 1]."""
        return Mesh(dequantize(self.vertices, self.num_discrete_coors), self.faces)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, GridMesh)
            and self.num_discrete_coors == other.num_discrete_coors
            and np.array_equal(self.vertices, other.vertices)
            and np.array_equal(self.faces, other.faces)
        )

    def __hash__(self) -> int:
        return hash((self.num_discrete_coors, self.vertices.tobytes(), self.faces.tobytes()))


def canonicalize(mesh: Mesh, num_discrete_coors: int = 128) -> GridMesh:
    """The mesh, whose coordinates lie in [-1, 1], on the grid and in canonical order.

    In sequence: equal vertices merged; faces with a repeated vertex dropped (a quad that lost one corner becomes a
    triangle), then duplicate faces (equal after rotation; the same corners wound the other way are another face);
    unused vertices dropped; vertices sorted by (y, z, x); faces turned to start with their smallest vertex; faces
    sorted. Idempotent. Raises `MeshError` for a number of bins below 2.
    """
    return canonicalize_grid(quantize(mesh.vertices, num_discrete_coors), mesh.faces, num_discrete_coors)


def canonicalize_grid(bins: np.ndarray, faces: np.ndarray, num_discrete_coors: int = 128) -> GridMesh:
    """As `canonicalize`, from vertices (nv, 3) that are bins already."""
    if num_discrete_coors < 2:
        raise MeshError(f"num_discrete_coors must be at least 2, got {num_discrete_coors}")
    x, y, z = bins.T.astype(np.int64)
    key = (y * num_discrete_coors + z) * num_discrete_coors + x
    order = np.argsort(key)  # (y, z, x) ascending; of vertices with one key any will do
    new = differs_from_previous(key[order][:, None])
    number = np.empty(len(key), dtype=np.int64)
    number[order] = np.cumsum(new) - 1
    faces = np.where(faces >= 0, number[faces], -1)
    vertices, faces = drop_unused_vertices(bins[order[new]], drop_degenerate_faces(faces))
    faces = rotate_smallest_first(faces)
    faces = faces[sort_faces(faces)]
    faces = faces[differs_from_previous(faces)]
    return GridMesh(vertices.astype(np.int64), faces, num_discrete_coors)


def is_canonical(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether grid vertices (nv, 3) and faces (nf, k) are in canonical order: its grammar, stated as a check.

    In face (a, b, c): a < b, a < c, b != c; faces strictly increase; vertices strictly increase by (y, z, x).
    """
    keys = vertices[:, [1, 2, 0]]
    increasing = all(_strictly_increasing(rows) for rows in (keys, faces))
    rest = np.where(faces[:, 1:] < 0, np.iinfo(np.int64).max, faces[:, 1:])
    smallest_first = bool((faces[:, :1] < rest).all())
    used = len(np.unique(faces[faces >= 0])) == len(vertices)
    return increasing and smallest_first and used and len(drop_degenerate_faces(faces)) == len(faces)


def _strictly_increasing(rows: np.ndarray) -> bool:
    difference = np.diff(rows, axis=0)
    first = np.argmax(difference != 0, axis=1)[:, None]
    return bool((np.take_along_axis(difference, first, axis=1) > 0).all()) if len(difference) else True
