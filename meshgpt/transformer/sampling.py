"""How the next code is chosen: one frozen config, filters as plain functions, one stream of randomness a sample."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshgpt.config import Config
from meshgpt.errors import GenerationError
from meshgpt.mesh.grammar import LegalCodes, LegalTable
from meshgpt.transformer.guidance import Head
from meshgpt.transformer.heads import draw

Legal = LegalCodes | LegalTable


@dataclasses.dataclass(frozen=True)
class Sampling(Config):
    """Fields that `generate` takes as keywords. Filters act in this order: temperature, top_k, top_p, min_p."""

    temperature: float = 1.0  # 0 takes the likeliest code
    top_k: int | None = None  # keep the k likeliest codes
    top_p: float | None = None  # keep the fewest codes whose probabilities sum to p (Holtzman et al., arXiv:1904.09751)
    min_p: float | None = None  # keep codes of at least p times the likeliest one's probability (arXiv:2407.01082)
    seed: int | tuple[int, ...] | None = None  # one a sample, or one number s: sample i then has s + i
    max_faces: int | None = None
    row_faces: tuple[int, ...] | None = None  # the same for each sample
    min_faces: int = 0  # no end before
    follow_grammar: bool = False  # only codes with which the mesh stays as the tokenizer orders it, where it knows how

    def validate(self) -> None:
        self.require(self.temperature >= 0, "temperature", "be 0 (the likeliest code) or more")
        self.require(self.top_k is None or self.top_k >= 1, "top_k", "be at least 1")
        for field in ("top_p", "min_p"):
            value = getattr(self, field)
            self.require(value is None or 0 < value <= 1, field, "lie in (0, 1]; leave it out to switch it off")
        self.require(self.max_faces is None or self.max_faces >= 1, "max_faces", "be at least 1")
        self.require(self.row_faces is None or min(self.row_faces, default=1) >= 1, "row_faces", "be at least 1")
        self.require(0 <= self.min_faces, "min_faces", "not be negative")
        self.require(self.max_faces is None or self.min_faces <= self.max_faces, "min_faces", "not exceed max_faces")

    def require(self, condition: bool, field: str, must: str) -> None:
        if not condition:
            raise GenerationError(f"{field} must {must}, got {getattr(self, field)!r}")

    @property
    def is_plain(self) -> bool:
        """The distribution as it is."""
        return self.temperature == 1 and self.top_k is None and self.top_p is None and self.min_p is None


def keep_top_k(logits: Float[Tensor, "b v"], k: int) -> Float[Tensor, "b v"]:
    """-inf for all but the k largest (more where several equal the k-th)."""
    smallest = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < smallest, -torch.inf)


def keep_top_p(logits: Float[Tensor, "b v"], p: float) -> Float[Tensor, "b v"]:
    """-inf for all but the fewest, likeliest codes whose probabilities sum to at least p."""
    ordered, order = logits.softmax(dim=-1).sort(dim=-1, descending=True)
    dropped = ordered.cumsum(dim=-1) - ordered >= p
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -torch.inf)


def keep_min_p(logits: Float[Tensor, "b v"], p: float) -> Float[Tensor, "b v"]:
    """-inf for codes less than p times as likely as the likeliest."""
    return logits.masked_fill(
        logits.softmax(dim=-1) < p * logits.softmax(dim=-1).amax(dim=-1, keepdim=True), -torch.inf
    )


@dataclasses.dataclass(frozen=True)
class Chooser:
    """Chooses one code a row. `filter_logits` maps log-probabilities (b, vocab_size + 1), the end last, to the same."""

    sampling: Sampling
    filter_logits: Callable[..., Tensor] | None = None
    filter_options: tuple[tuple[str, Any], ...] = ()

    def __call__(
        self,
        head: Head,
        hidden: Float[Tensor, "b d"],
        uniform: torch.Tensor,
        may_end: Bool[Tensor, " b"],
        legal: Legal | None = None,
    ) -> Int[Tensor, " b"]:
        """`uniform`: (b 3) in [0, 1), from each row's stream. Raises `GenerationError` if no code is left.

        Codes that are not legal are never chosen; where a plain draw gives one, the third number draws again among
        those that are, which gives every legal code its share of the whole.
        """
        uniform = uniform.to(hidden.device)
        if self.filter_logits is None and self.sampling.is_plain:
            codes = head.sample(hidden, uniform[:, :2], may_end)
            if legal is None or bool((good := legal.allow(codes)).all()):
                return codes
            rows = (~good).nonzero().squeeze(-1)
            logits = head.select(rows).logits(hidden[rows], may_end[rows])
            again = draw(masked(logits, legal.select(rows)).log_softmax(dim=-1), uniform[rows, 2])
            return codes.index_copy(0, rows, again)
        logits = head.logits(hidden, may_end)
        if legal is not None:
            logits = masked(logits, legal)
        if self.filter_logits is not None:
            logits = self._filtered(logits)
        if self.sampling.temperature == 0:
            return logits.argmax(dim=-1)
        return draw(sampled_logits(logits, self.sampling).log_softmax(dim=-1), uniform[:, 0])

    def _filtered(self, logits: Tensor) -> Tensor:
        shape = logits.shape
        logits = self.filter_logits(logits, **dict(self.filter_options))  # type: ignore[misc]
        if logits.shape != shape:
            raise GenerationError(
                f"filter_logits_fn must keep the shape {tuple(shape)}, it returned {tuple(logits.shape)}"
            )
        if logits.isnan().any() or not (logits > -torch.inf).any(dim=-1).all():
            raise GenerationError(
                "filter_logits_fn left a row without any possible code: keep at least one above -inf, and no NaN"
            )
        return logits


def masked(logits: Float[Tensor, "b v"], legal: Legal) -> Float[Tensor, "b v"]:
    """-inf for codes that are not legal. Where nothing legal is possible: 0 for each that is legal."""
    mask = legal.mask(logits.shape[-1] - 1)
    kept = logits.masked_fill(~mask, -torch.inf)
    alike = torch.zeros_like(logits).masked_fill(~mask, -torch.inf)
    return torch.where((kept > -torch.inf).any(dim=-1, keepdim=True), kept, alike)


def sampled_logits(logits: Float[Tensor, "b v"], sampling: Sampling) -> Float[Tensor, "b v"]:
    """Temperature, top_k, top_p and min_p, one after the other."""
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    return logits if sampling.min_p is None else keep_min_p(logits, sampling.min_p)


class Streams:
    """One stream of uniform numbers a sample: what a seed gives does not depend on the other samples of the batch."""

    def __init__(self, seed: int | Sequence[int] | None, batch_size: int):
        if seed is None:
            seeds = torch.randint(2**62, (batch_size,)).tolist()
        elif isinstance(seed, int):
            seeds = [seed + row for row in range(batch_size)]
        else:
            seeds = list(seed)
        if len(seeds) != batch_size:
            raise GenerationError(
                f"{len(seeds)} seeds for {batch_size} samples: give one number, or one for each sample"
            )
        self.generators = [torch.Generator().manual_seed(s) for s in seeds]

    def take(self, places: int) -> Float[Tensor, "b p 3"]:
        """The next numbers of each sample, in [0, 1): three for each of `places` codes."""
        draws = [torch.rand(places, 3, generator=g, dtype=torch.float64) for g in self.generators]
        return torch.stack(draws) if draws else torch.zeros(0, places, 3, dtype=torch.float64)

    def select(self, rows: list[int]) -> None:
        self.generators = [self.generators[row] for row in rows]
