"""A field becomes a mesh: its values on a grid, refined only where the surface is, and marching cubes.

A field is a function of points (n, 3) float32 in [-1, 1] that gives a number for each, above `level` inside the shape.
Point (i, j, k) of a grid of resolution r lies at -bound + 2 bound (i, j, k) / r, and there are r + 1 along each axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshgpt.config import Config
from meshgpt.errors import MeshError, MissingExtraError
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.smoothing import smoothed
from meshgpt.mesh.topology import components

Field = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
FLOATER = 0.005  # share of the area below which a part is a floater


@dataclass(frozen=True)
class ExtractionConfig(Config):
    """How a field is turned into a mesh.

    resolution: cells along each axis; `coarse`, half of it, a quarter ... is the grid that is looked at everywhere, and
    from there on only cells through which the surface goes are halved (MISE, Mescheder et al. 2019); coarse equal to
    resolution looks at all points. What is smaller than a coarse cell can be missed, unless the field changes by at
    most `lipschitz` per length (1 for distances): then every cell is halved in which there can be a surface.
    level: the value at the surface. bound: half the side of the box. chunk: points asked for at once.
    keep_share: parts with less of the area are removed (0: none). smooth: how often the vertices are evened out (see
    `smoothed`): ten times removes the waves of two or three cells that networks of points put on even surfaces.
    """

    resolution: int = 128
    coarse: int = 32
    level: float = 0.0
    bound: float = 1.0
    chunk: int = 65536
    lipschitz: float | None = None
    keep_share: float = 0.0
    smooth: int = 0

    def validate(self) -> None:
        self.require(self.coarse >= 2, "coarse", "be at least 2")
        cells = self.resolution / self.coarse
        doubled = cells >= 1 and cells == 2 ** round(np.log2(cells))
        self.require(doubled, "resolution", f"be coarse ({self.coarse}) times a power of two")
        self.require(self.bound > 0, "bound", "be above 0")
        self.require(self.chunk >= 1, "chunk", "be at least 1")
        self.require(self.lipschitz is None or self.lipschitz > 0, "lipschitz", "be None or above 0")
        self.require(0 <= self.keep_share < 1, "keep_share", "lie in [0, 1)")
        self.require(self.smooth >= 0, "smooth", "not be negative")


@dataclass(frozen=True, eq=False)
class FieldGrid:
    """A field on a grid: values (r + 1, r + 1, r + 1), exact where `known`, of the right sign elsewhere."""

    values: Float[np.ndarray, "x y z"]
    known: Bool[np.ndarray, "x y z"]

    @property
    def evaluations(self) -> int:
        """At how many points the field was looked at."""
        return int(self.known.sum())


@dataclass(frozen=True, eq=False)
class Isosurface:
    """What came out of a field.

    mesh: closed, wound outwards, without faces where there is no surface. verdict: "surface", "outside" where no point
    is inside the shape, "inside" where all are. touches_border: the shape goes on beyond the box; it is cut off there.
    evaluations: at how many points the field was looked at. removed: how many small parts were taken away.
    """

    mesh: Mesh
    verdict: str
    touches_border: bool
    evaluations: int
    removed: int = 0


@no_type_check
def extract(field: Field, config: ExtractionConfig | None = None, device="cpu") -> Isosurface:
    """The surface at which a field, asked on `device`, has the value `config.level`, as a closed mesh wound outwards.

    Raises `MeshError` for a field that gives another shape or numbers that are not finite; `MissingExtraError` without
    scikit-image.
    """
    config = config or ExtractionConfig()
    return surface_of_grid(grid_of_field(field, config, device), config)


@no_type_check
def surface_of_grid(grid: FieldGrid, config: ExtractionConfig) -> Isosurface:
    """The surface in values that lie on a grid over the box of `config`; its resolution is that of the values."""
    values, outermost = np.pad(grid.values, 1, constant_values=-np.inf), np.ones(grid.values.shape, dtype=bool)
    inside = grid.values > config.level
    outermost[1:-1, 1:-1, 1:-1] = False
    touches = bool((inside & outermost).any())
    verdict = "outside" if not inside.any() else "inside" if inside.all() else "surface"
    if verdict == "outside":
        return Isosurface(Mesh([], []), verdict, touches, grid.evaluations)
    far = config.level - 1e6 * max(float(np.abs(grid.values - config.level).max()), 1e-6)
    values = np.where(np.isinf(values), far, values)
    # 'ascent': values rise towards the inside, so that faces look outwards
    march = _marching_cubes(values.astype(np.float64), config.level, gradient_direction="ascent", allow_degenerate=True)
    cells = grid.values.shape[0] - 1
    vertices = (march[0].astype(np.float64) - 1) * (2 * config.bound / cells) - config.bound
    mesh = Mesh(vertices, march[1])
    kept, removed = without_floaters(mesh, config.keep_share)
    return Isosurface(smoothed(kept, config.smooth), verdict, touches, grid.evaluations, removed)


@no_type_check
def grid_of_field(field: Field, config: ExtractionConfig, device="cpu") -> FieldGrid:
    """A field on the grid of `config`: first on the coarse one, then on ever finer ones where the surface is."""
    cells = config.coarse
    values = _empty_grid(cells)
    known = np.ones(values.shape, dtype=bool)
    values[known] = _asked(field, np.argwhere(known), cells, config, device)
    while cells < config.resolution:
        active = _active(values, known, cells, config)
        values, known, cells = _doubled(values), _spread_out(known), 2 * cells
        wanted = _corners(np.repeat(np.repeat(np.repeat(active, 2, 0), 2, 1), 2, 2))
        while (missing := wanted & ~known).any():  # where the surface leaves the cells that were looked at, follow it
            values[missing] = _asked(field, np.argwhere(missing), cells, config, device)
            known |= missing
            wanted = _corners(_crossed(values, config.level))
    return FieldGrid(values, known)


def grid_points(resolution: int, bound: float = 1.0) -> Float[Tensor, "n 3"]:
    """All (r + 1)^3 points of a grid, z fastest: `.reshape(r + 1, r + 1, r + 1, 3)[i, j, k]` is point (i, j, k)."""
    axis = torch.linspace(-bound, bound, resolution + 1)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


@no_type_check
def evaluate(field: Field, points: Float[Tensor, "n 3"], chunk: int = 65536) -> Float[np.ndarray, " n"]:
    """A field at many points, `chunk` at a time, without gradients; float32.

    Raises `MeshError` where it gives another shape, or numbers that are not finite.
    """
    parts = []
    with torch.no_grad():
        for part in points.split(chunk):
            values = torch.as_tensor(field(part))
            if values.shape != part.shape[:1]:
                raise MeshError(f"a field gives one number a point, got {tuple(values.shape)} for {len(part)} points")
            parts.append(values.float().cpu())
    result = torch.cat(parts) if parts else torch.zeros(0)
    bad = (~result.isfinite()).nonzero()
    if len(bad):
        where = [round(value, 4) for value in points[bad[0, 0]].tolist()]
        raise MeshError(f"the field is {result[bad[0, 0]]} at {where}: {len(bad)} of {len(points)} are not finite")
    return result.numpy()


@no_type_check
def without_floaters(mesh: Mesh, share: float = FLOATER) -> tuple[Mesh, int]:
    """The mesh without the parts that have less than `share` of its area, and how many those were."""
    if share <= 0 or not mesh.num_faces:
        return mesh, 0
    parts = components(mesh)
    areas = np.bincount(parts, weights=mesh.face_areas)
    small = areas < share * areas.sum()
    return (Mesh(mesh.vertices, mesh.faces[~small[parts]]).cleaned(), int(small.sum())) if small.any() else (mesh, 0)


def _empty_grid(cells: int) -> np.ndarray:
    return np.zeros((cells + 1,) * 3, dtype=np.float32)


def _asked(
    field: Field, indices: Int[np.ndarray, "n 3"], cells: int, config: ExtractionConfig, device: Any
) -> np.ndarray:
    """The field at points of the grid; every point is the same number at every resolution that has it."""
    places = indices * (2 * config.bound / cells) - config.bound
    return evaluate(field, torch.from_numpy(places.astype(np.float32)).to(device), config.chunk)


def _crossed(values: np.ndarray, level: float) -> Bool[np.ndarray, "x y z"]:
    """Cells whose corners are not all on one side."""
    some = every = values > level
    for axis in range(3):
        before, after = (tuple(part if a == axis else slice(None) for a in range(3)) for part in _HALVES)
        some, every = some[before] | some[after], every[before] & every[after]
    return some & ~every


_HALVES = (slice(None, -1), slice(1, None))


def _active(values: np.ndarray, known: np.ndarray, cells: int, config: ExtractionConfig) -> Bool[np.ndarray, "x y z"]:
    """Cells that are to be halved."""
    crossed = _crossed(values, config.level)
    if config.lipschitz is None:
        return crossed
    reach = config.lipschitz * np.sqrt(3) * config.bound / cells  # half the diagonal: from the nearest corner
    near = known & (np.abs(values - config.level) <= reach)
    for axis in range(3):
        before, after = (tuple(part if a == axis else slice(None) for a in range(3)) for part in _HALVES)
        near = near[before] | near[after]
    return crossed | near


def _corners(cells: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x1 y1 z1"]:
    """The points that are corners of any of the cells."""
    for axis in range(3):
        pads = [
            [(1, 0) if a == axis else (0, 0) for a in range(3)],
            [(0, 1) if a == axis else (0, 0) for a in range(3)],
        ]
        cells = np.pad(cells, pads[0]) | np.pad(cells, pads[1])
    return cells


def _doubled(values: np.ndarray) -> np.ndarray:
    """Values on the grid of half the cells' size, those between others their means."""
    for axis in range(3):
        shape = list(values.shape)
        shape[axis] = 2 * shape[axis] - 1
        finer = np.empty(shape, dtype=values.dtype)
        along = np.moveaxis(finer, axis, 0)
        coarser = np.moveaxis(values, axis, 0)
        along[::2], along[1::2] = coarser, (coarser[1:] + coarser[:-1]) / 2
        values = finer
    return values


def _spread_out(known: np.ndarray) -> np.ndarray:
    finer = np.zeros(tuple(2 * size - 1 for size in known.shape), dtype=bool)
    finer[::2, ::2, ::2] = known
    return finer


@no_type_check
def _marching_cubes(values, level, **options):
    return _measure().marching_cubes(values, level, **options)


def _measure() -> ModuleType:
    try:
        return import_module("skimage.measure")
    except ImportError:
        raise MissingExtraError("scikit-image", "fields", "the surface of a field") from None
