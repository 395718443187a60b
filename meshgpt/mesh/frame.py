"""Where a shape was before it was normalised, so that what a model makes of it can be put back."""

from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import MARGIN, Mesh


@dataclass(frozen=True, eq=False)
class Frame:
    """A move and a scale: normalised = (point - centre) * scale. Directions, such as normals, stay as they are."""

    centre: Float[np.ndarray, " 3"]
    scale: float

    @classmethod
    @no_type_check
    def of(cls, points) -> "Frame":
        """The frame that centres the box of points (n, 3) at 0 and makes its longest side reach from -0.95 to 0.95.

        For a mesh, `Frame.of(mesh.bounds)` is the one of `Mesh.normalized`. Points all at one place are moved only.
        """
        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or not len(points):
            raise MeshError(f"a frame needs points of shape (n, 3), at least one, got shape {points.shape}")
        low, high = points.min(axis=0), points.max(axis=0)
        longest = (high - low).max()
        return cls((low + high) / 2, float(2 * MARGIN / longest) if longest > 0 else 1.0)

    def normalize(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        return (points - self.centre) * self.scale

    def restore(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Back to where they were: undoes `normalize`."""
        return points / self.scale + self.centre

    def restore_mesh(self, mesh: Mesh) -> Mesh:
        """A mesh made in normalised coordinates, moved to where the shape was."""
        return Mesh(self.restore(mesh.vertices), mesh.faces)
