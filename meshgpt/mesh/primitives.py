"""Shapes that are formulas: their signed distances, positive inside, and the words that describe them.

Every one lies as a normalised mesh does: its box centred at 0, the longest side from -0.95 to 0.95, y up. Of unions the
value is exact outside and a lower bound of the distance inside; of an ellipsoid it is right to first order. Signs are
exact. Formulas of single shapes as collected by Inigo Quilez, iquilezles.org/articles/distfunctions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from meshgpt.errors import MeshError
from meshgpt.mesh.mesh import MARGIN

Values = Float[np.ndarray, " n"]
Places = Float[np.ndarray, "n 3"]


@dataclass(frozen=True, eq=False)
class Part:
    """A piece of a shape: its field, and its box (2, 3)."""

    field: Callable[[Places], Values]
    box: np.ndarray


@dataclass(frozen=True, eq=False)
class Primitive:
    """A shape that is known everywhere: `primitive(points)` gives numpy distances, positive inside."""

    category: str
    caption: str
    part: Part

    def __call__(self, points: Places) -> Values:
        low, high = self.part.box
        scale = 2 * MARGIN / (high - low).max()
        return self.part.field(np.asarray(points, dtype=np.float64) / scale + (low + high) / 2) * scale

    def torch_field(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """The same as `extract` asks it."""
        return torch.from_numpy(self(points.double().cpu().numpy())).to(points.device)

    def sample_surface(self, count: int, rng: np.random.Generator) -> tuple[Places, Places]:
        """`count` points on the surface, nearly even, and unit normals: points of a thin layer, moved onto it."""
        found: list[np.ndarray] = []
        while sum(map(len, found)) < count:
            points = rng.uniform(-1, 1, (16384, 3))
            points = points[np.abs(self(points)) < 0.03]
            for _ in range(4):
                points = points - self(points)[:, None] * self.gradients(points)
            found.append(points[np.abs(self(points)) < 1e-3])
        points = np.concatenate(found)[:count]
        gradients = self.gradients(points)
        return points, -gradients / np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1e-12)

    def gradients(self, points: Places, step: float = 1e-4) -> Places:
        """By central differences; of length 1 but at edges and creases."""
        moves = np.eye(3) * step
        return np.stack([(self(points + move) - self(points - move)) / (2 * step) for move in moves], axis=1)


def ball_part(half: np.ndarray) -> Part:
    """An ellipsoid of these half axes."""

    def field(points: Places) -> Values:
        scaled, twice = np.linalg.norm(points / half, axis=1), np.linalg.norm(points / half**2, axis=1)
        return -scaled * (scaled - 1) / np.maximum(twice, 1e-9)

    return Part(field, np.stack((-half, half)))


def box_part(half: np.ndarray, centre: np.ndarray | float = 0.0) -> Part:
    def field(points: Places) -> Values:
        beyond = np.abs(points - centre) - half
        return -np.linalg.norm(np.maximum(beyond, 0), axis=1) - np.minimum(beyond.max(axis=1), 0)

    return Part(field, np.stack((centre - half, centre + half)))


def cylinder_part(radius: float, half: float, y: float = 0.0) -> Part:
    """Upright; `half` its height, around (0, y, 0)."""

    def field(points: Places) -> Values:
        beyond = np.stack((np.hypot(points[:, 0], points[:, 2]) - radius, np.abs(points[:, 1] - y) - half), axis=1)
        return -np.linalg.norm(np.maximum(beyond, 0), axis=1) - np.minimum(beyond.max(axis=1), 0)

    size = np.array([radius, half, radius])
    return Part(field, np.stack((-size, size)) + np.array([0, y, 0]))


def torus_part(ring: float, tube: float, centre: np.ndarray | float = 0.0, upright: bool = False) -> Part:
    """Around the y axis; upright, around the z axis."""
    around, across = ([0, 1], 2) if upright else ([0, 2], 1)

    def field(points: Places) -> Values:
        points = points - centre
        return tube - np.hypot(np.linalg.norm(points[:, around], axis=1) - ring, points[:, across])

    size = np.full(3, ring + tube)
    size[across] = tube
    return Part(field, np.stack((centre - size, centre + size)))


def union(*parts: Part) -> Part:
    box = np.stack((np.min([part.box[0] for part in parts], axis=0), np.max([part.box[1] for part in parts], axis=0)))
    return Part(lambda points: np.max([part.field(points) for part in parts], axis=0), box)


def without(part: Part, hole: Part) -> Part:
    return Part(lambda points: np.minimum(part.field(points), -hole.field(points)), part.box)


def _word(value: float, low: str, high: str, between: tuple[float, float]) -> str:
    """A word for small and for large values, none for those between."""
    return f"{low} " if value < between[0] else f"{high} " if value > between[1] else ""


def _ellipsoid(rng: np.random.Generator) -> tuple[str, Part]:
    half = rng.uniform(0.35, 1.0, 3)
    return f"a {_word(half[1] / half[[0, 2]].max(), 'flat', 'tall', (0.6, 1.3))}ellipsoid", ball_part(half)


def _box(rng: np.random.Generator) -> tuple[str, Part]:
    half = rng.uniform(0.25, 1.0, 3)
    return f"a {_word(half[1] / half[[0, 2]].max(), 'flat', 'tall', (0.6, 1.3))}box", box_part(half)


def _cylinder(rng: np.random.Generator) -> tuple[str, Part]:
    radius, half = rng.uniform(0.3, 1.0, 2)
    return f"a {_word(half / radius, 'flat', 'tall', (0.7, 1.4))}cylinder", cylinder_part(radius, half)


def _torus(rng: np.random.Generator) -> tuple[str, Part]:
    tube = rng.uniform(0.15, 0.4)
    return f"a {_word(tube, 'thin', 'thick', (0.22, 0.33))}torus", torus_part(1.0, tube)


def _legs(half: np.ndarray, thick: float, height: float) -> list[Part]:
    corners = [np.array([x, 0, z]) * (half - thick) for x in (-1, 1) for z in (-1, 1)]
    return [box_part(np.array([thick, height, thick]), corner - [0, height, 0]) for corner in corners]


def _chair(rng: np.random.Generator) -> tuple[str, Part]:
    half = np.array([rng.uniform(0.4, 0.6), 0.06, rng.uniform(0.4, 0.6)])
    thick, height, back = rng.uniform(0.045, 0.09), rng.uniform(0.3, 0.55), rng.uniform(0.3, 0.55)
    rest = box_part(np.array([half[0], back, thick]), np.array([0, back, thick - half[2]]))
    tall, legs = _word(height + back, "low", "tall", (0.75, 0.95)), _word(thick, "thin", "thick", (0.06, 0.075))
    caption = f"a {tall}chair" + (f" with {legs}legs" if legs else "")
    return caption, union(box_part(half), rest, *_legs(half, thick, height))


def _table(rng: np.random.Generator) -> tuple[str, Part]:
    half = np.array([rng.uniform(0.6, 1.0), rng.uniform(0.04, 0.09), rng.uniform(0.4, 0.8)])
    thick, height = rng.uniform(0.05, 0.1), rng.uniform(0.25, 0.6)
    low, legs = _word(height, "low", "tall", (0.35, 0.5)), _word(thick, "thin", "thick", (0.065, 0.085))
    caption = f"a {low}table" + (f" with {legs}legs" if legs else "")
    return caption, union(box_part(half), *_legs(half, thick, height))


def _mug(rng: np.random.Generator) -> tuple[str, Part]:
    radius, half, wall = rng.uniform(0.4, 0.6), rng.uniform(0.4, 0.75), rng.uniform(0.06, 0.1)
    hole = cylinder_part(radius - wall, half, 2 * wall)
    ring = rng.uniform(0.45, 0.6) * half
    handle = torus_part(ring, rng.uniform(0.05, 0.08), np.array([radius, 0, 0]), upright=True)
    body = without(union(cylinder_part(radius, half), handle), hole)
    return f"a {_word(half / radius, 'wide', 'tall', (0.9, 1.3))}mug", body


MAKERS = {"ellipsoid": _ellipsoid, "box": _box, "cylinder": _cylinder, "torus": _torus}
MAKERS |= {"chair": _chair, "table": _table, "mug": _mug}
EASY = ("ellipsoid", "box", "cylinder", "torus")
THIN = ("chair", "table", "torus", "mug")


@no_type_check
def make_primitive(category: str, rng: np.random.Generator | int) -> Primitive:
    """A random shape of a category; rng: a generator, or a seed. Raises `MeshError` for a category not in `MAKERS`."""
    if category not in MAKERS:
        raise MeshError(f"there is no primitive '{category}'; there are: {', '.join(MAKERS)}")
    return Primitive(category, *MAKERS[category](np.random.default_rng(rng)))
