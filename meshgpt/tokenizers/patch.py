"""Patches grown face by face: every vertex is said once, and a face is one or two tokens. Lossless for any triangles.

A patch begins with an edge. Every further face stands on a side of an earlier one, its *gate*, so that only its third
vertex, the *tip*, has to be said, in one of three ways:

    open end    a vertex that an edge with one face so far joins to the gate, the newest edge first
    near place  at most `REACH` bins on each axis from the guess: the parallelogram over the face behind the gate
    block, offset   anywhere: the difference to the guess, modulo the number of bins, in two tokens

A place where there is a vertex already means that vertex. The first token of a tip also says at which of the two new
sides further faces follow: right, left, both or none. They are taken depth first, the right one first; where none is
left, the next patch begins, or the mesh ends. A face is wound as the one behind the gate, unless a *flip* stands before
it. The traversal is EdgeBreaker's (Rossignac 1999), with parallelogram prediction (Touma and Gotsman 1998); that a face
says where others follow is what lets it take open, non-manifold and inconsistently wound meshes as they are.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from meshgpt.config import Config, resolve_config
from meshgpt.errors import CodesError, MeshError, TokenError
from meshgpt.mesh.canonical import GridMesh
from meshgpt.mesh.grammar import BLOCK_TOLD
from meshgpt.mesh.mesh import drop_unused_vertices
from meshgpt.nn.embedding import AXES
from meshgpt.tokenizers import _patch_read as reader
from meshgpt.tokenizers import _patch_walk as walk
from meshgpt.tokenizers._compiled import COMPILED
from meshgpt.tokenizers._patch_told import hint
from meshgpt.tokenizers.patch_grammar import PatchGrammar, unpacked
from meshgpt.tokenizers.sequence import Errors, SequenceTokenizer

REACH = 3
COMPLAINTS = {
    reader.NO_OFFSET: "an offset must follow a block",
    reader.NO_BLOCK: "an offset stands without a block before it",
    reader.STATE_BEFORE_FACE: "the first two vertices of a patch have no faces at their sides",
    reader.NO_GATE: "only a face at a side of another can be flipped",
    reader.FLIPPED_TWICE: "a face cannot be flipped twice",
    reader.NO_OPEN_END: "there are not so many open ends",
    reader.OUTSIDE: "the vertex lies outside the grid",
    reader.DEGENERATE: "the face would have the same vertex twice",
    reader.DUPLICATE: "this face has been said already",
}


@dataclass(frozen=True)
class PatchTokenizerConfig(Config):
    """Bins an axis, and whether a model is told where symmetry, or a vertex nearby, would have the next vertex, and
    which sides have still to be closed.

    Tokens are the same either way.
    """

    num_discrete_coors: int = 128
    tell_likely: bool = True

    def validate(self) -> None:
        self.require(2 <= self.num_discrete_coors <= 1024, "num_discrete_coors", "be 2 .. 1024")


class PatchTokenizer(SequenceTokenizer):
    """Vertices said once, faces by their third vertex: see the head of this file. About 1.3 tokens a face."""

    config_class, part = PatchTokenizerConfig, "tokenizer"
    codes_per_step, many_codes_per_face = 1, 2
    says_tips = True

    def __init__(self, config: PatchTokenizerConfig | None = None, **fields):
        self.config = config = resolve_config(PatchTokenizerConfig, config, fields)
        self.num_discrete_coors = config.num_discrete_coors
        self.layout = layout_of(config.num_discrete_coors)
        self.vocab_size = self.layout.end
        self.num_places = walk.PLACES_TOLD + (walk.PLACES_LIKE if config.tell_likely else 0)
        self.num_facts = walk.FACTS_TOLD if config.tell_likely else 0
        self.num_hints = 2 * (self.num_places - 1)
        self.tells_likely = config.tell_likely
        self.grammar = PatchGrammar(self.layout, self.num_places + self.num_facts)

    def encode_grid(self, grid: GridMesh) -> np.ndarray:
        if (grid.num_discrete_coors, grid.faces.shape[1]) != (self.num_discrete_coors, self.corners):
            has = f"faces of {grid.faces.shape[1]} corners on {grid.num_discrete_coors} bins"
            raise MeshError(f"{has} do not fit a tokenizer of triangles on {self.num_discrete_coors} bins")
        if len(grid.faces) == 0:
            return np.zeros(0, dtype=np.int64)
        surface = walk.empty_surface(len(grid.vertices), len(grid.faces))
        vertices = np.ascontiguousarray(grid.vertices[:, AXES])
        return walk.write(self.layout, vertices, np.ascontiguousarray(grid.faces), half_edge_links(grid.faces), surface)

    def decode_grid(self, ids: np.ndarray, errors: Errors = "raise") -> tuple[np.ndarray, np.ndarray]:
        vertices, surface, _, _ = self._read(ids, errors)
        count, _, num_faces, _ = surface.count
        return drop_unused_vertices(vertices[:count, np.argsort(AXES)], surface.faces[:num_faces])

    def surroundings(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the gate, the guess, the newest open ends, and the corner of a block that waits for its offset.

        With `tell_likely` also images of vertices in x, in z and by half a turn, vertices near the guess, and rows of
        facts; see `tell_likely` and `tell_promises` in `_patch_told`. -1 for what is not there, and for the ends of a
        gate until they are said.
        """
        return self._read(ids, "raise")[2:]

    @property
    def digits(self) -> Int[Tensor, "v 4"]:
        """The kind of each token with its step along y, the steps along z and x, and which faces follow."""
        layout, ids = self.layout, torch.arange(self.vocab_size)
        reach = 2 * layout.reach + 1
        kinds = [ids < layout.flip, ids == layout.flip, ids < layout.block, ids < layout.offset, ids >= layout.offset]
        sizes, starts = (reach, layout.blocks, layout.width), (layout.near, layout.block, layout.offset)
        steps = [
            unpacked((ids - start).clamp(min=0) // (walk.STATES if index < 2 else 1), size) % size
            for index, (size, start) in enumerate(zip(sizes, starts, strict=True))
        ]
        first, later = self._digit_starts
        rows = [
            torch.stack((ids // walk.STATES, *[torch.zeros_like(ids)] * 2, ids % walk.STATES), dim=-1),
            torch.stack((torch.full_like(ids, walk.OPEN_ENDS), *[torch.zeros_like(ids)] * 3), dim=-1),
        ]
        for index, step in enumerate(steps):
            state = (ids - starts[index]) % walk.STATES if index < 2 else torch.zeros_like(ids)
            rows.append(
                torch.stack((first[index] + step[:, 0], *(later[index] + step[:, 1:]).unbind(dim=1), state), dim=-1)
            )
        out = rows[-1]
        for kind, row in reversed(list(zip(kinds, rows, strict=True))):
            out = torch.where(kind[:, None], row, out)
        return out

    @property
    def _digit_starts(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Where the digits of near places, blocks and offsets begin: of the first digit, and of the next two."""
        sizes = (0, 2 * self.layout.reach + 1, 2 * self.layout.reach + 1 + self.layout.blocks)
        first, later = walk.OPEN_ENDS + 1, 1
        return (first, first + sizes[1], first + sizes[2]), (later, later + sizes[1], later + sizes[2])

    @cached_property
    def _starts_by_axis(self) -> np.ndarray:
        """(3, 3): the same by kind, for y, z and x."""
        first, later = self._digit_starts
        return np.array([first, later, later]).T.copy()

    def hints(self, places: Int[Tensor, "*n m 3"]) -> Int[Tensor, "*n 4 c"]:
        """For each digit of the next token those with which a coordinate is that of a vertex nearby; -1 for none.

        The vertices are the ends of the gate, the one across it, the open ends, and those that are likely: first as
        near places, then as blocks, or as offsets where a block waits.
        """
        if COMPILED and places.device.type == "cpu":
            told = np.ascontiguousarray(places.numpy()).reshape(-1, *places.shape[-2:])
            hints = np.empty((len(told), 4, self.num_hints), dtype=np.int64)
            hint(self.layout, self._starts_by_axis, told, hints)
            return torch.from_numpy(hints).view(*places.shape[:-2], 4, self.num_hints)
        return self._hints(places)

    def _hints(self, places: Int[Tensor, "*n m 3"]) -> Int[Tensor, "*n 4 c"]:
        guess = places[..., 2:3, :]
        there = (places[..., :2, :] >= 0).all(dim=-1).all(dim=-1)[..., None, None]
        across = torch.where(there, places[..., :1, :] + places[..., 1:2, :] - guess, -1)
        told = places[..., 3:BLOCK_TOLD, :], places[..., BLOCK_TOLD + 1 : self.num_places, :]
        known = torch.cat((places[..., :2, :], across, *told), dim=-2)
        return F.pad(torch.cat(self.spelt(known, places), dim=-2).transpose(-1, -2), (0, 0, 0, 1), value=-1)

    def spelt(
        self, vertices: Int[Tensor, "*n c 3"], places: Int[Tensor, "*n m 3"]
    ) -> tuple[Int[Tensor, "*n c 3"], Int[Tensor, "*n c 3"]]:
        """The digits with which the next token says the coordinates of vertices: as near places, and otherwise.

        Otherwise is as blocks, or as offsets where a block waits; -1 where a coordinate cannot be said so.
        """
        layout, guess, corner = self.layout, places[..., 2:3, :], places[..., BLOCK_TOLD : BLOCK_TOLD + 1, :]
        near, waits = vertices - guess + layout.reach, corner >= 0
        far = (vertices - guess + layout.blocks // 2 * layout.width + layout.width // 2) % layout.bins // layout.width
        within = (vertices - corner) % layout.bins
        first = torch.from_numpy(self._starts_by_axis).to(places.device)
        there = (vertices >= 0) & (vertices < layout.bins)
        is_near = there & (near >= 0) & (near <= 2 * layout.reach) & ~waits
        far = torch.where(waits, torch.where(within < layout.width, within + first[2], -1), far + first[1])
        return torch.where(is_near, near + first[0], -1), torch.where(there, far, -1)

    def faces_written(self, codes: Int[Tensor, "b n"]) -> Int[Tensor, "b nf 3 3"]:
        """Bins (y, z, x) of the corners of each face, in the order of `Surroundings.faces`; padded with -1."""
        rows = [torch.from_numpy(self._corners(row, "repair")[..., AXES]) for row in codes.cpu().numpy()]
        if not rows:
            return codes.new_zeros((0, 0, 3, 3))
        return pad_sequence(rows, batch_first=True, padding_value=-1).to(codes.device)

    def _read(self, ids: np.ndarray, errors: Errors) -> tuple[np.ndarray, walk.Surface, np.ndarray, np.ndarray]:
        wrong = np.flatnonzero((ids < 0) | (ids >= self.vocab_size))
        if len(wrong):
            raise CodesError(f"id {ids[wrong[0]]} is out of range: ids are 0 .. {self.vocab_size - 1}")
        reading = walk.empty_reading(self.layout, len(ids))
        places = np.full((len(ids) + 1, self.num_places + self.num_facts, 3), -1, dtype=np.int64)
        faces = np.zeros(len(ids) + 1, dtype=np.int64)
        fault, position = reader.read(self.layout, np.ascontiguousarray(ids), reading, places, faces)
        if fault != reader.SOUND and errors == "raise":
            raise TokenError(f"{COMPLAINTS[fault]}, got {ids[position]}", position)
        return reading.vertices, reading.surface, places, faces


def layout_of(bins: int) -> walk.Layout:
    """The kinds of tokens for so many bins, with the width of a block that needs the fewest tokens."""
    reach = min(REACH, (bins - 1) // 2)
    width = min(range(1, bins + 1), key=lambda width: walk.STATES * -((-bins // width) ** 3) + width**3)
    blocks = -(-bins // width)
    flip = walk.OPEN_ENDS * walk.STATES
    near = flip + 1
    block = near + walk.STATES * (2 * reach + 1) ** 3
    offset = block + walk.STATES * blocks**3
    return walk.Layout(bins, reach, blocks, width, flip, near, block, offset, offset + width**3)


def half_edge_links(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Half-edges, numbered as the corners (nf * 3) at which they begin, by edge.

    (the edge of each half-edge; where the half-edges of each edge begin and end in the last array; half-edges sorted by
    edge and number).
    """
    start, end = faces.reshape(-1), np.roll(faces, -1, axis=1).reshape(-1)
    key = np.minimum(start, end) * (int(faces.max()) + 1) + np.maximum(start, end)
    order = np.argsort(key, kind="stable")
    new = np.ones(len(order), dtype=bool)
    new[1:] = key[order[1:]] != key[order[:-1]]
    edges = np.empty_like(order)
    edges[order] = np.cumsum(new) - 1
    begin = np.flatnonzero(new)
    return edges, begin, np.append(begin[1:], len(order)), order
