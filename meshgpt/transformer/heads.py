"""Codes to vectors, and vectors to the probabilities of the next code."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from meshgpt.errors import ConfigError
from meshgpt.transformer.chunked import linear_nats

SMALL_VOCABULARY = 256  # up to here one softmax is cheap
UNLIKELY = -4.0  # first score of pointing, beside a claim of about 0: a model that is given a pointer hardly changes
NEVER = -1e4  # in place of -inf, whose gradients are not finite where a row has nothing to point at


def digit_bases(vocab_size: int, digits: int) -> tuple[int, int]:
    """(high, low) bases, so that `code = high * low_base + low`; high base 1 means a code is one digit."""
    if digits == 1 or vocab_size <= SMALL_VOCABULARY:
        return 1, vocab_size
    bits = (vocab_size - 1).bit_length()
    low = 2 ** (bits // 2)
    return -(-vocab_size // low), low


class CodeEmbedding(nn.Module):
    """A vector for each code: one table, or the sum of a table for each digit."""

    def __init__(self, vocab_size: int, dim: int, digits: int):
        super().__init__()
        high, self.low_base = digit_bases(vocab_size, digits)
        self.low = nn.Embedding(self.low_base, dim)
        self.high = nn.Embedding(high, dim) if high > 1 else None
        for table in (self.low, self.high):
            if table is not None:
                nn.init.normal_(table.weight, std=0.5 if high > 1 else 0.7)

    def forward(self, codes: Int[Tensor, "..."]) -> Float[Tensor, "... d"]:
        if self.high is None:
            return self.low(codes)
        return self.high(codes // self.low_base) + self.low(codes % self.low_base)


class DigitPointer(nn.Module):
    """How well the low digit of each code nearby fits, given the high digit, and the claim of the softmax against them.

    Each place nearby has two scores: one for a code with that same high digit, one for any other.
    """

    def __init__(self, dim: int, candidates: int):
        super().__init__()
        self.to_scores = nn.Linear(dim, 2 * candidates)
        self.to_sentinel = nn.Linear(dim, 1)
        nn.init.zeros_(self.to_scores.weight)
        nn.init.constant_(self.to_scores.bias, UNLIKELY)

    def forward(
        self, hidden: Float[Tensor, "... d"], same: Bool[Tensor, "... c"], there: Bool[Tensor, "... c"]
    ) -> Float[Tensor, "... c"]:
        """`same`: True for a code with the high digit. `there`: True where there is a code at all."""
        alike, other = wide(self.to_scores(hidden)).chunk(2, dim=-1)
        return torch.where(same, alike, other).masked_fill(~there, NEVER)


class CodeHead(nn.Module):
    """Probabilities of the next code, p(code) = p(high digit) p(low digit | high digit), and of the end.

    The end is one more class of the first softmax, allowed only where a face may start; as a code it is `vocab_size`.
    With `candidates`, the low digit may be that of one of so many codes nearby, (m c), -1 where there is none: vertices
    share coordinates with their neighbours. A sentinel among them stands for the softmax over low digits (as for whole
    codes in `CopyPointer`).
    """

    def __init__(self, vocab_size: int, dim: int, digits: int, candidates: int = 0):
        super().__init__()
        self.vocab_size = vocab_size
        high, self.low_base = digit_bases(vocab_size, digits)
        self.two_digits = high > 1
        self.first = nn.Linear(dim, (high if self.two_digits else vocab_size) + 1)
        self.pointer = DigitPointer(dim, candidates) if self.two_digits and candidates else None
        if self.two_digits:
            self.to_low_hidden = nn.Linear(dim, dim)
            self.high_embed = nn.Embedding(high, dim)
            self.second = nn.Linear(dim, self.low_base)
            nn.init.normal_(self.high_embed.weight, std=0.5)

    @torch.no_grad()
    def sharpen(self, temperatures: Sequence[float]) -> None:
        """Changes the weights so that digits come as they did at these temperatures: one for all, or one for each.

        Where the low digit may be pointed at, its pointers are left as they are.
        """
        layers = (self.first, self.second) if self.two_digits else (self.first,)
        for layer, temperature in zip(layers, per_digit(temperatures, len(layers)), strict=True):
            for weight in layer.parameters():
                weight /= temperature

    def select(self, rows: Int[Tensor, " r"]) -> "CodeHead":
        """The head of some of the rows: it knows nothing of any."""
        return self

    def _first_log_probs(self, hidden: Tensor, may_end: Tensor) -> Tensor:
        scores = wide(self.first(hidden))
        ends = torch.where(may_end, scores[..., -1], -torch.inf)
        return torch.cat((scores[..., :-1], ends[..., None]), dim=-1).log_softmax(dim=-1)

    def _low_vectors(self, hidden: Tensor, high: Tensor) -> Tensor:
        return F.silu(self.to_low_hidden(hidden) + self.high_embed(high))

    def _low_scores(self, vectors: Tensor, high: Tensor) -> Tensor:
        """Scores of the low digit given the high one; digits that would pass the vocabulary's end are -inf."""
        scores = wide(self.second(vectors))
        if self.vocab_size % self.low_base == 0:
            return scores
        codes = high[..., None] * self.low_base + torch.arange(self.low_base, device=high.device)
        return scores.masked_fill(codes >= self.vocab_size, -torch.inf)

    def _pointed(self, hidden: Tensor, vectors: Tensor, high: Tensor, nearby: Tensor) -> tuple[Tensor, Tensor]:
        """(sentinel (...), score of each code nearby (... c)) given the high digit."""
        assert self.pointer is not None
        same, there = nearby // self.low_base == high[..., None], nearby >= 0
        if self.vocab_size % self.low_base:
            there = there & (high[..., None] * self.low_base + nearby % self.low_base < self.vocab_size)
        return wide(self.pointer.to_sentinel(vectors)).squeeze(-1), self.pointer(hidden, same, there)

    def nats(
        self,
        hidden: Float[Tensor, "m d"],
        codes: Int[Tensor, " m"],
        may_end: torch.Tensor,
        nearby: torch.Tensor | None = None,
    ) -> Float[Tensor, " m"]:
        """-log p(code) of each code (the end is `vocab_size`), in nats; nothing is built as wide as all and as long."""
        if not self.two_digits and self.vocab_size > SMALL_VOCABULARY:
            return linear_nats(hidden, self.first.weight, self.first.bias, codes, may_end)
        first = self._first_log_probs(hidden, may_end)
        if not self.two_digits:
            return -first.gather(-1, codes[:, None]).squeeze(-1)
        is_end = codes == self.vocab_size
        high = torch.where(is_end, first.shape[-1] - 1, codes // self.low_base)
        nats = -first.gather(-1, high[:, None]).squeeze(-1)
        high, low = (torch.where(is_end, 0, digit) for digit in (high, codes % self.low_base))
        vectors = self._low_vectors(hidden, high)
        low_nats = F.cross_entropy(self._low_scores(vectors, high), low, reduction="none")
        if self.pointer is not None and nearby is not None:
            sentinel, scores = self._pointed(hidden, vectors, high, nearby)
            fits = scores.masked_fill(nearby % self.low_base != low[:, None], NEVER)
            total = torch.logaddexp(sentinel, scores.logsumexp(dim=-1))
            low_nats = total - torch.logaddexp(sentinel - low_nats, fits.logsumexp(dim=-1))
        return nats + low_nats.masked_fill(is_end, 0.0)

    def _low_log_probs(self, hidden: Tensor, high: Tensor, nearby: Tensor | None) -> Tensor:
        """log p of every low digit given the high one."""
        vectors = self._low_vectors(hidden, high)
        plain = self._low_scores(vectors, high).log_softmax(dim=-1)
        if self.pointer is None or nearby is None:
            return plain
        sentinel, scores = self._pointed(hidden, vectors, high, nearby)
        shares = torch.cat((sentinel[..., None], scores), dim=-1).softmax(dim=-1)
        digits = (nearby.clamp(min=0) % self.low_base).expand(scores.shape)
        return (plain.exp() * shares[..., :1]).scatter_add(-1, digits, shares[..., 1:]).log()

    def logits(
        self,
        hidden: Float[Tensor, "b d"],
        may_end: torch.Tensor,
        nearby: torch.Tensor | None = None,
    ) -> Float[Tensor, "b v"]:
        """log p of every code and, last, of the end (-inf where a face cannot start): (b, vocab_size + 1)."""
        first = self._first_log_probs(hidden, may_end)
        if not self.two_digits:
            return first
        high = torch.arange(first.shape[-1] - 1, device=hidden.device)
        near = None if nearby is None else rearrange(nearby, "b c -> b 1 c")
        low = self._low_log_probs(rearrange(hidden, "b d -> b 1 d"), high, near)
        joint = rearrange(first[:, :-1, None] + low, "b high low -> b (high low)")
        return torch.cat((joint[:, : self.vocab_size], first[:, -1:]), dim=-1)

    def sample(
        self,
        hidden: Float[Tensor, "b d"],
        uniform: Float[Tensor, "b 2"],
        may_end: torch.Tensor,
        nearby: torch.Tensor | None = None,
    ) -> Int[Tensor, " b"]:
        """One code a row from the distribution as it is, by its inverse cumulative function at `uniform` in [0, 1)."""
        first = draw(self._first_log_probs(hidden, may_end), uniform[:, 0])
        if not self.two_digits:
            return first
        is_end = first == self.high_embed.num_embeddings
        high = torch.where(is_end, 0, first)
        low = draw(self._low_log_probs(hidden, high, nearby), uniform[:, 1])
        return torch.where(is_end, self.vocab_size, high * self.low_base + low)


def per_digit(temperatures: Sequence[float], digits: int) -> list[float]:
    """One for each digit. Raises `ConfigError` where they are of another number, or not positive."""
    found = list(temperatures) * (digits if len(temperatures) == 1 else 1)
    if len(found) != digits or not all(each > 0 for each in found):
        raise ConfigError(f"temperatures {tuple(temperatures)}: give one, or one for each of {digits} digits, positive")
    return found


def draw(log_probs: Float[Tensor, "b v"], uniform: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The index at which the cumulative probability passes `uniform`; never one whose probability is 0."""
    cumulative = log_probs.double().exp().cumsum(dim=-1)
    threshold = uniform.double() * cumulative[:, -1]
    index = torch.searchsorted(cumulative, threshold[:, None], right=True).squeeze(-1)
    last_possible = (cumulative < cumulative[:, -1:]).sum(dim=-1)
    return torch.minimum(index, last_possible)


def wide(scores: Tensor) -> Tensor:
    """Probabilities are computed in float32 or wider, whatever the model computes in."""
    return scores if scores.dtype == torch.float64 else scores.float()
