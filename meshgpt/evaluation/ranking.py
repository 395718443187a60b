"""How often the right answer is among the first of a ranking, and how sure a share of a sample is."""

from dataclasses import dataclass
from math import sqrt
from typing import no_type_check

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meshgpt.errors import DataError

Z95 = 1.959963984540054  # the 97.5 % quantile of the normal distribution


@dataclass(frozen=True)
class Share:
    """`hits` of `count`; hits may be a fraction where a ranking had ties."""

    hits: float
    count: int

    @property
    def value(self) -> float:
        """NaN of nothing."""
        return self.hits / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval (Wilson, 1927: right for few, too); all of [0, 1] for none."""
        if not self.count:
            return 0.0, 1.0
        share, n = self.value, self.count
        middle = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        reach = Z95 / (1 + Z95**2 / n) * sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
        return max(min(middle - reach, share), 0.0), min(
            max(middle + reach, share), 1.0
        )  # rounding moves no end past it

    def __str__(self) -> str:
        """Per cent, with the interval: `62.5 (30.6 .. 86.3)`."""
        low, high = self.interval
        return f"{100 * self.value:.1f} ({100 * low:.1f} .. {100 * high:.1f})"


@no_type_check
def hits_at(scores: Float[Tensor, "n c"], relevant: Bool[Tensor, "n c"], k: int) -> Float[Tensor, " n"]:
    """The chance, of each of n questions, that a relevant one of c answers is among the k of highest score.

    Answers of equal score come in random order, so this is 0 or 1 but where a tie lies across place k: a model that
    scores all answers alike gets what guessing gets. Several answers may be relevant; of a question for which none is,
    the chance is 0. Raises `DataError` for shapes that differ, k below 1 and scores that are NaN.
    """
    if scores.ndim != 2 or scores.shape != relevant.shape:
        what = f"scores {tuple(scores.shape)} and relevant {tuple(relevant.shape)}"
        raise DataError(f"{what} must both be (questions, answers)")
    if k < 1:
        raise DataError(f"k must be at least 1, got {k}")
    if scores.isnan().any():
        raise DataError(f"the scores of question {int(scores.isnan().any(dim=1).nonzero()[0])} are not numbers")
    if not scores.shape[1]:
        return torch.zeros(len(scores), device=scores.device)
    best = scores.masked_fill(~relevant, -torch.inf).amax(dim=1, keepdim=True)
    tied, above = scores == best, (scores > best).sum(dim=1)
    ties, right = tied.sum(dim=1), (tied & relevant).sum(dim=1)
    missed = torch.ones(len(scores), dtype=torch.float64, device=scores.device)
    for drawn in range(min(k, scores.shape[1])):  # ties are drawn one by one into the places that are left
        left = ((ties - right - drawn).clamp(min=0) / (ties - drawn).clamp(min=1)).double()
        missed = torch.where(above + drawn < k, missed * left, missed)
    return torch.where(relevant.any(dim=1), 1 - missed, 0.0).float()


@no_type_check
def share_at(scores: Float[Tensor, "n c"], relevant: Bool[Tensor, "n c"], k: int) -> Share:
    """`hits_at` of all questions: top-k accuracy where one answer is right, else recall at k (R@k)."""
    hits = hits_at(scores, relevant, k)
    return Share(float(hits.double().sum()), len(hits))
