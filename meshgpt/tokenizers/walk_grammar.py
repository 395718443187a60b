"""Which tokens of a walk can still become a valid mesh, in tensor form."""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from meshgpt.mesh.grammar import Surroundings
from meshgpt.tokenizers.sequence import GrammarState, begun

MARKS, WHOLE = 5, 3  # kinds of marks; vertices of a face
START_TOKENS, STEP_TOKENS = 10, 4


@dataclass(frozen=True)
class WalkState(GrammarState):
    """What was written, and what is being written, by rows. Vertices are keys that sort as (y, z, x); -1 is none."""

    faces: Int[Tensor, "b f 3"]
    count: Int[Tensor, " b"]  # of faces
    last: Int[Tensor, "b 3"]  # the face on which the walk stands, tip first
    turn: Int[Tensor, " b"]  # 0 left, 1 right: where a strip goes next by itself
    begun: Int[Tensor, "b 3"]  # the next face, tip last
    known: Int[Tensor, " b"]  # how many of its vertices are said; WHOLE between faces
    said: Int[Tensor, " b"]  # the key of the vertex as far as it is said
    level: Int[Tensor, " b"]  # how many of its coordinates that are
    against: Bool[Tensor, " b"]  # the next face is wound against the order in which it is said
    ended: Bool[Tensor, " b"]


