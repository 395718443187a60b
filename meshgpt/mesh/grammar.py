"""Which next codes can still become a mesh in canonical order, in tensor form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class LegalCodes:
    """Codes from `low` up, except `banned` (-1: none). low: (b). banned: (b m)."""

    low: Int[Tensor, " b"]
    banned: Int[Tensor, "b m"]

    def select(self, rows: Int[Tensor, " r"]) -> "LegalCodes":
        return LegalCodes(self.low[rows], self.banned[rows])

    def allow(self, codes: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """True where a row's code is legal."""
        return (codes >= self.low) & (codes[:, None] != self.banned).all(dim=-1)

    def mask(self, vocab_size: int) -> Bool[Tensor, "b v1"]:
        """True for each legal code, and for the end, the last: (b, vocab_size + 1)."""
        codes = torch.arange(vocab_size, device=self.low.device)
        legal = codes >= self.low[:, None]
        rows, columns = (self.banned >= 0).nonzero(as_tuple=True)
        legal[rows, self.banned[rows, columns]] = False
        return F.pad(legal, (0, 1), value=True)


@dataclass(frozen=True)
class LegalTable:
    """What may come next, row by row: table (b, vocab_size + 1), the end last."""

    table: Bool[Tensor, "b v1"]

    def select(self, rows: Int[Tensor, " r"]) -> "LegalTable":
        return LegalTable(self.table[rows])

    def allow(self, codes: Int[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """True where a row's code is legal."""
        return self.table.gather(1, codes[:, None])[:, 0]

    def mask(self, vocab_size: int) -> Bool[Tensor, "b v1"]:
        """The table, which must be of so many codes."""
        assert self.table.shape[1] == vocab_size + 1
        return self.table


@dataclass(frozen=True)
class OrderGrammar:
    """The canonical order as a rule for the next code, where codes sort as vertices do.

    In a face (a, b, c, ...) a is the smallest vertex, and no vertex comes twice; faces strictly increase (as Meshtron,
    arXiv:2412.09548, asks of coordinates). A vertex is `levels` codes, compared one after the other. A code is legal
    where some such face begins with it; behind the last face that there can be, anything but the end is wrong, and
    nothing is forbidden. Only comparisons: nothing depends on data, rows do not meet.
    """

    vocab_size: int  # at least 3
    corners: int
    levels: int

    def legal(self, previous: Int[Tensor, "b t"], said: Int[Tensor, "b t"], place: int) -> LegalCodes:
        """What may stand at `place` of a face of which the codes `said` are known up to there.

        `previous` is the face before, -1 where there is none.
        """
        corner, level = divmod(place, self.levels)
        before, now = (rearrange(x, "b (k l) -> b k l", l=self.levels) for x in (previous, said))
        least = self._codes(self._least_vertex(before, now, corner))
        tight = (now[:, corner, :level] == least[:, :level]).all(dim=-1)
        return LegalCodes(torch.where(tight, least[:, level], 0), self._banned(before, now, corner, level))

    def _least_vertex(self, before: Tensor, now: Tensor, corner: int) -> Int[Tensor, " b"]:
        """The key of the smallest vertex that may stand at `corner`."""
        keys = self._keys(before)[:, corner]
        strict = ~self._has_room(before, corner)
        if corner == 0:
            return torch.where(before[:, 0, 0] < 0, 0, keys + strict.long())
        same = self._begins_alike(before, now, corner)
        if corner == 3:  # a triangle comes before all quads that begin like it, whatever their last vertex
            same &= (before[:, 3] != before[:, 2]).any(dim=-1)
        said = self._keys(now)
        least = torch.where(same & (keys > said[:, 0]), keys + strict.long(), said[:, 0] + 1)
        for _ in range(1, corner):  # past vertices that the face has already
            taken = [self._is_taken(before, now, said, least, i, corner) for i in range(1, corner)]
            least = least + torch.stack(taken).any(dim=0).long()
        return least

    def _is_taken(self, before: Tensor, now: Tensor, said: Tensor, vertex: Tensor, i: int, corner: int) -> Tensor:
        """Whether the vertex at corner `i` keeps that one from standing at `corner`.

        A triangle among quads says its third corner twice, but not behind a face that begins with the same three.
        """
        taken = said[:, i] == vertex
        return taken & self._begins_alike(before, now, corner) if (i, corner) == (2, 3) else taken

    def _codes(self, key: Int[Tensor, " b"]) -> Int[Tensor, "b l"]:
        """The codes of the vertex with a key; the last one's for a key beyond it."""
        key = key.clamp(max=self.vocab_size**self.levels - 1)
        powers = [self.vocab_size**level for level in reversed(range(self.levels))]
        return torch.stack([key // power % self.vocab_size for power in powers], dim=-1)

    def _has_room(self, before: Tensor, corner: int) -> Bool[Tensor, " b"]:
        """Whether a face that is like the one before up to and with `corner` can still be larger than it."""
        keys, highest = self._keys(before), self.vocab_size**self.levels - 1
        room = torch.zeros(len(before), dtype=torch.bool, device=before.device)
        equal, used = ~room, [keys[:, i] for i in range(1, corner + 1)]
        for i in range(corner + 1, self.corners):
            top = torch.full_like(keys[:, 0], highest)  # the largest vertex that the face does not have yet
            for _ in range(len(used)):
                top = top - torch.stack([top == key for key in used]).any(dim=0).long()
            room |= equal & (keys[:, i] < top)
            equal &= keys[:, i] == top
            used.append(top)
        if self.corners == 4 and corner < 3:
            room |= (before[:, 3] == before[:, 2]).all(dim=-1)  # behind a triangle come quads that begin like it
        return room

    @staticmethod
    def _begins_alike(before: Tensor, now: Tensor, corner: int) -> Bool[Tensor, " b"]:
        return (before[:, :corner] == now[:, :corner]).flatten(1).all(dim=-1)

    def _keys(self, vertices: Int[Tensor, "b k l"]) -> Int[Tensor, "b k"]:
        """One number for each vertex, which sorts as its codes do."""
        key = vertices[..., 0]
        for level in range(1, self.levels):
            key = key * self.vocab_size + vertices[..., level]
        return key

    def _banned(self, before: Tensor, now: Tensor, corner: int, level: int) -> Int[Tensor, "b m"]:
        """Codes that make this corner a vertex the face has already, or leave too few vertices above the first."""
        if level < self.levels - 1:
            return now.new_zeros((len(now), 0))
        if corner == 0:
            last = (now[:, 0, :level] == self.vocab_size - 1).all(dim=-1)
            return torch.where(last[:, None], now.new_tensor([self.vocab_size - 1, self.vocab_size - 2]), -1)
        banned = []
        for i in range(corner):
            same = (now[:, i, :level] == now[:, corner, :level]).all(dim=-1)
            if (i, corner) == (2, 3):
                same &= self._begins_alike(before, now, corner)
            banned.append(torch.where(same, now[:, i, level], -1))
        return torch.stack(banned, dim=-1)


BLOCK_TOLD = 7  # where `Surroundings.places` have the block, behind the gate, the guess and four open ends


@dataclass(frozen=True)
class Surroundings:
    """Where a sentence stands before each of some tokens, which is hard to see from the tokens before it.

    places: bins (y, z, x) of vertices that the token is said upon, or near; -1 where there is none. faces: whole ones
    so far. last: the corners of the last of them, where that is told. Of tokenizers that say tips, places begin with
    both ends of the gate, the guess, the newest open ends, and the corner of a block that waits for its offset.
    """

    places: Int[Tensor, "*n m 3"]
    faces: Int[Tensor, "*n"]
    last: Int[Tensor, "*n 3 3"] | None = None

    @property
    def open_ends(self) -> Int[Tensor, "*n e 3"]:
        """Of tokenizers that say tips."""
        return self.places[..., 3:BLOCK_TOLD, :]

    @property
    def block(self) -> Int[Tensor, "*n 1 3"]:
        """The corner of a block that waits for its offset, of tokenizers that say tips."""
        return self.places[..., BLOCK_TOLD : BLOCK_TOLD + 1, :]

    def select(self, index: Any) -> "Surroundings":
        """Some of the sentences, or some places in them."""
        return Surroundings(self.places[index], self.faces[index], None if self.last is None else self.last[index])

    @staticmethod
    def join(parts: "list[Surroundings]") -> "Surroundings":
        """Those of several sentences, one after the other."""
        last = [part.last for part in parts if part.last is not None]
        places, faces = torch.cat([part.places for part in parts]), torch.cat([part.faces for part in parts])
        return Surroundings(places, faces, torch.cat(last) if last else None)


@runtime_checkable
class Sentence(Protocol):
    """One sentence that is being written, where a grammar keeps them one by one."""

    def copy(self) -> "Sentence":
        """The same, which can go on in another way."""
        ...

    def take(self, code: int) -> bool:
        """Reads one more token; whether it is legal. One that is not changes nothing."""
        ...


@runtime_checkable
class SentenceRows(Protocol):
    """The state of a grammar that does."""

    @property
    def rows(self) -> Sequence[Sentence]: ...
    def of(self, rows: Sequence[Sentence]) -> "SentenceRows":
        """The state of other sentences of the same grammar."""
        ...

    def surroundings(self) -> Surroundings: ...


@runtime_checkable
class SequenceGrammar(Protocol):
    """Which tokens may come next so that the sentence stays a valid mesh: batched, and the same work for any data.

    A row to which the end has been said stays as it is, and for it only the end is legal.
    """

    @property
    def vocab_size(self) -> int: ...

    def start(self, batch: int, capacity: int, device: Any = None) -> Any:
        """The `GrammarState` of `batch` empty sentences of at most `capacity` tokens."""
        ...

    def begin(self, codes: Int[Tensor, "b n"], capacity: int) -> Any:
        """The state behind legal tokens padded with -1, to be written on up to `capacity`; `advance` may change it."""
        ...

    def legal(self, state: Any, room: Int[Tensor, " b"] | None = None) -> Bool[Tensor, "b v"]:
        """(b, vocab_size + 1), the end last: True for what may come next, at least one in each row.

        The end is legal only where a mesh may end. With `room`, the number of tokens that may still be written, a
        token is legal only if the mesh can end within it; a sentence begun with enough room never runs out of it.
        """
        ...

    def surroundings(self, state: Any) -> Surroundings:
        """Those of the next token of each row, as the tokenizer's own."""
        ...

    def advance(self, state: Any, code: Int[Tensor, " b"]) -> Any:
        """The state after one more legal token in each row; `vocab_size` is the end."""
        ...
