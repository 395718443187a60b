"""Small waves taken out of a dense surface, with its volume kept."""

from typing import no_type_check

import numpy as np
from scipy import sparse

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import Mesh

SHRINK, GROW = 0.5, -0.53  # what is longer than some ten edges stays: 1 / SHRINK + 1 / GROW = 0.11


@no_type_check
def smoothed(mesh: Mesh, steps: int = 10) -> Mesh:
    """The mesh with its vertices moved `steps` times towards the mean of those they share an edge with, and back.

    Taubin 1995, "A signal processing approach to fair surface design": waves of two or three edges are gone after ten
    steps, those of ten and more stay, and so does the volume. Faces, and vertices of none, stay as they are. Raises
    `MeshError` for a number of steps below 0.
    """
    if steps < 0:
        raise MeshError(f"a mesh is smoothed 0 times or more often, got {steps}")
    if not steps or not mesh.num_faces:
        return mesh
    means, vertices = _means(mesh), mesh.vertices
    for _ in range(steps):
        for share in (SHRINK, GROW):
            vertices = vertices + share * (means @ vertices - vertices)
    return Mesh(vertices, mesh.faces)


def _means(mesh: Mesh) -> sparse.csr_array:
    """(nv, nv): times vertices it gives the mean of the neighbours of each, or the vertex where it has none."""
    faces = mesh.triangulated().faces
    ends = np.stack((faces, np.roll(faces, -1, axis=1)), axis=2).reshape(-1, 2)
    ends = ends[ends[:, 0] != ends[:, 1]]
    alone = np.setdiff1d(np.arange(mesh.num_vertices), ends)
    rows, columns = np.concatenate((ends, ends[:, ::-1], np.stack((alone, alone), axis=1))).T
    joined = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(mesh.num_vertices,) * 2)
    joined.data = 1 / np.repeat(np.diff(joined.indptr), np.diff(joined.indptr))  # sums of doubles made one by csr
    return joined