@dataclass(frozen=True)
class WalkGrammar:
    """Marks between faces, three coordinates for each vertex, and no face that is degenerate or was written before.

    Exact for what makes a mesh valid, also on grids so small that they fill up; the order in which the tokenizer
    itself walks is one of many that are legal. Every face that was written is compared with: legal codes cost O(f).
    """

    bins: int
    alternating: bool

    @property
    def vocab_size(self) -> int:
        return self.bins + MARKS

    @property
    def vertices(self) -> int:
        return self.bins**3

    def start(self, batch: int, capacity: int, device: Any = None) -> WalkState:
        none = torch.full((batch,), -1, dtype=torch.long, device=device)
        faces = max(1, capacity // (STEP_TOKENS - self.alternating))
        nothing = torch.zeros_like(none, dtype=torch.bool)
        return WalkState(
            faces=none[:, None, None].repeat(1, faces, 3),
            count=none + 1,
            last=none[:, None].repeat(1, 3),
            turn=none + 1,
            begun=none[:, None].repeat(1, 3),
            known=torch.full_like(none, WHOLE),
            said=none + 1,
            level=none + 1,
            against=nothing,
            ended=nothing,
        )

    def begin(self, codes: Int[Tensor, "b n"], capacity: int) -> WalkState:
        return cast(WalkState, begun(self, codes, capacity))

    def surroundings(self, state: WalkState) -> Surroundings:
        digits = [state.last // self.bins**power % self.bins for power in (2, 1, 0)]
        places = torch.where((state.last >= 0)[..., None], torch.stack(digits, dim=-1), -1)
        return Surroundings(places, state.count)

    # what may come next

    def legal(self, state: WalkState, room: Int[Tensor, " b"] | None = None) -> Bool[Tensor, "b v"]:
        """(b, vocab_size + 1), the end last. `room` counts ids; the end itself needs none."""
        between = (state.known == WHOLE) & ~state.ended
        open_gates = self._open_gates(state)
        step = between & (state.count > 0) & (state.count < state.faces.shape[1])
        more = torch.full_like(state.count, STEP_TOKENS) if room is None else room
        steps = open_gates & (step & (more >= STEP_TOKENS))[:, None]
        coordinates = state.known < WHOLE
        if self.alternating:
            plain = open_gates.gather(1, state.turn[:, None])[:, 0] & step & (more >= STEP_TOKENS - 1)
            coordinates, state = coordinates | plain, self._as_if_stepping(state, plain)
            steps = self._by_mark(steps, state.turn)
        codes = self._free_codes(state) & (coordinates & ~state.ended)[:, None]
        starts = between & self._may_start(state, room)
        end = state.ended | (between & (state.count > 0))
        first = starts[:, None].expand(-1, MARKS - steps.shape[1])
        return torch.cat((codes, first, steps, end[:, None]), dim=1)

    def _may_start(self, state: WalkState, room: Tensor | None) -> Bool[Tensor, " b"]:
        """Whether there is a face that is not written, and room for it; the first needs none, for nothing else is."""
        n = self.vertices
        left = (state.count < n * (n - 1) * (n - 2) // 3) & (state.count < state.faces.shape[1])
        return left if room is None else left & ((room >= START_TOKENS) | (state.count == 0))

    def _by_mark(self, steps: Bool[Tensor, "b 4"], turn: Int[Tensor, " b"]) -> Bool[Tensor, "b 3"]:
        """Of a strip: swap, flip, swap and flip, from steps by side + 2 * flipped."""
        others = torch.stack((1 - turn, turn + 2, 3 - turn), dim=1)
        return steps.gather(1, others)

    def _as_if_stepping(self, state: WalkState, plain: Bool[Tensor, " b"]) -> WalkState:
        """Rows in `plain` as they are once a step without a mark is begun."""
        gate = self._gates(state).gather(1, state.turn[:, None, None].expand(-1, 1, 2))[:, 0]
        begun = torch.where(plain[:, None], torch.cat((gate, state.begun[:, 2:]), dim=1), state.begun)
        return replace(state, begun=begun, known=torch.where(plain, 2, state.known), against=state.against & ~plain)

    @staticmethod
    def _gates(state: WalkState) -> Int[Tensor, "b 4 2"]:
        """The two vertices that each step (side + 2 * flipped) keeps, wound as with the new tip behind them."""
        tip, first, second = state.last.unbind(dim=1)
        left, right = torch.stack((tip, second), dim=1), torch.stack((first, tip), dim=1)
        return torch.stack((left, right, left.flip(1), right.flip(1)), dim=1)

    def _open_gates(self, state: WalkState) -> Bool[Tensor, "b 4"]:
        """Whether there is a face beyond each gate that is not written."""
        sides = _sides(state.faces)[:, None]
        written = (sides == self._gates(state)[:, :, None]).all(dim=-1).sum(dim=-1)
        return written < self.vertices - 2

    def _free_codes(self, state: WalkState) -> Bool[Tensor, "b r"]:
        """The next coordinates of a vertex with which a face that is not written can still be said.

        Each face that was written takes places away from the vertices with which it could be said again; a code is
        free while the vertices that begin with it have places left.
        """
        keys, places, each = self._taken(state)
        power = self.bins ** torch.arange(2, -1, -1, device=keys.device)[state.level][:, None]
        begins_alike = keys // (power * self.bins) == state.said[:, None]
        taken = torch.zeros((len(keys), self.bins), dtype=torch.long, device=keys.device)
        taken.scatter_add_(1, keys.clamp(min=0) // power % self.bins, torch.where(begins_alike, places, 0))
        return taken < power * each[:, None]

    def _taken(self, state: WalkState) -> tuple[Int[Tensor, "b m"], Int[Tensor, "b m"], Int[Tensor, " b"]]:
        """Vertices and how many of their places are taken, and how many places each vertex has.

        Of the first vertex of a face these are all faces that it could have, of the second those with that side, of the
        third that face. More places than faces can be written are as good as any number.
        """
        sides, n = _sides(state.faces), self.vertices
        apex = state.faces.roll(1, dims=2).flatten(1)  # opposite each side
        from_, to = sides.unbind(dim=-1)
        a, b = state.begun[:, :1], state.begun[:, 1:2]
        from_, to = (torch.where(state.against[:, None], x, y) for x, y in ((to, from_), (from_, to)))
        plenty = 3 * state.faces.shape[1] + 2
        per_vertex = torch.tensor([min((n - 1) * (n - 2), plenty), min(n - 2, plenty), 1, 1], device=a.device)
        each = per_vertex[state.known]
        first, second = (state.known == 0)[:, None], (state.known == 1)[:, None]
        keys = torch.where(second, to, apex)
        counted = first | (second & (from_ == a)) | (~first & ~second & (from_ == a) & (to == b))
        own = torch.cat((a, b), dim=1)
        own_counted = torch.cat((~first, ~first & ~second), dim=1)
        places = torch.cat(((counted & (keys >= 0)).long(), own_counted * each[:, None]), dim=1)
        return torch.cat((keys, own), dim=1), places, each

    # what follows

    def advance(self, state: WalkState, code: Int[Tensor, " b"]) -> WalkState:
        ended = state.ended | (code == self.vocab_size)
        state = replace(state, ended=ended)
        live = ~ended
        state = self._mark(state, code - self.bins, live & (state.known == WHOLE))
        return self._coordinate(state, code, live & (code < self.bins))

    def _mark(self, state: WalkState, mark: Tensor, between: Bool[Tensor, " b"]) -> WalkState:
        """The state in which a new face was begun, in the rows `between` two faces."""
        start = between & ((mark == 0) | ((mark == 1) & self.alternating))
        step = between & ~start
        kind = (mark - 1).clamp(0, 3)  # a strip's step without a mark does as one that neither swaps nor flips
        kind = (kind % 2 + state.turn) % 2 + 2 * (kind // 2) if self.alternating else kind
        gate = self._gates(state).gather(1, kind[:, None, None].expand(-1, 1, 2))[:, 0]
        begun = torch.where(step[:, None], torch.cat((gate, state.begun[:, 2:]), dim=1), state.begun)
        turn = torch.where(step, ((kind == 0) | (kind == 3)).long(), state.turn)
        turn = torch.where(start, mark, turn)
        known = torch.where(start, 0, torch.where(step, 2, state.known))
        against = torch.where(between, start & (mark == 1), state.against)
        return replace(state, begun=begun, turn=turn, known=known, against=against)

    def _coordinate(self, state: WalkState, code: Tensor, live: Bool[Tensor, " b"]) -> WalkState:
        """The state behind one more coordinate, in the rows that are `live`."""
        said = torch.where(live, state.said * self.bins + code, state.said)
        level = state.level + live.long()
        full = level == 3
        place = torch.arange(WHOLE, device=code.device) == state.known[:, None]
        begun = torch.where(full[:, None] & place, said[:, None], state.begun)
        known = state.known + full.long()
        whole = full & (known == WHOLE)
        a, b, tip = begun.unbind(dim=1)
        face = torch.stack((tip, torch.where(state.against, b, a), torch.where(state.against, a, b)), dim=1)
        slot = whole[:, None] & (torch.arange(state.faces.shape[1], device=code.device) == state.count[:, None])
        return replace(
            state,
            faces=torch.where(slot[..., None], face[:, None], state.faces),
            count=state.count + whole.long(),
            last=torch.where(whole[:, None], face, state.last),
            begun=begun,
            known=known,
            said=torch.where(full, 0, said),
            level=torch.where(full, 0, level),
        )


def _sides(faces: Int[Tensor, "b f 3"]) -> Int[Tensor, "b m 2"]:
    """The directed sides of all faces."""
    return torch.stack((faces, faces.roll(-1, dims=2)), dim=-1).flatten(1, 2)
