"""The mesh of a data set that is nearest to a shape, within a second or two: all by few points, the best by many."""

from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.errors import DataError, MeshError
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.surface import NearestMesh, Shape, nearest_mesh

FEW, MANY = 256, 2048  # points of each mesh in the first look, and of the shortlist
SHORTLIST = 32
AT_ONCE = 64  # meshes of which all distances between points are in memory


class NearestMeshes:
    """Finds the mesh of `dataset` (with `mesh(i)`) that is nearest by `SurfaceReport.chamfer`, both normalised.

    Every mesh is compared by 256 points, the 32 that are nearest so by 2,048. The points are drawn when the first shape
    is looked up, always the same ones, and kept in memory. Raises `DataError` where no mesh of the data set has a
    surface.
    """

    @no_type_check
    def __init__(self, dataset):
        self.dataset = dataset
        self._clouds: dict[int, PointCloud] = {}
        self._few: Float[Tensor, "m p 3"] | None = None
        self._numbers: np.ndarray | None = None

    def find(self, shape: Shape) -> NearestMesh:
        """The nearest mesh: its index in the data set, and how far it is from the normalised shape."""
        normalized = shape.normalized() if not isinstance(shape, PointCloud) else shape.normalized()[0]
        numbers, distances = self._first_look(_few_points(normalized, 0))
        shortlist = numbers[np.argsort(distances, kind="stable")[:SHORTLIST]]
        best = nearest_mesh(normalized, [self._cloud(int(number)) for number in shortlist], MANY)
        return NearestMesh(int(shortlist[best.index]), best.chamfer)

    def _first_look(self, points: Float[Tensor, "p 3"]) -> tuple[np.ndarray, np.ndarray]:
        """Which meshes have a surface, and how far each is, by few points."""
        if self._few is None or self._numbers is None:
            self._few, self._numbers = _sampled(self.dataset)
        sums = []
        for few in self._few.split(AT_ONCE):
            distances = torch.cdist(few, points.expand(len(few), -1, -1))
            sums.append(distances.amin(dim=1).mean(dim=1) + distances.amin(dim=2).mean(dim=1))
        return self._numbers, torch.cat(sums).numpy()

    def _cloud(self, number: int) -> PointCloud:
        if number not in self._clouds:
            self._clouds[number] = PointCloud.from_mesh(self.dataset.mesh(number).normalized(), MANY, 1 + number)
        return self._clouds[number]


def _few_points(shape: Shape, seed: int) -> Float[Tensor, "p 3"]:
    cloud = shape if isinstance(shape, PointCloud) else PointCloud.from_mesh(shape, FEW, seed)
    return torch.from_numpy(cloud.subsampled(FEW, seed).points.astype(np.float32))


@no_type_check
def _sampled(dataset) -> tuple[Float[Tensor, "m p 3"], np.ndarray]:
    """Few points of each mesh that has a surface, and the numbers (m) of those meshes."""
    points, numbers = [], []
    for number in range(len(dataset)):
        try:
            points.append(_few_points(dataset.mesh(number).normalized(), 1 + number))
        except MeshError:  # without surface
            continue
        numbers.append(number)
    if not numbers:
        raise DataError(f"no mesh of {dataset!r} has a surface: there is nothing to compare with")
    return torch.stack(points), np.array(numbers)
