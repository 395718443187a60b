"""What models of fields are trained on: some of the points of each shape, others every epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, no_type_check

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshgpt.config import Config
from meshgpt.data.field_store import FieldSample
from meshgpt.errors import DataError
from meshgpt.training.examples import Examples
from meshgpt.training.identity import described


@dataclass(frozen=True)
class FieldView(Config):
    """How many points of a shape are seen at once, and how they are made worse.

    cloud: points of the surface, 0 for none; noise: what they are moved by, normal. volume, near: points with labels.
    stretch: each axis is scaled by a factor in [1 - stretch, 1 + stretch], and the shape brought back to its size; the
    signs stay right, distances do not. mirror: x and z are mirrored at random, which leaves both right. turn: so does
    one of the 24 rotations of a cube.
    """

    cloud: int = 1024
    volume: int = 1024
    near: int = 1024
    noise: float = 0.0
    stretch: float = 0.0
    mirror: bool = False
    turn: bool = False

    def validate(self) -> None:
        for field in ("cloud", "volume", "near", "noise"):
            self.require(getattr(self, field) >= 0, field, "not be negative")
        self.require(self.volume + self.near >= 1, "volume", "be at least 1 where near is 0")
        self.require(0 <= self.stretch < 1, "stretch", "lie in [0, 1)")

    @no_type_check
    def __call__(self, sample: FieldSample, rng: np.random.Generator) -> FieldSample:
        wanted = (("surface", self.cloud), ("volume", self.volume), ("near", self.near))
        parts = {name: _drawn(getattr(sample, name), count, name, rng) for name, count in wanted}
        if self.turn:
            _turn(parts, rng)
        if self.stretch or self.mirror:
            parts = self._moved(parts, rng)
        if self.noise:
            parts["surface"][:, :3] += self.noise * rng.standard_normal((self.cloud, 3), dtype=np.float32)
        return replace(sample, **parts)

    def _moved(self, parts: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        factors = rng.uniform(1 - self.stretch, 1 + self.stretch, 3)
        factors *= np.where(rng.random(3) < 0.5, -1.0, 1.0) ** np.array([self.mirror, 0, self.mirror])
        size = np.abs(parts["surface"][:, :3]).max(initial=0.0)
        after = np.abs(parts["surface"][:, :3] * factors).max(initial=0.0)
        factors = (factors * (size / after if after else 1.0)).astype(np.float32)
        for values in parts.values():
            values[:, :3] *= factors
        normals = parts["surface"][:, 3:6] / factors
        parts["surface"][:, 3:6] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        return parts


def _turn(parts: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """One of the 24 rotations of a cube, of all places and normals."""
    axes, signs = rng.permutation(3), rng.choice((-1.0, 1.0), 3).astype(np.float32)
    signs[0] *= signs.prod() * np.linalg.det(np.eye(3)[axes])  # a rotation, not a mirror image
    for values in parts.values():
        values[:, :3] = values[:, axes] * signs
    parts["surface"][:, 3:6] = parts["surface"][:, 3 + axes] * signs


def _drawn(values: np.ndarray, count: int, name: str, rng: np.random.Generator) -> np.ndarray:
    """A copy of `count` different rows."""
    if count > len(values):
        raise DataError(f"{count} {name} points are wanted of shapes that have {len(values)}: ask for fewer")
    if count == len(values):
        return values.copy()
    start = int(rng.integers(len(values)))  # a stride of no common factor: different rows in a fraction of the time
    stride = _coprime(len(values), int(rng.integers(1, len(values))))
    return values[(start + stride * np.arange(count)) % len(values)]


def _coprime(size: int, number: int) -> int:
    while np.gcd(size, number) != 1:
        number = number % size + 1
    return number


@dataclass(frozen=True)
class FieldExample:
    """The points of a shape that are seen, its number, and a vector that tells of it, if there is one."""

    sample: FieldSample
    index: int
    embedding: np.ndarray | None = None


class FieldExamples(Examples):
    """Shapes of a `FieldDataset`, a `PrimitiveDataset` or any other of `FieldSample`s, as a `FieldView` shows them.

    What is seen of a shape depends on (seed, epoch, index) alone. embeddings: (n, e) vectors made elsewhere.
    """

    @no_type_check
    def __init__(self, dataset, view: FieldView | None = None, seed: int = 0, embeddings=None):
        super().__init__(dataset)
        self.view, self.seed, self.embeddings = view or FieldView(), seed, embeddings
        if embeddings is not None and len(embeddings) != len(self):
            raise DataError(f"there are {len(self)} shapes, but {len(embeddings)} embeddings")

    def get(self, index: int, epoch: int) -> FieldExample:
        rng = np.random.default_rng((self.seed, epoch, index))
        embedding = None if self.embeddings is None else np.asarray(self.embeddings[index], dtype=np.float32)
        return FieldExample(self.view(self.dataset[int(index)], rng), int(index), embedding)

    def name(self, index: int) -> str:
        return f"shape {index} '{self.dataset[int(index)].record.get('name', '')}'"

    @property
    def fingerprint(self) -> str:
        return getattr(self.dataset, "fingerprint", None) or super().fingerprint

    @property
    def identity(self) -> dict[str, Any]:
        return {**super().identity, **described("view", self.view)}


@dataclass(frozen=True)
class FieldBatch:
    """Shapes side by side: clouds with normals and flags, then labelled points, those of the volume first.

    values: signed distances, positive inside. num_volume: how many of the points are spread over the volume.
    """

    clouds: Float[Tensor, "b p 7"]
    points: Float[Tensor, "b n 3"]
    values: Float[Tensor, "b n"]
    num_volume: int
    index: Int[Tensor, " b"]
    embeddings: Tensor | None = None

    @classmethod
    @no_type_check
    def of(cls, examples: Sequence[FieldExample]) -> "FieldBatch":
        """Raises `DataError` for shapes of which different numbers of points are seen."""
        samples = [example.sample for example in examples]
        counts = {(len(s.surface), len(s.volume), len(s.near)) for s in samples}
        if len(counts) > 1:
            raise DataError(f"shapes of one batch need equally many points, got {sorted(counts)}: use one FieldView")
        queries = torch.from_numpy(np.stack([np.concatenate((s.volume, s.near)) for s in samples]))
        vectors = [example.embedding for example in examples if example.embedding is not None]
        return cls(
            torch.from_numpy(np.stack([s.surface for s in samples])),
            queries[..., :3],
            queries[..., 3],
            len(samples[0].volume),
            torch.tensor([example.index for example in examples]),
            torch.from_numpy(np.stack(vectors)) if vectors else None,
        )

    def __len__(self) -> int:
        return len(self.points)

    @property
    def inside(self) -> Float[Tensor, "b n"]:
        """1 inside, 0 outside."""
        return (self.values > 0).float()

    def to(self, device: Any) -> "FieldBatch":
        moved = {name: getattr(self, name).to(device) for name in ("clouds", "points", "values", "index")}
        return replace(self, **moved, embeddings=None if self.embeddings is None else self.embeddings.to(device))


@dataclass(frozen=True)
class PointBatch:
    """Points of one shape, and 1 for those inside, else 0."""

    points: Float[Tensor, "n 3"]
    inside: Float[Tensor, " n"]

    def to(self, device: Any) -> "PointBatch":
        return PointBatch(self.points.to(device), self.inside.to(device))


class PointBlocks(Examples):
    """Labelled points of one shape, in blocks of `block`, dealt anew each epoch; points of the last one fill up."""

    @no_type_check
    def __init__(self, points, inside, block: int = 1024, seed: int = 0):
        self.points = torch.as_tensor(points, dtype=torch.float32)
        self.inside = torch.as_tensor(inside).float()
        if self.points.ndim != 2 or self.points.shape[1] != 3 or self.inside.shape != self.points.shape[:1]:
            shapes = f"{tuple(self.points.shape)} and {tuple(self.inside.shape)}"
            raise DataError(f"a shape is told by points (n, 3) and a label for each (n,), got {shapes}")
        if not len(self.points) or not bool(self.points.isfinite().all()):
            raise DataError(f"{len(self.points)} points, not all of them finite: there is nothing to learn from")
        self.block, self.seed, self._order = min(block, len(self.points)), seed, (-1, torch.zeros(0))
        super().__init__(self.points)

    def __len__(self) -> int:
        return -(-len(self.points) // self.block)

    def get(self, index: int, epoch: int) -> PointBatch:
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(hash((self.seed, epoch)) % 2**63)
            self._order = epoch, torch.randperm(len(self.points), generator=generator)
        end = min((index + 1) * self.block, len(self.points))
        chosen = self._order[1][end - self.block : end]
        return PointBatch(self.points[chosen], self.inside[chosen])
