"""A light mesh for a dense one or a scan, beside what else could take its place: decimation, the nearest known mesh."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, no_type_check

import numpy as np

from meshgpt.data.dataset import MeshDataset
from meshgpt.data.decimate import decimate
from meshgpt.data.nearest import NearestMeshes
from meshgpt.errors import ConditionError, DataError, GenerationError, MissingExtraError
from meshgpt.mesh.camera import Camera
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.fitting import fit_to_surface
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.picture import contact_sheet
from meshgpt.mesh.surface import SurfaceReport, compare_surfaces
from meshgpt.mesh.topology import topology_report
from meshgpt.pipeline import BUDGET_TOLERANCE, GeneratedMesh, faults
from meshgpt.steering import SteeringConfig, steer
from meshgpt.wishes import Target

FEWEST_POINTS = 20  # of a cloud to be followed

TRAINED_ON = "cc0-lowpoly"
COMPARED = 10_000  # points of each surface
FITTED = 3  # of the meshes written, the best so many are fitted to the shape
COLUMNS = ("faces", "Chamfer", "Hausdorff", "normals", "signed", "F-score", "open edges")
DRAWN = 1500  # points of a cloud in a picture
_KNOWN: dict[str, NearestMeshes] = {}


@dataclass(frozen=True, eq=False)
class Likeness:
    """A mesh that could stand for a shape, where the shape is, and how far it is from it.

    report: by 10,000 points of each, in normalised coordinates: the longest side of the shape is 1.9.
    """

    name: str
    mesh: Mesh
    report: SurfaceReport
    note: str = ""

    @property
    def open_edges(self) -> float:
        """The share of its edges that belong to one face alone."""
        topology = topology_report(self.mesh)
        return topology.boundary_edges / max(topology.edges, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, as JSON has them."""
        faces = {"faces": self.mesh.num_faces, "open_edges": self.open_edges}
        return {"name": self.name, "note": self.note, **faces, **asdict(self.report)}


@dataclass(frozen=True, eq=False)
class Retopology:
    """What `retopologize` gives: a light mesh in the place and size of the shape, and what it is measured against.

    shape: what was given. generated: the mesh as the model wrote it; `written` is the same one where it was fitted to
    the shape afterwards, and None where it was not. itself: the shape beside other points of itself, which tells what
    the distances of a perfect mesh would be; None for a cloud. decimated, nearest: None where they were not asked for,
    or `missing` says why.
    """

    shape: Mesh | PointCloud
    faces: int | None
    generated: GeneratedMesh
    written: Likeness | None
    result: Likeness
    itself: Likeness | None
    decimated: Likeness | None
    nearest: Likeness | None
    missing: dict[str, str]

    @property
    def mesh(self) -> Mesh:
        return self.result.mesh

    @property
    def report(self) -> SurfaceReport:
        return self.result.report

    @property
    def likenesses(self) -> list[Likeness]:
        """Those that there are, the shape itself first."""
        rows = (self.itself, self.written, self.result, self.decimated, self.nearest)
        return [item for item in rows if item is not None]

    def table(self) -> str:
        """One line for each, under a line that names the columns, then why others are missing."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        names = [f"{item.name}{f' ({item.note})' if item.note else ''}" for item in self.likenesses]
        width = max(len(name) for name in names)
        yield f"{'':<{width}}" + "".join(f"{column:>11}" for column in COLUMNS)
        for name, item in zip(names, self.likenesses, strict=True):
            yield f"{name:<{width}}" + "".join(f"{cell:>11}" for cell in _cells(item))
        yield from (f"{name}: none, {reason}" for name, reason in self.missing.items())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them."""
        rows = {"itself": self.itself, "written": self.written, "result": self.result}
        rows |= {"decimated": self.decimated, "nearest": self.nearest}
        return {
            "shape": repr(self.shape),
            "faces_asked": self.faces,
            "seed": self.generated.seed,
            "stopped_by": self.generated.stopped_by,
            "points_compared": COMPARED,
            **{name: None if item is None else item.to_dict() for name, item in rows.items()},
            "missing": self.missing,
        }

    def picture(self, size: int = 384) -> np.ndarray:
        """(h, w, 3) uint8: the shape and all that could stand for it, side by side from one place."""
        shape = self.shape if isinstance(self.shape, Mesh) else drawn_cloud(self.shape)
        shown = [item for item in self.likenesses if item is not self.itself]
        titles = ["input", *(f"{item.name}, {item.mesh.num_faces} faces" for item in shown)]
        camera = Camera().fitted(shape)
        has_letters = find_spec("PIL") is not None
        meshes = [shape, *(item.mesh for item in shown)]
        return contact_sheet(meshes, len(meshes), size, titles if has_letters else None, camera)


