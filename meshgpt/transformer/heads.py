"""Codes to vectors, and vectors to the probabilities of the next code."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

SMALL_VOCABULARY = 256  # up to here one softmax is cheap


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


class CodeHead(nn.Module):
    """Probabilities of the next code, p(code) = p(high digit) p(low digit | high digit), and of the end.

    The end is one more class of the first softmax, allowed only where a face may start; as a code it is `vocab_size`.
    """

    def __init__(self, vocab_size: int, dim: int, digits: int):
        super().__init__()
        self.vocab_size = vocab_size
        high, self.low_base = digit_bases(vocab_size, digits)
        self.two_digits = high > 1
        self.first = nn.Linear(dim, (high if self.two_digits else vocab_size) + 1)
        if self.two_digits:
            self.to_low_hidden = nn.Linear(dim, dim)
            self.high_embed = nn.Embedding(high, dim)
            self.second = nn.Linear(dim, self.low_base)
            nn.init.normal_(self.high_embed.weight, std=0.5)

    def _first_log_probs(self, hidden: Tensor, may_end: Tensor) -> Tensor:
        scores = _wide(self.first(hidden))
        ends = torch.where(may_end, scores[..., -1], -torch.inf)
        return torch.cat((scores[..., :-1], ends[..., None]), dim=-1).log_softmax(dim=-1)

    def _second_scores(self, low_hidden: Tensor, high: Tensor) -> Tensor:
        """Scores of the low digit given the high one; digits that would pass the vocabulary's end are -inf."""
        scores = _wide(self.second(F.silu(low_hidden + self.high_embed(high))))
        if self.vocab_size % self.low_base == 0:
            return scores
        codes = high[..., None] * self.low_base + torch.arange(self.low_base, device=high.device)
        return scores.masked_fill(codes >= self.vocab_size, -torch.inf)

    def nats(
        self, hidden: Float[Tensor, "m d"], codes: Int[Tensor, " m"], may_end: torch.Tensor
    ) -> Float[Tensor, " m"]:
        """-log p(code) of each code (the end is `vocab_size`), in nats; two digits build nothing as wide as all."""
        first = self._first_log_probs(hidden, may_end)
        if not self.two_digits:
            return -first.gather(-1, codes[:, None]).squeeze(-1)
        is_end = codes == self.vocab_size
        high = torch.where(is_end, first.shape[-1] - 1, codes // self.low_base)
        nats = -first.gather(-1, high[:, None]).squeeze(-1)
        high, low = (torch.where(is_end, 0, digit) for digit in (high, codes % self.low_base))
        scores = self._second_scores(self.to_low_hidden(hidden), high)
        return nats + F.cross_entropy(scores, low, reduction="none").masked_fill(is_end, 0.0)

    def logits(self, hidden: Float[Tensor, "b d"], may_end: torch.Tensor) -> Float[Tensor, "b v"]:
        """log p of every code and, last, of the end (-inf where a face cannot start): (b, vocab_size + 1)."""
        first = self._first_log_probs(hidden, may_end)
        if not self.two_digits:
            return first
        high = torch.arange(first.shape[-1] - 1, device=hidden.device)
        low_hidden = rearrange(self.to_low_hidden(hidden), "b d -> b 1 d")
        second = self._second_scores(low_hidden, high).log_softmax(dim=-1)
        joint = rearrange(first[:, :-1, None] + second, "b high low -> b (high low)")
        return torch.cat((joint[:, : self.vocab_size], first[:, -1:]), dim=-1)

    def sample(
        self, hidden: Float[Tensor, "b d"], uniform: Float[Tensor, "b 2"], may_end: torch.Tensor
    ) -> Int[Tensor, " b"]:
        """One code a row from the distribution as it is, by its inverse cumulative function at `uniform` in [0, 1)."""
        first = draw(self._first_log_probs(hidden, may_end), uniform[:, 0])
        if not self.two_digits:
            return first
        is_end = first == self.high_embed.num_embeddings
        high = torch.where(is_end, 0, first)
        low = draw(self._second_scores(self.to_low_hidden(hidden), high).log_softmax(dim=-1), uniform[:, 1])
        return torch.where(is_end, self.vocab_size, high * self.low_base + low)


def draw(log_probs: Float[Tensor, "b v"], uniform: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The index at which the cumulative probability passes `uniform`; never one whose probability is 0."""
    cumulative = log_probs.double().exp().cumsum(dim=-1)
    threshold = uniform.double() * cumulative[:, -1]
    index = torch.searchsorted(cumulative, threshold[:, None], right=True).squeeze(-1)
    last_possible = (cumulative < cumulative[:, -1:]).sum(dim=-1)
    return torch.minimum(index, last_possible)


def _wide(scores: Tensor) -> Tensor:
    """Probabilities are computed in float32 or wider, whatever the model computes in."""
    return scores if scores.dtype == torch.float64 else scores.float()
