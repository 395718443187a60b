"""Codes that are spelt: each is a few digits, said one after the other, every digit by a small softmax of its own.

What codes have in common, such as a step of nothing along an axis, is learned once. And where the tokenizer knows with
which digit a coordinate becomes that of a vertex nearby, a score is added there: meshes are full of such coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meshgpt.transformer.cloud_tips import TipsTold
from meshgpt.transformer.heads import per_digit, wide


class SpeltEmbedding(nn.Module):
    """The sum of a vector for each digit of a code. digits (v d): rows of the table; begins (d): the first of each."""

    digits: Tensor
    begins: Tensor

    def __init__(self, digits: Int[Tensor, "v d"], dim: int):
        super().__init__()
        bases = (digits.amax(dim=0) + 1).tolist()
        begins = torch.tensor([sum(bases[:place]) for place in range(len(bases))])
        self.register_buffer("begins", begins, persistent=False)
        self.register_buffer("digits", digits + begins, persistent=False)
        self.table = nn.Embedding(sum(bases), dim)
        nn.init.normal_(self.table.weight, std=0.4)

    def forward(self, codes: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        return self.table(self.digits[codes]).sum(dim=-2)


class SpellingHead(nn.Module):
    """p(code) as a product over its digits, and p(end), which is one more class of the first, where that is allowed.

    digits: (v d), those of each code, no two alike. hints: how many places are told of, for each digit, as a digit with
    which the coordinate is that of the place, -1 for none.
    """

    pointer = None  # that of a `CodeHead`
    digits: Tensor

    def __init__(self, digits: Int[Tensor, "v d"], dim: int, hints: int, told: bool = False, agreeing: bool = False):
        """`told`: whether a cloud adds to the scores of digits; see `TipsTold`. `agreeing`: whether a hint has another
        score where all digits before are its own too: a vertex is said in three of them."""
        super().__init__()
        self.vocab_size, self.places = digits.shape
        bases = (digits.amax(dim=0) + 1).tolist()
        self.register_buffer("digits", digits, persistent=False)
        begins = torch.zeros(len(digits), dtype=torch.long)  # the number of the beginning that each code has
        for place, base in enumerate(bases):
            last = place + 1 == self.places
            longer = torch.unique(begins * base + digits[:, place], return_inverse=True)[1]
            after = torch.full((int(begins.max()) + 1, base), -1)
            after[begins, digits[:, place]] = torch.arange(len(digits)) if last else longer
            example = torch.zeros(len(after), dtype=torch.long).scatter_(0, begins, torch.arange(len(digits)))
            # of each code; by beginning and digit, the longer beginning or at last the code; a code with each beginning
            for name, table in (("begins", begins), ("after", after), ("example", example)):
                self.register_buffer(f"{name}{place}", table, persistent=False)
            begins = longer
        self.first = nn.Linear(dim, bases[0] + 1)
        self.mix = nn.ModuleList(nn.Linear(dim, dim) for _ in bases[1:])
        self.said = nn.ModuleList(nn.Embedding(base, dim) for base in bases[:-1])
        self.out = nn.ModuleList(nn.Linear(dim, base) for base in bases[1:])
        for table in self.said.parameters():
            nn.init.normal_(table, std=0.4)
        self.to_hints = nn.ModuleList(nn.Linear(dim, hints) for _ in bases) if hints else None
        self.to_agreeing = nn.ModuleList(nn.Linear(dim, hints) for _ in bases[1:]) if hints and agreeing else None
        for layers in (self.to_hints, self.to_agreeing):
            for weight in () if layers is None else layers.parameters():
                nn.init.zeros_(weight)
        self.heed = (
            nn.ModuleList(_constant(dim, 0.5) for _ in bases[:-1]) if told else None
        )  # how much, each coordinate

    @torch.no_grad()
    def sharpen(self, temperatures: Sequence[float]) -> None:
        """Changes the weights so that digits come as they did at these temperatures: one for all, or one for each.

        What a cloud says of the end and of sides at which faces follow is left as it is.
        """
        for place, temperature in enumerate(per_digit(temperatures, self.places)):
            layers = [self.first if place == 0 else self.out[place - 1]]
            layers += [] if self.heed is None or place == len(self.heed) else [self.heed[place]]
            layers += [] if self.to_hints is None else [self.to_hints[place]]
            layers += [] if self.to_agreeing is None or place == 0 else [self.to_agreeing[place - 1]]
            for weight in (weight for layer in layers for weight in layer.parameters()):
                weight /= temperature

    def nats(
        self,
        hidden: Float[Tensor, "m d"],
        codes: Int[Tensor, " m"],
        may_end: Tensor,
        hints: Tensor | None = None,
        told: TipsTold | None = None,
    ) -> Float[Tensor, " m"]:
        """-log p of each code (the end is `vocab_size`), in nats. hints: (m d c)."""
        is_end = codes == self.vocab_size
        digits, codes = self.digits_of(codes), torch.where(is_end, 0, codes)
        first = self._first(hidden, may_end, hints, told)
        nats = -first.gather(-1, torch.where(is_end, first.shape[-1] - 1, digits[:, 0])[:, None])[:, 0]
        for place in range(1, self.places):
            added = self._added(place, digits, told)
            scores = self._scores(place, hidden, digits, self._of("begins", place)[codes], hints, added)
            nats = nats + F.cross_entropy(scores, digits[:, place], reduction="none").masked_fill(is_end, 0.0)
        return nats

    def digits_of(self, codes: Int[Tensor, " m"]) -> Int[Tensor, "m d"]:
        """Those of the first code stand for the end."""
        return self.digits[torch.where(codes == self.vocab_size, 0, codes)]

    def logits(
        self,
        hidden: Float[Tensor, "b d"],
        may_end: Tensor,
        hints: Tensor | None = None,
        told: TipsTold | None = None,
    ) -> Float[Tensor, "b v"]:
        """log p of every code and, last, of the end: (b, vocab_size + 1)."""
        first = self._first(hidden, may_end, hints, told)
        tables = [] if told is None else [told.table(place, self._size(place)) for place in range(self.places - 1)]
        total = first[:, self.digits[:, 0]]
        for place in range(1, self.places):
            is_open = (self._of("after", place) >= 0).sum(dim=-1) > 1  # leaves a choice
            begins = is_open.nonzero().squeeze(-1)
            number = (is_open.cumsum(dim=0) - 1).clamp(min=0)  # among the open ones
            said = self.digits[self._of("example", place)[begins]]
            more = None if hints is None else hints[:, None]
            added = None if told is None else told.added_after(place, said[:, :place], tables)
            scores = self._scores(place, hidden[:, None], said, begins, more, added).log_softmax(dim=-1)
            own = self._of("begins", place)
            total = total + torch.where(is_open[own], scores[:, number[own], self.digits[:, place]], 0.0)
        return torch.cat((total, first[:, -1:]), dim=-1)

    def sample(
        self,
        hidden: Float[Tensor, "b d"],
        uniform: Float[Tensor, "b 2"],
        may_end: Tensor,
        hints: Tensor | None = None,
        told: TipsTold | None = None,
    ) -> Int[Tensor, " b"]:
        """One code a row from the distribution as it is; what a draw leaves of its number makes the draw after next.

        Each draw makes the rounding of its number larger by the share that it leaves: so two numbers take turns.
        """
        digit, rest = draw_and_rest(self._first(hidden, may_end, hints, told), uniform[:, 0])
        rests = [rest, uniform[:, 1]]
        is_end = digit == self._of("after", 0).shape[1]
        digits = torch.zeros(len(hidden), self.places, dtype=torch.long, device=hidden.device)
        digits[:, 0] = torch.where(is_end, 0, digit)
        begun = self._of("after", 0)[0, digits[:, 0]]
        for place in range(1, self.places):
            scores = self._scores(place, hidden, digits, begun, hints, self._added(place, digits, told))
            digits[:, place], rests[place % 2] = draw_and_rest(scores.log_softmax(dim=-1), rests[place % 2])
            begun = self._of("after", place)[begun, digits[:, place]]
        return torch.where(is_end, self.vocab_size, begun)

    def _first(
        self, hidden: Tensor, may_end: Tensor, hints: Tensor | None, told: TipsTold | None
    ) -> Float[Tensor, "b c"]:
        scores = wide(self.first(hidden))
        end = scores[..., -1] if told is None else scores[..., -1] + told.end.to(scores.dtype)
        ends = torch.where(may_end, end, -torch.inf)
        codes = self.with_hints(0, scores[..., :-1], hidden, hints, None)
        codes = self._with_added(0, codes, hidden, self._added(0, self.digits[:0], told))
        return torch.cat((codes, ends[..., None]), dim=-1).log_softmax(dim=-1)

    def _scores(
        self,
        place: int,
        hidden: Tensor,
        digits: Tensor,
        begun: Tensor,
        hints: Tensor | None,
        added: Tensor | None,
    ) -> Float[Tensor, "*n c"]:
        """Of the digit at `place` behind the others; -inf for those that no code has there.

        All but the hidden vectors may be of one row, or of one beginning, that stands for all.
        """
        said = sum(self.said[before](digits[..., before]) for before in range(place))
        vectors = F.silu(self.mix[place - 1](hidden) + said)
        scores = self.with_hints(place, wide(self.out[place - 1](vectors)), vectors, hints, digits)
        scores = self._with_added(place, scores, vectors, added)
        return scores.masked_fill(self._of("after", place)[begun] < 0, -torch.inf)

    def with_hints(
        self, place: int, scores: Tensor, vectors: Tensor, hints: Tensor | None, digits: Tensor | None
    ) -> Float[Tensor, "*n c"]:
        """Scores of the digit at `place`, behind `digits`, with what each hint adds to the one that it names."""
        if self.to_hints is None or hints is None:
            return scores
        told = hints[..., place, :]
        added = self._hinted(place, vectors, hints, digits)
        return scores.scatter_add(-1, told.clamp(min=0).expand(added.shape), added.to(scores.dtype))

    def _hinted(self, place: int, vectors: Tensor, hints: Tensor, digits: Tensor | None) -> Float[Tensor, "*n c"]:
        """What each hint adds, more where all digits before are its own too."""
        assert self.to_hints is not None
        added = wide(self.to_hints[place](vectors))
        if self.to_agreeing is not None and place and digits is not None:
            agrees = (hints[..., :place, :] == digits[..., :place, None]).all(dim=-2)
            added = added + torch.where(agrees, wide(self.to_agreeing[place - 1](vectors)), 0.0)
        return torch.where(hints[..., place, :] >= 0, added, 0.0)

    def _added(self, place: int, digits: Tensor, told: TipsTold | None) -> Float[Tensor, "m c"] | None:
        """What a cloud adds to the scores of the digit at `place`, behind the others."""
        return None if told is None else told.added(place, self._size(place), digits[:, :place])

    def _with_added(self, place: int, scores: Tensor, vectors: Tensor, added: Tensor | None) -> Tensor:
        """As much of it as is wanted; where faces follow is not asked for twice."""
        if added is None or self.heed is None:
            return scores
        share = wide(self.heed[place](vectors)) if place < len(self.heed) else 1.0
        return scores + share * added.to(scores.dtype)

    def _size(self, place: int) -> int:
        return self._of("after", place).shape[1]

    def _of(self, name: str, place: int) -> Tensor:
        return getattr(self, f"{name}{place}")


ROWS_AT_ONCE = 4  # so that what is between stays in the cache: with 32 rows at once a CPU needs three times as long


class SpelledOut:
    """All that `SpellingHead.logits` needs and that no hidden vector changes, worked out once for many of them."""

    def __init__(self, head: SpellingHead):
        self.head, self.places = head, [_Place.of(head, place) for place in range(1, head.places)]

    def logits(
        self, hidden: Float[Tensor, "b d"], may_end: Tensor, hints: Int[Tensor, "b p c"] | None = None
    ) -> Float[Tensor, "b v"]:
        """log p of every code and, last, of the end, as the head's own."""
        if len(hidden) <= ROWS_AT_ONCE:
            return self._logits(hidden, may_end, hints)
        parts = hidden.split(ROWS_AT_ONCE), may_end.split(ROWS_AT_ONCE)
        told = [None] * len(parts[0]) if hints is None else hints.split(ROWS_AT_ONCE)
        return torch.cat([self._logits(*part) for part in zip(*parts, told, strict=True)])

    def _logits(self, hidden: Tensor, may_end: Tensor, hints: Tensor | None) -> Float[Tensor, "b v"]:
        first = self.head._first(hidden, may_end, hints, None)
        total = first[:, self.head.digits[:, 0]]
        for index, place in enumerate(self.places, start=1):
            vectors = F.silu(self.head.mix[index - 1](hidden)[:, None] + place.said, inplace=True)
            scores = wide(self.head.out[index - 1](vectors)) + place.closed
            if hints is not None and bool((hints[:, index] >= 0).any()):
                scores = self.head.with_hints(index, scores, vectors, hints[:, None], place.digits)
            flat = F.pad(scores.log_softmax(dim=-1).flatten(1), (0, 1))
            total += flat.index_select(1, place.of_code)
        return torch.cat((total, first[:, -1:]), dim=-1)