@no_type_check
def retopologize(
    pipe, shape, faces=None, candidates=8, seed=None, *, search=None, fit=True, nearest: Any = TRAINED_ON, **options
) -> Retopology:
    """A light mesh that follows a dense mesh or a cloud: of `candidates` seeds the best, fitted to it, and measured.

    pipe: a `MeshPipeline` whose model takes points. shape: a `Mesh`, a `PointCloud`, an array (n, 3) or (n, 6) with
    normals, or a file. faces: how many the mesh should have; no candidate is ended a fifth before or gets more than a
    fifth beyond; where the model was not trained with budgets, none gets more. seed: candidate i is written with
    seed + i, and the result tells which was the best: ended by the model, within a fifth of `faces`, nearest in Chamfer
    distance.

    search: so many begun meshes at a time, or a `SteeringConfig`, in place of candidates: the shape decides while they
    are written which go on (`steer`). fit: the vertices of the best few are moved onto the shape (`fit_to_surface`),
    and of these the best is kept. nearest: compares with the nearest mesh of a data set: a `MeshDataset`, of which the
    split "train" counts where there is one, a `NearestMeshes`, or None for none. decimated (True): with quadric
    decimation to `faces`, or as many as the result has. Further keywords are those of `MeshPipeline.generate`. Raises
    `ConditionError` for a model without points, a cloud of next to none and a budget below 1, `GenerationError` where
    no candidate has a face.
    """
    kinds = pipe.transformer.config.kinds
    if "points" not in kinds:
        takes = f"is trained with {', '.join(kinds)}" if kinds else "is trained without conditions"
        what = "retopology needs a model that follows points, this one"
        raise ConditionError(
            f"{what} {takes}: train one with `meshgpt train transformer DATA --condition points faces`"
        )
    if faces is not None and faces < 1:
        raise ConditionError(f"faces must be a number of at least 1, got {faces}")
    if candidates < 1:
        raise GenerationError(f"candidates must be at least 1, got {candidates}")
    target, decimated = Target.of(shape), options.pop("decimated", True)
    if isinstance(target.shape, PointCloud) and len(target.shape.points) < FEWEST_POINTS:
        what = f"a cloud of {len(target.shape.points)} points says too little of a shape to be followed"
        raise ConditionError(f"{what}: give at least {FEWEST_POINTS}, better a few thousand")
    nearest = (
        None if nearest is None else nearest_meshes(nearest)
    )  # what is not there is told before anything is written
    written = written_for(pipe, target, faces, candidates, seed, search, **options)
    generated, fitted = best_fitted(written, target, faces) if fit else (min(written, key=_faults(faces)), None)
    return compared(target, generated, faces, decimated, nearest, fitted)


@no_type_check
def written_for(pipe, target, faces=None, candidates=8, seed=None, search=None, **options) -> list[GeneratedMesh]:
    """Meshes to choose from, each with a surface: candidates, or what a search found; see `retopologize`."""
    if faces is not None:
        is_soft = pipe.transformer.config.takes("num_faces")
        options = {"max_faces": math.ceil(faces * (1 + BUDGET_TOLERANCE)) if is_soft else faces, **options}
        least = min(math.ceil(faces * (1 - BUDGET_TOLERANCE)), options["max_faces"] or faces)
        options = {"faces": faces, "min_faces": least, **options} if is_soft else options
    if search is None:
        written = pipe.generate(seed=seed, num_meshes=candidates, points=target, candidates=1, **options)
        tried = f"the {candidates} candidates"
    else:
        config = search if isinstance(search, SteeringConfig) else SteeringConfig(particles=search)
        written = steer(pipe, target, seed=seed, config=config, **options)
        tried = f"the {len(written)} meshes found"
    solid = [item for item in written if item.mesh.face_areas.sum() > 0]
    if not solid:
        raise GenerationError(f"none of {tried} has a face: try another seed or a trained model")
    return solid


@no_type_check
def best_fitted(
    written: Sequence[GeneratedMesh], target: Target, faces: int | None = None, count: int = FITTED
) -> tuple[GeneratedMesh, Mesh]:
    """Of the best `count` meshes that were written for a shape the one that is best when fitted, and so fitted."""
    few = sorted(written, key=_faults(faces))[:count]
    fitted = [fitted_to(target, item.mesh) for item in few]
    after = [
        replace(item, mesh=mesh, fit=target.compare(Mesh(target.frame.normalize(mesh.vertices), mesh.faces)))
        for item, mesh in zip(few, fitted, strict=True)
    ]
    best = min(range(len(few)), key=lambda index: faults(after[index], faces))
    return few[best], fitted[best]


