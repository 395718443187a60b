"""A watertight solid from any mesh: closed, holed, with faces turned round, overlapping, or a sheet without inside.

    mesh ── cleaned ──> winding numbers, as wound, closed at the ground, faces turned ── whole numbers? ──> sign
                        else ── flood fill from outside ──> sign
         sign x distance ── + a thin shell for what is left over ── marching cubes ──> closed surface + verdict

The usual recipe, a surface at some distance from all faces, gives a hollow double wall with a quarter of the volume.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage

from meshgpt.config import Config
from meshgpt.errors import MeshError
from meshgpt.mesh.frame import Frame
from meshgpt.mesh.inside import contains, surface_distances, winding_numbers
from meshgpt.mesh.isosurface import ExtractionConfig, FieldGrid, grid_of_field, surface_of_grid
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.sampling import sample_surface
from meshgpt.mesh.topology import orient, topology_report

PROBES, SAMPLES = 8192, 4096
SEED = 0
DOUBT = 0.25  # a winding number farther from a whole one says neither inside nor outside
BESIDE = 1e-4  # from a face, in normalised coordinates
GROUND = 1e-3  # how far above the lowest point a border still counts as standing on the ground
METHODS = ("closed", "winding", "fill", "shell")


@dataclass(frozen=True)
class SolidConfig(Config):
    """How a mesh is made solid.

    resolution: cells along each axis of the grid on which surfaces are made that are not taken as they are.
    certainty: the share of winding numbers away from the surface that must be whole for them to decide what is inside.
    wall: how thick faces are for the flood fill to each side, in cells; it closes gaps of twice that.
    shell: half the thickness, in cells, that open sheets are given. lost: cells from the solid beyond which a face
    outside counts as left over. least: share of the area below which what is left over is let go.
    """

    resolution: int = 128
    certainty: float = 0.97
    wall: float = 1.5
    shell: float = 1.0
    lost: float = 2.0
    least: float = 0.005

    def validate(self) -> None:
        even = self.resolution >= 32 and self.resolution & (self.resolution - 1) == 0
        self.require(even, "resolution", "be a power of two, 32 at least")
        self.require(0 < self.certainty <= 1, "certainty", "lie in (0, 1]")
        for field in ("wall", "shell", "lost"):
            self.require(getattr(self, field) > 0, field, "be above 0")
        self.require(0 <= self.least < 1, "least", "lie in [0, 1)")

    @property
    def cell(self) -> float:
        """The size of a cell in normalised coordinates."""
        return 2 / self.resolution


@dataclass(frozen=True)
class SolidVerdict:
    """What was done to make a mesh solid; lengths and volumes are those of the mesh normalised.

    method: "closed", the mesh is the surface of a solid and was kept as it is; "winding", a new surface around what its
    winding numbers say is inside; "fill", around what a flood from outside does not reach; "shell", it has no inside
    and was given a thickness. turned: faces were wound anew. grounded: it was open where it stands, and closed there.
    certainty: the share of whole winding numbers. open_share: the share of its area that is a sheet of given thickness.
    volume: of the result. deviation: how far the surface of the mesh lies from it at most, what is inside left out.
    watertight: of the result.
    """

    method: str
    turned: bool
    grounded: bool
    certainty: float
    open_share: float
    volume: float
    deviation: float
    watertight: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, rounded, for JSON."""
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        done = [word for word, was in (("faces turned", self.turned), ("closed at the ground", self.grounded)) if was]
        if 0 < self.open_share and self.method != "shell":
            done.append(f"{self.open_share:.1%} of the area are sheets")
        return ", ".join([self.method, *done, f"volume {self.volume:.4f}"])


@dataclass(frozen=True, eq=False)
class Solid:
    """A closed surface, wound outwards, and the verdict on how it was come by."""

    surface: Mesh
    verdict: SolidVerdict


