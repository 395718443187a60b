"""How new meshes are: how far the nearest mesh of the training set is, and how many are copies of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np

from meshgpt.data.nearest import NearestMeshes
from meshgpt.errors import MeshError
from meshgpt.evaluation.copies import NEAR, CopyFinder
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.surface import NearestMesh

QUANTILES = (5, 25, 50, 75, 95)  # per cent


@dataclass(frozen=True)
class Novelty:
    """Of n meshes with a surface. `nearest`: the mesh of the training set at the least `SurfaceReport.chamfer` (not
    squared, box of side 1.9), None without surface. copies, exact: the share of those that `CopyFinder` finds to be a
    training mesh in another pose, within `threshold`, and face by face the same.
    """

    nearest: list[NearestMesh | None]
    copies: float
    exact: float
    threshold: float = NEAR

    def to_dict(self) -> dict[str, Any]:
        distances = [found.chamfer for found in self.nearest if found is not None]
        marks = np.percentile(distances, QUANTILES).tolist() if distances else [None] * len(QUANTILES)
        return {
            "copies": self.copies,
            "exact_copies": self.exact,
            "copy_threshold": self.threshold,
            "nearest_quantiles": dict(zip(map(str, QUANTILES), marks, strict=True)),
            "nearest": [None if found is None else round(found.chamfer, 6) for found in self.nearest],
            "nearest_index": [None if found is None else found.index for found in self.nearest],
        }


@no_type_check
def novelty(meshes: Sequence[Mesh], training: NearestMeshes, finder: CopyFinder) -> Novelty:
    """How far meshes are from those of the training set, over which both `training` and `finder` are.

    Real meshes that were held out give the figures of an author who copies nothing.
    """
    copies = [finder.find(mesh) if mesh.num_faces else None for mesh in meshes]
    count = max(len(meshes), 1)
    return Novelty(
        [_nearest(mesh, training) for mesh in meshes],
        sum(copy is not None for copy in copies) / count,
        sum(copy is not None and copy.exact for copy in copies) / count,
        finder.near,
    )


def _nearest(mesh: Mesh, training: NearestMeshes) -> NearestMesh | None:
    try:
        return training.find(mesh)
    except MeshError:
        return None
