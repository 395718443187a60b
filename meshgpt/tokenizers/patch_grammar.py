"""The grammar of `PatchTokenizer` in tensors: the same rules as its reader's, for many sentences at once.

A step compares each row with its own vertices, edges and faces, O(b capacity); nothing branches on data, and shapes
never change. Rows of a table that must not be written to go to its last row, which is never read.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast, overload

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from meshgpt.mesh.grammar import Surroundings
from meshgpt.tokenizers._patch_walk import ENDS_TOLD, OPEN_ENDS, PLACES_TOLD, STATES, Layout
from meshgpt.tokenizers.patch_likely import Said, Sides, likely_places, promises
from meshgpt.tokenizers.patch_rows import CHILDREN, PatchRows
from meshgpt.tokenizers.sequence import GrammarState, begun

FEW_ROWS = 8  # that a GPU waits for no longer than for steps of its own


@dataclass(frozen=True)
class PatchState(GrammarState):
    """Sentences so far. Tables have one row more than the capacity; -1 stands for nothing."""

    places: Int[Tensor, "b v"]  # y, z and x of each vertex in one number
    faces: Int[Tensor, "b f 3"]
    edges: Int[Tensor, "b e 2"]  # the vertex with the lower number first
    edge_faces: Int[Tensor, "b e"]
    stack: Int[Tensor, "b s 3"]  # gates to come: a, b and the vertex opposite
    num_vertices: Int[Tensor, " b"]
    num_faces: Int[Tensor, " b"]
    num_edges: Int[Tensor, " b"]
    depth: Int[Tensor, " b"]  # of the stack
    gate: Int[Tensor, "b 2"]  # the vertices known of the face to come
    guess: Int[Tensor, "b 3"]
    corner: Int[Tensor, "b 3"]  # the first vertex of the last patch
    block: Int[Tensor, " b"]  # that waits for its offset
    follow: Int[Tensor, " b"]  # the state said with that block
    gated: Bool[Tensor, " b"]  # whether the face to come stands on another
    flipped: Bool[Tensor, " b"]
    ended: Bool[Tensor, " b"]

    @cached_property
    def open_ends(self) -> Int[Tensor, "b n"]:
        """As the function below says; asked for by all that is done with a state."""
        return open_ends(self)


@dataclass(frozen=True)
class PatchGrammar:
    """A token is legal where the face it says, or begins, is neither degenerate nor there already.

    The mesh may end where no gate is left. Exact, but for two things. A vertex that can be named as an open end may be
    said by its place too, and a near place as a block and an offset: such sentences are legal, and no mesh is encoded
    so. And with `room`, every gate is taken to need two tokens. With very few bins all faces on an edge can be there
    already: then the end is legal early.
    """

    layout: Layout
    num_places: int = PLACES_TOLD  # and rows of facts

    @property
    def vocab_size(self) -> int:
        return self.layout.end

    def start(self, batch: int, capacity: int, device: Any = None) -> PatchState:
        def table(*shape: int) -> Tensor:
            return torch.full((batch, *shape), -1, dtype=torch.long, device=device)

        def zeros() -> Tensor:
            return torch.zeros(batch, dtype=torch.long, device=device)

        middle = self.layout.bins // 2
        corner = torch.tensor([0, middle, middle], device=device).repeat(batch, 1)
        rows = capacity + 1
        return PatchState(
            places=table(rows),
            faces=table(rows, 3),
            edges=table(2 * rows, 2),
            edge_faces=torch.zeros(batch, 2 * rows, dtype=torch.long, device=device),
            stack=table(rows + 1, 3),
            num_vertices=zeros(),
            num_faces=zeros(),
            num_edges=zeros(),
            depth=zeros(),
            gate=table(2),
            guess=corner,
            corner=corner,
            block=zeros() - 1,
            follow=zeros(),
            gated=zeros().bool(),
            flipped=zeros().bool(),
            ended=zeros().bool(),
        )

    def begin(self, codes: Int[Tensor, "b n"], capacity: int) -> PatchState | PatchRows:
        """Few rows, or those on a CPU, are read one by one; else all go through the same steps, in tensors."""
        if codes.device.type != "cpu" and len(codes) > FEW_ROWS:
            return cast(PatchState, begun(self, codes, capacity))
        rows = PatchRows.start(self.layout, self.num_places, len(codes), capacity, codes.device)
        for column in codes.unbind(dim=1):
            rows.advance(column)
        return rows

    def surroundings(self, state: PatchState | PatchRows) -> Surroundings:
        if isinstance(state, PatchRows):
            return state.surroundings()
        ends = state.open_ends[:, :ENDS_TOLD]
        vertices = torch.cat((state.gate, ends), dim=1)
        places = self._unpacked(state.places.gather(1, vertices.clamp(min=0)))
        places = torch.where(vertices[..., None] >= 0, places, -1)
        turned = unpacked(state.block.clamp(min=0), self.layout.blocks) * self.layout.width
        corner = (state.guess + turned - self._middle) % self.layout.bins
        corner = torch.where((state.block >= 0)[:, None], corner, -1)
        told = (places[:, :2], state.guess[:, None], places[:, 2:], corner[:, None])
        if self.num_places > PLACES_TOLD:
            vertices = self._unpacked(state.places[:, :-1])
            beside = state.faces[:, :-1], state.gate, state.guess, state.open_ends
            likely = likely_places(Said(vertices, state.num_vertices, *beside), self.layout)
            to_come = state.stack[:, :-1], state.depth, state.gate, state.gated, state.open_ends
            told = (*told, likely, promises(Sides(state.edges[:, :-1], state.edge_faces[:, :-1], *to_come)))
        return Surroundings(torch.cat(told, dim=1), state.num_faces, self._last_face(state))

    def _last_face(self, state: PatchState) -> Int[Tensor, "b 3 3"]:
        last = (state.num_faces - 1).clamp(min=0)[:, None, None].expand(-1, 1, 3)
        corners = state.faces.gather(1, last)[:, 0]
        places = self._unpacked(state.places.gather(1, corners.clamp(min=0)))
        return torch.where(corners[..., None] >= 0, places, -1)

    # what may come next

    def legal(self, state: PatchState | PatchRows, room: Int[Tensor, " b"] | None = None) -> Bool[Tensor, "b v"]:
        if isinstance(state, PatchRows):
            return state.legal(room)
        tips = self._tips_taken(state)
        near, blocks, offsets = self._legal_places(state, self._places_taken(state, tips))
        whole, begun, flip, rest = self._fitting(state, room)
        waits = (state.block >= 0)[:, None]
        parts = [
            self._legal_ends(state, tips)[..., None] & whole[:, None],
            (state.gated & ~state.flipped & flip)[:, None, None],
            near[..., None] & whole[:, None],
            blocks[..., None] & begun[:, None],
        ]
        end = (state.gate[:, :1] < 0) & (state.num_faces > 0)[:, None] & ~waits
        first = torch.cat([part.flatten(1) for part in parts], dim=1) & ~waits
        legal = torch.cat((first, offsets & waits & rest[:, None], end), dim=1) & ~state.ended[:, None]
        legal[:, -1] |= ~legal.any(dim=1)
        return legal

    def _fitting(self, state: PatchState, room: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What leaves room for the rest: states of a vertex in one token and of a block (b 4), a flip, an offset (b).

        The first two vertices of a patch have no state but 0. Every gate is taken to need two tokens.
        """
        first, tip = state.gate[:, 0] < 0, state.gate[:, 1] >= 0
        follow = 2 * torch.from_numpy(CHILDREN).to(tip.device)
        states = tip[:, None] | (follow == 0)
        if room is None:
            return states, states, torch.ones_like(tip), torch.ones_like(tip)
        rest = torch.where(first, 4, torch.where(tip, 2 * state.depth, 2))
        spare = (room - rest)[:, None] - follow
        offset = spare.gather(1, state.follow[:, None])[:, 0]
        return states & (spare > 0), states & (spare > 1), room - rest > 2, offset > 0

    def _tips_taken(self, state: PatchState) -> Int[Tensor, "b f"]:
        """The third vertex of each face that has the gate as a side, run through the same way; -1 for other faces."""
        a, b = state.gate[:, :1], state.gate[:, 1:]
        faces, taken = state.faces[:, :-1], torch.full_like(state.faces[:, :-1, 0], -1)
        for k in range(3):
            on_gate = (faces[..., k] == a) & (faces[..., (k + 1) % 3] == b) & (b >= 0)
            taken = torch.where(on_gate, faces[..., (k + 2) % 3], taken)
        return taken

    def _places_taken(self, state: PatchState, tips: Tensor) -> Int[Tensor, "b m"]:
        """Places (as one number) where the next vertex must not be: distinct, and -1 for none."""
        vertices = torch.cat((state.gate, tips), dim=1)
        return torch.where(vertices >= 0, state.places.gather(1, vertices.clamp(min=0)), -1)

    def _legal_places(self, state: PatchState, taken: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whether each near place, block and offset is legal (b n), (b m), (b o), where it is its turn."""
        layout, size = self.layout, 2 * self.layout.reach + 1
        real, difference = taken >= 0, self._unpacked(taken) - state.guess[:, None]
        inside = real & (difference.abs() <= layout.reach).all(dim=-1)
        near_taken = torch.where(inside, packed(difference + layout.reach, size), size**3)
        turned = (difference + self._middle) % layout.bins
        block = torch.where(real, packed(turned // layout.width, layout.blocks), layout.blocks**3)
        here = real & (block == state.block[:, None])
        offset_taken = torch.where(here, packed(turned % layout.width, layout.width), layout.width**3)

        steps = state.guess[:, :, None] + torch.arange(size, device=taken.device) - layout.reach
        near = every((steps >= 0) & (steps < layout.bins))
        sizes = self._block_sizes(unpacked(torch.arange(layout.blocks**3, device=taken.device), layout.blocks))
        free = sizes.prod(dim=-1) - count_of(block, layout.blocks**3)
        edge = self._block_sizes(unpacked(state.block.clamp(min=0), layout.blocks))
        offsets = every(torch.arange(layout.width, device=taken.device) < edge[..., None])
        return (
            near & (count_of(near_taken, size**3) == 0),
            free > 0,
            offsets & (count_of(offset_taken, layout.width**3) == 0),
        )

    def _block_sizes(self, block: Int[Tensor, "... 3"]) -> Int[Tensor, "... 3"]:
        """How many bins a block has on each axis; the last may have fewer than the others."""
        return (self.layout.bins - block * self.layout.width).clamp(max=self.layout.width)

    def _legal_ends(self, state: PatchState, tips: Tensor) -> Bool[Tensor, "b n"]:
        ends = state.open_ends
        taken = torch.zeros_like(state.places, dtype=torch.bool)
        taken = taken.scatter(1, torch.where(tips >= 0, tips, taken.shape[1] - 1), True)
        return (ends >= 0) & ~taken.gather(1, ends.clamp(min=0))

    # one more token

    @overload
    def advance(self, state: PatchState, code: Tensor) -> PatchState: ...
    @overload
    def advance(self, state: PatchRows, code: Tensor) -> PatchRows: ...
    def advance(self, state: PatchState | PatchRows, code: Int[Tensor, " b"]) -> PatchState | PatchRows:
        if isinstance(state, PatchRows):
            return state.advance(code)
        layout = self.layout
        live = ~state.ended & (code >= 0) & (code < layout.end)
        is_block = live & (code >= layout.block) & (code < layout.offset)
        is_flip, is_end = live & (code == layout.flip), live & (code < layout.flip)
        is_vertex = live & ~is_block & ~is_flip
        says_follow = torch.where(code < layout.flip, code, code - layout.near) % STATES
        said = replace(
            state,
            block=torch.where(is_block, (code - layout.block) // STATES, torch.where(is_vertex, -1, state.block)),
            follow=torch.where(live & (code < layout.offset) & ~is_flip, says_follow, state.follow),
            gate=torch.where(is_flip[:, None], state.gate.flip(1), state.gate),
            flipped=state.flipped | is_flip,
            ended=state.ended | (code == layout.end),
        )
        place = packed(self._place(state, code), layout.bins)
        known = state.places[:, :-1] == place[:, None]
        end = state.open_ends.gather(1, (code // STATES).clamp(0, OPEN_ENDS - 1)[:, None])[:, 0]
        vertex = torch.where(known.any(dim=1), known.int().argmax(dim=1), state.num_vertices)
        vertex = torch.where(is_end, end, vertex)
        new = is_vertex & ~is_end & ~known.any(dim=1)
        said = replace(
            said,
            places=written(said.places, said.num_vertices, place, new),
            num_vertices=said.num_vertices + new,
        )
        return self._with_vertex(said, vertex, is_vertex)

    def _place(self, state: PatchState, code: Tensor) -> Int[Tensor, "b 3"]:
        """The place that a near place says, or an offset behind its block; of no meaning for other tokens."""
        layout, size = self.layout, 2 * self.layout.reach + 1
        near = ((code - layout.near) // STATES).clamp(0, size**3 - 1)
        near = (state.guess + unpacked(near, size) - layout.reach).clamp(0, layout.bins - 1)
        offset = unpacked((code - layout.offset).clamp(0, layout.width**3 - 1), layout.width)
        turned = unpacked(state.block.clamp(min=0), layout.blocks) * layout.width + offset
        far = (state.guess + turned - self._middle) % layout.bins
        return torch.where((code >= layout.offset)[:, None], far, near)

    def _with_vertex(self, state: PatchState, vertex: Tensor, says: Tensor) -> PatchState:
        """The state with one more vertex of the face to come, in the rows that say one."""
        first, second = state.gate[:, 0] < 0, (state.gate[:, 0] >= 0) & (state.gate[:, 1] < 0)
        tip = says & (state.gate[:, 1] >= 0)
        place = self._unpacked(state.places.gather(1, vertex.clamp(min=0)[:, None]))[:, 0]
        begun = replace(
            state,
            gate=torch.stack(
                (
                    torch.where(says & first, vertex, state.gate[:, 0]),
                    torch.where(says & second, vertex, state.gate[:, 1]),
                ),
                dim=1,
            ),
            guess=torch.where((says & ~tip)[:, None], place, state.guess),
            corner=torch.where((says & first)[:, None], place, state.corner),
        )
        return self._at_next_gate(with_face(begun, vertex, tip), vertex, tip)

    def _at_next_gate(self, state: PatchState, tip: Tensor, done: Tensor) -> PatchState:
        """The state with the gates that a new face brings, the newest of all taken up; where none is left, none."""
        a, b = state.gate.unbind(dim=1)
        left, right = done & (state.follow >= 2), done & (state.follow % 2 == 1)
        stack = written(state.stack, state.depth, torch.stack((a, tip, b), dim=1), left)
        stack = written(stack, state.depth + left, torch.stack((tip, b, a), dim=1), right)
        depth = state.depth + left + right
        gated = done & (depth > 0)
        top = stack.gather(1, (depth - 1).clamp(min=0)[:, None, None].expand(-1, -1, 3))[:, 0]
        corners = self._unpacked(state.places.gather(1, top.clamp(min=0)))
        guess = (corners[:, 0] + corners[:, 1] - corners[:, 2]).clamp(0, self.layout.bins - 1)
        guess = torch.where(gated[:, None], guess, state.corner)
        return replace(
            state,
            stack=stack,
            depth=depth - gated.long(),
            gate=torch.where(done[:, None], torch.where(gated[:, None], top[:, :2], -1), state.gate),
            guess=torch.where(done[:, None], guess, state.guess),
            gated=torch.where(done, gated, state.gated),
            flipped=state.flipped & ~done,
        )

    @property
    def _middle(self) -> int:
        return self.layout.blocks // 2 * self.layout.width + self.layout.width // 2

    def _unpacked(self, place: Int[Tensor, "..."]) -> Int[Tensor, "... 3"]:
        return unpacked(place, self.layout.bins)


def open_ends(state: PatchState) -> Int[Tensor, "b n"]:
    """Vertices that an edge with one face joins to the gate, the newest edge first, each once; -1 where no more are."""
    edges, gate = state.edges[:, :-1], state.gate
    of_gate = (edges == gate[:, :1, None]) | (edges == gate[:, 1:, None])  # (b e 2): which ends are a or b
    wanted = (of_gate[..., 0] ^ of_gate[..., 1]) & (state.edge_faces[:, :-1] == 1) & (gate[:, 1:] >= 0)
    age = torch.where(wanted, torch.arange(edges.shape[1], device=edges.device), -1)
    slots = age.topk(min(2 * OPEN_ENDS, age.shape[1]), dim=1).values  # an end comes twice at most, from a and from b
    slots = F.pad(slots, (0, 2 * OPEN_ENDS - slots.shape[1]), value=-1)
    chosen = edges.gather(1, slots.clamp(min=0)[..., None].expand(-1, -1, 2))
    first_is_gate = of_gate[..., 0].gather(1, slots.clamp(min=0))
    ends = torch.where(slots >= 0, torch.where(first_is_gate, chosen[..., 1], chosen[..., 0]), -1)
    earlier = torch.ones(2 * OPEN_ENDS, 2 * OPEN_ENDS, dtype=torch.bool, device=ends.device).tril(-1)
    fresh = (ends >= 0) & ~((ends[:, :, None] == ends[:, None]) & earlier).any(dim=-1)
    rank = torch.where(fresh, fresh.cumsum(dim=1) - 1, OPEN_ENDS).clamp(max=OPEN_ENDS)
    ranked = ends.new_full((len(ends), OPEN_ENDS + 1), -1).scatter(1, rank, ends)
    return ranked[:, :OPEN_ENDS]


def with_face(state: PatchState, tip: Int[Tensor, " b"], done: Bool[Tensor, " b"]) -> PatchState:
    """The state with the face on the gate, and those of its edges that are new, in the rows that have said it."""
    corners = torch.cat((state.gate, tip[:, None]), dim=1)
    edges, edge_faces, num_edges = state.edges, state.edge_faces, state.num_edges
    for k in range(3):
        side = corners[:, [k, (k + 1) % 3]].sort(dim=1).values
        same = (edges[:, :-1, 0] == side[:, :1]) & (edges[:, :-1, 1] == side[:, 1:])
        old = same.any(dim=1)
        slot = torch.where(old, same.int().argmax(dim=1), num_edges)
        edges = written(edges, slot, side, done & ~old)
        count = edge_faces.gather(1, slot[:, None])[:, 0] + 1
        edge_faces = written(edge_faces, slot, count, done)
        num_edges = num_edges + (done & ~old)
    return replace(
        state,
        faces=written(state.faces, state.num_faces, corners, done),
        num_faces=state.num_faces + done,
        edges=edges,
        edge_faces=edge_faces,
        num_edges=num_edges,
    )


def written(table: Tensor, row: Int[Tensor, " b"], value: Tensor, where: Bool[Tensor, " b"]) -> Tensor:
    """The table with a value put at one row for each of the batch, where that is wanted; else at the last row."""
    index = torch.where(where, row, table.shape[1] - 1)[:, None]
    if table.ndim == 3:
        index = index[..., None].expand(-1, -1, table.shape[2])
    return table.scatter(1, index, value[:, None])


def count_of(values: Int[Tensor, "b m"], size: int) -> Int[Tensor, "b n"]:
    """How often each of 0 .. size - 1 stands in a row; `size` itself is not counted."""
    counts = values.new_zeros((len(values), size + 1))
    return counts.scatter_add(1, values, torch.ones_like(values))[:, :size]


def packed(digits: Int[Tensor, "... 3"], base: int) -> Int[Tensor, "..."]:
    return (digits[..., 0] * base + digits[..., 1]) * base + digits[..., 2]


def unpacked(number: Int[Tensor, "..."], base: int) -> Int[Tensor, "... 3"]:
    return torch.stack((number // base**2, number // base % base, number % base), dim=-1)


def every(axes: Bool[Tensor, "b 3 n"]) -> Bool[Tensor, "b m"]:
    """For all triples in order of their number: True where each of the three is, on its axis."""
    y, z, x = axes.unbind(dim=1)
    return (y[:, :, None, None] & z[:, None, :, None] & x[:, None, None]).flatten(1)