@dataclass(frozen=True)
class _Place:
    """Of one digit behind the first: beginnings that leave a choice of it, and where each code finds its score."""

    digits: Int[Tensor, "n p"]  # of each beginning, and more that mean nothing
    said: Float[Tensor, "n d"]  # what these digits add
    closed: Float[Tensor, "n c"]  # -inf for digits that no code has there
    of_code: Int[Tensor, " v"]  # among n * c scores, and a zero behind them for codes that have no choice

    @classmethod
    def of(cls, head: SpellingHead, place: int) -> "_Place":
        after, own = head._of("after", place), head._of("begins", place)
        is_open = (after >= 0).sum(dim=-1) > 1
        begins, number = is_open.nonzero().squeeze(-1), (is_open.cumsum(dim=0) - 1).clamp(min=0)
        digits = head.digits[head._of("example", place)[begins]]
        said = torch.stack([head.said[before](digits[:, before]) for before in range(place)]).sum(dim=0)
        closed = torch.zeros(after[begins].shape, device=said.device).masked_fill(after[begins] < 0, -torch.inf)
        scores = number[own] * after.shape[1] + head.digits[:, place]
        return cls(digits, said, closed, torch.where(is_open[own], scores, closed.numel()))


@dataclass(frozen=True)
class HintedHead:
    """A `SpellingHead` with what is known around a code: the same two questions, answered with it."""

    head: SpellingHead
    hints: Tensor | None  # (b d c)
    told: TipsTold | None = None
    spelled_out: SpelledOut | None = None

    def select(self, rows: Int[Tensor, " r"]) -> "HintedHead":
        hints = None if self.hints is None else self.hints[rows]
        return HintedHead(self.head, hints, self.told and self.told.select(rows), self.spelled_out)

    def logits(self, hidden: Float[Tensor, "b d"], may_end: Bool[Tensor, " b"]) -> Float[Tensor, "b v"]:
        """log p of every code and, last, of the end."""
        if self.spelled_out is not None and self.told is None:
            return self.spelled_out.logits(hidden, may_end, self.hints)
        return self.head.logits(hidden, may_end, self.hints, self.told)

    def sample(self, hidden: Float[Tensor, "b d"], uniform: Tensor, may_end: Tensor) -> Int[Tensor, " b"]:
        """One code a row; `uniform` (b 2) in [0, 1)."""
        return self.head.sample(hidden, uniform, may_end, self.hints, self.told)


def _constant(dim: int, value: float) -> nn.Linear:
    """A layer of one output, at first the same whatever comes in."""
    layer = nn.Linear(dim, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, value)
    return layer


def draw_and_rest(
    log_probs: Float[Tensor, "b v"], uniform: Float[Tensor, " b"]
) -> tuple[Int[Tensor, " b"], Float[Tensor, " b"]]:
    """What `draw` gives, and where within its share the number fell, which is uniform in [0, 1) again."""
    cumulative = log_probs.double().exp().cumsum(dim=-1)
    threshold = uniform.double() * cumulative[:, -1]
    index = torch.searchsorted(cumulative, threshold[:, None], right=True).squeeze(-1)
    index = torch.minimum(index, (cumulative < cumulative[:, -1:]).sum(dim=-1))
    end = cumulative.gather(1, index[:, None])[:, 0]
    begin = F.pad(cumulative, (1, 0)).gather(1, index[:, None])[:, 0]
    return index, ((threshold - begin) / (end - begin).clamp(min=1e-300)).clamp(0.0, 1 - 1e-12)
