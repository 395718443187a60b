"""Sentences of patches while they are written: one reading a row, which each token changes in place.

The same answers as `PatchGrammar` gives over tensors, which suits many rows on a GPU; this is many times faster else.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from meshgpt.mesh.grammar import Surroundings
from meshgpt.tokenizers import _patch_read as reader
from meshgpt.tokenizers import _patch_walk as walk
from meshgpt.tokenizers._patch_told import tell
from meshgpt.tokenizers._patch_walk import Layout, Reading

CHILDREN = np.array([0, 1, 1, 2])  # faces that follow in each state


@dataclass
class PatchRow:
    """One sentence, and whether its end has been said."""

    layout: Layout
    reading: Reading
    num_places: int  # that are told of what surrounds a token
    ended: bool = False

    def copy(self) -> "PatchRow":
        """The same sentence, which can go on in another way."""
        parts = {name: part.copy() for name, part in self.reading._asdict().items() if name != "surface"}
        surface = walk.Surface(*(part.copy() for part in self.reading.surface))
        return replace(self, reading=Reading(surface=surface, **parts))

    @property
    def num_faces(self) -> int:
        return int(self.reading.surface.count[2])

    def take(self, code: int) -> bool:
        """Reads one more token; whether it is legal. One that is not changes nothing."""
        if self.ended or code == self.layout.end:
            self.ended = True
            return code == self.layout.end
        return reader.step(self.layout, self.reading, code) == reader.SOUND

    def places(self) -> np.ndarray:
        """Of what surrounds the next token, (num_places, 3)."""
        places = np.full((self.num_places, 3), -1, dtype=np.int64)
        tell(self.layout, self.reading, places)
        return places

    def last(self) -> np.ndarray:
        """Of the corners of the last face, (3, 3)."""
        if not self.num_faces:
            return np.full((3, 3), -1, dtype=np.int64)
        return self.reading.vertices[self.reading.surface.faces[self.num_faces - 1]]

    def legal(self, room: int | None = None) -> np.ndarray:
        """(end + 1,), True for what may come next; see `PatchGrammar.legal`."""
        legal = np.zeros(self.layout.end + 1, dtype=bool)
        if not self.ended:
            whole, begun, flip, rest = self._fitting(room)
            taken = list(self._taken())
            if self.reading.at[walk.BLOCK] < 0:
                self._mark_first(legal, taken, whole, begun, flip)
            elif rest:
                self._mark_offsets(legal, taken)
        legal[-1] |= not legal.any()
        return legal

    def _mark_first(self, legal: np.ndarray, taken: list[int], whole: np.ndarray, begun: np.ndarray, flip: bool):
        """Open ends, a flip, near places, blocks and the end, where they are legal."""
        layout, reading, at = self.layout, self.reading, self.reading.at
        if at[walk.GATE_TO] >= 0:
            found = walk.open_ends(reading.surface, at[walk.GATE_FROM], at[walk.GATE_TO], reading.ends)
            for k in range(found):
                if reading.ends[k] not in taken:
                    legal[k * walk.STATES : (k + 1) * walk.STATES] = whole
        legal[layout.flip] = flip and bool(at[walk.GATED]) and not at[walk.FLIPPED]
        size = 2 * layout.reach + 1
        steps = reading.guess[:, None] + np.arange(size) - layout.reach
        near = _every((steps >= 0) & (steps < layout.bins))
        free = free_places(layout)
        for vertex in taken:
            difference = reading.vertices[vertex] - reading.guess
            if (abs(difference) <= layout.reach).all():
                near[_packed(difference + layout.reach, size)] = False
            block = _packed(self._turned(vertex) // layout.width, layout.blocks)
            free = free.copy() if free is free_places(layout) else free
            free[block] -= 1
        legal[layout.near : layout.block] = (near[:, None] & whole).reshape(-1)
        legal[layout.block : layout.offset] = ((free > 0)[:, None] & begun).reshape(-1)
        legal[-1] = at[walk.GATE_FROM] < 0 and self.num_faces > 0

    def _mark_offsets(self, legal: np.ndarray, taken: list[int]) -> None:
        """Offsets, where they are legal behind the block that waits."""
        layout, block = self.layout, int(self.reading.at[walk.BLOCK])
        number = np.array([block // layout.blocks**2, block // layout.blocks % layout.blocks, block % layout.blocks])
        size = np.minimum(layout.bins - number * layout.width, layout.width)
        offsets = _every(np.arange(layout.width) < size[:, None])
        for vertex in taken:
            turned = self._turned(vertex)
            if (turned // layout.width == number).all():
                offsets[_packed(turned % layout.width, layout.width)] = False
        legal[layout.offset : layout.end] = offsets

    def _fitting(self, room: int | None) -> tuple[np.ndarray, np.ndarray, bool, bool]:
        """What leaves room for the rest: states of a vertex in one token and of a block (4,), a flip, an offset."""
        at = self.reading.at
        first, tip = at[walk.GATE_FROM] < 0, at[walk.GATE_TO] >= 0
        states = tip | (CHILDREN == 0)
        if room is None:
            return states, states, True, True
        spare = room - (4 if first else 2 * at[walk.DEPTH] if tip else 2)
        left = spare - 2 * CHILDREN
        return states & (left > 0), states & (left > 1), bool(spare > 2), bool(left[at[walk.FOLLOW]] > 0)

    def _taken(self) -> Iterable[int]:
        """Vertices that the next one must not be: those of the gate, and the tips of faces on it wound the same way."""
        a, b = self.reading.at[walk.GATE_FROM], self.reading.at[walk.GATE_TO]
        yield from (int(vertex) for vertex in (a, b) if vertex >= 0)
        if b < 0:
            return
        surface = self.reading.surface
        edge = walk.find_edge(surface, a, b)
        face = surface.first_face[edge] if edge >= 0 else -1
        while face >= 0:
            corners = surface.faces[face]
            k = next(k for k in range(3) if {corners[k], corners[(k + 1) % 3]} == {a, b})
            if corners[k] == a:
                yield int(corners[(k + 2) % 3])
            face = surface.next_face[face, k]

    def _turned(self, vertex: int) -> np.ndarray:
        """The step from the guess to a vertex, modulo the number of bins, as blocks and offsets say it."""
        middle = self.layout.blocks // 2 * self.layout.width + self.layout.width // 2
        return (self.reading.vertices[vertex] - self.reading.guess + middle) % self.layout.bins


class PatchRows:
    """The state of rows that are being written; see `PatchRow`."""

    def __init__(self, rows: list[PatchRow], device: torch.device):
        """`device`: where what is told of them goes."""
        self.rows, self.device = rows, device

    @classmethod
    def start(cls, layout: Layout, num_places: int, batch: int, capacity: int, device: torch.device) -> "PatchRows":
        """Rows of at most `capacity` tokens with nothing in them."""
        room = max(capacity, 1)
        return cls([PatchRow(layout, walk.empty_reading(layout, room), num_places) for _ in range(batch)], device)

    def of(self, rows: list[PatchRow]) -> "PatchRows":
        """The state of other sentences."""
        return PatchRows(rows, self.device)

    def select(self, rows: Tensor) -> "PatchRows":
        """Some of the rows, by index or mask; they can go on in another way than these."""
        chosen = torch.arange(len(self.rows))[rows.cpu()].tolist()
        return self.of([self.rows[row].copy() for row in chosen])

    def legal(self, room: Int[Tensor, " b"] | None = None) -> Bool[Tensor, "b v"]:
        left = [None] * len(self.rows) if room is None else room.tolist()
        return self._stacked([row.legal(most) for row, most in zip(self.rows, left, strict=True)])

    def surroundings(self) -> Surroundings:
        places, last = (self._stacked([part(row) for row in self.rows]) for part in (PatchRow.places, PatchRow.last))
        faces = self._stacked([np.array(row.num_faces) for row in self.rows])
        return Surroundings(places, faces, last)

    def advance(self, codes: Int[Tensor, " b"]) -> "PatchRows":
        """These rows with one more token each; -1 is none."""
        for row, code in zip(self.rows, codes.tolist(), strict=True):
            if code >= 0:
                row.take(code)
        return self

    def _stacked(self, parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(parts)).to(self.device)


@cache
def free_places(layout: Layout) -> np.ndarray:
    """How many places each block has on the grid."""
    number = np.stack(np.meshgrid(*[np.arange(layout.blocks)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.minimum(layout.bins - number * layout.width, layout.width).prod(axis=1)


def _packed(digits: np.ndarray, base: int) -> int:
    y, z, x = digits.tolist()
    return (y * base + z) * base + x


def _every(axes: np.ndarray) -> np.ndarray:
    """For all triples in order of their number: True where each of the three (3, n) is, on its axis."""
    y, z, x = axes
    return (y[:, None, None] & z[:, None] & x).reshape(-1)
