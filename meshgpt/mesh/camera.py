"""Where a mesh is looked at from: a camera that places itself, in perspective or orthographic."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from meshgpt.config import Config
from meshgpt.mesh.mesh import Mesh

FILLED = 0.86  # share of the picture's shorter side that a fitted mesh takes
NEAR = 0.1  # what comes nearer to the eye than this share of its distance to the target is not seen
Real = float | int


@dataclasses.dataclass(frozen=True)
class Camera(Config):
    """Where a mesh is looked at from. The defaults place it so that the whole mesh is in the picture.

    azimuth: radians around the y axis; 0 looks from +z, pi / 2 from +x.
    elevation: radians above the horizon, from -pi / 2 to pi / 2.
    field_of_view: radians across the shorter side of the picture; 0 is an orthographic view.
    target: the point in the middle of the picture; None is the middle of the mesh's bounding box.
    extent: half the shorter side of the picture, measured at the target; None fits the mesh. Give target and extent
        to compare pictures of different meshes.
    """

    azimuth: Real = 0.6
    elevation: Real = 0.4
    field_of_view: Real = 0.5
    target: tuple[Real, ...] | None = None
    extent: Real | None = None

    def validate(self) -> None:
        self.require(math.isfinite(self.azimuth), "azimuth", "be finite")
        self.require(bool(abs(self.elevation) <= math.pi / 2), "elevation", "lie between -pi / 2 and pi / 2")
        self.require(bool(0 <= self.field_of_view <= 2.5), "field_of_view", "lie between 0 and 2.5 radians")
        target_is_point = self.target is None or (len(self.target) == 3 and all(map(math.isfinite, self.target)))
        self.require(target_is_point, "target", "be three finite numbers or None")
        self.require(self.extent is None or bool(0 < self.extent < math.inf), "extent", "be positive or None")

    @property
    def axes(self) -> Float[np.ndarray, "3 3"]:
        """Rows: the directions right, up and towards the eye."""
        (sa, ca), (se, ce) = ((math.sin(a), math.cos(a)) for a in (self.azimuth, self.elevation))
        return np.array([[ca, 0.0, -sa], [-se * sa, ce, -se * ca], [ce * sa, se, ce * ca]])

    def fitted(self, mesh: Mesh, azimuths: Sequence[float] | None = None) -> "Camera":
        """The camera with `target` and `extent` chosen so that `mesh` fits, seen from each of `azimuths`."""
        vertices = mesh.vertices[np.unique(mesh.faces[mesh.faces >= 0])]
        low, high = (vertices.min(0) / 2, vertices.max(0) / 2) if len(vertices) else (np.zeros(3), np.zeros(3))
        target = np.array(self.target) if self.target is not None else low + high
        half = float((high - low).max()) or 1.0
        views = [dataclasses.replace(self, azimuth=azimuth) for azimuth in azimuths or (self.azimuth,)]
        relative = vertices / half - target / half
        extent = self.extent or half * max(_extent_to_fit(relative @ view.axes.T, self.field_of_view) for view in views)
        return dataclasses.replace(self, target=tuple(target.tolist()), extent=extent)

    def project(self, points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Points as a fitted camera sees them: x right and y up, in [-1, 1] across the shorter side, and depth.

        Depth grows towards the eye and stays linear along straight lines of the picture. NaN where a point is behind
        the eye or too near to it.
        """
        assert self.target is not None and self.extent is not None
        seen = (points / self.extent - np.array(self.target) / self.extent) @ self.axes.T
        shrink = 1 - math.tan(self.field_of_view / 2) * seen[..., 2:]
        return seen / np.where(shrink > NEAR, shrink, np.nan)


def _extent_to_fit(seen: np.ndarray, field_of_view: float) -> float:
    """The smallest extent with which points in camera axes, relative to the target, stay within the picture."""
    if not len(seen):
        return 1.0
    lean = math.tan(field_of_view / 2) * seen[:, 2]
    return float(np.maximum(np.abs(seen[:, :2]).max(axis=1) / FILLED + lean, 1.5 * lean).max()) or 1.0
