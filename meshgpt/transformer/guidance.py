"""Classifier-free guidance (arXiv:2207.12598): away from what a model writes unasked, towards what is asked."""

import dataclasses

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshgpt.config import Config
from meshgpt.errors import GenerationError
from meshgpt.transformer.conditions import KINDS
from meshgpt.transformer.copying import CopyingHead
from meshgpt.transformer.heads import CodeHead, draw
from meshgpt.transformer.spelling import HintedHead

LEAST = -40.0  # log-probabilities below are read as this: e^-40 is never drawn, and a difference of two stays finite


@dataclasses.dataclass(frozen=True)
class Guidance(Config):
    """Fields that `generate` takes as keywords. With `cond_scale` 1 throughout, guidance is off and costs nothing.

    With c and u the log-probabilities of all codes when asked and when not, the model writes by
    c + (cond_scale - 1) (c - u). `cond_scale_end` is reached in equal steps at face `schedule_faces` and kept.
    """

    cond_scale: float = 1.0
    cond_scale_end: float | None = None  # None: cond_scale throughout
    schedule_faces: int = 100
    rescale_phi: float = 0.0  # share of the result that is scaled back to the spread of c (arXiv:2305.08891, Eq. 15-16)
    remove_parallel_component: bool = False  # the part of c - u along c (arXiv:2410.02416, Eq. 5-7)
    keep_parallel_frac: float = 0.0  # how much of that part is kept
    guided: tuple[str, ...] = ()  # the kinds that u lacks, of KINDS; none named: all

    def validate(self) -> None:
        for field in ("cond_scale", "cond_scale_end"):
            value = getattr(self, field)
            self.require(value is None or value >= 0, field, "not be negative")
        self.require(self.schedule_faces >= 1, "schedule_faces", "be at least 1")
        for field in ("rescale_phi", "keep_parallel_frac"):
            self.require(0 <= getattr(self, field) <= 1, field, "lie in [0, 1]")
        unknown = [kind for kind in self.guided if kind not in KINDS]
        self.require(not unknown, "guided", f"name some of {', '.join(KINDS)}")

    def require(self, condition: bool, field: str, must: str) -> None:
        if not condition:
            raise GenerationError(f"{field} must {must}, got {getattr(self, field)!r}")

    @property
    def is_on(self) -> bool:
        return self.cond_scale != 1 or self.cond_scale_end not in (None, 1.0)

    def scale(self, face: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The scale at each row's face."""
        end = self.cond_scale if self.cond_scale_end is None else self.cond_scale_end
        share = (face / self.schedule_faces).clamp(max=1.0)
        return torch.lerp(torch.full_like(share, self.cond_scale), torch.full_like(share, end), share)


@dataclasses.dataclass(frozen=True)
class GuidedHead:
    """A head over twice the rows, asked and not, read as one: the same two questions, answered under guidance."""

    head: CodeHead | CopyingHead | HintedHead  # over asked rows, then unasked ones
    guidance: Guidance
    face: Int[Tensor, " b"]

    def select(self, rows: Int[Tensor, " r"]) -> "GuidedHead":
        return GuidedHead(self.head.select(torch.cat((rows, rows + len(self.face)))), self.guidance, self.face[rows])

    def logits(self, hidden: Float[Tensor, "b d2"], may_end: torch.Tensor) -> Float[Tensor, "b v"]:
        """log p of every code and, last, of the end."""
        both = rearrange(hidden, "b (two d) -> (two b) d", two=2)
        asked, unasked = self.head.logits(both, may_end.repeat(2)).chunk(2)
        return guided_log_probs(asked, unasked, self.guidance.scale(self.face), self.guidance)

    def sample(
        self, hidden: Float[Tensor, "b d2"], uniform: Float[Tensor, "b 2"], may_end: torch.Tensor
    ) -> Int[Tensor, " b"]:
        """One code a row."""
        return draw(self.logits(hidden, may_end), uniform[:, 0])


def guided_log_probs(
    asked: Float[Tensor, "b v"], unasked: Float[Tensor, "b v"], scale: Float[Tensor, " b"], guidance: Guidance
) -> Float[Tensor, "b v"]:
    """Log-probabilities under guidance, from those of both cases; what is impossible when asked stays impossible.

    Projection and rescaling work on values that are centred over the possible codes, for log-probabilities are what
    they are up to a constant.
    """
    possible = asked > -torch.inf
    asked = asked.clamp(min=LEAST)
    update = torch.where(possible, asked - unasked.clamp(min=LEAST), 0.0)
    if guidance.remove_parallel_component:
        along = _centred(asked, possible)
        length = along.square().sum(dim=-1, keepdim=True).clamp(min=1e-12)
        parallel = (_centred(update, possible) * along).sum(dim=-1, keepdim=True) / length * along
        update = update - (1 - guidance.keep_parallel_frac) * parallel
    guided = asked + update * (scale[:, None] - 1)
    if guidance.rescale_phi > 0:
        whole, before = _centred(guided, possible), _centred(asked, possible)
        ratio = before.square().sum(dim=-1, keepdim=True) / whole.square().sum(dim=-1, keepdim=True).clamp(min=1e-12)
        guided = whole * (guidance.rescale_phi * ratio.sqrt() + 1 - guidance.rescale_phi)
    return guided.masked_fill(~possible, -torch.inf).log_softmax(dim=-1)


def _centred(values: Float[Tensor, "b v"], possible: Bool[Tensor, "b v"]) -> Float[Tensor, "b v"]:
    """Less their mean over what is possible; 0 elsewhere."""
    count = possible.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = torch.where(possible, values, 0.0).sum(dim=-1, keepdim=True) / count
    return torch.where(possible, values - mean, 0.0)


Head = CodeHead | CopyingHead | HintedHead | GuidedHead