@no_type_check
def fitted_to(target: Target, mesh: Mesh) -> Mesh:
    """A mesh that lies where the shape does, fitted to it."""
    placed = Mesh(target.frame.normalize(mesh.vertices), mesh.faces)
    fitted = fit_to_surface(placed, target.shape)
    return mesh if fitted is placed else target.frame.restore_mesh(fitted)


def _faults(faces: int | None) -> Callable[[GeneratedMesh], tuple[int, float, float]]:
    return partial(faults, faces=faces)


@no_type_check
def compared(
    target: Target,
    generated: GeneratedMesh,
    faces: int | None = None,
    decimated: bool = True,
    nearest: Any = TRAINED_ON,
    fitted: Mesh | None = None,
) -> Retopology:
    """The mesh that was written for a shape, measured beside what else could take its place; see `retopologize`.

    fitted: the same mesh fitted to the shape, which is then the result.
    """
    fewer, missing = None, {}
    if decimated:
        try:
            fewer = _decimated(target, faces or generated.mesh.num_faces)
        except (ConditionError, DataError, MissingExtraError) as error:
            missing["decimated"] = str(error)
    known = None if nearest is None else _nearest(target, nearest)
    note = f"seed {generated.seed}"
    written = None if fitted is None else likeness("written", target, generated.mesh, note)
    result = likeness("result", target, generated.mesh if fitted is None else fitted, "fitted" if written else note)
    shape = target.placed
    itself = likeness("input", target, shape) if isinstance(shape, Mesh) else None
    return Retopology(shape, faces, generated, written, result, itself, fewer, known, missing)


def _decimated(target: Target, budget: int) -> Likeness:
    """Raises `ConditionError` for a cloud, `DataError` for too small a budget, `MissingExtraError`."""
    if isinstance(target.shape, PointCloud):
        raise ConditionError("a cloud has no faces that could be taken away")
    reduced = decimate(target.shape, budget)
    note = "has as few" if target.shape.num_faces <= budget else "goes no further" if reduced.num_faces > budget else ""
    return likeness("decimated", target, target.frame.restore_mesh(reduced), note)


@no_type_check
def _nearest(target: Target, nearest: Any) -> Likeness:
    found = nearest_meshes(nearest)
    number = found.find(target.shape).index
    mesh = target.frame.restore_mesh(found.dataset.mesh(number).normalized())
    name = found.dataset[number].name if isinstance(found.dataset, MeshDataset) else str(number)
    return likeness("nearest", target, mesh, name)


@no_type_check
def nearest_meshes(data) -> NearestMeshes:
    """The search in a data set, its name or its path, in the split "train" where there is one; kept in memory."""
    if isinstance(data, NearestMeshes):
        return data
    dataset = MeshDataset(data) if isinstance(data, (str, Path)) else data
    if not isinstance(dataset, MeshDataset):
        return NearestMeshes(dataset)
    dataset = dataset.split("train") if "train" in dataset.splits else dataset
    return _KNOWN.setdefault(dataset.fingerprint, NearestMeshes(dataset))


def likeness(name: str, target: Target, mesh: Mesh, note: str = "") -> Likeness:
    """Of a mesh that lies where the shape does."""
    normalized = Mesh(target.frame.normalize(mesh.vertices), mesh.faces)
    return Likeness(name, mesh, compare_surfaces(normalized, target.shape, COMPARED), note)


def _cells(item: Likeness) -> list[str]:
    report = item.report
    normals = (report.normal_consistency, report.signed_normal_consistency)
    return [
        str(item.mesh.num_faces),
        f"{report.chamfer:.4f}",
        f"{report.hausdorff:.4f}",
        *("-" if value is None else f"{value:.3f}" for value in normals),
        f"{report.f_score:.3f}",
        f"{item.open_edges:.1%}",
    ]


def drawn_cloud(cloud: PointCloud) -> Mesh:
    """A small octahedron at each point, for pictures."""
    cloud = cloud.subsampled(DRAWN, 0)
    reach = 0.006 * max(float((cloud.bounds[1] - cloud.bounds[0]).max()), 1e-12)
    corners = np.concatenate((np.eye(3), -np.eye(3))) * reach
    upper = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2]])
    faces = np.concatenate((upper, np.where(upper == 2, 5, upper)[:, ::-1]))
    vertices = (cloud.points[:, None] + corners).reshape(-1, 3)
    return Mesh(vertices, (faces + 6 * np.arange(len(cloud))[:, None, None]).reshape(-1, 3))
