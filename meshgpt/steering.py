"""A search for a mesh that follows a shape: many begun meshes at once, and the better ones go on more often.

Where faces come from the lowest vertex up, nothing will be added below the last face of a begun mesh, and so it can be
compared with the shape. Where they come in another order, begun meshes of as many faces are compared by how much of the
shape they cover. Sequential Monte Carlo, as Lew et al. (arXiv:2306.03081) steer language models.
"""

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor
from tqdm import tqdm

from meshgpt.config import Config
from meshgpt.errors import ConditionError, GenerationInterrupted
from meshgpt.mesh.clouds import PointCloud
from meshgpt.mesh.mesh import Mesh
from meshgpt.nn.geometry import point_triangle_distances
from meshgpt.pipeline import GeneratedMesh, MeshPipeline, checked_seed
from meshgpt.wishes import Target, Wishes

TARGET_POINTS = 8192  # of the shape, from which the distance of a face is taken
FARTHEST = 0.6  # a point that no face covers counts as so far away, in normalised coordinates
LEVEL = 0.01  # points of the shape this little above the lowest corner of a face lie as low as it does
UNIFORM = 4  # a face is looked at in so many points along each side


@dataclass(frozen=True)
class SteeringConfig(Config):
    """How `steer` searches.

    particles: begun meshes at a time. chunk: faces that each is given before all are compared. temperature: a
    difference in `SurfaceReport.chamfer` by which one goes on e times as often as another. points: of the shape, that
    begun meshes should cover. rounds: no more are begun when so many times `particles` have ended.
    """

    particles: int = 32
    chunk: int = 12
    temperature: float = 0.005
    points: int = 1024
    rounds: float = 1.0

    def validate(self) -> None:
        for field in ("particles", "chunk", "points"):
            self.require(getattr(self, field) >= 1, field, "be at least 1")
        self.require(self.temperature > 0, "temperature", "be above 0")
        self.require(self.rounds > 0, "rounds", "be above 0")


@no_type_check
def steer(
    pipe, shape, faces=None, seed=None, config=None, *, progress=False, on_chunk=None, **options
) -> list[GeneratedMesh]:
    """Meshes that follow a shape, in its place, in the order in which they ended; those cut off by a limit last.

    pipe: a `MeshPipeline` whose model takes points. shape: as for `MeshPipeline.generate`, and so are faces and the
    further keywords. Every `chunk` faces, begun meshes are drawn anew (systematic resampling) by what their distance
    from the shape has become: the mean of how far their faces lie from it, and of how far it lies from them. A point
    of the shape that may still be covered counts as far as covered ones are on average, if it is not nearer already.
    on_chunk(codes, scores) hears of the begun meshes (b n) each time, less is better. Depends on the seed, which all
    results tell, and not on anything else. Raises as `MeshPipeline.generate` does.
    """
    config = config or SteeringConfig()
    if "points" not in pipe.transformer.config.kinds:
        raise ConditionError("a search needs a model that follows points: this one was trained without them")
    target = Target.of(shape)
    wishes = Wishes.of(1, pipe.transformer.config.kinds, points=target, faces=faces, **_asked(options))
    options, _, shown = pipe.options_for(wishes, options)
    conditions = wishes.conditions(pipe.transformer.conditions_of, **shown)
    seed = secrets.randbelow(2**31) if seed is None else checked_seed(int(seed))
    return _Search(pipe, target, conditions, seed, config, options).run(progress, on_chunk)


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options.pop(name) for name in ("text", "category") if name in options}


