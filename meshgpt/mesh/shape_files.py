"""Shapes as people have them: a mesh or a cloud, in a file, as arrays, or as what they are here."""

import re
from pathlib import Path
from typing import no_type_check

import numpy as np
from torch import Tensor

from meshgpt.errors import ConditionError
from meshgpt.mesh.clouds import PointCloud, read_points
from meshgpt.mesh.files import FORMATS, read_mesh
from meshgpt.mesh.mesh import Mesh

HEADER = 1 << 16  # bytes of a .ply file among which its header is looked for


@no_type_check
def as_shape(shape) -> Mesh | PointCloud:
    """A `Mesh` with faces or a `PointCloud`: as it is, of points (n, 3) or (n, 6) with normals, or of a file.

    Raises `ConditionError` for what has no faces or points, and what `read_shape` and `PointCloud` raise.
    """
    if isinstance(shape, (str, Path)):
        shape = read_shape(shape)
    if isinstance(shape, Mesh):
        if not shape.num_faces:
            raise ConditionError("the mesh to follow has no faces")
        return shape
    return shape if isinstance(shape, PointCloud) else _cloud(shape)


@no_type_check
def _cloud(points) -> PointCloud:
    if isinstance(points, Tensor):
        points = points.detach().cpu().numpy()
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] not in (3, 6):
        raise ConditionError(f"points must be a PointCloud, (n, 3), or (n, 6) with normals, got {points.shape}")
    if not len(points):
        raise ConditionError("points is an empty cloud: give at least one point")
    return PointCloud(points[:, :3], points[:, 3:] if points.shape[1] == 6 else None)


@no_type_check
def read_shape(path, up="y") -> Mesh | PointCloud:
    """A mesh, or where a file has no faces (.ply) or cannot have any (.xyz, .npy, ...), a cloud.

    up: the axis of the file that points up. Raises `MeshFileError` for what cannot be read.
    """
    extension = Path(path).suffix.lower().lstrip(".")
    is_mesh = extension in FORMATS and not (extension == "ply" and _lacks_faces(Path(path)))
    return (read_mesh if is_mesh else read_points)(path, up=up)


def _lacks_faces(path: Path) -> bool:
    """Whether a .ply file announces no face in its header."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER).partition(b"end_header")[0]
    except OSError:
        return False
    return header.startswith(b"ply") and re.search(rb"^\s*element\s+face\s+0*[1-9]", header, re.MULTILINE) is None
