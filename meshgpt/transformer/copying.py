"""Vertices that were said before are pointed at, not spelt again: a mixture of the code head and a pointer.

Five of six corners of a mesh repeat a vertex of an earlier face. For each code the model compares what it wants with
the vertices of all faces before; a sentinel among them stands for the ordinary head (pointer sentinel mixture, Merity
et al., arXiv:1609.07843, Equations 5 to 7).
"""

import dataclasses

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from meshgpt.transformer.heads import NEVER, CodeHead, draw

NEAR, DISTANCES = 8, 20  # distances in faces: one by one up to 8, then two classes for each doubling


@dataclasses.dataclass
class CopyMemory:
    """The vertices said so far. keys: (b nf k e). codes: (b nf k l). faces: (b nf) or (1 nf), the face each is of."""

    keys: Tensor
    codes: Tensor
    faces: Tensor

    def append(self, other: "CopyMemory", most: int = 0) -> "CopyMemory":
        """Both; of these the last `most` faces, unless that is 0."""
        return CopyMemory(*(torch.cat(pair, dim=1)[:, -most:] for pair in zip(self._parts, other._parts, strict=True)))

    def last(self, counts: Int[Tensor, " b"], most: int) -> "CopyMemory":
        """The last `most` of the first `counts` faces of each row; codes -1 where there are fewer."""
        if not self.codes.shape[1]:
            return self
        index = counts[:, None] - most + torch.arange(most, device=counts.device)
        rows = torch.arange(len(counts), device=counts.device)[:, None]
        keys, codes, faces = (part[rows, index.clamp(min=0)] for part in self._parts)
        return CopyMemory(keys, codes.masked_fill((index < 0)[..., None, None], -1), faces)

    def select(self, rows: Int[Tensor, " r"]) -> "CopyMemory":
        return CopyMemory(*(part[rows] for part in self._parts))

    @property
    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.keys, self.codes, self.faces


class CopyPointer(nn.Module):
    """How well each vertex said so far fits what comes next, and the sentinel's claim against them.

    window: of how many faces before the current one vertices are pointed at; 0: of all.
    """

    def __init__(self, corners: int, levels: int, dim: int, dim_key: int, window: int = 0):
        super().__init__()
        self.corners, self.levels, self.window = corners, levels, window
        self.to_query = nn.Linear(dim, dim_key)
        self.to_key = nn.Linear(levels * dim, dim_key)
        self.to_key_context = nn.Linear(dim, corners * dim_key, bias=False)
        self.to_sentinel = nn.Linear(dim, 1)
        self.distance_bias = nn.Parameter(torch.zeros(corners * levels, DISTANCES, corners))

    def remember(
        self,
        faces: Int[Tensor, "b nf t"],
        embedded: Float[Tensor, "b nf t d"],
        after: Float[Tensor, "b nf d"],
        first_face: Int[Tensor, " b"] | None = None,
    ) -> CopyMemory:
        """The vertices of faces, as they are found again; `after` is what the coarse stack says having read each."""
        keys = self.to_key(rearrange(embedded, "b nf (k l) d -> b nf k (l d)", k=self.corners))
        keys = keys + rearrange(self.to_key_context(after), "b nf (k e) -> b nf k e", k=self.corners)
        before = torch.zeros(1, dtype=torch.long, device=faces.device) if first_face is None else first_face
        index = (before[:, None] + torch.arange(faces.shape[1], device=faces.device)).expand(len(faces), -1)
        return CopyMemory(keys, rearrange(faces, "b nf (k l) -> b nf k l", k=self.corners), index)

    def scores(
        self,
        hidden: Float[Tensor, "b f d"],
        place: int,
        said: Int[Tensor, "b f t"],
        memory: CopyMemory,
        face: Int[Tensor, "c f"],
    ) -> tuple[Float[Tensor, "b f"], Float[Tensor, "b f m"]]:
        """(sentinel, score of each vertex said) for the code at `place` of faces numbered `face` (one row, or b).

        Only vertices of earlier faces in the window count, and of those only the ones that agree with `said`, the codes
        of the same corner up to there.
        """
        level = place % self.levels
        query, keys = self.to_query(hidden), rearrange(memory.keys, "b nf k e -> b (nf k) e")
        scores = _wide(torch.einsum("bfe,bme->bfm", query, keys) * keys.shape[-1] ** -0.5)
        distance = face[:, :, None] - memory.faces[:, None, :]
        bias = F.embedding(_distance_class(distance), self.distance_bias[place])
        scores = scores + rearrange(bias, "c f nf k -> c f (nf k)")
        seen = (distance > 0) & (distance <= self.window) if self.window else distance > 0
        allowed = seen[..., None] & (memory.codes[..., -1] >= 0)[:, None]
        allowed = rearrange(allowed, "b f nf k -> b f (nf k)")
        for earlier in range(level):
            known = rearrange(memory.codes[..., earlier], "b nf k -> b 1 (nf k)")
            allowed = allowed & (known == said[..., place - level + earlier, None])
        return _wide(self.to_sentinel(hidden)).squeeze(-1), scores.masked_fill(~allowed, NEVER)

    def nats(
        self,
        plain: Float[Tensor, "b f t"],
        hidden: Float[Tensor, "b f t d"],
        targets: Int[Tensor, "b f t"],
        memory: CopyMemory,
    ) -> Float[Tensor, "b f t"]:
        """-log p of each target by the mixture, where `plain` is that by the code head alone."""
        face = torch.arange(hidden.shape[1], device=hidden.device)[None]
        memory = dataclasses.replace(memory, faces=memory.faces[:1])  # all rows count alike here
        out = []
        for place in range(targets.shape[2]):
            sentinel, scores = self.scores(hidden[:, :, place], place, targets, memory, face)
            codes = rearrange(memory.codes[..., place % self.levels], "b nf k -> b 1 (nf k)")
            fits = scores.masked_fill(codes != targets[:, :, place, None], NEVER)
            total = torch.logaddexp(sentinel, _logsumexp(scores))
            out.append(total - torch.logaddexp(sentinel - plain[:, :, place], _logsumexp(fits)))
        return torch.stack(out, dim=-1)


