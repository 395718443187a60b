"""Fewer faces: quadric edge collapse, by the optional package fast-simplification."""

from importlib import import_module
from types import ModuleType
from typing import no_type_check

import numpy as np

from meshgpt.errors import DataError, MissingExtraError
from meshgpt.mesh.mesh import Mesh


@no_type_check
def decimate(mesh: Mesh, num_faces: int) -> Mesh:
    """The mesh with about `num_faces` triangles, fewer rather than more; a mesh with as few already stays as it is.

    Quads become triangles. Where the collapse cannot go so far, what it reached comes back. Raises `DataError` for
    fewer than 4 faces, `MissingExtraError` without the package.
    """
    if num_faces < 4:
        raise DataError(f"a mesh cannot be decimated to {num_faces} faces; ask for 4 at least")
    if mesh.num_faces <= num_faces:
        return mesh
    mesh = mesh.cleaned().triangulated()
    if mesh.num_faces <= num_faces:
        return mesh
    simplify = _fast_simplification().simplify
    vertices, faces = mesh.normalized().vertices, mesh.faces
    for aim in (num_faces, int(0.9 * num_faces), int(0.75 * num_faces)):  # it stops a little short at times
        reduced = simplify(vertices.astype(np.float32), faces.astype(np.int32), target_count=max(aim, 4))
        result = Mesh(*reduced).cleaned()
        if result.num_faces <= num_faces:
            break
    return _placed(result, vertices, mesh) if result.num_faces else mesh


def _placed(result: Mesh, vertices: np.ndarray, original: Mesh) -> Mesh:
    """The result, computed on normalised `vertices`, in the place and size of the original."""
    low, high = original.bounds
    longest = (high - low).max()
    factor = longest / np.ptp(vertices, axis=0).max() if longest > 0 else 1.0
    return Mesh(result.vertices * factor + (low + high) / 2, result.faces)


def _fast_simplification() -> ModuleType:
    try:
        return import_module("fast_simplification")
    except ImportError:
        raise MissingExtraError("fast-simplification", "mesh", "decimation") from None
