"""Does a mesh lie where the shape lies that it was made for? Means over pairs of surfaces."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np

from meshgpt.errors import DataError, MeshError
from meshgpt.mesh.frame import Frame
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import SurfaceReport, compare_surfaces

FIGURES = (
    *("chamfer", "chamfer_squared", "hausdorff", "normal_consistency", "signed_normal_consistency", "f_score"),
)  # fmt: skip


@dataclass(frozen=True)
class SurfaceFollowing:
    """`reports` of the pairs, None for a mesh without surface; means and medians leave those out, and count them."""

    reports: list[SurfaceReport | None]

    @property
    def without_surface(self) -> int:
        return sum(report is None for report in self.reports)

    def to_dict(self) -> dict[str, Any]:
        real = [report for report in self.reports if report is not None]
        told: dict[str, Any] = {"pairs": len(self.reports), "without_surface": self.without_surface}
        told["threshold"] = real[0].threshold if real else None
        for name in FIGURES:
            values = [value for report in real if (value := getattr(report, name)) is not None]
            told[name] = float(np.mean(values)) if values else None
            told[f"{name}_median"] = float(np.median(values)) if values else None
        return told


@no_type_check
def surface_following(
    meshes: Sequence[Mesh], wanted: Sequence[Mesh], count: int = 10_000, seed: int = 0, threshold: float = 0.05
) -> SurfaceFollowing:
    """`compare_surfaces` of mesh i with wanted i, in the frame in which the wanted one is normalised.

    A pipeline gives a mesh back in the place of the shape that it follows, so nothing else is moved. Raises `DataError`
    for sequences of different length.
    """
    if len(meshes) != len(wanted):
        raise DataError(f"{len(meshes)} meshes for {len(wanted)} shapes to follow: give one for each")
    pairs = zip(meshes, wanted, strict=True)
    return SurfaceFollowing([_compared(mesh, shape, count, seed, threshold) for mesh, shape in pairs])


def _compared(mesh: Mesh, wanted: Mesh, count: int, seed: int, threshold: float) -> SurfaceReport | None:
    try:
        frame = Frame.of(wanted.bounds)
        one, other = (Mesh(frame.normalize(each.vertices), each.faces) for each in (mesh, wanted))
        return compare_surfaces(one, other, count, seed, threshold)
    except MeshError:
        return None
