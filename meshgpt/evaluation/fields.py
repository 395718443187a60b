"""How well a model of fields gives shapes back: overlap of volumes, and distances of surfaces."""

import math
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch

from meshgpt.data.field_store import FieldSample
from meshgpt.errors import DataError
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.isosurface import ExtractionConfig, evaluate
from meshgpt.mesh.surface import compare_surfaces

FARTHEST = 2 * math.sqrt(3)  # within the box: the distance that an empty result counts as


@dataclass(frozen=True)
class FieldReport:
    """Means over shapes.

    iou: of the points spread over the volume. chamfer, f_score, normal_consistency: of extracted surfaces, see
    `SurfaceReport`; None where none was extracted. empty: how many shapes had no surface, which count as the worst that
    there is: chamfer the diagonal of the box, 0 for the others.
    """

    shapes: int
    iou: float
    iou_of_each: tuple[float, ...]
    chamfer: float | None = None
    f_score: float | None = None
    normal_consistency: float | None = None
    empty: int = 0

    def __str__(self) -> str:
        surface = ""
        if self.chamfer is not None:
            surface = f", Chamfer {self.chamfer:.4f}, F-score {self.f_score:.3f}, {self.empty} empty"
        return f"{self.shapes} shapes: IoU {self.iou:.4f} (worst {min(self.iou_of_each):.3f}){surface}"


@no_type_check
@torch.no_grad()
def report_fields(
    model: Any, dataset: Any, cloud: int = 2048, extraction: ExtractionConfig | None = None, threshold: float = 0.02,
    count: int = 10_000, num_latents: int | None = None,
) -> FieldReport:  # fmt: skip
    """Encodes `cloud` surface points of each shape of a data set of `FieldSample`s, and compares what comes back.

    num_latents: of vector sets, as many as the model has if None.
    Surfaces are extracted and compared by `count` points only if `extraction` is given; it takes most of the time.
    Raises `DataError` for no shapes.
    """
    if not len(dataset):
        raise DataError("there are no shapes to report on")
    model.eval()
    overlaps, surfaces = [], []
    for index in range(len(dataset)):
        sample = dataset[index]
        points = _cloud(sample, cloud, index).to(next(model.parameters()).device)
        latents = model.encode(points) if num_latents is None else model.encode(points, num_latents=num_latents)
        field = model.field(latents)
        overlaps.append(volume_iou(evaluate(field, torch.from_numpy(sample.volume[:, :3].copy())), sample.volume[:, 3]))
        if extraction is not None:
            [found] = model.extract(latents, extraction)
            surfaces.append(_compared(found.mesh, sample, threshold, count))
    report = {"shapes": len(dataset), "iou": float(np.mean(overlaps)), "iou_of_each": tuple(overlaps)}
    if not surfaces:
        return FieldReport(**report)
    chamfer, f_score, normals = np.mean([values for values, _ in surfaces], axis=0).tolist()
    return FieldReport(**report, chamfer=chamfer, f_score=f_score, normal_consistency=normals,
                       empty=sum(empty for _, empty in surfaces))  # fmt: skip


def volume_iou(values: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union by points (n,), positive inside; 1 where neither holds a point."""
    found, real = values > 0, true > 0
    either = int((found | real).sum())
    return float((found & real).sum() / either) if either else 1.0


def _cloud(sample: FieldSample, count: int, seed: int) -> torch.Tensor:
    rows = np.random.default_rng(seed).permutation(len(sample.surface))[:count]
    return torch.from_numpy(sample.surface[np.sort(rows)])[None]


@no_type_check
def _compared(mesh, sample: FieldSample, threshold: float, count: int) -> tuple[tuple[float, float, float], bool]:
    if not mesh.num_faces:
        return (FARTHEST, 0.0, 0.0), True
    even = sample.surface[sample.surface[:, 6] == 0]  # those of sharp edges are not spread over the area
    rest = even if len(even) else sample.surface
    report = compare_surfaces(mesh, PointCloud(rest[:, :3], rest[:, 3:6]), min(count, len(rest)), threshold=threshold)
    return (report.chamfer, report.f_score, report.normal_consistency or 0.0), False
