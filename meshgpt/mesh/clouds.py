"""Point clouds: checked once, normalised like meshes, read, written, and made worse on purpose."""

from dataclasses import dataclass
from pathlib import Path
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

from meshgpt.config import Config
from meshgpt.errors import MeshError, MeshFileError
from meshgpt.mesh._cloud_files import npy_bytes, ply_bytes, read_cloud, text_bytes
from meshgpt.mesh._limits import ReadLimits
from meshgpt.mesh._source import content, named
from meshgpt.mesh._write import replace_file
from meshgpt.mesh.files import UP_TURNS
from meshgpt.mesh.frame import Frame
from meshgpt.mesh.mesh import Mesh
from meshgpt.mesh.sampling import sample_beside_edges, sample_surface

NEIGHBOURS = 16
CREASE = np.pi / 12  # faces that meet at more are told apart where points are taken beside edges
ROWS = 1 << 16  # points whose neighbourhoods are looked at in one go


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Points on a surface, with the normals of that surface if they are known.

    points: (n, 3) float64, y up, at least one. normals: (n, 3) float64 or None; given at any length, they are brought
    to unit length; one of length zero means that it is unknown.

    Takes arrays, tensors or lists. Raises `MeshError` for a wrong shape, no points, and numbers that are not finite.
    """

    points: np.ndarray
    normals: np.ndarray | None

    @no_type_check
    def __init__(self, points, normals=None):
        points = _checked("points", points)
        if not len(points):
            raise MeshError("a point cloud needs at least one point, got none")
        if normals is not None:
            normals = _checked("normals", normals)
            if len(normals) != len(points):
                raise MeshError(f"there are {len(points)} points, but {len(normals)} normals")
            normals = _unit(normals)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "normals", normals)

    def __repr__(self) -> str:
        return f"PointCloud({len(self)} points, {'without' if self.normals is None else 'with'} normals)"

    def __len__(self) -> int:
        return len(self.points)

    @classmethod
    def from_mesh(
        cls, mesh: Mesh, count: int, rng: np.random.Generator | int, beside_edges: float = 0.0
    ) -> "PointCloud":
        """`count` points spread evenly over a mesh, with normals (see `sample_surface`).

        beside_edges: the share of them that lie close to sharp edges instead, if it has any (`sample_beside_edges`).
        """
        rng = np.random.default_rng(rng)
        if not beside_edges:
            return cls(*sample_surface(mesh, count, rng))
        few = sample_beside_edges(mesh, round(count * beside_edges), rng, CREASE)
        many = sample_surface(mesh, count - len(few[0]), rng)
        return cls(*(np.concatenate(parts) for parts in zip(many, few, strict=True)))

    @property
    def bounds(self) -> np.ndarray:
        """(2, 3): lowest and highest coordinates."""
        return np.stack((self.points.min(axis=0), self.points.max(axis=0)))

    @property
    def columns(self) -> np.ndarray:
        """(n, 3), or (n, 6) with normals."""
        return self.points if self.normals is None else np.concatenate((self.points, self.normals), axis=1)

    def tensor(self) -> Float[Tensor, "p 6"]:
        """What models take: positions and unit normals as float32, zeros where normals are unknown."""
        normals = np.zeros_like(self.points) if self.normals is None else self.normals
        return torch.from_numpy(np.concatenate((self.points, normals), axis=1).astype(np.float32))

    def select(self, rows: np.ndarray) -> "PointCloud":
        """Some of the points, by index or by a mask (n,)."""
        return PointCloud(self.points[rows], None if self.normals is None else self.normals[rows])

    def subsampled(self, count: int, rng: np.random.Generator | int) -> "PointCloud":
        """`count` of the points, drawn without replacement, in their order; all where there are no more."""
        if count >= len(self):
            return self
        return self.select(np.sort(np.random.default_rng(rng).choice(len(self), count, replace=False)))

    def normalized(self) -> tuple["PointCloud", Frame]:
        """The cloud in the convention of `Mesh.normalized`, and the frame that puts a mesh made from it back.

        The box of the points is centred at 0 and its longest side reaches from -0.95 to 0.95.
        """
        frame = Frame.of(self.points)
        return PointCloud(frame.normalize(self.points), self.normals), frame

    def estimated_normals(self, neighbours: int = NEIGHBOURS) -> "PointCloud":
        """The same points with normals of the plane through the nearest `neighbours` (the point included).

        That plane knows no inside: the sign is a guess, away from the mean of all points, wrong inside hollows and on
        the far side of thin parts. Use the unsigned `normal_consistency` to judge what comes of it. Points whose
        neighbours all lie at one place get a zero. Raises `MeshError` for fewer than 3 points or neighbours.
        """
        if min(len(self), neighbours) < 3:
            raise MeshError(f"normals need 3 points or more and as many neighbours, got {len(self)} and {neighbours}")
        tree, outward = KDTree(self.points), self.points - self.points.mean(axis=0)
        groups = np.array_split(np.arange(len(self)), -(-len(self) // ROWS))
        normals = np.concatenate([_planes(tree, self.points[group], min(neighbours, len(self))) for group in groups])
        inward = np.einsum("nd,nd->n", normals, outward) < 0
        return PointCloud(self.points, np.where(inward[:, None], -normals, normals))


def _planes(tree: KDTree, points: np.ndarray, neighbours: int) -> np.ndarray:
    """(n, 3): the direction in which the nearest points of each point vary least (Hoppe et al. 1992, section 3.2)."""
    near = tree.data[tree.query(points, neighbours)[1]]
    near = near - near.mean(axis=1, keepdims=True)
    scale = np.abs(near).max(axis=(1, 2), keepdims=True)
    near = near / np.where(scale > 0, scale, 1.0)  # else squares of tiny distances vanish
    directions = np.linalg.eigh(np.einsum("nki,nkj->nij", near, near))[1][:, :, 0]
    return np.where(scale[:, :, 0] > 0, directions, 0.0)


def _unit(normals: np.ndarray) -> np.ndarray:
    """At unit length, or zero; what has it already stays as it is, to the last bit."""
    largest = np.abs(normals).max(axis=1, keepdims=True)
    scaled = np.divide(normals, largest, out=np.zeros_like(normals), where=largest > 0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit = np.divide(scaled, length, out=np.zeros_like(scaled), where=length > 0)
    return np.where(np.abs(length * largest - 1) < 1e-12, normals, unit)


@no_type_check
def _checked(name, values):
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.size == 0:
        array = np.zeros((0, 3))
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "fiu":
        raise MeshError(f"{name} must be numbers of shape (n, 3), got shape {array.shape} of {array.dtype}")
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        what = f"row {bad[0]} of {name} is {array[bad[0]].tolist()}: they must be finite"
        raise MeshError(f"{what} ({len(bad)} of {len(array)} are not); remove those points")
    return array


@no_type_check
def read_points(source, *, up="y", limits=None) -> PointCloud:
    """Read a point cloud, in the units of the file, y up.

    source: a path, the bytes of a file, or an open file. .ply: the vertices and their nx, ny, nz; faces are passed over
    (to take points from the surface instead: `PointCloud.from_mesh(read_mesh(path), count, seed)`). .xyz, .txt, .asc,
    .pts, .csv: rows of numbers, under a line that names the columns or says how many rows follow, or none. .npy: (n, 3)
    or more columns. .npz: arrays `points` and `normals`, or one alone. Where nothing names the columns, the first three
    are positions, and the next three, or those after them, are normals if all are of unit length or zero; colours and
    intensities are passed over.

    up: the axis of the file that points up (x, y, z, -x, -y or -z), turned to y. limits: a `ReadLimits`; its
    max_vertices counts points. Raises `MeshFileError` for everything that cannot be read, `MeshLimitError` (a kind of
    it) for what goes beyond the limits.
    """
    limits = ReadLimits() if limits is None else limits
    if up not in UP_TURNS:
        raise MeshFileError(f"up is {up!r}, it must be one of {', '.join(UP_TURNS)}")
    name, _ = named(source)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            points, normals = read_cloud(content(source, limits), name, limits)
            limits.check_points(points)
        turn = np.array(UP_TURNS[up], dtype=np.float64).T
        return PointCloud(points @ turn, None if normals is None else normals @ turn)
    except MeshFileError as error:
        raise type(error)(f"{name}: {error}") from error.__cause__
    except MeshError as error:
        raise MeshFileError(f"{name}: {error}") from error
    except OSError as error:
        raise MeshFileError(f"{name}: cannot be opened ({error.strerror or error})") from error
    except Exception as error:  # whatever damage the checks do not name
        raise MeshFileError(f"{name}: is damaged ({type(error).__name__}: {error}); export it again") from error


@no_type_check
def write_points(cloud: PointCloud, path) -> Path:
    """Write a cloud in the format its extension names: ply (binary), xyz or npy, full precision; returns the path.

    The file appears whole or not at all. Raises `MeshFileError` for an unknown extension and a place that cannot be
    written.
    """
    path = Path(path)
    writers = {"ply": ply_bytes, "xyz": text_bytes, "npy": npy_bytes}
    kind = path.suffix.lower().lstrip(".")
    if kind not in writers:
        raise MeshFileError(f"{path}: cannot be written, its extension is none of {', '.join(writers)}")
    replace_file(path, writers[kind](cloud.columns))
    return path


@dataclass(frozen=True)
class CloudAugmentation(Config):
    """What may go wrong with a cloud; calling it with a cloud and a `np.random.Generator` does it.

    points: fewest and most points that are kept, a number drawn evenly between them. beside_edges: the lowest and the
    highest share of those taken from a mesh that lie close to its sharp edges; half of all clouds have none. noise:
    lowest and highest standard deviation, in normalised coordinates, of what is added to every coordinate; one is drawn
    for the cloud. missing: the share of clouds that lose a part, cut off by a plane or a ball at random,
    `missing_most` of their points at most.
    turns: how many equal turns about y make a full circle, one of which is drawn: 1 turns nothing, 0 means any angle.
    drop_normals: the share of clouds that lose all their normals.
    """

    points: tuple[int, int] = (512, 2048)
    noise: tuple[float, float] = (0.0, 0.02)
    missing: float = 0.25
    missing_most: float = 0.4
    turns: int = 1
    drop_normals: float = 0.1
    beside_edges: tuple[float, float] = (0.0, 0.0)

    def validate(self) -> None:
        self.require(len(self.points) == 2 and 1 <= self.points[0] <= self.points[1], "points", "be (low, high) from 1")
        noise_fits = len(self.noise) == 2 and 0 <= self.noise[0] <= self.noise[1] <= 0.5
        self.require(noise_fits, "noise", "be (low, high) in [0, 0.5]")
        shares_fit = len(self.beside_edges) == 2 and 0 <= self.beside_edges[0] <= self.beside_edges[1] <= 1
        self.require(shares_fit, "beside_edges", "be (low, high) in [0, 1]")
        self.require(0 <= self.missing <= 1, "missing", "lie in [0, 1]")
        self.require(0 <= self.missing_most < 1, "missing_most", "lie in [0, 1)")
        self.require(self.turns >= 0, "turns", "be 0 (any angle), 1 (none) or more")
        self.require(0 <= self.drop_normals <= 1, "drop_normals", "lie in [0, 1]")

    def share_beside_edges(self, generator: np.random.Generator) -> float:
        """Of the points of the next cloud; no number is drawn where there is no choice."""
        low, high = self.beside_edges
        return 0.0 if not high or generator.random() < 0.5 else float(generator.uniform(low, high))

    @no_type_check
    def __call__(self, cloud: PointCloud, generator: np.random.Generator) -> PointCloud:
        return augment_cloud(cloud, self, generator)


@no_type_check
def augment_cloud(cloud: PointCloud, config: CloudAugmentation, generator: np.random.Generator) -> PointCloud:
    """The cloud made worse as `config` says; depends on nothing but its arguments.

    A cloud that is turned is normalised again, as whoever scans a thing that stands askew would have it; what is taken
    away afterwards and the noise move nothing. To turn a mesh and its cloud together, turn the mesh first.
    """
    if config.turns != 1:
        cloud = _turned(cloud, config.turns, generator).normalized()[0]
    if generator.random() < config.missing:
        cloud = _cut(cloud, generator.uniform(0, config.missing_most), generator)
    cloud = cloud.subsampled(int(generator.integers(config.points[0], config.points[1], endpoint=True)), generator)
    noise = generator.standard_normal(cloud.points.shape) * generator.uniform(*config.noise)
    normals = None if generator.random() < config.drop_normals else cloud.normals
    return PointCloud(cloud.points + noise, normals)


def _turned(cloud: PointCloud, turns: int, generator: np.random.Generator) -> PointCloud:
    """By one of `turns` equal turns about y; by any angle if that is 0."""
    angle = 2 * np.pi * (generator.random() if turns == 0 else generator.integers(turns) / turns)
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]])
    return PointCloud(cloud.points @ turn, None if cloud.normals is None else cloud.normals @ turn)


def _cut(cloud: PointCloud, share: float, generator: np.random.Generator) -> PointCloud:
    """Without the share of the points that lies beyond a plane, or nearest to one of the points."""
    direction, centre = generator.standard_normal(3), cloud.points[generator.integers(len(cloud))]
    by_ball = generator.random() < 0.5
    depth = -np.linalg.norm(cloud.points - centre, axis=1) if by_ball else cloud.points @ direction
    kept = np.argsort(depth, kind="stable")[: max(len(cloud) - int(share * len(cloud)), 1)]
    return cloud.select(np.sort(kept))
