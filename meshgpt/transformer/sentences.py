"""Rows of codes that share vertices between faces, while they are written: what may come next, and what is there."""

from typing import Any

from jaxtyping import Int
from torch import Tensor

from meshgpt.mesh.grammar import LegalTable, SequenceGrammar, Surroundings


class Sentences:
    """The state of a `SequenceGrammar` for each row, and the codes since each row's last whole face."""

    def __init__(self, grammar: SequenceGrammar, begun: Int[Tensor, "b n"], capacity: int):
        """`begun`: codes that are read already, padded with -1; rows may grow to `capacity` codes."""
        self.grammar, self.state, self.capacity = grammar, grammar.begin(begun, capacity), capacity
        self.lengths = (begun >= 0).sum(dim=1)
        self.since = self.lengths.clone()  # where the codes of the face being written begin
        self.around: Surroundings = grammar.surroundings(self.state)

    @property
    def faces(self) -> Int[Tensor, " b"]:
        return self.around.faces

    def legal(self, limit: int) -> LegalTable:
        """What may come next in each row, such that the mesh can end within `limit` codes."""
        return LegalTable(self.grammar.legal(self.state, limit - self.lengths))

    def took(self, codes: Int[Tensor, " b"]) -> list[tuple[int, int]]:
        """Hears one more code of each row. Which rows have a new face by it, and where the codes of that begin."""
        before = self.faces
        self.state = self.grammar.advance(self.state, codes)
        self.around = self.grammar.surroundings(self.state)
        self.lengths = self.lengths + 1
        rows = (self.faces > before).nonzero().squeeze(-1)
        begins = self.since[rows].tolist()
        self.since[rows] = self.lengths[rows]
        return list(zip(rows.tolist(), begins, strict=True))

    def select(self, rows: Any) -> None:
        self.state = self.state.select(rows)
        self.lengths, self.since = self.lengths[rows], self.since[rows]
        self.around = self.around.select(rows)
