"""Walks over the faces of a mesh: each face but a walk's first is said by one vertex, beyond a side of the face before.

A walk stands on a face (tip, u, v), in the order in which the face is wound. It goes on over the side left of the tip
(v, tip) or right of it (tip, u); the vertex beyond becomes the next tip. Where the next face is wound against the one
before, the step is flipped. Any face may follow any other that has an edge with it, so that open, non-manifold and
inconsistently wound meshes are walked like all others, and nothing of them is changed.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from meshgpt.config import Config, resolve_config
from meshgpt.errors import MeshError, TokenError
from meshgpt.mesh.canonical import GridMesh
from meshgpt.mesh.mesh import first_occurrences, rotate_smallest_first
from meshgpt.nn.embedding import AXES
from meshgpt.tokenizers._walk import (
    DUPLICATE,
    FINE,
    LEFT,
    NO_COORDINATE,
    NO_MARK,
    NO_WALK,
    REPEATED,
    RIGHT,
    START,
    read_faces,
    walk_faces,
)
from meshgpt.tokenizers.sequence import Errors, SequenceTokenizer


@dataclass(frozen=True)
class WalkConfig(Config):
    """Bins an axis."""

    num_discrete_coors: int = 128

    def validate(self) -> None:
        self.require(self.num_discrete_coors >= 2, "num_discrete_coors", "be at least 2")


class WalkTokenizer(SequenceTokenizer):
    """What walks have in common: coordinates 0 .. R - 1, a vertex as (y, z, x), and above them the marks of steps.

    A walk begins with a mark and three vertices, the tip last. Where it is `alternating` it is a strip: steps go left
    and right in turn and carry no mark unless they do otherwise. Else every step has the mark of its side.
    """

    config_class, part = WalkConfig, "tokenizer"
    codes_per_step, many_codes_per_face, num_places = 4, 6, 3  # a step is about a face; places are its corners
    alternating: ClassVar[bool]
    marks: ClassVar[tuple[str, ...]]

    def __init__(self, config: WalkConfig | None = None, **fields):
        self.config = config = resolve_config(WalkConfig, config, fields)
        self.num_discrete_coors = config.num_discrete_coors
        self.vocab_size = config.num_discrete_coors + len(self.marks)

    def encode_grid(self, grid: GridMesh) -> np.ndarray:
        bins = self.num_discrete_coors
        if grid.num_discrete_coors != bins:
            raise MeshError(f"a mesh on {grid.num_discrete_coors} bins an axis, the tokenizer has {bins}")
        if len(grid.faces) == 0:
            return np.zeros(0, dtype=np.int64)
        corners, steps = walk_faces(grid.faces, *_edges(grid.faces), self.alternating)
        tips = grid.faces[corners[:, None] // 3, (corners[:, None] + np.arange(3)) % 3]
        return self._sentence(grid.vertices[:, AXES][tips], steps)

    def _sentence(self, faces: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """The ids of faces (nf, 3, 3), each with its tip first and coordinates in the order they are said."""
        marks, swapped = (_strip_marks if self.alternating else _side_marks)(steps)
        first, second = np.where(swapped, 2, 1), np.where(swapped, 1, 2)
        rows = np.arange(len(faces))
        said = np.concatenate((faces[rows, first], faces[rows, second], faces[:, 0]), axis=1)
        table = np.concatenate((np.where(marks < 0, -1, marks + self.num_discrete_coors)[:, None], said), axis=1)
        table[steps != START, 1:7] = -1
        return table[table >= 0]

    def decode_grid(self, ids: np.ndarray, errors: Errors = "raise") -> tuple[np.ndarray, np.ndarray]:
        keys, ends, fault, position = read_faces(ids, self.num_discrete_coors, self.alternating)
        first = first_occurrences(rotate_smallest_first(keys))
        if len(first) < len(keys):
            again = int(np.setdiff1d(np.arange(len(keys)), first)[0])
            keys, fault, position = keys[:again], DUPLICATE, int(ends[again])
        if fault != FINE and errors == "raise":
            raise TokenError(self._complaint(fault, int(ids[position])), position)
        unique, faces = np.unique(keys, return_inverse=True)
        y, z, x = (unique // self.num_discrete_coors**power % self.num_discrete_coors for power in (2, 1, 0))
        return np.stack((x, y, z), axis=-1), faces.reshape(-1, 3)

    def surroundings(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the last whole face, its tip first."""
        keys, ends, fault, position = read_faces(ids, self.num_discrete_coors, self.alternating)
        if fault != FINE:
            raise TokenError(self._complaint(fault, int(ids[position])), position)
        faces = np.searchsorted(ends, np.arange(len(ids) + 1))
        places = np.stack([keys // self.num_discrete_coors**power % self.num_discrete_coors for power in (2, 1, 0)], -1)
        return np.concatenate((np.full((1, 3, 3), -1), places))[faces], faces

    def _complaint(self, fault: int, code: int) -> str:
        bins = self.num_discrete_coors
        found = f"got coordinate {code}" if code < bins else f"got {self.marks[code - bins]} ({code})"
        starts = " or ".join(f"{name} ({bins + i})" for i, name in enumerate(self.marks) if name.startswith("start"))
        return {
            NO_WALK: f"expected {starts}, for no walk has begun yet; {found}",
            NO_MARK: f"expected a mark ({bins} .. {self.vocab_size - 1}) or the end, {found}",
            NO_COORDINATE: f"expected a coordinate (0 .. {bins - 1}), {found}",
            REPEATED: "expected another vertex: this one is a corner of the face already",
            DUPLICATE: "expected another vertex: this one gives a face that has been written already",
        }[fault]


# faces to steps


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edge of each side 3 f + k (opposite corner k of face f), the sides by edge, and where each edge begins."""
    ends = np.stack((np.roll(faces, -1, axis=1), np.roll(faces, -2, axis=1)), axis=-1).reshape(-1, 2)
    key = ends.min(axis=1) * (int(faces.max()) + 1) + ends.max(axis=1)
    order = np.argsort(key, kind="stable")
    new = np.ones(len(key), dtype=bool)
    new[1:] = key[order][1:] != key[order][:-1]
    edge = np.empty_like(order)
    edge[order] = np.cumsum(new) - 1
    return edge, order, np.append(np.flatnonzero(new), len(key))


# steps to marks


def _side_marks(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mark of each step, and whether a start says its second vertex before its first."""
    return steps + 1, np.zeros(len(steps), dtype=bool)


def _strip_marks(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for strips; -1 where a step has no mark. A start is wound as said, or against it if it turns right."""
    side, flipped = steps % 2, steps >= 2
    after = np.append(steps[1:], START)
    right_first = (steps == START) & (after != START) & (after % 2 == RIGHT)
    turn = np.where((steps == LEFT) | (steps == RIGHT + 2), RIGHT, LEFT)
    turn[steps == START] = right_first[steps == START]
    swaps = side != np.append(LEFT, turn[:-1])
    marks = np.where(steps == START, right_first, 2 * flipped + swaps + 1)
    return np.where((steps != START) & (marks == 1), -1, marks), right_first