@dataclasses.dataclass(frozen=True)
class PointedVertices:
    """The vertices said so far and their scores, beside the code head's claim."""

    sentinel: Tensor  # (b)
    scores: Tensor  # (b m)
    codes: Tensor  # (b m), what each vertex said would give here

    def select(self, rows: Int[Tensor, " r"]) -> "PointedVertices":
        return PointedVertices(self.sentinel[rows], self.scores[rows], self.codes[rows])

    @property
    def shares(self) -> Float[Tensor, "b m1"]:
        """Probabilities of spelling the code (first) and of pointing at each vertex."""
        return torch.cat((self.sentinel[:, None], self.scores), dim=-1).softmax(dim=-1)


@dataclasses.dataclass(frozen=True)
class CopyingHead:
    """The code head with what can be pointed at now: the same two questions, answered by the mixture."""

    head: CodeHead
    nearby: Tensor | None  # (b c), codes whose low digits can be pointed at
    vertices: PointedVertices | None

    def select(self, rows: Int[Tensor, " r"]) -> "CopyingHead":
        nearby = None if self.nearby is None else self.nearby[rows]
        return CopyingHead(self.head, nearby, None if self.vertices is None else self.vertices.select(rows))

    def logits(self, hidden: Float[Tensor, "b d"], may_end: torch.Tensor) -> Float[Tensor, "b v"]:
        """log p of every code and, last, of the end."""
        spelt = self.head.logits(hidden, may_end, self.nearby)
        if self.vertices is None:
            return spelt
        shares, codes = self.vertices.shares, self.vertices.codes
        pointed = torch.where(codes < 0, 0.0, shares[:, 1:])
        return (spelt.exp() * shares[:, :1]).scatter_add(-1, codes.clamp(min=0), pointed).log()

    def sample(self, hidden: Float[Tensor, "b d"], uniform: torch.Tensor, may_end: torch.Tensor) -> Int[Tensor, " b"]:
        """One code a row from the mixture as it is; `uniform` (b 2) in [0, 1). First, whether to point and at what."""
        if self.vertices is None:
            return self.head.sample(hidden, uniform, may_end, self.nearby)
        shares, codes, first = self.vertices.shares.double(), self.vertices.codes, uniform[:, 0]
        index = draw(shares.log(), first)
        rest = torch.stack(((first / shares[:, 0]).clamp(max=1 - 1e-12), uniform[:, 1]), dim=-1)
        spelt = self.head.sample(hidden, rest, may_end, self.nearby)
        pointed = codes.gather(-1, (index - 1).clamp(min=0)[:, None]).squeeze(-1) if codes.shape[1] else spelt
        return torch.where(index == 0, spelt, pointed)


def codes_nearby(before: Int[Tensor, "b p t"], said: Int[Tensor, "b t"], place: int, levels: int) -> Int[Tensor, "b c"]:
    """The codes of the same level in the faces `before` and in earlier corners of a face; -1 where there is none."""
    own = said[:, place % levels : place : levels]
    own = F.pad(own, (0, said.shape[1] // levels - 1 - own.shape[1]), value=-1)
    return torch.cat((rearrange(before[..., place % levels :: levels], "b p k -> b (p k)"), own), dim=1)


def _distance_class(distance: Tensor) -> Tensor:
    """Classes 0 .. 19 of distances in faces; those below 1 are read as 1."""
    far = (2 * torch.log2(distance.clamp(min=NEAR).double() / NEAR)).floor().long() + NEAR - 1
    return torch.where(distance <= NEAR, distance.clamp(min=1) - 1, far).clamp(max=DISTANCES - 1)


def _logsumexp(scores: Float[Tensor, "b f m"]) -> Float[Tensor, "b f"]:
    """Over the last axis, where there may be nothing at all."""
    return scores.logsumexp(dim=-1) if scores.shape[-1] else scores.new_full(scores.shape[:-1], NEVER)


def _wide(scores: Tensor) -> Tensor:
    return scores if scores.dtype == torch.float64 else scores.float()