@no_type_check
def solid(mesh: Mesh, config: SolidConfig | None = None) -> Solid:
    """The solid that a mesh stands for, in the place and size of the mesh. Nothing is refused but what has no surface.

    Inside is where the winding number is above a half, if away from the surface nearly all of them are whole numbers:
    for the mesh as it is, else closed at the ground, else with its faces wound consistently. Where they are not (faces
    turned at random, bodies of loose patches), it is what a flood fill from outside does not reach. Faces that are
    then neither inside nor near the solid are sheets, and get a thickness. Raises `MeshError` for a mesh without area,
    `MissingExtraError` without scikit-image, unless the mesh is closed already.
    """
    config = config or SolidConfig()
    if not mesh.face_areas.sum() > 0:
        raise MeshError(f"{mesh!r} has no area, and so no inside; leave it out")
    frame = Frame.of(mesh.bounds)
    clean = Mesh(frame.normalize(mesh.vertices), mesh.faces).triangulated().cleaned()
    clean = Mesh(clean.vertices, clean.faces[clean.face_areas > 0])
    found = _Candidate.best(clean, config)
    if found.decides and found.bounds_itself:
        return _judged(found, frame, found.mesh, clean, 0.0, method="closed")
    field, method = (_winding_grid, "winding") if found.decides else (_filled_grid, "fill")
    grid, extraction = field(found.mesh, config), ExtractionConfig(resolution=config.resolution)
    surface = surface_of_grid(grid, extraction).mesh
    sheets, share = _left_over(clean, surface, config)
    if share > config.least:
        method = method if surface.num_faces else "shell"
        surface = surface_of_grid(_with_shell(grid, sheets, config), extraction).mesh
    return _judged(found, frame, surface, clean, share, method=method)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """One way to wind the faces, and what its winding numbers say."""

    mesh: Mesh
    turned: bool
    grounded: bool
    certainty: float
    decides: bool

    @classmethod
    def best(cls, clean: Mesh, config: SolidConfig) -> "_Candidate":
        """The first way that decides what is inside; else the mesh as it is."""
        first, places = None, _probes(clean, config)
        for mesh, turned, grounded in _ways(clean):
            numbers = winding_numbers(mesh, places)
            if np.round(numbers).sum() < 0:
                mesh, turned, numbers = mesh.flipped(), True, -numbers
            doubtful = (np.abs(numbers - np.round(numbers)) > DOUBT) | (numbers < -DOUBT)
            concerned = doubtful | (numbers > DOUBT)
            certainty = 1.0 - float(doubtful.sum()) / max(int(concerned.sum()), len(places) // 100)
            candidate = cls(mesh, turned, grounded, certainty, certainty >= config.certainty)
            if candidate.decides:
                return candidate
            first = first or cls(clean, False, False, certainty, False)
        assert first is not None
        return first

    @property
    def bounds_itself(self) -> bool:
        """Whether beside every face there is inside behind and outside before it, and it has no holes."""
        if topology_report(self.mesh).boundary_edges:
            return False
        corners = self.mesh.vertices[self.mesh.faces]
        points, normals = sample_surface(self.mesh, SAMPLES, SEED)
        points = np.concatenate((corners.mean(axis=1), points))
        offset = BESIDE * np.concatenate((self.mesh.face_normals, normals))
        before, behind = winding_numbers(self.mesh, points + offset), winding_numbers(self.mesh, points - offset)
        return bool((np.abs(before) < DOUBT).all() and (np.abs(behind - 1) < DOUBT).all())


def _ways(clean: Mesh) -> Iterator[tuple[Mesh, bool, bool]]:
    """(mesh, whether faces were wound anew, whether it was closed at the ground)."""
    for mesh, turned in ((clean, False), (None, True)):
        mesh = orient(clean) if mesh is None else mesh
        yield mesh, turned, False
        closed = _grounded(mesh)
        if closed is not None:
            yield closed, turned, True


def _grounded(mesh: Mesh) -> Mesh | None:
    """The mesh with a fan over the borders that lie on the ground; None where there are none.

    However these run, the fan and what stands around it close the surface for winding numbers.
    """
    sides = np.stack((mesh.faces, np.roll(mesh.faces, -1, axis=1)), axis=2).reshape(-1, 2)
    _, edge, count = np.unique(np.sort(sides, axis=1), axis=0, return_inverse=True, return_counts=True)
    low = mesh.bounds[0, 1] + GROUND
    border = sides[(count[edge.reshape(-1)] == 1) & (mesh.vertices[sides][:, :, 1] < low).all(axis=1)]
    if not len(border):
        return None
    centre = mesh.vertices[border.ravel()].mean(axis=0)
    fan = np.column_stack((border[:, ::-1], np.full(len(border), mesh.num_vertices)))
    return Mesh(np.concatenate((mesh.vertices, centre[None])), np.concatenate((mesh.faces, fan)))


def _probes(mesh: Mesh, config: SolidConfig) -> Float[np.ndarray, "n 3"]:
    """Points in the box around the mesh and away from its surface."""
    low, high = mesh.bounds
    margin = 4 * config.cell
    points = np.random.default_rng(SEED).uniform(low - margin, high + margin, (PROBES, 3))
    return points[surface_distances(mesh, points) > 2 * config.cell]


def _winding_grid(mesh: Mesh, config: SolidConfig) -> FieldGrid:
    def signed(points: np.ndarray) -> np.ndarray:
        distances = np.maximum(surface_distances(mesh, points), 1e-6)  # faces that lie inside are no border
        return np.where(contains(mesh, points), distances, -distances)

    return grid_of_field(_as_field(signed), ExtractionConfig(resolution=config.resolution, lipschitz=1.0))


def _filled_grid(mesh: Mesh, config: SolidConfig) -> FieldGrid:
    wall = config.wall * config.cell
    extraction = ExtractionConfig(resolution=config.resolution, lipschitz=1.0, level=wall)
    grid = grid_of_field(_as_field(lambda points: surface_distances(mesh, points)), extraction)
    parts = np.asarray(ndimage.label(grid.values >= wall)[0])  # type: ignore[index]  # scipy's stub has other results
    border = np.unique(np.concatenate([parts.take(end, axis).ravel() for axis in range(3) for end in (0, -1)]))
    outside = np.isin(parts, border) & (parts > 0)
    enclosed = (parts > 0) & ~outside
    if not enclosed.any():
        return FieldGrid(-np.maximum(grid.values, np.float32(1e-6)), grid.known)
    # within the wall, the nearer of the two says on which side of the faces a point lies
    to_enclosed, to_outside = (np.asarray(ndimage.distance_transform_edt(~part)) for part in (enclosed, outside))
    inside = to_enclosed < to_outside
    return FieldGrid(np.where(inside, grid.values, -grid.values), grid.known)


def _left_over(mesh: Mesh, surface: Mesh, config: SolidConfig) -> tuple[Mesh, float]:
    """The faces that are neither inside nor near the solid, as a mesh, and their share of the area."""
    corners = mesh.vertices[mesh.faces]
    middle = corners.mean(axis=1, keepdims=True)
    points = np.concatenate((middle, 0.75 * corners + 0.25 * middle), axis=1)
    lost = np.ones(points.shape[:2], dtype=bool)
    if surface.num_faces:
        flat = points.reshape(-1, 3)
        beyond = (surface_distances(surface, flat) > config.lost * config.cell) & ~contains(surface, flat)
        lost = beyond.reshape(lost.shape)
    chosen, areas = lost.mean(axis=1) >= 0.5, mesh.face_areas
    return Mesh(mesh.vertices, mesh.faces[chosen]), float(areas[chosen].sum() / areas.sum())


def _with_shell(grid: FieldGrid, sheets: Mesh, config: SolidConfig) -> FieldGrid:
    thickness = config.shell * config.cell
    shell = grid_of_field(
        _as_field(lambda points: thickness - surface_distances(sheets, points)),
        ExtractionConfig(resolution=config.resolution, lipschitz=1.0),
    )
    return FieldGrid(np.maximum(grid.values, shell.values), grid.known | shell.known)


def _as_field(function: Callable[[np.ndarray], np.ndarray]) -> Any:
    return lambda points: torch.from_numpy(function(points.double().numpy()))


@no_type_check
def _judged(found: _Candidate, frame: Frame, surface: Mesh, mesh: Mesh, open_share: float, method: str) -> Solid:
    verdict = SolidVerdict(
        method=method,
        turned=found.turned and found.decides,
        grounded=found.grounded and found.decides,
        certainty=found.certainty,
        open_share=open_share,
        volume=enclosed_volume(surface),
        deviation=_deviation(mesh, surface),
        watertight=topology_report(surface).boundary_edges == 0,
    )
    return Solid(frame.restore_mesh(surface), verdict)


def _deviation(mesh: Mesh, surface: Mesh) -> float:
    points = sample_surface(mesh, SAMPLES, SEED)[0]
    outside: Bool[np.ndarray, " n"] = ~contains(surface, points)
    return float(surface_distances(surface, points[outside]).max()) if outside.any() else 0.0


@no_type_check
def enclosed_volume(mesh: Mesh) -> float:
    """The volume inside a closed mesh, negative where it is wound inwards; means nothing for one with holes."""
    corners = mesh.triangulated().vertices[mesh.triangulated().faces]
    return float(np.einsum("nd,nd->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)
