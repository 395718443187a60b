"""Surfaces by their points: samples, farthest points, inside and outside, and how far two surfaces are apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from meshgpt.errors import MeshError
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.farthest import farthest_points
from meshgpt.mesh.inside import contains, signed_distances, surface_distances, winding_numbers
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.sampling import sample_near, sample_sharp_edges, sample_surface, sample_volume

__all__ = [
    "NearestMesh", "SurfaceReport", "compare_surfaces", "contains", "farthest_points", "nearest_mesh",
    "point_distances", "sample_near", "sample_sharp_edges", "sample_surface", "sample_volume", "signed_distances",
    "surface_distances", "winding_numbers",
]  # fmt: skip

Shape = Mesh | PointCloud


def point_distances(
    points: Float[np.ndarray, "n 3"], others: Float[np.ndarray, "m 3"]
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """The distance from each point to the nearest of `others`, and which one that is."""
    if not len(others):
        raise MeshError("there is no nearest point among none")
    distances, indices = KDTree(others).query(points)
    return np.asarray(distances), np.asarray(indices, dtype=np.int64)


@dataclass(frozen=True)
class SurfaceReport:
    """How far two surfaces A and B are apart, by points on them; lengths are in the units of their coordinates.

    Let d(a, B) be the distance from a point a of A to the nearest point of B, and mean over all points of a surface.

    chamfer: (mean d(a, B) + mean d(b, A)) / 2; not squared.
    chamfer_squared: mean d(a, B)^2 + mean d(b, A)^2, the sum that papers on generation print, often times 1000.
    hausdorff: the largest of all d(a, B) and d(b, A).
    normal_consistency: the mean, over both directions, of |cos| of the angle between the normal of a point and the one
    of its nearest point; 1 is best, 0.5 what random directions give.
    signed_normal_consistency: the same without taking absolute values; far below the other where faces look inward.
    f_score: the harmonic mean of the share of A within `threshold` of B and the share of B within it of A.
    Both normal consistencies are None where A or B has no normals.
    """

    chamfer: float
    chamfer_squared: float
    hausdorff: float
    normal_consistency: float | None
    signed_normal_consistency: float | None
    f_score: float
    threshold: float

    def __str__(self) -> str:
        parts = [f"Chamfer {self.chamfer:.4f}", f"Hausdorff {self.hausdorff:.4f}"]
        if self.normal_consistency is not None and self.signed_normal_consistency is not None:
            signed = f"{self.signed_normal_consistency:.3f} signed"
            parts.append(f"normal consistency {self.normal_consistency:.3f} ({signed})")
        return ", ".join([*parts, f"F-score {self.f_score:.3f} at {self.threshold:g}"])


@no_type_check
def compare_surfaces(a: Shape, b: Shape, count: int = 10_000, seed: int = 0, threshold: float = 0.05) -> SurfaceReport:
    """How far two surfaces are apart, each a `Mesh` or a `PointCloud`, in the coordinates given: nothing is normalised.

    Takes `count` points spread evenly over each mesh, and of each cloud at most as many. The points of a and b are
    drawn independently, so that even equal surfaces are some way apart: about sqrt(area / count) / 2 in `chamfer`.
    Raises `MeshError` for a mesh without area.
    """
    return _compare(_points_of(a, count, (seed, 0)), _points_of(b, count, (seed, 1)), threshold)


@dataclass(frozen=True)
class NearestMesh:
    """The nearest of some meshes: which one, and `SurfaceReport.chamfer` to it."""

    index: int
    chamfer: float


@no_type_check
def nearest_mesh(shape: Shape, meshes: Sequence[Shape], count: int = 2048, seed: int = 0) -> NearestMesh:
    """The mesh that is nearest to a mesh or cloud by `SurfaceReport.chamfer`, the first of equals.

    Meshes are compared as they lie: normalise all of them, or none. Where many shapes are looked up among the same
    meshes, give those as clouds (`PointCloud.from_mesh`), which need not be sampled again. Raises `MeshError` where
    there are none.
    """
    if not len(meshes):
        raise MeshError("there is no nearest mesh among none")
    points = _points_of(shape, count, (seed, 0)).points
    tree = KDTree(points)
    clouds = (_points_of(mesh, count, (seed, 1)).points for mesh in meshes)
    distances = [(tree.query(cloud)[0].mean() + point_distances(points, cloud)[0].mean()) / 2 for cloud in clouds]
    index = int(np.argmin(distances))
    return NearestMesh(index, float(distances[index]))


@no_type_check
def _points_of(shape: Shape, count: int, seed: tuple[int, int]) -> PointCloud:
    rng = np.random.default_rng(seed)
    if isinstance(shape, PointCloud):
        return shape.subsampled(count, rng)
    if isinstance(shape, Mesh):
        return PointCloud.from_mesh(shape, count, rng)
    raise MeshError(f"a surface is a Mesh or a PointCloud, got {type(shape).__name__}")


def _compare(a: PointCloud, b: PointCloud, threshold: float) -> SurfaceReport:
    (to_b, near_b), (to_a, near_a) = point_distances(a.points, b.points), point_distances(b.points, a.points)
    precision, recall = float((to_b <= threshold).mean()), float((to_a <= threshold).mean())
    unsigned, signed = _consistency(a.normals, b.normals, near_b, near_a)
    return SurfaceReport(
        chamfer=float(to_b.mean() + to_a.mean()) / 2,
        chamfer_squared=float((to_b**2).mean() + (to_a**2).mean()),
        hausdorff=float(max(to_b.max(), to_a.max())),
        normal_consistency=unsigned,
        signed_normal_consistency=signed,
        f_score=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        threshold=threshold,
    )


def _consistency(
    a: np.ndarray | None, b: np.ndarray | None, near_b: np.ndarray, near_a: np.ndarray
) -> tuple[float | None, float | None]:
    """Unsigned and signed, over the pairs of which both normals are known; None where there is none."""
    if a is None or b is None:
        return None, None
    means = []
    for one, other in ((a, b[near_b]), (b, a[near_a])):
        known = one.any(axis=1) & other.any(axis=1)
        if not known.any():
            return None, None
        cosines = np.einsum("nd,nd->n", one[known], other[known])
        means.append((np.abs(cosines).mean(), cosines.mean()))
    unsigned, signed = np.mean(means, axis=0)
    return float(unsigned), float(signed)