class _Search:
    """The meshes begun, all of one length, and those that have ended."""

    def __init__(
        self,
        pipe: MeshPipeline,
        target: Target,
        conditions: Any,
        seed: int,
        config: SteeringConfig,
        options: dict[str, Any],
    ):
        self.pipe, self.target, self.conditions, self.seed, self.config = pipe, target, conditions, seed, config
        self.rng = np.random.default_rng(seed % 2**63)
        self.in_order = pipe.transformer.form.whole_faces  # faces are written from the lowest up
        self.options, self.least = dict(options), max(options["min_faces"], 1)
        room = options.get("max_seq_len") or pipe.transformer.config.max_seq_len
        room = room // pipe.transformer.tokens_per_face if self.in_order else room
        self.most, self.count = min(options.pop("max_faces") or room, room), 0
        self.options = {name: value for name, value in options.items() if name not in ("min_faces", "max_faces")}
        self.codes = torch.zeros(config.particles, 0, dtype=torch.long)
        self.followed = Followed.of(target.shape, config, self.in_order)
        self.scores = np.zeros(config.particles)
        self.ended: list[GeneratedMesh] = []
        self.seen: set[bytes] = set()

    def run(self, progress: bool, on_chunk: Callable[[Tensor, np.ndarray], None] | None) -> list[GeneratedMesh]:
        wanted = max(round(self.config.rounds * self.config.particles), 1)
        try:
            with tqdm(total=self.most, disable=not progress, unit=" faces") as bar:
                while self.count < self.most and len(self.codes) and len(self.ended) < wanted:
                    self._write_chunk()
                    if on_chunk is not None and len(self.codes):
                        on_chunk(self.codes, self.scores)
                    bar.set_postfix(ended=len(self.ended), refresh=False)
                    bar.update(self.count - bar.n)
        except KeyboardInterrupt as interrupt:
            raise GenerationInterrupted(self.ended + self._begun("interrupted")) from interrupt
        return self.ended + (self._begun("max_faces") if not self.ended else [])

    def _begun(self, reason: str) -> list[GeneratedMesh]:
        return [self.pipe.result_of(row[row >= 0], self.seed, reason, self.target) for row in self.codes]

    def _write_chunk(self) -> None:
        """Every mesh gets a few faces more or ends; of the others as many as before go on, the better ones twice."""
        rows, count = len(self.codes), self.count
        upto = min(count + self.config.chunk, self.most)
        result = self.pipe.transformer.generate_result(
            self.codes if count else None,
            rows,
            conditions=self.conditions.select(torch.zeros(rows, dtype=torch.long)),
            seed=tuple(self.rng.integers(2**62, size=rows).tolist()),
            min_faces=min(max(self.least, count + bool(count)), upto),
            max_faces=upto,
            **self.options,
        )
        codes = result.codes.cpu()
        ends = result.finished.cpu() & (result.face_counts.cpu() >= self.least)
        for row in torch.nonzero(ends)[:, 0].tolist():
            self._end(codes[row][codes[row] >= 0])
        rows = torch.nonzero(~ends & (result.face_counts.cpu() == upto))[:, 0]
        if not len(rows) and not self.ended and result.stopped_by.count("max_seq_len"):
            self.count = self.most  # no room is left, and what has been written is all there is
            self.codes = codes
            return
        self.codes, self.count, before = codes[rows], upto, self.scores[rows.numpy()]
        if not len(rows):
            return
        self.followed = self.followed.select(rows).extended(self._corners(self.codes, count, upto))
        scores = self.followed.scores()
        hopeful = np.flatnonzero(self.followed.scores(optimistic=True) < self.least_chamfer)
        if not len(hopeful):
            self.codes = self.codes[:0]
            return
        self.codes, self.followed = self.codes[hopeful], self.followed.select(torch.from_numpy(hopeful))
        scores, before = scores[hopeful], before[hopeful]
        chances = np.exp(-(scores - before - (scores - before).min()) / self.config.temperature)
        chosen = torch.from_numpy(systematic(chances, self.config.particles, self.rng.random()))
        self.codes, self.followed, self.scores = self.codes[chosen], self.followed.select(chosen), scores[chosen]

    @property
    def least_chamfer(self) -> float:
        return min((item.fit.chamfer for item in self.ended if item.fit is not None), default=math.inf)

    def _end(self, codes: Tensor) -> None:
        key = codes.numpy().tobytes()
        if key not in self.seen:
            self.seen.add(key)
            self.ended.append(self.pipe.result_of(codes, self.seed, "end", self.target))

    def _corners(self, codes: Int[Tensor, "b n"], begin: int, end: int) -> Float[Tensor, "b m 3 3"]:
        """The triangles, in [-1, 1], of the faces from number `begin` on that were just written."""
        tokenizer, unit = self.pipe.tokenizer, self.pipe.transformer.tokens_per_face
        if not self.in_order:
            faces = tokenizer.decode_from_codes_to_faces(codes)[0][:, begin:end].cpu()
        else:
            faces = tokenizer.decode_faces_alone(codes[:, begin * unit : end * unit].reshape(-1, unit)).cpu()
        low, high = tokenizer.coordinate_range
        faces = (faces - low) / (high - low) * 2 - 1
        if faces.shape[-2] == 4:
            faces = torch.stack((faces[..., [0, 1, 2], :], faces[..., [0, 2, 3], :]), dim=-3)
        return faces.reshape(len(codes), -1, 3, 3)


def systematic(chances: Float[np.ndarray, " n"], count: int, offset: float) -> Int[np.ndarray, " m"]:
    """`count` indices, each in proportion to its chance, ascending; `offset` in [0, 1) is all that is left to luck.

    Systematic resampling (Kitagawa 1996).
    """
    ends = np.cumsum(chances) / np.sum(chances)
    return np.searchsorted(ends, (np.arange(count) + offset) / count, side="right").clip(max=len(chances) - 1)


@dataclass(frozen=True, eq=False)
class Followed:
    """How far each of some begun meshes follows a shape."""

    points: Float[Tensor, "p 3"]  # of the shape
    tree: KDTree  # of more of them
    area: float  # of the shape; 0 if unknown
    distances: Float[Tensor, "b p"]  # from each point to the mesh
    covered: Float[Tensor, " b"]  # area of the mesh
    missed: Float[Tensor, " b"]  # its distance from the shape, times its area
    front: Float[Tensor, "b 3"]  # the lowest corner of the last face
    in_order: bool = True  # whether no later face lies lower

    @classmethod
    def of(cls, shape: Mesh | PointCloud, config: SteeringConfig, in_order: bool = True) -> "Followed":
        """Of meshes that have no face yet."""
        cloud = shape if isinstance(shape, PointCloud) else PointCloud.from_mesh(shape, TARGET_POINTS, 0)
        few = torch.from_numpy(cloud.subsampled(config.points, 0).points.astype(np.float32))
        nothing = torch.zeros(config.particles)
        area = float(shape.face_areas.sum()) if isinstance(shape, Mesh) else 0.0
        distances = torch.full((config.particles, len(few)), FARTHEST)
        front = torch.full((config.particles, 3), -torch.inf)
        return cls(few, KDTree(cloud.points), area, distances, nothing, nothing, front, in_order)

    def select(self, rows: Int[Tensor, " r"]) -> "Followed":
        own = (self.distances[rows], self.covered[rows], self.missed[rows], self.front[rows])
        return Followed(self.points, self.tree, self.area, *own, self.in_order)

    def extended(self, triangles: Float[Tensor, "b n 3 3"]) -> "Followed":
        """With more faces each; the last one tells how far it has come."""
        points = self.points.expand(len(triangles), -1, -1)
        distances = point_triangle_distances(points, triangles).amin(dim=1).minimum(self.distances)
        sides = triangles[:, :, 1:] - triangles[:, :, :1]
        areas = torch.linalg.cross(sides[:, :, 0], sides[:, :, 1]).norm(dim=-1) / 2
        looked = torch.einsum("sk,bnkc->bnsc", _shares(UNIFORM).to(triangles), triangles)
        far = torch.from_numpy(np.asarray(self.tree.query(looked.double().numpy())[0])).float().mean(dim=-1)
        last = triangles[:, -1]
        key = last[..., 1] * 1e4 + last[..., 2] * 1e2 + last[..., 0]
        front = last[torch.arange(len(last)), key.argmin(dim=1)]
        own = (distances, self.covered + areas.sum(dim=1), self.missed + (areas * far).sum(dim=1), front)
        return Followed(self.points, self.tree, self.area, *own, self.in_order)

    @property
    def is_settled(self) -> Bool[Tensor, "b p"]:
        """True for points that no later face can cover: those before the front, by height and then by z."""
        if not self.in_order:
            return torch.zeros_like(self.distances, dtype=torch.bool)
        ahead = self.points[None] - self.front[:, None]
        y, z = ahead[..., 1], ahead[..., 2]
        return (y < -LEVEL) | ((y <= LEVEL) & (z < -LEVEL))

    def scores(self, optimistic: bool = False) -> Float[np.ndarray, " b"]:
        """What `SurfaceReport.chamfer` may become if each goes on as all do on average, or perfectly; less is better.

        What no later face can cover counts as it is.
        """
        settled = self.is_settled
        usual, off = torch.tensor(0.0), torch.tensor(0.0)
        if not optimistic:
            usual = self.distances[settled].mean() if settled.any() else torch.tensor(FARTHEST)
            off = self.missed.sum() / self.covered.sum().clamp(min=1e-12)
        uncovered = torch.where(settled, self.distances, self.distances.minimum(usual)).mean(dim=1)
        rest = (self.area - self.covered).clamp(min=0)
        astray = (self.missed + rest * off) / (self.covered + rest).clamp(min=1e-12)
        return ((uncovered + astray) / 2).double().numpy()


def _shares(sides: int) -> Float[Tensor, "s 3"]:
    """The share of each corner in points spread over a triangle, none of them on its border."""
    steps = torch.tensor([(i, j) for i in range(sides) for j in range(sides - i)], dtype=torch.float64)
    first, second = ((steps + 1 / 3) / sides).T
    return torch.stack((first, second, 1 - first - second), dim=1)
